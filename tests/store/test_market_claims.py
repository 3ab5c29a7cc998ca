"""Many hands at one job: every task is handed out once, without one conflict between transactions."""

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator
from dataclasses import dataclass
from uuid import UUID, uuid4

import msgspec
import pytest

from market.domain.jobspec import Spec
from market.domain.matching import match
from market.service import jobs, leases, matching, payments, providers
from market.service.market import Market
from market.store import book, work
from market.store import control as sessions
from market.store.bus import Bus
from market.store.items import STATEMENTS
from market.store.rows import Connection, Row
from market.wire.control import Work
from market.wire.jobs import Submit
from market.wire.payload import inline
from settlement.domain import statement
from settlement.domain.identity import PrivateKey
from settlement.domain.resources import Rates, Resources
from settlement.domain.statement import Statement
from settlement.domain.trade import Manifest, Offer, Order
from settlement.service.engine import Ledger
from settlement.service.opening import Opener
from settlement.store.database import Database

ORIGIN = "gridpact.test/claims"
OPERATOR, CONSUMER = PrivateKey(b"\x01" * 32), PrivateKey(b"\x02" * 32)
CODE = b"code"
FUNDS = 900_000_000
RATE = 100
MANIFEST = Manifest({"numpy": "2.4.0"}, "3.11")
SLOT = Resources(1_000, 512, 0)
NOW_MS = 2_000_000_000_000
HOUR_MS = 3_600_000
SPEC = Spec(
    name="claims", kind="function", function=inline(CODE).digest, environment=MANIFEST.digest(), client=MANIFEST,
    slot=SLOT, task_timeout_ms=1_000, protection="none", verify="none", seed=0,
)  # fmt: skip


def envelope(made: Statement, key: PrivateKey) -> bytes:
    return statement.sign(made, key).envelope


@dataclass(frozen=True)
class Hands:
    """One process: its own pool, its own engine."""

    market: Market

    async def offer(self, number: int, *, slots: int, rate: int = RATE) -> PrivateKey:
        """A connected provider."""
        key = PrivateKey(bytes([50 + number]) * 32)
        made = Offer(
            v=1, kind="offer", market=ORIGIN, provider=key.address, name=f"p{number}",
            capacity=Resources(SLOT.cpus_milli * slots, SLOT.memory_mib * slots, 0),
            rates=Rates(rate, 0, 0), environments=[MANIFEST], protection="none",
            expires_ms=NOW_MS + HOUR_MS, at_ms=NOW_MS, nonce=secrets.token_hex(16),
        )  # fmt: skip
        await providers.put_offer(self.market, key.address, envelope(made, key), now_ms=NOW_MS)
        await providers.connect(self.market, key.address, uuid4(), now_ms=NOW_MS)
        return key

    async def order(self, tasks: int, *, slots: int, budget: int = 100_000_000) -> UUID:
        """A funded job; its code is there."""
        market, caller = self.market, CONSUMER.address
        await payments.faucet(
            market, OPERATOR, caller, str(FUNDS), transfer_id=uuid4(), now_ms=NOW_MS
        )

        async def keep(connection: Connection) -> None:
            await connection.execute(
                "INSERT INTO blobs (digest, owner, size, created_ms) VALUES ($1, $2, 4, 0)"
                " ON CONFLICT DO NOTHING",
                SPEC.function,
                caller,
            )

        await market.transact(keep)
        job = uuid4()
        made = Order(
            v=1, kind="order", market=ORIGIN, consumer=caller, job=str(job), spec=SPEC.digest(),
            tasks=tasks, slots=slots, rate_cap=str(RATE * 10), budget=str(budget), transfer=str(uuid4()),
            deadline_ms=NOW_MS + HOUR_MS, at_ms=NOW_MS,
        )  # fmt: skip
        inputs = [inline(b"%d" % number) for number in range(tasks)]
        body = Submit(envelope(made, CONSUMER), SPEC, inputs, sealed=True)
        await jobs.submit(market, caller, body, now_ms=NOW_MS)
        return job

    async def rows(self, sql: str, *parameters: object) -> list[Row]:
        async def read(connection: Connection) -> list[Row]:
            found: list[Row] = await connection.fetch(sql, *parameters)
            return found

        return await self.market.transact(read)

    async def armed(self, job: UUID) -> list[UUID]:
        """The job's leases, all of them active."""
        await matching.round_(self.market, now_ms=NOW_MS)
        granted = await self.rows("SELECT id, provider FROM leases WHERE job = $1 ORDER BY id", job)
        for row in granted:
            await leases.started(self.market, row["provider"], row["id"], now_ms=NOW_MS)
        return [row["id"] for row in granted]

    async def finish(self, claimed: Work, *, task_us: int) -> None:
        """What a receipt does to the tables, without its money."""

        async def accept(connection: Connection) -> None:
            attempt = UUID(claimed.attempt)
            (row,) = await connection.fetch("SELECT job, cap FROM attempts WHERE id = $1", attempt)
            await work.lock_job(connection, row["job"])
            status = await connection.execute(
                "UPDATE attempts SET state = 'accepted' WHERE id = $1 AND state = 'handed'", attempt
            )
            if status != "UPDATE 1":
                return  # the job ended meanwhile
            await connection.execute(
                "UPDATE intervals SET state = 'accepted' WHERE attempt = $1", attempt
            )
            await connection.execute(
                "UPDATE jobs SET reserved = reserved - $2, task_us = $3 WHERE id = $1",
                row["job"],
                row["cap"],
                task_us,
            )

        await self.market.transact(accept)


