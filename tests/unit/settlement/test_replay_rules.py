"""Every rule of the replay refuses exactly what it says, at the entry that breaks it, and leaves no trace."""

import ast
import inspect
from collections.abc import Callable
from typing import Any, Final

import pytest

from settlement.domain import (
    charge,
    checkpoint,
    cosignature,
    replay,
    replay_charges,
    replay_market,
    replay_rules,
)
from settlement.domain.charge import CHECK_BASIS_POINTS
from settlement.domain.errors import Differs
from settlement.domain.governance import STATE_LAG_MAX
from settlement.domain.payments import Payment
from settlement.domain.receipt import Price
from settlement.domain.settled import CHECK, WORK, Voucher
from settlement.domain.statement import Opened
from settlement.domain.verdict import Conclusion
from settlement.domain.world import FRESH_MS
from tests.unit.settlement import story as stories
from tests.unit.settlement.story import (
    CHECKER,
    CONSUMER,
    HOLD_MS,
    LEDGER,
    NOTHING,
    ORIGIN,
    SEER,
    SEER_KEY,
    STEP_MS,
    STRANGER,
    WALL_MS,
    WORKER,
    Story,
    honest_story,
    identifier,
)

Lie = Callable[[Story], Opened]
HUGE: Final = "9" * 39  # an amount in form, and beyond 2^128 - 1
OTHER_JOB: Final = identifier(777)
TWIN: Final = cosignature.verifier_key("twin.example/1", SEER)


def bent(name: str, **changes: Any) -> Lie:  # noqa: ANN401 - a statement's fields
    """The honest statement with other fields."""
    return lambda story: story.bent(name, **changes)


def recharged(name: str, **changes: Any) -> Lie:  # noqa: ANN401 - a charge's fields
    """A charge with other fields, and the amounts that follow from them."""
    return lambda story: story.recharged(name, **changes)


def at_of(name: str) -> int:
    return honest_story().time(name)


def said(name: str) -> Any:  # noqa: ANN401 - some kind of statement
    return honest_story().said[name].statement


def digest(name: str) -> str:
    return honest_story().said[name].digest


def overdrawn(story: Story) -> Opened:
    return story.make(
        Payment, STRANGER, payer=STRANGER.address, to=WORKER.address, amount="50000001", memo=""
    )


def work_again(story: Story) -> Opened:
    """A second receipt for tasks 3 … 7, of which some are paid."""
    work = story.log("again", story.receipt(WORKER, "lease", 3, 5))
    return story.charge(work)


def greedy_voucher(*, window_ms: int) -> Lie:
    """All of the lease's time, of which receipts were paid before, in favour of a friend."""

    def lie(story: Story) -> Opened:
        lease_ms = at_of("lease")
        more_ms = story.now_ms + STEP_MS - lease_ms
        voucher = story.say(
            "long", Voucher, CONSUMER, consumer=CONSUMER.address, provider=WORKER.address,
            job=stories.JOB, lease=digest("lease"), wall_ms=said("voucher two").wall_ms + more_ms,
        )  # fmt: skip
        return story.charge(voucher, wall_ms=more_ms, handed_ms=lease_ms, window_ms=window_ms)

    return lie


def unpaid_voucher(story: Story) -> Opened:
    fields: dict[str, Any] = {
        "consumer": CONSUMER.address, "provider": WORKER.address, "job": stories.JOB,
        "lease": digest("lease"),
    }  # fmt: skip
    story.say("three", Voucher, CONSUMER, wall_ms=2_000, **fields)
    return story.make(Voucher, CONSUMER, wall_ms=2_001, **fields)


def two_of(name: str, **changes: Any) -> Lie:  # noqa: ANN401 - a statement's fields
    """The statement is logged as it was, and once more with other fields."""

    def lie(story: Story) -> Opened:
        story.log(name, honest_story().said[name])
        return story.bent(name, **changes)

    return lie


