"""What a hostile reader of the settlement tried: each test is an attack that must come to nothing."""

import asyncio
import contextlib
import dataclasses
from uuid import UUID, uuid4

import pytest

from market.http.settings import LOG_KEY
from market.sdk.client import now_ms
from market.service import jobs as closing
from market.service import payments, public, reconcile, settle
from market.service.market import Market, derived_id
from market.store.rows import Connection, Row
from market.wire import trade
from market.wire.control import Work
from settlement.domain import canonical, checkpoint, cosignature, merkle
from settlement.domain.errors import Refused
from settlement.domain.governance import Approval
from settlement.domain.identity import PrivateKey
from settlement.domain.payments import Issue, Payment
from settlement.domain.replay import Replay
from settlement.domain.statement import Opened, sign
from settlement.service import finality
from settlement.service.engine import Item
from settlement.service.publish import Sealer
from settlement.store.database import Database
from tests.system.fake_provider import FakeProvider
from tests.system.money import ALICE, BOB, OPERATOR, post, signed, tried
from tests.system.running import Running
from tests.system.trading import Buyer, bodies, rows, spec, until

pytestmark = pytest.mark.system
VALIDATORS = [PrivateKey(bytes([80 + number]) * 32) for number in range(3)]
MEMBERS = [
    cosignature.verifier_key(f"validator.test/{number}", key)
    for number, key in enumerate(VALIDATORS)
]
UNCHECKED = spec(verify="none")


async def burn(running: Running, transfer: UUID) -> None:
    """A party without a single token makes a transfer's id unusable: failures are sticky."""
    envelope = signed(
        running, Payment, ALICE, payer=ALICE.address, to=BOB.address, amount="1",
        transfer=str(transfer), memo="",
    )  # fmt: skip
    async with running.client(ALICE) as alice:
        with pytest.raises(Refused):
            await post(alice, "/v1/payments", trade.Pay(envelope))


async def replayed(running: Running) -> Replay:
    """The log as any validator replays it: `Differs` names what it would refuse for ever."""
    replay = Replay(running.market.origin)
    for row in await rows(running, "SELECT envelope FROM statements ORDER BY idx"):
        replay.feed(replay.size, row["envelope"])
    return replay


async def test_nobody_takes_the_id_of_a_refund(whole: Running, buyer: Buyer) -> None:
    """A stranger who knows the job's id (it is in the log) must not keep its budget from going back."""
    async with FakeProvider(whole, 1).open() as alpha:
        alpha.holds = True
        job = await buyer.order(bodies(1), slots=1, of=UNCHECKED)
        await alpha.heard(Work)
        await burn(whole, derived_id("refund", UUID(job), 0))
        await buyer.client.cancel(job)
        assert (await buyer.closed(job)).refunded != "0"