@contextlib.asynccontextmanager
async def process(url: str) -> AsyncIterator[Hands]:
    database = Database(url)
    try:
        async with Ledger(database, statements=STATEMENTS) as ledger:
            yield Hands(
                Market(
                    database=database, ledger=ledger, bus=Bus(database.connect), opener=Opener(ORIGIN),
                    origin=ORIGIN,
                    key=PrivateKey(b"\x03" * 32), operator=OPERATOR.address, hold_ms=0, devstack=True,
                )
            )  # fmt: skip
    finally:
        await database.close()


@pytest.fixture
async def two(database_url: str) -> AsyncIterator[tuple[Hands, Hands]]:
    async with process(database_url) as one, process(database_url) as other:
        yield one, other
        assert [hands.market.database.retries for hands in (one, other)] == [0, 0]


async def _drain(hands: Hands, lease: UUID, got: list[Work], *, loses: bool) -> None:
    """Claim until nothing is left; give every third chunk back once, if so told."""
    number = 0
    while (claimed := await leases.claim(hands.market, lease, now_ms=NOW_MS)) is not None:
        number += 1
        if loses and number % 3 == 0:
            (row,) = await hands.rows("SELECT provider FROM leases WHERE id = $1", lease)
            provider, attempt = row["provider"], UUID(claimed.attempt)
            await leases.lost(hands.market, provider, attempt, "it broke", now_ms=NOW_MS)
        else:
            await hands.finish(claimed, task_us=50_000)
            got.append(claimed)


@pytest.mark.parametrize("loses", [False, True])
async def test_every_task_is_handed_out_once(two: tuple[Hands, Hands], loses: bool) -> None:
    one, other = two
    for number in range(4):
        await one.offer(number, slots=2)
    tasks = 160
    job = await one.order(tasks, slots=8)
    armed = await one.armed(job)
    assert len(armed) == 8
    got: list[Work] = []
    async with asyncio.TaskGroup() as hands:
        for index, lease in enumerate(armed):
            hands.create_task(_drain(two[index % 2], lease, got, loses=loses))
    if loses:  # what was given back last may have come after the others were done
        await _drain(other, armed[0], got, loses=False)
    covered = sorted(
        index for each in got for index in range(each.first, each.first + len(each.inputs))
    )
    assert covered == list(range(tasks))
    assert all(
        [payload.body for payload in each.inputs]
        == [b"%d" % (each.first + offset) for offset in range(len(each.inputs))]
        for each in got
    )
    (row,) = await one.rows("SELECT reserved FROM jobs WHERE id = $1", job)
    assert row["reserved"] == 0


async def test_one_lease_asked_twice_at_once_gets_one_chunk(two: tuple[Hands, Hands]) -> None:
    one, other = two
    await one.offer(1, slots=1)
    (lease,) = await one.armed(await one.order(10, slots=1))
    async with asyncio.TaskGroup() as tasks:
        claims = [
            tasks.create_task(leases.claim(hands.market, lease, now_ms=NOW_MS))
            for hands in (one, other) * 4
        ]
    assert sum(claim.result() is not None for claim in claims) == 1