def pending_expired(*, early_ms: int) -> Lie:
    """An expiry of the withdrawal that waits, so long before the week is over."""

    def lie(story: Story) -> Opened:
        at_ms = at_of("expiry") - early_ms
        return story.bent("expiry", at_ms=at_ms, ledger_ns=str(at_ms * 1_000_000))

    return lie


def withdrawn_by(key: Any) -> Lie:  # noqa: ANN401 - a private key
    return bent("withdrawn", operator=key.address)


def lagging_state(story: Story) -> Opened:
    story.replay.world.size += STATE_LAG_MAX + 1  # as if so much had been logged
    return story.bent("state", size=0)


def old_state(story: Story) -> Opened:
    return story.state(size=said("state").size - 1)


def fee_charter(**changes: Any) -> Lie:  # noqa: ANN401 - a charter's fields
    return bent("charter", **changes)


def new_charter(story: Story) -> Opened:
    other = checkpoint.verifier_key(ORIGIN, STRANGER)
    return story.bent("charter", log_key=other, at_ms=at_of("payment"))


def approved_twice(story: Story) -> Opened:
    """One of two says yes, and yes again."""
    both = [SEER_KEY, cosignature.verifier_key("second.example/1", STRANGER)]
    story.log("set", story.bent("validators", members=both, quorum=2))
    proposed = story.log("validators two", honest_story().said["validators two"])
    story.log("yes", story.bent("approval", statement=proposed.digest))
    return story.bent("approval", statement=proposed.digest, at_ms=at_of("approval") + 1)


def no_validators(story: Story) -> Opened:
    return story.bent("takeover", size=story.replay.size, at_ms=at_of("validators"))


def in_another_job(story: Story) -> Opened:
    """The lease of one job in a receipt for the other."""
    other = story.log("other", story.bent("order", job=OTHER_JOB, transfer=identifier(999)))
    return story.bent("receipt", job=OTHER_JOB, order=other.digest)


def voucher_in_another_job(story: Story) -> Opened:
    story.log(
        "other",
        story.bent("order", job=OTHER_JOB, transfer=identifier(999), at_ms=at_of("voucher")),
    )
    return story.bent("voucher", job=OTHER_JOB)


def forgotten(name: str) -> Lie:
    """A receipt, once the log forgot that it saw it: paid or refused, it is not logged anew."""

    def lie(story: Story) -> Opened:
        story.replay.world.seen.clear()
        return honest_story().said[name]

    return lie