async def test_nobody_takes_the_id_of_a_release(
    whole: Running, buyer: Buyer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Receipts are public: a stranger must not keep a provider's earnings from being released."""
    real = reconcile.releases_round
    monkeypatch.setattr(reconcile, "releases_round", _nothing)
    async with FakeProvider(whole, 1).open() as alpha:
        job = await buyer.order(bodies(1), slots=1, of=UNCHECKED)
        await buyer.closed(job)
        (held,) = await rows(whole, "SELECT receipt FROM charges WHERE state = 'charged'")
        root = merkle.root([canonical.digest_bytes(held["receipt"])])
        await burn(whole, derived_id("release", alpha.address, root.hex()))
        await asyncio.sleep(0.3)  # the hold
        await real(whole.market, now_ms=whole.market.clock.ms())
        assert await rows(whole, "SELECT 1 FROM charges WHERE state = 'released'")


async def test_a_release_that_is_refused_holds_up_nobody_else(
    whole: Running, buyer: Buyer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first provider of the round gets an id that is burnt; the second is paid all the same."""
    real = reconcile.releases_round
    monkeypatch.setattr(reconcile, "releases_round", _nothing)
    async with FakeProvider(whole, 1).open():
        await buyer.closed(await buyer.order(bodies(1), slots=1, of=UNCHECKED))
    async with FakeProvider(whole, 2).open():
        await buyer.closed(await buyer.order(bodies(1), slots=1, of=UNCHECKED))
    held = "SELECT provider FROM charges WHERE state = 'charged' ORDER BY provider"
    first, second = [row["provider"] for row in await rows(whole, held)]
    burnt = uuid4()
    await burn(whole, burnt)
    await asyncio.sleep(0.3)  # the hold
    ids = iter([burnt])
    with monkeypatch.context() as patched:
        patched.setattr(closing, "new_id", lambda: next(ids, None) or uuid4())
        assert await real(whole.market, now_ms=whole.market.clock.ms()) == 1
    assert [row["provider"] for row in await rows(whole, held)] == [first] != [second]
    assert await real(whole.market, now_ms=whole.market.clock.ms()) == 1  # by a new id
    assert await rows(whole, held) == []


async def test_a_wage_that_is_refused_holds_up_nobody_else(
    whole: Running, buyer: Buyer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The oldest check's transfer has a burnt id: later ones are paid, and it by its next try."""
    real = reconcile.wages_round
    monkeypatch.setattr(reconcile, "wages_round", _nothing)
    wages = signed(
        whole, Issue, OPERATOR, operator=OPERATOR.address, to=OPERATOR.address, purpose="checks",
        amount="1000000", transfer=str(uuid4()), memo="",
    )  # fmt: skip
    await payments.issue(whole.market, OPERATOR.address, wages, now_ms=now_ms())
    async with FakeProvider(whole, 1).open(), FakeProvider(whole, 2).open():
        for _ in range(2):
            await buyer.closed(await buyer.order(bodies(1), slots=1))
    unpaid = (
        "SELECT id FROM attempts WHERE purpose = 'check' AND state = 'accepted' AND charge > 0"
        " AND NOT EXISTS (SELECT 1 FROM charges WHERE attempt = attempts.id) ORDER BY received_ms"
    )
    first, *later = await rows(whole, unpaid)
    assert later
    burnt = uuid4()
    await burn(whole, burnt)
    made = settle.wage
    tried_with: list[UUID] = []

    def wage(market: Market, row: Row, *, now_ms: int) -> Item:
        item = made(market, row, now_ms=now_ms)
        if row["id"] != first["id"] or tried_with:
            return item
        tried_with.append(burnt)
        spoilt = (dataclasses.replace(item.transfers[0], id=burnt), *item.transfers[1:])
        return dataclasses.replace(item, transfers=spoilt)

    monkeypatch.setattr(settle, "wage", wage)
    assert await real(whole.market, now_ms=whole.market.clock.ms()) == len(later)
    assert [row["id"] for row in await rows(whole, unpaid)] == [first["id"]]
    assert await real(whole.market, now_ms=whole.market.clock.ms()) == 1
    await replayed(whole)


async def test_a_check_that_is_refused_holds_up_nobody_else(
    whole: Running, buyer: Buyer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The oldest receipt without a checker has a charge with a burnt id: the next is accepted."""
    real = reconcile.checks_round
    monkeypatch.setattr(reconcile, "checks_round", _nothing)
    waiting = (
        "SELECT a.id FROM attempts AS a WHERE a.state = 'checking' AND NOT EXISTS"
        " (SELECT 1 FROM attempts AS c WHERE c.checks = a.id AND c.state = 'handed')"
        " ORDER BY a.received_ms"
    )

    async def both() -> bool:
        return len(await rows(whole, waiting)) == 2

    async with FakeProvider(whole, 1, slots=2).open() as alpha:
        alpha.holds = True
        for number in (1, 2):
            await buyer.order(bodies(1), slots=1)
            await alpha.heard(Work, number)
        async with FakeProvider(whole, 2, slots=2).open() as beta:
            beta.holds = True
            for work in alpha.all(Work):
                await alpha.send(alpha.done(work))
                assert (await alpha.settled(work.attempt)).state == "checking"
        await until(both)  # the second is gone
        first, second = await rows(whole, waiting)
        burnt = uuid4()
        await burn(whole, burnt)
        made = settle.settle_unchecked

        def spoilt(market: Market, row: Row, *, reason: str, now_ms: int) -> Item:
            item = made(market, row, reason=reason, now_ms=now_ms)
            if row["id"] != first["id"]:
                return item
            transfers = (dataclasses.replace(item.transfers[0], id=burnt), *item.transfers[1:])
            return dataclasses.replace(item, transfers=transfers)

        later = whole.market.clock.ms() + reconcile.CHECK_WAIT_MS
        with monkeypatch.context() as patched:
            patched.setattr(settle, "settle_unchecked", spoilt)
            assert await real(whole.market, now_ms=later) == 1
        assert await rows(whole, waiting) == [first] != [second]
        assert await real(whole.market, now_ms=later) == 1
    await replayed(whole)


async def _nothing(*_: object, **__: object) -> int:
    return 0


async def propose(running: Running, count: int) -> Opened:
    opened, _ = await public.set_validators(
        running.market, OPERATOR.address, MEMBERS[:count], count // 2 + 1,
        now_ms=running.market.clock.ms(),
    )  # fmt: skip
    return opened


def approval(running: Running, key: PrivateKey, proposal: Opened, at_ms: int) -> bytes:
    return sign(
        Approval(
            v=1, kind="approval", market=running.market.origin, validator=key.address,
            statement=proposal.digest, at_ms=at_ms,
        ),
        key,
    ).envelope  # fmt: skip


@pytest.mark.parametrize("age_ms", [11 * 60_000, 365 * 24 * 3_600_000])
async def test_an_old_approval_does_not_poison_the_log(api: Running, age_ms: int) -> None:
    """One validator that dates its word back must not make the market's log one that all refuse."""
    await propose(api, 3)
    proposal = await propose(api, 2)
    old = approval(api, VALIDATORS[0], proposal, now_ms() - age_ms)
    with contextlib.suppress(Refused):
        await public.approve(api.market, old)
    await replayed(api)


async def test_two_proposals_settled_at_once_leave_a_log_that_replays(
    api: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The approval that settles one proposal drops the other: nothing may be said of it in that batch."""
    await propose(api, 3)
    one, two = await propose(api, 1), await propose(api, 2)
    await public.approve(api.market, approval(api, VALIDATORS[0], one, now_ms()))
    real, both = finality.validators, asyncio.Event()
    calls = 0

    async def together(database: Database) -> tuple[list[str], int, int]:
        nonlocal calls
        found = await real(database)
        calls += 1
        if calls == 2:
            both.set()
        await both.wait()
        return found

    monkeypatch.setattr(finality, "validators", together)
    now = now_ms()
    envelopes = [
        approval(api, key, each, now)
        for key, each in ((VALIDATORS[2], two), (VALIDATORS[1], one))  # the last to ask goes first
    ]
    async with asyncio.TaskGroup() as tasks:
        for each in envelopes:
            tasks.create_task(tried(public.approve(api.market, each)))
    await replayed(api)


async def test_a_state_that_took_too_long_is_not_logged(
    api: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A state may lag 100 000 entries behind: a slow snapshot must not become a statement nobody takes."""
    from market.store import public as store
    from settlement.domain import replay_market

    monkeypatch.setattr(replay_market, "STATE_LAG_MAX", 3)
    monkeypatch.setattr(public, "LAG_MAX", 1)
    real = store.snapshot

    async def slow(connection: Connection) -> tuple[Row, list[bytes]]:
        found = await real(connection)
        async with api.client(ALICE) as alice:
            for _ in range(6):
                await alice.faucet(100)
        return found

    monkeypatch.setattr(store, "snapshot", slow)
    async with api.client(ALICE) as alice:
        for _ in range(3):
            await alice.faucet(100)
    await public.state(api.market, now_ms=api.market.clock.ms())
    await replayed(api)


async def test_one_validator_that_begins_with_every_head_does_not_stop_finality(
    api: Running,
) -> None:
    """Three of four honest ones, each at its own time, must still meet under one head."""
    liar, *honest = [PrivateKey(bytes([60 + number]) * 32) for number in range(4)]
    names = {key: f"seer.test/{number}" for number, key in enumerate([liar, *honest])}
    members = [cosignature.verifier_key(name, key) for key, name in names.items()]
    market, log_key = api.market, api.settings.log_key()
    await public.set_validators(market, OPERATOR.address, members, 4, now_ms=now_ms())
    sealer = Sealer(market.database, api.settings.key(LOG_KEY), origin=market.origin)

    async def cosign(key: PrivateKey, note: str) -> finality.Taken:
        text, _ = checkpoint.split_note(note)
        line = cosignature.sign(text, names[key], key, time_seconds=now_ms() // 1_000)
        note = cosignature.add_line(note, line)
        return await finality.take(market.database, note, log_key=log_key, now_ms=now_ms())

    async def begun() -> str:
        note = await finality.cosigned(market.database)
        assert note is not None
        return note

    async with api.client(ALICE) as alice:
        last = None
        for key in honest:
            await alice.faucet(1)
            await sealer.seal()
            note = await finality.checkpoint(market.database)
            assert note is not None
            await cosign(liar, note)
            last = await cosign(key, await begun())
    assert last is not None
    assert last.final


@pytest.mark.parametrize("ahead_ms", [-3_000, 3_000])
async def test_hosts_whose_clocks_differ_write_a_log_that_replays(
    whole: Running, buyer: Buyer, ahead_ms: int
) -> None:
    """API and worker are two machines, whose clocks differ by a little: nobody is to blame for it."""
    clock = whole.market.clock
    real = clock._wall
    clock._wall = lambda: real() + ahead_ms * 1_000_000
    clock._from_ns += ahead_ms * 1_000_000
    wages = signed(
        whole, Issue, OPERATOR, operator=OPERATOR.address, to=OPERATOR.address, purpose="checks",
        amount="1000000", transfer=str(uuid4()), memo="",
    )  # fmt: skip
    await payments.issue(whole.market, OPERATOR.address, wages, now_ms=now_ms())
    async with FakeProvider(whole, 1).open(), FakeProvider(whole, 2).open():
        job = await buyer.order(bodies(6), slots=2)
        await buyer.closed(job)

        async def waged() -> bool:
            unpaid = "SELECT 1 FROM attempts WHERE purpose = 'check' AND state = 'accepted' AND receipt NOT IN (SELECT receipt FROM charges)"
            return not await rows(whole, unpaid)

        await until(waged)
    await replayed(whole)
