"""Settlement asked twice, too late, in another's name, by wrong clocks, and in part."""

import asyncio
from collections.abc import AsyncIterator
from uuid import UUID

import msgspec
import pytest
import pytest_asyncio

from market.http.running import running
from market.service import jobs, leases, payments, receipts, reconcile
from market.service.clock import SteadyClock
from market.service.market import Market
from market.wire.control import Done
from settlement.domain.errors import InsufficientFunds, StaleRequest
from settlement.domain.identity import PrivateKey
from settlement.domain.ledger import Purpose, Reason
from settlement.domain.receipt import Receipt
from tests.crash.market_world import ALPHA, BETA, CONSUMER, RAN_MS, SENT_MS, World
from tests.system.running import Running
from tests.system.trading import FUNDS, RATE, rows

pytestmark = pytest.mark.system
HOURS_MS = 5 * 3_600_000
MINUTE_MS = 60_000
GROSS = RAN_MS * RATE // 1_000


@pytest_asyncio.fixture
async def world(api: Running) -> World:
    """Two providers and a funded consumer; time is what each call says."""
    opened = World(api.market, api.settings)
    await opened.open_for_business(ALPHA, BETA)
    return opened


@pytest_asyncio.fixture
async def other(api: Running) -> AsyncIterator[Market]:
    """Another process of the same market: with an engine of its own."""
    async with running(api.settings) as market:
        yield market


async def count(api: Running, reason: Reason) -> int:
    return len(await rows(api, "SELECT 1 FROM transfers WHERE code = $1", int(reason)))


async def held(api: Running, key: PrivateKey) -> int:
    sql = (
        "SELECT sum(cr_posted - dr_posted) AS left FROM accounts WHERE owner = $1 AND purpose = $2"
    )
    (found,) = await rows(api, sql, bytes.fromhex(key.address), int(Purpose.HELD))
    return int(found["left"] or 0)


async def deliver(market: Market, key: PrivateKey, frame: Done, now_ms: int) -> str:
    return (await receipts.receive(market, key.address, frame, now_ms=now_ms)).state


async def worker(world: World) -> PrivateKey:
    """Who has the only lease."""
    (row,) = await world._leases()
    return ALPHA if row["provider"] == ALPHA.address else BETA


async def test_one_receipt_at_two_processes_at_once(
    api: Running, world: World, other: Market
) -> None:
    """Double settlement: delivered to both again and again, it is charged once."""
    await world.order()
    await world.grant()
    key = await worker(world)
    frame = await world.receipt(key, await world.claim(key))
    async with asyncio.TaskGroup() as tasks:
        sent = [
            tasks.create_task(deliver(market, key, frame, world.now + SENT_MS))
            for market in (api.market, other) * 4
        ]
    assert {one.result() for one in sent} == {"accepted"}
    assert await count(api, Reason.CHARGE) == 1
    assert await held(api, key) == GROSS - GROSS // 20


async def test_two_workers_close_and_release_at_once(
    api: Running, world: World, other: Market
) -> None:
    """The rest goes back once, and earnings become the provider's once."""
    await world.order()
    await world.grant()
    key = await worker(world)
    frame = await world.receipt(key, await world.claim(key))
    await deliver(api.market, key, frame, world.now + SENT_MS)
    later = world.now + SENT_MS + api.market.hold_ms + 1
    async with asyncio.TaskGroup() as tasks:
        for market in (api.market, other) * 3:
            tasks.create_task(reconcile.jobs_round(market, now_ms=later))
            tasks.create_task(reconcile.releases_round(market, now_ms=later))
    assert await count(api, Reason.REFUND) == 1
    assert await count(api, Reason.RELEASE) == 1
    assert await held(api, key) == 0


async def test_a_receipt_after_its_lease_ended_in_an_open_job(api: Running, world: World) -> None:
    """The chunk went to another provider meanwhile: only that one is paid, whoever comes first."""
    await world.order()
    await world.grant()
    first = await worker(world)
    second = BETA if first == ALPHA else ALPHA
    late = await world.receipt(first, await world.claim(first))
    (row,) = await world._leases()
    await leases.refused(api.market, first.address, row["id"], "the machine goes", now_ms=world.now)
    await world.grant()
    assert await worker(world) == second
    frame = await world.receipt(second, await world.claim(second))
    assert await deliver(api.market, first, late, world.now + SENT_MS) == "lost"
    assert await deliver(api.market, second, frame, world.now + SENT_MS) == "accepted"
    assert await deliver(api.market, first, late, world.now + SENT_MS) == "lost"
    assert await count(api, Reason.CHARGE) == 1
    assert await held(api, first) == 0


async def test_a_receipt_for_anothers_lease(api: Running, world: World) -> None:
    """Its own attempt under the lease of another provider in the same job: refused, and unpaid."""
    await world.order(2, slots=2)
    await world.grant()
    rows_ = await world._leases()
    assert {row["provider"] for row in rows_} == {ALPHA.address, BETA.address}
    works = {key: await world.claim(key) for key in (ALPHA, BETA)}
    statements = {
        row["provider"]: row["statement"]
        for row in await rows(api, "SELECT provider, statement FROM leases")
    }

    def stolen(claim: Receipt) -> Receipt:
        return msgspec.structs.replace(claim, lease=statements[BETA.address])

    honest = await world.receipt(BETA, works[BETA])
    forged = await world.receipt(ALPHA, works[ALPHA], forge=stolen)
    now = world.now + SENT_MS
    settled = await receipts.receive(api.market, ALPHA.address, forged, now_ms=now)
    assert settled.state == "rejected"
    assert "lease" in settled.reason
    # and sent by the one whose lease it is, it is nobody's attempt
    settled = await receipts.receive(api.market, BETA.address, forged, now_ms=now)
    assert settled.state == "rejected"
    assert await deliver(api.market, BETA, honest, now) == "accepted"
    assert await count(api, Reason.CHARGE) == 1
    assert await held(api, ALPHA) == 0