D: Final = "charged"
CASES: Final[list[tuple[str, str, Lie]]] = [
    # rule, the honest entry whose place the lie takes, the lie
    ("a log begins with its charter", "charter", bent("payment")),
    ("the charter is the market's", "charter", lambda story: story.bent("charter", key=STRANGER)),
    ("the market signs with its own key", "lease", lambda story: story.bent("lease", key=STRANGER)),
    ("a statement's numbers are in range", "lease", bent("lease", rate=HUGE)),
    ("a statement's numbers are in range", "receipt", bent("receipt", price=Price(HUGE, 1))),
    ("a statement is logged near its own time", "topup", bent("topup", at_ms=at_of("close") - FRESH_MS - 60_000)),
    ("a statement is logged once", "payout", lambda _: honest_story().said["payment"]),
    ("a statement's transfers are in form", "payment", bent("payment", amount=HUGE)),
    ("the ledger takes what is logged", "payment", overdrawn),
    ("tokens are issued by the operator alone", "issue checks", bent("issue", operator=STRANGER.address, transfer=OTHER_JOB)),
    ("a reservation ends once", "expiry", bent("expiry", transfers=said("expiry").transfers * 2)),
    ("ledger time is the market's time", "expiry", bent("expiry", ledger_ns=str((at_of("expiry") + FRESH_MS + 1) * 1_000_000))),
    ("what expires was pending", "expiry", bent("expiry", transfers=[said("withdraw").transfer])),
    ("a reservation ends when its time is over", "expiry", pending_expired(early_ms=2 * FRESH_MS)),
    ("withdrawals are decided by the operator", "withdrawn", withdrawn_by(STRANGER)),
    ("the withdrawal is open", "withdrawn", bent("withdrawn", withdrawal=identifier(999))),
    ("the withdrawal is that party's", "withdrawn", bent("withdrawn", party=CONSUMER.address)),
    ("a job has one order", "lease", bent("order", transfer=identifier(999))),
    ("a top-up is for an open job", "topup", bent("topup", job=OTHER_JOB)),
    ("a top-up is its consumer's", "topup", bent("topup", consumer=STRANGER.address)),
    ("a lease is for an open job", "lease", bent("lease", job=OTHER_JOB)),
    ("a lease names its job's order", "lease", bent("lease", order=NOTHING)),
    ("a lease names its job's consumer", "lease", bent("lease", consumer=STRANGER.address)),
    ("a lease names its provider's offer", "lease", bent("lease", offer=digest("offer checker"))),
    ("a lease names its provider's offer", "lease", bent("lease", provider=STRANGER.address)),
    ("a lease ends with its order", "lease", bent("lease", deadline_ms=said("order").deadline_ms + 1)),
    ("the rate is within the order's cap", "lease", bent("lease", rate=str(stories.RATE + 1))),
    ("an open job closes", "close", bent("close", job=OTHER_JOB)),
    ("an open job closes", "release", bent("close", at_ms=at_of("release"), transfer=OTHER_JOB)),
    ("a transfer of one id is made once", "release", bent("close", at_ms=at_of("release"))),
    ("a close names its job's order", "close", bent("close", order=NOTHING)),
    ("a close names its job's consumer", "close", bent("close", consumer=STRANGER.address)),
    ("a close tells how many tasks were paid", "close", bent("close", accepted=9)),
    ("a close tells what was spent", "close", bent("close", spent="1")),
    ("a receipt is for an open lease", "receipt", bent("receipt", lease=NOTHING)),
    ("a receipt is for an open lease", "release", bent("receipt two", nonce="ab" * 16)),
    ("a receipt names its lease's job", "receipt", in_another_job),
    ("a receipt names its lease's provider", "receipt", bent("receipt", lease=digest("lease checker"))),
    ("a receipt names its job's order", "receipt", bent("receipt", order=NOTHING)),
    ("a receipt names its job's consumer", "receipt", bent("receipt", consumer=STRANGER.address)),
    ("a receipt names its job's code", "receipt", bent("receipt", spec=NOTHING)),
    ("a receipt's tasks are the order's", "receipt", bent("receipt", first=stories.TASKS, tasks=1)),
    ("a receipt is logged once", "payment", forgotten("receipt")),
    ("a receipt is logged once", "payment", forgotten("receipt check two")),
    ("a voucher is for an open lease", "voucher", bent("voucher", lease=NOTHING)),
    ("a voucher names its lease's job", "voucher", voucher_in_another_job),
    ("a voucher names its lease's provider", "voucher", bent("voucher", provider=STRANGER.address)),
    ("a voucher is signed by the job's consumer", "voucher", bent("voucher", consumer=STRANGER.address)),
    ("a voucher says more than those before", "voucher two", bent("voucher two", wall_ms=1_000)),
    ("a voucher is paid before the next one", "topup", unpaid_voucher),
    ("a consumer accepts a receipt that is open", "acceptance", bent("acceptance", receipt=digest("receipt"))),
    ("a receipt is accepted by its consumer", "acceptance", bent("acceptance", consumer=STRANGER.address)),
    ("an acceptance names the receipt's job", "acceptance", bent("acceptance", job=OTHER_JOB)),
    ("a verdict is about open receipts", "verdict", bent("verdict", checks=[NOTHING])),
    ("a verdict is about open receipts", "verdict unchecked", bent("verdict unchecked", receipt=digest("receipt"))),
    ("a verdict compares different runs", "verdict", bent("verdict", checks=[digest("receipt")])),
    ("a verdict compares work with checks", "verdict", bent("verdict", receipt=digest("receipt check"), checks=[digest("receipt")])),
    ("a receipt is judged once", "charged", bent("verdict", at_ms=at_of("charged"))),
    ("a verdict names the providers of its receipts", "verdict", bent("verdict", providers=[CHECKER.address, WORKER.address])),
    ("a verdict names its receipts' job", "verdict", bent("verdict", job=OTHER_JOB)),
    ("a verdict without checks is unchecked", "verdict", bent("verdict", conclusion=Conclusion.UNCHECKED)),
    ("a verdict without checks is unchecked", "verdict unchecked", bent("verdict unchecked", conclusion=Conclusion.AGREED)),
    ("a verdict concludes from what differs", "verdict", bent("verdict", differing=1)),
    ("a verdict concludes from what differs", "verdict", bent("verdict", conclusion=Conclusion.DIFFERED)),
    ("what is charged was logged, and not paid before", D, bent(D, receipt=NOTHING)),
    ("what is charged was logged, and not paid before", "charged check", bent(D, at_ms=at_of("charged check"), release_ms=at_of("charged check") + HOLD_MS)),
    ("what is charged was logged, and not paid before", "acceptance", lambda story: story.charge(honest_story().said["receipt two"])),
    ("a charge is of the kind of its receipt", D, bent(D, role=CHECK)),
    ("a charge is of the kind of its receipt", "charged check", bent("charged check", role=WORK)),
    ("a charge names its receipt's job", D, bent(D, job=OTHER_JOB)),
    ("a charge names its receipt's provider", D, bent(D, provider=STRANGER.address)),
    ("a charge names its receipt's consumer", D, bent(D, consumer=STRANGER.address)),
    ("a charge counts the receipt's time", D, recharged(D, wall_ms=WALL_MS + 1)),
    ("a charge takes the lease's rate", D, recharged(D, rate=str(stories.RATE + 1))),
    ("only checked work pays a surcharge", "charged check", recharged("charged check", surcharge_basis_points=CHECK_BASIS_POINTS)),
    ("a surcharge is the charter's", D, recharged(D, surcharge_basis_points=CHECK_BASIS_POINTS + 1)),
    ("a charge is rate × time, by the market's clock", D, bent(D, gross=str(int(said(D).gross) + 1))),
    ("a fee is the charter's part", D, bent(D, fee=str(int(said(D).fee) + 1))),
    ("a surcharge is the charter's part", D, bent(D, surcharge=str(int(said(D).surcharge) + 1))),
    ("a provider is paid at least what it asks", D, recharged(D, window_ms=WALL_MS - 3)),
    ("work is handed out after its lease", D, recharged(D, handed_ms=at_of("lease") - 1)),
    ("a receipt is charged after it came", D, recharged(D, received_ms=at_of(D) + 1)),
    ("earnings are held as the charter says", D, bent(D, release_ms=said(D).release_ms - 1)),
    ("a task is paid once", "payment", work_again),
    ("a voucher is paid whole", "topup", greedy_voucher(window_ms=100)),
    ("a lease is paid for the time that it lasts", "topup", greedy_voucher(window_ms=10**9)),
    ("a hold ends when its time is over", "release", lambda story: story.release(WORKER, at_of("release") + STEP_MS)),
    ("a release covers all that is due", "release", bent("release", receipts=3)),
    ("a release names the receipts that are due", "release", bent("release", receipts_root=NOTHING)),
    ("a release is what was held", "release", bent("release", amount="1")),
    ("a charter names the log's key", "charter", fee_charter(log_key="no key")),
    ("the log's key is named like the market", "charter", fee_charter(log_key=checkpoint.verifier_key("other.example", LEDGER))),
    ("a log keeps its key", "payment", new_charter),
    ("the fee is what charges are computed with", "charter", fee_charter(fee_basis_points=charge.FEE_BASIS_POINTS + 1)),
    ("so is the surcharge for checks", "charter", fee_charter(check_basis_points=0)),
    ("validators are named by their keys", "validators", bent("validators", members=["no key"])),
    ("a validator counts once", "validators", bent("validators", members=[SEER_KEY, TWIN], quorum=2)),
    ("a quorum is more than half of the validators", "validators", bent("validators", quorum=0)),
    ("a quorum is more than half of the validators", "validators", bent("validators", quorum=2)),
    ("a quorum is more than half of the validators", "validators", bent("validators", members=[], quorum=1)),
    ("a takeover names the log's new key", "takeover", bent("takeover", log_key="no key")),
    ("the log's key is named like the market", "takeover", bent("takeover", log_key=checkpoint.verifier_key("other.example", LEDGER))),
    ("a market without validators can't be taken over", "validators", no_validators),
    ("a takeover goes on from where the log ends", "takeover", bent("takeover", size=7)),
    ("an approval is for what was proposed", "approval", bent("approval", statement=NOTHING)),
    ("an approval is a validator's", "approval", bent("approval", validator=STRANGER.address)),
    ("a validator approves once", "validators", approved_twice),
    ("a state is of the past", "state", lambda story: story.state(size=story.replay.size + 1)),
    ("a state is of the near past", "state", lagging_state),
    ("states follow one another", "state two", old_state),
    ("the state is what the log leads to", "state", bent("state", root=NOTHING)),
    ("the state has as many lines as the log leads to", "state", bent("state", lines=3)),
]  # fmt: skip


