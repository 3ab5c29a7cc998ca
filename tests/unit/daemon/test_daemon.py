"""The whole daemon in this process, against a market's edge and an executor that runs nothing."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest

from compute.daemon import receipts, slots
from compute.daemon.blobs import Blobs
from compute.daemon.journal import Journal
from compute.daemon.loop import Daemon
from compute.daemon.main import remembered
from compute.daemon.offering import Offering, Terms
from compute.daemon.receipts import Provider
from compute.daemon.slots import Slots
from compute.domain.holding import Agent
from compute.executors.executor import Chunk
from market.sdk.transport import Transport
from market.wire.control import WINDOW_LOST, Beat, Close, Done, Drain, Hello, Lost, Ready, Refuse
from market.wire.payload import INLINE_BYTES_MAX, Payload, inline
from settlement.domain import canonical, charge
from settlement.domain.errors import SlotLost
from settlement.domain.receipt import inputs_digest, outputs_digest, tasks_root
from settlement.domain.resources import Rates, Resources
from tests.unit.daemon import makers
from tests.unit.daemon.fake_executor import FakeExecutor
from tests.unit.daemon.fake_market import FakeMarket, key
from tests.unit.daemon.makers import ENVIRONMENT, MARKET, grant, identifier, work

LEASE = identifier(1)
ATTEMPT = identifier(11)
CODE = b"code"


class Life:
    """A daemon under test and what it stands on."""

    def __init__(self, daemon: Daemon, executor: FakeExecutor) -> None:
        self.daemon, self.executor = daemon, executor
        self.leave, self.hurry = asyncio.Event(), asyncio.Event()
        self.ended = asyncio.Event()


Start = Callable[..., AbstractAsyncContextManager[Life]]


@pytest.fixture
async def market() -> AsyncIterator[FakeMarket]:
    async with FakeMarket() as served:
        served.blob(CODE)
        yield served


@pytest.fixture
def start(market: FakeMarket, tmp_path: Path) -> Start:
    @asynccontextmanager
    async def started(
        executor: FakeExecutor | None = None, drain_seconds: float = 60
    ) -> AsyncIterator[Life]:
        machine = executor or FakeExecutor()
        journal = Journal.open(tmp_path / "journal")
        provider = Provider(key(), MARKET, ENVIRONMENT, machine.environment.equivalence)
        terms = Terms("test", Resources(2_000, 2_048, 0), Rates(200, 20, 0), makers.MANIFEST, "L")
        agent = remembered(Agent(terms.capacity, ENVIRONMENT, "L"), journal)
        async with Transport(market.url, key()) as transport, asyncio.TaskGroup() as group:
            daemon = Daemon(
                agent,
                transport=transport,
                offering=Offering(transport, provider, terms),
                journal=journal,
            )
            life = Life(daemon, machine)
            blobs = Blobs(tmp_path / "blobs", transport)

            async def live() -> None:
                await daemon.run(
                    lambda hands, happened: Slots(
                        machine, blobs, journal, provider, hands, happened
                    ),
                    leave=life.leave,
                    hurry=life.hurry,
                    drain_seconds=drain_seconds,
                )
                life.ended.set()

            group.create_task(live())
            yield life
            life.leave.set()
            life.hurry.set()
        journal.close()

    return started


async def begin_lease(market: FakeMarket, number: int = 1) -> None:
    await market.heard(Hello)
    await market.heard(Beat)
    await market.say(grant(number))
    await market.heard(Ready, number)


async def test_offer_lease_work_receipt(market: FakeMarket, start: Start) -> None:
    async with start() as life:
        await begin_lease(market)
        inputs = [inline(b"one"), inline(b"two")]
        await market.say(work(11, 1, first=5, inputs=inputs))
        done = await market.heard(Done)
        receipt = makers.opened(done.receipt)
        (offer,) = market.offers
        assert offer.environments == [makers.MANIFEST]
        assert offer.provider == receipt.provider == key().address
        assert life.executor.functions[LEASE] == CODE
        assert [(leaf.index, leaf.input, leaf.output, leaf.status) for leaf in done.leaves] == [
            (5, inputs[0].digest, canonical.digest(b"one"), "ok"),
            (6, inputs[1].digest, canonical.digest(b"two"), "ok"),
        ]
        assert [output.output.body for output in done.outputs] == [b"one", b"two"]
        assert receipt.tasks_root == tasks_root(done.leaves)
        assert receipt.inputs == inputs_digest(done.leaves)
        assert receipt.outputs == outputs_digest(done.leaves)
        assert (receipt.lease, receipt.order) == (grant(1).statement, grant(1).order)
        assert receipt.env.seed == receipts.seed(grant(1))
        assert receipt.usage.wall_ms <= receipt.finished_ms - receipt.started_ms + 1
        claim = charge.gross(wall_ms=receipt.usage.wall_ms, rate_microcredits=200)
        assert receipt.price.amount == str(claim)


async def test_frames_that_come_twice_run_once(market: FakeMarket, start: Start) -> None:
    async with start() as life:
        await begin_lease(market)
        await market.say(work(11, 1))
        await market.say(work(11, 1))
        await market.heard(Done)
        await market.say(work(11, 1))
        await market.say(work(12, 1))
        await market.until(lambda: identifier(12) in [d.attempt for d in market.all(Done)])
        assert life.executor.runs == [ATTEMPT, identifier(12)]


async def test_reconnects_and_repeats_the_receipt(market: FakeMarket, start: Start) -> None:
    let = asyncio.Event()

    async def gate(chunk: Chunk) -> None:
        await let.wait()

    async with start(FakeExecutor(gate)) as life:
        await begin_lease(market)
        await market.say(work(11, 1))
        await market.until(lambda: life.executor.runs == [ATTEMPT])
        market.leases = [LEASE]
        market.refuses_sessions = True
        await market.drop()
        let.set()
        await market.until(lambda: len(market.callers) > 2)
        market.refuses_sessions = False
        hello = await market.heard(Hello, 2)
        done = await market.heard(Done)
        assert hello.leases == [LEASE]
        assert hello.attempts == [ATTEMPT]
        assert done.attempt == ATTEMPT
        assert life.executor.runs == [ATTEMPT]


async def test_a_receipt_is_repeated_until_it_is_acknowledged(
    market: FakeMarket, start: Start
) -> None:
    market.settles = False
    async with start() as life:
        await begin_lease(market)
        await market.say(work(11, 1))
        first = await market.heard(Done)
        market.leases = [LEASE]
        await market.drop()
        assert await market.heard(Done, 2) == first
        market.settles = True
        await market.drop()
        await market.heard(Done, 3)
        await market.drop()
        hello = await market.heard(Hello, 4)
        assert hello.attempts == []
        assert life.executor.runs == [ATTEMPT]


async def test_too_many_large_inputs_are_asked_for_in_parts(
    market: FakeMarket, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    large = inline(bytes(INLINE_BYTES_MAX + 1))
    market.blob(bytes(large.size))
    monkeypatch.setattr(slots, "INPUT_BYTES_MAX", 3 * large.size)
    async with start() as life:
        await begin_lease(market)
        await market.say(work(11, 1, inputs=[large] * 3))
        done = await market.heard(Done)
        assert [out.output.digest for out in done.outputs] == [large.digest] * 3
        await market.say(work(12, 1, inputs=[large] * 4))
        lost = await market.heard(Lost)
        assert (lost.attempt, lost.reason) == (identifier(12), WINDOW_LOST)
        assert life.executor.runs == [ATTEMPT]


async def test_inputs_and_outputs_by_digest(market: FakeMarket, start: Start) -> None:
    large = bytes(INLINE_BYTES_MAX + 1)
    market.blob(large)
    payload = inline(large)
    assert payload.body is None
    async with start():
        await begin_lease(market)
        del market.blobs[canonical.digest(CODE)]
        await market.say(work(11, 1, inputs=[payload]))
        done = await market.heard(Done)
        assert done.outputs[0].output == payload
        assert done.leaves[0].output == payload.digest


@pytest.mark.parametrize(
    "payload",
    [
        Payload(canonical.digest(b"other"), 5, b"bytes"),
        Payload(canonical.digest(b"bytes"), 4, b"bytes"),
        Payload(canonical.digest(b"nowhere"), 7, None),
    ],
)
async def test_inputs_of_another_digest_are_not_run(
    market: FakeMarket, start: Start, payload: Payload
) -> None:
    async with start() as life:
        await begin_lease(market)
        await market.say(work(11, 1, inputs=[payload]))
        assert (await market.heard(Lost)).attempt == ATTEMPT
        await market.say(work(12, 1))
        await market.heard(Done)
        assert life.executor.runs == [identifier(12)]


async def test_a_lost_slot_is_armed_again(market: FakeMarket, start: Start) -> None:
    async def gate(chunk: Chunk) -> None:
        if chunk.attempt == ATTEMPT:
            raise SlotLost("the machine failed")

    async with start(FakeExecutor(gate)) as life:
        await begin_lease(market)
        await market.say(work(11, 1))
        assert "machine failed" in (await market.heard(Lost)).reason
        await market.heard(Ready, 2)
        await market.say(work(12, 1))
        await market.heard(Done)
        assert life.executor.opened == [LEASE, LEASE]


async def test_a_chunk_that_outlives_its_window_is_lost_and_the_slot_stays(
    market: FakeMarket, start: Start
) -> None:
    async with start() as life:
        await begin_lease(market)
        life.executor.window_ends = True
        await market.say(work(11, 1))
        assert (await market.heard(Lost)).reason == WINDOW_LOST
        life.executor.window_ends = False
        await market.say(work(12, 1))
        await market.heard(Done)
        assert life.executor.opened == [LEASE]


async def test_a_bug_in_one_lease_does_not_end_the_daemon(market: FakeMarket, start: Start) -> None:
    async def gate(chunk: Chunk) -> None:
        if chunk.attempt == ATTEMPT:
            raise ZeroDivisionError

    async with start(FakeExecutor(gate)):
        await begin_lease(market)
        await market.say(work(11, 1))
        await market.heard(Lost)
        await market.heard(Ready, 2)
        await market.say(work(12, 1))
        assert (await market.heard(Done)).attempt == identifier(12)


async def test_code_that_is_not_there_refuses_the_lease(market: FakeMarket, start: Start) -> None:
    market.blobs.clear()
    async with start():
        await market.heard(Beat)
        await market.say(grant(1))
        assert (await market.heard(Refuse)).lease == LEASE


async def test_close_ends_the_run_and_frees_the_room(market: FakeMarket, start: Start) -> None:
    async def gate(chunk: Chunk) -> None:
        await asyncio.Event().wait()

    async with start(FakeExecutor(gate)) as life:
        await begin_lease(market)
        await begin_lease(market, 2)
        await market.say(work(11, 1))
        await market.until(lambda: life.executor.runs == [ATTEMPT])
        await market.say(Close(lease=LEASE, reason="cancelled"))
        await market.say(grant(3))
        await market.heard(Ready, 3)
        assert (await market.heard(Lost)).attempt == ATTEMPT
        assert set(life.executor.slots) == {identifier(2), identifier(3)}


async def test_leaving_finishes_what_runs(market: FakeMarket, start: Start) -> None:
    let = asyncio.Event()

    async def gate(chunk: Chunk) -> None:
        await let.wait()

    async with start(FakeExecutor(gate)) as life:
        await begin_lease(market)
        await market.say(work(11, 1))
        await market.say(work(12, 1))
        await market.until(lambda: life.executor.runs == [ATTEMPT])
        life.leave.set()
        await market.heard(Drain)
        assert (await market.heard(Lost)).attempt == identifier(12)
        await market.say(grant(2))
        assert (await market.heard(Refuse)).lease == identifier(2)
        let.set()
        assert (await market.heard(Done)).attempt == ATTEMPT
        await life.ended.wait()
        assert life.executor.slots == {}


async def test_leaving_in_a_hurry_kills_what_runs(market: FakeMarket, start: Start) -> None:
    async def gate(chunk: Chunk) -> None:
        await asyncio.Event().wait()

    async with start(FakeExecutor(gate), drain_seconds=3600) as life:
        await begin_lease(market)
        await market.say(work(11, 1))
        await market.until(lambda: life.executor.runs == [ATTEMPT])
        life.leave.set()
        await market.heard(Drain)
        life.hurry.set()
        assert (await market.heard(Lost)).attempt == ATTEMPT
        await life.ended.wait()
        assert life.executor.slots == {}