@pytest.mark.parametrize("off_ms", [-HOURS_MS, HOURS_MS])
async def test_a_providers_clock_is_hours_off(api: Running, world: World, off_ms: int) -> None:
    """What it says of when it ran is evidence only: it is paid by the market's clock."""
    await world.order()
    await world.grant()
    key = await worker(world)

    def skewed(claim: Receipt) -> Receipt:
        started, finished = claim.started_ms + off_ms, claim.finished_ms + off_ms
        return msgspec.structs.replace(claim, started_ms=started, finished_ms=finished)

    frame = await world.receipt(key, await world.claim(key), forge=skewed)
    assert await deliver(api.market, key, frame, world.now + SENT_MS) == "accepted"
    assert await held(api, key) == GROSS - GROSS // 20


async def test_a_payment_by_a_clock_that_is_hours_off(api: Running, world: World) -> None:
    """Refused as stale, moves nothing, and says what to do; signed anew it goes through."""
    envelope = world.payment(5)
    for off_ms in (-HOURS_MS, HOURS_MS):
        with pytest.raises(StaleRequest):
            await payments.pay(api.market, CONSUMER.address, envelope, now_ms=world.now + off_ms)
    assert await count(api, Reason.PAYMENT) == 0
    moved = await payments.pay(api.market, CONSUMER.address, envelope, now_ms=world.now)
    assert moved.status == "applied"


async def test_the_machines_clock_jumps_back_within_a_run(api: Running, world: World) -> None:
    """The market's time goes on: the run is paid for what it took."""
    machine = {"wall": world.now, "steady": 0}
    clock = SteadyClock(
        wall=lambda: machine["wall"] * 1_000_000, steady=lambda: machine["steady"] * 1_000_000
    )
    await world.order()
    await world.grant()
    key = await worker(world)
    frame = await world.receipt(key, await world.claim(key))
    assert clock.ms() == world.now
    machine["steady"] += SENT_MS
    machine["wall"] += SENT_MS - HOURS_MS
    assert clock.ms() == world.now + SENT_MS
    assert await deliver(api.market, key, frame, clock.ms()) == "accepted"
    assert await held(api, key) == GROSS - GROSS // 20


async def test_a_time_before_the_work_was_handed_out(api: Running, world: World) -> None:
    """Even so told, a receipt costs nothing, and never less than that."""
    await world.order()
    await world.grant()
    key = await worker(world)
    frame = await world.receipt(
        key,
        await world.claim(key),
        forge=lambda claim: msgspec.structs.replace(
            claim, price=msgspec.structs.replace(claim.price, amount="0")
        ),
    )
    before = world.now - MINUTE_MS
    assert await deliver(api.market, key, frame, before) == "accepted"
    assert await held(api, key) == 0
    await reconcile.jobs_round(api.market, now_ms=before)
    (job,) = await rows(api, "SELECT state, spent FROM jobs")
    assert (job["state"], int(job["spent"])) == ("closed", 0)


async def test_a_batch_is_taken_in_part(api: Running, world: World) -> None:
    """Twenty payments at once, of which the funds cover ten: each has its own answer."""
    each = FUNDS // 10
    envelopes = [world.payment(each) for _ in range(20)]

    async def pay(envelope: bytes) -> bool:
        try:
            await payments.pay(api.market, CONSUMER.address, envelope, now_ms=world.now)
        except InsufficientFunds:
            return False
        return True

    async with asyncio.TaskGroup() as tasks:
        sent = [tasks.create_task(pay(envelope)) for envelope in envelopes]
    assert sum(one.result() for one in sent) == 10
    assert await count(api, Reason.PAYMENT) == 10


async def test_receipts_of_which_one_is_bad_come_together(api: Running, world: World) -> None:
    """The good one of the same moment is settled; the bad one takes nothing with it."""
    first, second = await world.order(), await world.order()
    await world.grant()
    works = {key: await world.claim(key) for key in (ALPHA, BETA)}
    assert {UUID(world_job) for world_job in await _jobs(api)} == {first, second}
    good = await world.receipt(ALPHA, works[ALPHA])
    bad = await world.receipt(
        BETA,
        works[BETA],
        forge=lambda claim: msgspec.structs.replace(claim, tasks_root=claim.inputs),
    )
    now = world.now + SENT_MS
    async with asyncio.TaskGroup() as tasks:
        settled = [
            tasks.create_task(deliver(api.market, key, frame, now))
            for key, frame in ((BETA, bad), (ALPHA, good))
        ]
    assert [one.result() for one in settled] == ["rejected", "accepted"]
    assert await count(api, Reason.CHARGE) == 1
    await jobs.cancel(api.market, CONSUMER.address, first, now_ms=now)
    await jobs.cancel(api.market, CONSUMER.address, second, now_ms=now)
    await reconcile.jobs_round(api.market, now_ms=now)


async def _jobs(api: Running) -> list[str]:
    return [str(row["job"]) for row in await rows(api, "SELECT DISTINCT job FROM attempts")]
