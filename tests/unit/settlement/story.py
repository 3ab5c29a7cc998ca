"""One market's honest log, a statement of each kind by name; tests go back to any of them and lie."""

# ruff: noqa: ANN401 - a statement's fields are of many types

from dataclasses import dataclass, field
from functools import cache
from typing import Any, Final

import msgspec

from settlement.domain import canonical, charge, checkpoint, cosignature, merkle
from settlement.domain.governance import Approval, Charter, State, Takeover, Validators
from settlement.domain.identity import PrivateKey
from settlement.domain.payments import (
    WITHDRAWAL_SECONDS,
    Expiry,
    Issue,
    Payee,
    Payment,
    Payout,
    Release,
    Withdraw,
    Withdrawn,
)
from settlement.domain.receipt import Environment, Price, Receipt, Usage
from settlement.domain.replay import Replay
from settlement.domain.resources import Rates, Resources
from settlement.domain.settled import CHECK, VOUCHER, WORK, Acceptance, Charged, Voucher
from settlement.domain.statement import Opened, Statement, sign
from settlement.domain.trade import Close, JobEnd, Lease, Offer, Order, TopUp
from settlement.domain.verdict import Conclusion, Verdict

ORIGIN: Final = "story.example/log"
LEDGER, LOG, OPERATOR, CONSUMER, WORKER, CHECKER, STRANGER, SEER, NEXT = (
    PrivateKey(bytes([number]) * 32) for number in range(0x21, 0x2A)
)
KEYS: Final = {
    key.address: key
    for key in (LEDGER, LOG, OPERATOR, CONSUMER, WORKER, CHECKER, STRANGER, SEER, NEXT)
}
LOG_KEY: Final = checkpoint.verifier_key(ORIGIN, LOG)
SEER_KEY: Final = cosignature.verifier_key("seer.example/1", SEER)
BEGIN_MS: Final = 1_790_000_000_000
STEP_MS: Final = 1_000
HOLD_MS: Final = 60_000
RATE: Final = 400
TASKS: Final = 20
WALL_MS: Final = 2_500
WINDOW_MS: Final = 30_000
DAY_MS: Final = 24 * 3_600_000
NOTHING: Final = "sha256:" + "00" * 32
SLOT: Final = Resources(1_000, 512, 0)


def identifier(number: int) -> str:
    return f"00000000-0000-7000-8000-{number:012x}"


JOB: Final = identifier(1)