@pytest.mark.parametrize(
    ("rule", "name", "lie"), CASES, ids=[f"{number}-{case[0]}" for number, case in enumerate(CASES)]
)
def test_the_rule_refuses_and_nothing_changes(rule: str, name: str, lie: Lie) -> None:
    story = honest_story().before(name)
    wrong = lie(story)
    before, index = story.replay.dump(), story.replay.size
    with pytest.raises(Differs) as caught:
        story.replay.feed(index, wrong.envelope)
    assert (caught.value.rule, caught.value.index) == (rule, index)
    assert caught.value.expected != caught.value.found
    assert story.replay.dump() == before


@pytest.mark.parametrize("name", list(honest_story().said))
def test_the_honest_entry_is_taken_there(name: str) -> None:
    """What the lies above replace is right by itself."""
    story = honest_story().before(name)
    story.replay.feed(story.replay.size, honest_story().said[name].envelope)


def _named_rules() -> set[str]:
    """The rules that the source names."""
    found: set[str] = set()
    for module in (replay, replay_rules, replay_charges, replay_market):
        for node in ast.walk(ast.parse(inspect.getsource(module))):
            first: ast.expr | None = None
            if isinstance(node, ast.Tuple) and len(node.elts) == 3:
                first = node.elts[0]
            elif isinstance(node, ast.Call) and ast.unparse(node.func) == "Differs.at":
                first = node.args[1]
            if isinstance(first, ast.Constant) and isinstance(first.value, str):
                found.add(first.value)
    return found


