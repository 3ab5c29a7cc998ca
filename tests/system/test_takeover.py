"""A standby becomes the market from a mirrored log, because a quorum of validators says so."""

import time
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from uuid import uuid4

import msgspec
import pytest

from market.http.running import running
from market.http.settings import LEDGER_KEY, LOG_KEY, Settings
from market.service import payments, reconcile, takeover
from market.service import public as service
from market.service.market import Market
from market.store import ledger, public
from market.store.rows import Connection
from market.wire.control import Work
from market.wire.money import WithdrawalView
from settlement.domain import checkpoint as checkpoints
from settlement.domain import cosignature
from settlement.domain.errors import BadCheckpoint, Differs, Failed, Forbidden
from settlement.domain.governance import Approval
from settlement.domain.identity import PrivateKey
from settlement.domain.ledger import Purpose
from settlement.domain.payments import Payment
from settlement.domain.statement import Opened, sign
from settlement.service import finality
from settlement.service.publish import Sealer
from settlement.store import migrate
from tests.system.conftest import ORIGIN, serving, settings_for
from tests.system.fake_provider import FakeProvider
from tests.system.money import ALICE, OPERATOR
from tests.system.running import Running
from tests.system.trading import BUDGET, Buyer, bodies

pytestmark = pytest.mark.system

VALIDATORS = {
    f"validator.test/{number}": PrivateKey(bytes([80 + number]) * 32) for number in range(3)
}
MEMBERS = [cosignature.verifier_key(name, key) for name, key in VALIDATORS.items()]
BUYER = PrivateKey(b"\x31" * 32)  # of the fixture
QUORUM = 2
NEW_LEDGER, NEW_LOG = PrivateKey(b"\x91" * 32), PrivateKey(b"\x92" * 32)


def now_ms() -> int:
    return time.time_ns() // 1_000_000


async def name_validators(running_: Running) -> None:
    operator = running_.market.operator
    await service.set_validators(running_.market, operator, MEMBERS, QUORUM, now_ms=now_ms())