@dataclass
class Story:
    """What was said so far; `said["order"]` is the order's statement as it was logged."""

    said: dict[str, Opened] = field(default_factory=dict)
    dumps: dict[str, bytes] = field(default_factory=dict)  # the replay before each of them
    replay: Replay = field(default_factory=lambda: Replay(ORIGIN, ledger_key=LEDGER.address))
    now_ms: int = BEGIN_MS
    ids: int = 1

    @property
    def entries(self) -> list[bytes]:
        return [opened.envelope for opened in self.said.values()]

    def index(self, name: str) -> int:
        return list(self.said).index(name)

    def before(self, name: str) -> "Story":
        """The same story, up to just before that statement."""
        names = list(self.said)
        kept = names[: names.index(name)]
        return Story(
            {each: self.said[each] for each in kept},
            {each: self.dumps[each] for each in kept},
            Replay.load(self.dumps[name]) if kept else Replay(ORIGIN, ledger_key=LEDGER.address),
            self.time(name) - STEP_MS,
            self.ids,
        )

    def time(self, name: str) -> int:
        """When it was said."""
        at: int = getattr(self.said[name].statement, "at_ms", 0) or self.time(self._earlier(name))
        return at

    def _earlier(self, name: str) -> str:
        names = list(self.said)
        return names[names.index(name) - 1]

    def make(self, kind: type[Statement], key: PrivateKey, /, **fields: Any) -> Opened:
        """A statement a moment after the last one, signed."""
        self.now_ms += STEP_MS
        if "at_ms" in kind.__struct_fields__:
            fields.setdefault("at_ms", self.now_ms)
        if "transfer" in kind.__struct_fields__:
            fields.setdefault("transfer", self.id())
        if "nonce" in kind.__struct_fields__:
            fields.setdefault("nonce", f"{self.now_ms:032x}")
        return sign(kind(v=1, kind=kind.__name__.lower(), market=ORIGIN, **fields), key)

    def log(self, name: str, opened: Opened) -> Opened:
        """Into the log, which has to take it."""
        self.dumps[name] = self.replay.dump()
        self.replay.feed(self.replay.size, opened.envelope, signatures=False)
        assert name not in self.said
        self.said[name] = opened
        return opened

    def say(self, called: str, kind: type[Statement], key: PrivateKey, /, **fields: Any) -> Opened:
        return self.log(called, self.make(kind, key, **fields))

    def id(self) -> str:
        self.ids += 1
        return identifier(self.ids)

    # ── what has much to say ────────────────────────────────────────────────────────────────

    def receipt(
        self, key: PrivateKey, lease: str, first: int, tasks: int, **changes: Any
    ) -> Opened:
        """A receipt for some tasks of the job, its price as the rate makes it."""
        gross = charge.gross(wall_ms=WALL_MS, rate_microcredits=RATE)
        order: Any = self.said["order"].statement
        fields = {
            "lease": self.said[lease].digest, "order": self.said["order"].digest, "job": JOB,
            "spec": order.spec, "attempt": self.id(), "purpose": WORK, "provider": key.address,
            "consumer": CONSUMER.address, "first": first, "tasks": tasks, "tasks_root": NOTHING,
            "inputs": NOTHING, "outputs": NOTHING, "env": Environment(NOTHING, "class", 0),
            "protection": "L", "started_ms": self.now_ms, "finished_ms": self.now_ms, "status": "ok",
            "usage": Usage(1, 0, 1, 0, WALL_MS), "price": Price(str(gross), 1),
        }  # fmt: skip
        return self.make(Receipt, key, **(fields | changes))

    def charge(
        self, about: Opened, *, checked: bool = True, wall_ms: int = WALL_MS, **changes: Any
    ) -> Opened:
        """What the market says that a receipt or voucher costs."""
        said: Any = about.statement
        role = VOUCHER if isinstance(said, Voucher) else said.purpose
        checked = checked and role == WORK
        at_ms = self.now_ms + STEP_MS
        fields = {
            "receipt": about.digest, "role": role, "job": JOB, "provider": said.provider,
            "consumer": CONSUMER.address, "wall_ms": wall_ms, "handed_ms": at_ms - 2 * WALL_MS,
            "received_ms": at_ms, "window_ms": WINDOW_MS, "rate": str(RATE),
            "surcharge_basis_points": charge.CHECK_BASIS_POINTS if checked else 0,
            "release_ms": at_ms + HOLD_MS, "at_ms": at_ms, "gross": "0", "fee": "0", "surcharge": "0",
        }  # fmt: skip
        draft = Charged(v=1, kind="charged", market=ORIGIN, **(fields | changes))
        return self.make(Charged, LEDGER, **(fields | _amounts(draft) | changes))

    def state(self, **changes: Any) -> Opened:
        fields = {
            "size": self.replay.size, "root": canonical.digest_text(self.replay.state_root()),
            "lines": len(self.replay.lines()), "batch": 1, "ledger_ns": "1",
        }  # fmt: skip
        return self.make(State, LEDGER, **(fields | changes))

    def release(self, key: PrivateKey, until_ms: int, **changes: Any) -> Opened:
        mine = self.replay.world.held.get(key.address, {})
        due = sorted(receipt for receipt, (_, at_ms) in mine.items() if at_ms <= until_ms)
        root = merkle.root([canonical.digest_bytes(receipt) for receipt in due])
        fields = {
            "provider": key.address, "until_ms": until_ms, "receipts": len(due),
            "receipts_root": canonical.digest_text(root),
            "amount": str(sum(mine[receipt][0] for receipt in due)),
        }  # fmt: skip
        return self.make(Release, LEDGER, **(fields | changes))

    def bent(self, name: str, *, key: PrivateKey | None = None, **changes: Any) -> Opened:
        """The honest statement of that name with other fields, signed again."""
        honest = honest_story().said[name]
        said = msgspec.structs.replace(honest.statement, **changes)
        return sign(said, key or KEYS[said.signer() or honest.signer])

    def recharged(self, name: str, **changes: Any) -> Opened:
        """As `bent` for a charge, whose amounts follow from the changed fields."""
        draft: Any = msgspec.structs.replace(honest_story().said[name].statement, **changes)
        return self.bent(name, **(changes | _amounts(draft)))