ELSEWHERE: Final = {"an entry is a signed statement", "entries come in order"}


def test_every_rule_has_a_case() -> None:
    assert _named_rules() == {rule for rule, _, _ in CASES} | ELSEWHERE


def test_an_entry_out_of_order() -> None:
    story = honest_story().before("payment")
    envelope = honest_story().said["payment"].envelope
    for index in (story.replay.size - 1, story.replay.size + 1):
        with pytest.raises(Differs, match="entries come in order"):
            story.replay.feed(index, envelope)


def test_what_is_no_signed_statement() -> None:
    story = honest_story().before("payment")
    envelope = honest_story().said["payment"].envelope
    for wrong in (b"", b"{}", envelope[:-1], envelope.replace(b'"sig":"', b'"sig":"A', 1)):
        with pytest.raises(Differs, match="an entry is a signed statement"):
            story.replay.feed(story.replay.size, wrong)


def test_every_byte_of_every_entry() -> None:
    """One flipped bit: no statement, or another one whose signature does not hold."""
    for name, opened in honest_story().said.items():
        story = honest_story().before(name)
        for at in range(0, len(opened.envelope), 7):
            broken = bytearray(opened.envelope)
            broken[at] ^= 1 << (at % 8)
            with pytest.raises(Differs):
                story.replay.feed(story.replay.size, bytes(broken))