async def test_claims_settles_and_ends_at_once_meet_no_conflict(two: tuple[Hands, Hands]) -> None:
    """Claims, losses, cancels and offers of several processes: one order of locks for all."""
    one, other = two
    for number in range(4):
        await one.offer(number, slots=3)
    ordered = [await one.order(40, slots=3) for _ in range(3)]
    armed = [await one.armed(job) for job in ordered]
    got: list[Work] = []
    async with asyncio.TaskGroup() as tasks:
        for number, leased in enumerate(armed):
            for index, lease in enumerate(leased):
                tasks.create_task(_drain(two[(number + index) % 2], lease, got, loses=True))
        for job in ordered[1:]:
            tasks.create_task(jobs.cancel(other.market, CONSUMER.address, job, now_ms=NOW_MS))
        tasks.create_task(matching.round_(other.market, now_ms=NOW_MS))
        for number in range(4):
            provider = PrivateKey(bytes([50 + number]) * 32).address
            tasks.create_task(providers.connect(one.market, provider, uuid4(), now_ms=NOW_MS))
    states = await one.rows("SELECT state, reason, reserved FROM jobs ORDER BY created_ms, state")
    assert sorted(row["state"] for row in states).count("closed") == 2
    assert all(row["reserved"] == 0 for row in states if row["state"] == "closed")


# ── the matching round under guards ─────────────────────────────────────────────────────────


async def test_a_round_grants_what_fits_and_then_nothing(two: tuple[Hands, Hands]) -> None:
    one, _ = two
    await one.offer(1, slots=2, rate=RATE)
    await one.offer(2, slots=5, rate=RATE * 2)
    small, large = await one.order(3, slots=1), await one.order(20, slots=50)
    assert await matching.round_(one.market, now_ms=NOW_MS) == 7
    assert await matching.round_(one.market, now_ms=NOW_MS) == 0
    counts = await one.rows(
        "SELECT job, count(*) AS n, min(rate) AS least FROM leases GROUP BY job"
    )
    assert {row["job"]: row["n"] for row in counts} == {small: 1, large: 6}
    assert all(row["least"] == RATE for row in counts)
    taken = await one.rows("SELECT provider, sum(cpus_milli) AS cpus FROM leases GROUP BY provider")
    assert sorted(int(row["cpus"]) for row in taken) == [2_000, 5_000]


@pytest.mark.parametrize("meanwhile", ["cancelled", "replaced", "draining", "gone"])
async def test_a_match_that_no_longer_holds_is_dropped(
    two: tuple[Hands, Hands], meanwhile: str
) -> None:
    """Between reading the book and writing the lease the world moved on: no lease, no statement."""
    one, other = two
    key = await one.offer(1, slots=1)
    job = await one.order(1, slots=1)
    (demand,) = await one.market.transact(matching._demands, NOW_MS)
    (supply,) = await one.market.transact(matching._supplies, NOW_MS)
    (found,) = match([demand[1]], [supply[1]])
    (session,) = [row["session"] for row in await one.rows("SELECT session FROM providers")]
    if meanwhile == "cancelled":
        await jobs.cancel(other.market, CONSUMER.address, job, now_ms=NOW_MS)
    elif meanwhile == "replaced":
        await _replace(other, key)
    elif meanwhile == "draining":
        await other.market.transact(sessions.drain, key.address, session)
    else:
        await other.market.transact(_disconnect, key.address, session)
    assert not await matching._grant(one.market, found, demand[0], NOW_MS)
    assert await one.rows("SELECT 1 FROM leases") == []
    assert await one.rows("SELECT 1 FROM statements WHERE kind = 'lease'") == []


async def _disconnect(connection: Connection, provider: str, session: UUID) -> None:
    await sessions.disconnect(connection, provider, session, now_ms=NOW_MS)


async def _replace(hands: Hands, key: PrivateKey) -> None:
    (view,) = await hands.market.transact(_terms)
    made = Offer(
        v=1, kind="offer", market=ORIGIN, provider=key.address, name="dearer", capacity=view.capacity,
        rates=Rates(RATE * 3, 0, 0), environments=[MANIFEST], protection="none",
        expires_ms=NOW_MS + HOUR_MS, at_ms=NOW_MS + 1, nonce=secrets.token_hex(16),
    )  # fmt: skip
    await providers.put_offer(hands.market, key.address, envelope(made, key), now_ms=NOW_MS + 1)


async def _terms(connection: Connection) -> list[Offer]:
    found = await book.supplies(connection, now_ms=NOW_MS)
    return [msgspec.json.decode(row["terms"], type=Offer) for row, _ in found]