def _amounts(draft: Charged) -> dict[str, str]:
    due = draft.due()
    return {
        "gross": str(due.gross_microcredits), "fee": str(due.fee_microcredits),
        "surcharge": str(due.surcharge_microcredits),
    }  # fmt: skip


@cache
def honest_story() -> Story:
    """A market's life in some forty statements; do not change it, take `before` of it."""
    story = Story()
    _opening(story)
    _work(story)
    _vouchers(story)
    _money(story)
    _ends(story)
    _governance(story)
    return story


def fresh_story() -> Story:
    """The whole of it, to go on from."""
    story = honest_story()
    return Story(
        dict(story.said), dict(story.dumps), Replay.load(story.replay.dump()), story.now_ms, story.ids
    )  # fmt: skip


def _opening(story: Story) -> None:
    story.say(
        "charter", Charter, LEDGER, operator=OPERATOR.address, log_key=LOG_KEY,
        fee_basis_points=charge.FEE_BASIS_POINTS, check_basis_points=charge.CHECK_BASIS_POINTS,
        hold_ms=HOLD_MS,
    )  # fmt: skip
    for name, to, purpose in (
        ("issue", CONSUMER, "available"), ("issue stranger", STRANGER, "available"),
        ("issue checks", LEDGER, "checks"),
    ):  # fmt: skip
        story.say(
            name, Issue, OPERATOR, operator=OPERATOR.address, to=to.address, purpose=purpose,
            amount="50000000", memo="",
        )  # fmt: skip
    for name, key in (("offer", WORKER), ("offer checker", CHECKER)):
        story.say(
            name, Offer, key, provider=key.address, name=name, capacity=SLOT, rates=Rates(RATE, 0, 0),
            environments=[], protection="L", expires_ms=BEGIN_MS + DAY_MS,
        )  # fmt: skip
    order = story.say(
        "order", Order, CONSUMER, consumer=CONSUMER.address, job=JOB, spec="sha256:" + "5c" * 32,
        tasks=TASKS, slots=2, rate_cap=str(RATE), budget="5000000", deadline_ms=BEGIN_MS + DAY_MS,
    )  # fmt: skip
    for name, key, offer in (
        ("lease", WORKER, "offer"),
        ("lease checker", CHECKER, "offer checker"),
    ):
        story.say(
            name, Lease, LEDGER, lease=story.id(), offer=story.said[offer].digest, order=order.digest,
            job=JOB, provider=key.address, consumer=CONSUMER.address, slot=SLOT, rate=str(RATE),
            deadline_ms=BEGIN_MS + DAY_MS,
        )  # fmt: skip
    story.now_ms += 4 * WALL_MS


def _work(story: Story) -> None:
    work = story.log("receipt", story.receipt(WORKER, "lease", 0, 5))
    check = story.log("receipt check", story.receipt(CHECKER, "lease checker", 0, 5, purpose=CHECK))
    _verdict(story, "verdict", work, check)
    story.log("charged", story.charge(work))
    story.log("charged check", story.charge(check))
    work = story.log("receipt two", story.receipt(WORKER, "lease", 5, 5))
    check = story.log(
        "receipt check two", story.receipt(CHECKER, "lease checker", 5, 5, purpose=CHECK)
    )
    _verdict(story, "verdict differed", work, check, differing=1)
    work = story.log("receipt three", story.receipt(WORKER, "lease", 10, 5))
    story.say(
        "acceptance", Acceptance, CONSUMER, consumer=CONSUMER.address, job=JOB, receipt=work.digest
    )
    _verdict(story, "verdict unchecked", work)
    story.log("charged three", story.charge(work))
    story.log("state", story.state())