async def cosigned(running_: Running) -> str:
    """The newest checkpoint with lines of a quorum, as the market takes them."""
    note = await finality.checkpoint(running_.market.database)
    assert note is not None
    text, _ = checkpoints.split_note(note)
    for name, key in list(VALIDATORS.items())[:QUORUM]:
        line = cosignature.sign(text, name, key, time_seconds=now_ms() // 1_000)
        note = cosignature.add_line(note, line)
    taken = await finality.take(
        running_.market.database, note, log_key=running_.settings.log_key(), now_ms=now_ms()
    )
    assert taken.final
    return note


async def entries_of(market: Market, size: int) -> list[bytes]:
    async def read(connection: Connection) -> list[bytes]:
        rows = await connection.fetch(
            "SELECT envelope FROM statements WHERE idx < $1 ORDER BY idx", size
        )
        return [row["envelope"] for row in rows]

    return await market.read(read)


async def paged(entries: Sequence[bytes]) -> AsyncIterator[Sequence[bytes]]:
    for first in range(0, len(entries), 7):
        yield entries[first : first + 7]


def new_settings(url: str, folder: Path) -> Settings:
    settings = settings_for(url, folder)
    for name, key in ((LEDGER_KEY, NEW_LEDGER), (LOG_KEY, NEW_LOG)):
        (settings.keys_folder / name).write_text(key.to_hex())
    return settings


@pytest.fixture
def second_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "second"
    folder.mkdir()
    return folder


async def final_of(old: Running) -> tuple[str, checkpoints.Checkpoint, list[bytes]]:
    """A final checkpoint of everything so far, and the entries below it, as a mirror has them."""
    sealer = Sealer(old.market.database, old.settings.key(LOG_KEY), origin=ORIGIN)
    await sealer.seal()
    note = await cosigned(old)
    head = checkpoints.head(note)
    return note, head, await entries_of(old.market, head.size)


def proposed(head: checkpoints.Checkpoint, log_key: str, *, log_ms: int = 0) -> Opened:
    return takeover.propose(head, NEW_LEDGER, log_key, grace_ms=0, log_ms=log_ms, now_ms=now_ms())


def approvals_of(envelope: bytes, note: str) -> list[bytes]:
    """What a quorum signs."""
    return [
        takeover.approve(envelope, note, member, key, market=ORIGIN, now_ms=now_ms()).envelope
        for member, key in list(zip(MEMBERS, VALIDATORS.values(), strict=True))[:QUORUM]
    ]


async def lines(market: Market) -> dict[str, list[bytes]]:
    """Parties' accounts, holds, standings; not what a market owns itself."""
    _, found = await market.transact(public.snapshot)
    kinds: dict[str, list[bytes]] = {}
    for line in found:
        fields = msgspec.json.decode(line)
        if fields[1] != market.address:
            kinds.setdefault(fields[0], []).append(line)
    return kinds


async def test_the_money_goes_on_under_the_new_key(
    whole: Running,
    buyer: Buyer,
    empty_url: str,
    second_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(reconcile, "releases_round", _nothing)  # so that something is held
    async with FakeProvider(whole, 1).open() as provider:
        done = await buyer.order(bodies(3))
        await buyer.closed(done)
        provider.holds = True
        await buyer.order(bodies(2), budget=BUDGET)
        await provider.heard(Work, 2)
        await name_validators(whole)
        note, head, entries = await final_of(whole)
        before = await lines(whole.market)
        late = Payment(
            v=1, kind="payment", market=ORIGIN, payer=buyer.address, to=provider.address, amount="1000",
            transfer=str(uuid4()), memo="late", at_ms=now_ms(),
        )  # fmt: skip
    await migrate.upgrade(empty_url)
    settings = new_settings(empty_url, second_folder)
    said = takeover.propose(
        head, NEW_LEDGER, settings.log_key(), grace_ms=takeover.GRACE_MS, log_ms=0, now_ms=now_ms()
    ).envelope
    approvals = approvals_of(said, note)
    async with running(settings, chartered=False) as market:
        with pytest.raises(Forbidden, match="2 validators have to approve, 1 did"):
            await takeover.begin(market, paged(entries), said, approvals[:1], now_ms=now_ms())
        first = await takeover.begin(market, paged(entries), said, approvals, now_ms=now_ms())
        again = await takeover.begin(market, paged(entries), said, approvals, now_ms=now_ms())
        assert again.dump() == first.dump()
        assert first.ledger_key == NEW_LEDGER.address
    async with serving(settings) as new:
        after = await lines(new.market)
        assert after["held"] == before["held"]
        assert after.get("standing") == before.get("standing")
        spendable = await _available(new.market, buyer.address)
        assert (
            spendable == await _available(whole.market, buyer.address) + BUDGET
        )  # of the open job
        monkeypatch.setattr(time, "time_ns", _later(time.time_ns))
        moved = await payments.pay(
            new.market,
            buyer.address,
            sign(late, BUYER).envelope,
            now_ms=now_ms(),
        )
        assert moved.status == "applied"
        assert await _available(new.market, buyer.address) == spendable - 1_000
    monkeypatch.undo()


async def _nothing(*_: object, **__: object) -> int:
    return 0


def _later(clock: Callable[[], int]) -> Callable[[], int]:
    return lambda: clock() + 3_600 * 10**9


async def _available(market: Market, address: str) -> int:
    async def read(connection: Connection) -> int:
        return await ledger.balance(connection, address, Purpose.AVAILABLE)

    return await market.read(read)


async def test_nobody_approves_what_it_did_not_cosign(whole: Running) -> None:
    await name_validators(whole)
    note, head, _ = await final_of(whole)
    log_key = checkpoints.verifier_key(ORIGIN, NEW_LOG)
    said = proposed(head, log_key).envelope
    *_, (name, key) = VALIDATORS.items()
    member = cosignature.verifier_key(name, key)
    with pytest.raises(Forbidden, match="did not cosign"):
        takeover.approve(said, note, member, key, market=ORIGIN, now_ms=now_ms())
    other = proposed(head._replace(size=head.size - 1), log_key)
    with pytest.raises(Forbidden, match="is from"):
        takeover.approve(
            other.envelope,
            note,
            MEMBERS[0],
            VALIDATORS["validator.test/0"],
            market=ORIGIN,
            now_ms=now_ms(),
        )


def test_nobody_goes_on_with_a_log_whose_time_is_far_ahead() -> None:
    head = checkpoints.Checkpoint(ORIGIN, 3, b"\1" * 32)
    log_key = checkpoints.verifier_key(ORIGIN, NEW_LOG)
    proposed(head, log_key, log_ms=now_ms() + takeover.AHEAD_MS - 1_000)
    with pytest.raises(BadCheckpoint, match="ahead of this machine's"):
        proposed(head, log_key, log_ms=now_ms() + takeover.AHEAD_MS + 60_000)


async def test_strangers_and_forgers_take_nothing_over(
    whole: Running, buyer: Buyer, empty_url: str, second_folder: Path
) -> None:
    await name_validators(whole)
    note, head, entries = await final_of(whole)
    await migrate.upgrade(empty_url)
    settings = new_settings(empty_url, second_folder)
    said = proposed(head, settings.log_key())
    stranger = PrivateKey(b"\x77" * 32)
    forged = sign(
        Approval(
            v=1, kind="approval", market=ORIGIN, validator=stranger.address, statement=said.digest,
            at_ms=now_ms(),
        ),
        stranger,
    )  # fmt: skip
    async with running(settings, chartered=False) as market:
        with pytest.raises(Differs, match="an approval is a validator's"):
            await takeover.begin(
                market, paged(entries), said.envelope, [forged.envelope], now_ms=now_ms()
            )
        with pytest.raises(Failed, match="the log ends after"):
            await takeover.begin(
                market,
                paged(entries[:-1]),
                said.envelope,
                approvals_of(said.envelope, note),
                now_ms=now_ms(),
            )
    assert buyer.address


async def test_entries_that_the_approved_tree_does_not_hold_are_refused(
    whole: Running, buyer: Buyer, empty_url: str, second_folder: Path
) -> None:
    """Every one of them is valid, they are as many, and one is not what the validators approved."""
    await name_validators(whole)
    note, head, entries = await final_of(whole)
    other = PrivateKey(b"\x78" * 32)
    async with whole.client(other) as client:
        await client.faucet(5)
    *_, elsewhere = await entries_of(whole.market, head.size + 1)
    entries[-1] = elsewhere
    await migrate.upgrade(empty_url)
    settings = new_settings(empty_url, second_folder)
    said = proposed(head, settings.log_key())
    async with running(settings, chartered=False) as market:
        with pytest.raises(Forbidden, match="another log, or a changed one"):
            await takeover.begin(
                market, paged(entries), said.envelope, approvals_of(said.envelope, note),
                now_ms=now_ms(),
            )  # fmt: skip
        assert await entries_of(market, head.size + 9) == entries  # no takeover after them
    assert buyer.address


async def test_withdrawals_that_wait_are_seen_and_decided_under_the_new_key(
    whole: Running, empty_url: str, second_folder: Path
) -> None:
    """The party sees where its tokens are to go, the operator pays one out and refuses the other."""
    async with whole.client(ALICE) as alice:
        await alice.faucet(100)
        asked = [await alice.withdraw(60, "DE00 1234"), await alice.withdraw(15, "nowhere")]
        gone = await alice.withdraw(5, "decided before")
    async with whole.client(OPERATOR) as operator:
        await operator.decide_withdrawal(gone.transfer, paid=True, memo="")
    await name_validators(whole)
    note, head, entries = await final_of(whole)
    await migrate.upgrade(empty_url)
    settings = new_settings(empty_url, second_folder)
    said = proposed(head, settings.log_key()).envelope
    approvals = approvals_of(said, note)
    async with running(settings, chartered=False) as market:
        for _ in range(2):
            await takeover.begin(market, paged(entries), said, approvals, now_ms=now_ms())

    def told(view: WithdrawalView) -> tuple[str, ...]:
        return (
            view.transfer, view.party, view.amount, view.destination, view.state, view.statement,
        )  # fmt: skip

    async with (
        serving(settings) as new, new.client(ALICE) as alice, new.client(OPERATOR) as operator,
    ):  # fmt: skip
        waiting = await operator.withdrawals(everybody=True, waiting=True)
        assert sorted(map(told, waiting)) == sorted(map(told, asked))
        assert sorted(map(told, await alice.withdrawals())) == sorted(map(told, asked))
        first, second = asked
        done = await operator.decide_withdrawal(first.transfer, paid=True, memo="sent")
        assert (done.state, done.memo) == ("paid", "sent")
        done = await operator.decide_withdrawal(second.transfer, paid=False, memo="no such place")
        assert done.state == "refused"
        assert await operator.withdrawals(everybody=True, waiting=True) == []
        assert await _available(new.market, ALICE.address) == 100 - 60 - 5