def _verdict(story: Story, name: str, work: Opened, *checks: Opened, differing: int = 0) -> None:
    providers = [getattr(each.statement, "provider") for each in (work, *checks)]  # noqa: B009
    ended = Conclusion.DIFFERED if differing else Conclusion.AGREED
    story.say(
        name, Verdict, LEDGER, job=JOB, receipt=work.digest, checks=[check.digest for check in checks],
        providers=providers, comparator="bytes", conclusion=ended if checks else Conclusion.UNCHECKED,
        differing=differing, first_differing=0, reason="",
    )  # fmt: skip


def _vouchers(story: Story) -> None:
    for name, wall_ms in (("voucher", 1_000), ("voucher two", 1_700)):
        voucher = story.say(
            name, Voucher, CONSUMER, consumer=CONSUMER.address, provider=WORKER.address, job=JOB,
            lease=story.said["lease"].digest, wall_ms=wall_ms,
        )  # fmt: skip
        paid_ms = 1_000 if name == "voucher" else 700
        story.log(f"charged {name}", story.charge(voucher, wall_ms=paid_ms))


def _money(story: Story) -> None:
    story.say("topup", TopUp, CONSUMER, consumer=CONSUMER.address, job=JOB, amount="1000")
    story.say(
        "payment",
        Payment,
        CONSUMER,
        payer=CONSUMER.address,
        to=WORKER.address,
        amount="70",
        memo="",
    )
    story.say(
        "payout", Payout, CONSUMER, payer=CONSUMER.address, memo="",
        payees=[Payee(key.address, "3", story.id()) for key in (WORKER, CHECKER)],
    )  # fmt: skip
    for name in ("withdraw", "withdraw two", "withdraw three"):
        story.say(
            name, Withdraw, STRANGER, party=STRANGER.address, amount="900", destination="elsewhere"
        )
    for name, outcome in (("withdrawn", "paid"), ("withdrawn two", "refused")):
        waiting: Any = story.said[name.replace("drawn", "draw")].statement
        story.say(
            name, Withdrawn, OPERATOR, operator=OPERATOR.address, party=STRANGER.address,
            withdrawal=waiting.transfer, outcome=outcome, memo="",
        )  # fmt: skip


def _ends(story: Story) -> None:
    job = story.replay.world.jobs[JOB]
    story.say(
        "close", Close, LEDGER, job=JOB, consumer=CONSUMER.address, order=story.said["order"].digest,
        end=JobEnd.DONE, accepted=job.accepted, spent=str(job.spent),
    )  # fmt: skip
    story.now_ms += HOLD_MS
    story.log("release", story.release(WORKER, story.now_ms))
    story.log("state two", story.state())
    story.now_ms += WITHDRAWAL_SECONDS * 1_000
    waiting: Any = story.said["withdraw three"].statement
    at_ms = story.now_ms + STEP_MS
    story.say(
        "expiry", Expiry, LEDGER, transfers=[waiting.transfer], ledger_ns=str(at_ms * 1_000_000)
    )


def _governance(story: Story) -> None:
    story.say("validators", Validators, LEDGER, members=[SEER_KEY], quorum=1)
    proposed = story.say("validators two", Validators, LEDGER, members=[SEER_KEY], quorum=1)
    story.say("approval", Approval, SEER, validator=SEER.address, statement=proposed.digest)
    taken = story.say(
        "takeover", Takeover, NEXT, size=story.replay.size, root=NOTHING, ledger_key=NEXT.address, grace_ms=0,
        log_key=checkpoint.verifier_key(ORIGIN, NEXT),
    )  # fmt: skip
    story.say("approval two", Approval, SEER, validator=SEER.address, statement=taken.digest)
    story.say(
        "payment two",
        Payment,
        CONSUMER,
        payer=CONSUMER.address,
        to=WORKER.address,
        amount="1",
        memo="",
    )
