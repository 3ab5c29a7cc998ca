"""Which items share a batch: as many as can, and never two that must see each other's work."""

import asyncio
import uuid
from typing import Any, Final

import asyncpg
import pytest_asyncio

from settlement.service.engine import Change, Guard, Item, Ledger, Outcome, Status
from settlement.store.database import Database
from tests.store.ledger_maker import available, endow, move, paying

STATEMENTS: Final = {
    "is_open": "SELECT open FROM lots WHERE id = $1 FOR UPDATE",
    # reads the job's row, but names only the part
    "part_of_open": "SELECT open FROM lots WHERE id = (SELECT job FROM parts WHERE id = $1) FOR UPDATE",
    "shut": "UPDATE lots SET open = false WHERE id = $1",
    "shut_all": "UPDATE lots SET open = false",
    "count": "UPDATE lots SET counted = counted + 1 WHERE id = $1",
    "touch_part": "UPDATE parts SET touched = touched + 1 WHERE id = $1",
}


@pytest_asyncio.fixture
async def jobs(database: Database) -> tuple[uuid.UUID, list[uuid.UUID]]:
    """A job, open, and its three parts."""
    job, parts = uuid.uuid4(), [uuid.uuid4() for _ in range(3)]
    connection = await asyncpg.connect(database.url)
    await connection.execute(
        "CREATE TABLE lots (id uuid PRIMARY KEY, open bool NOT NULL, counted int NOT NULL DEFAULT 0);"
        "CREATE TABLE parts (id uuid PRIMARY KEY, job uuid NOT NULL, touched int NOT NULL DEFAULT 0)"
    )
    await connection.execute("INSERT INTO lots VALUES ($1, true)", job)
    await connection.executemany(
        "INSERT INTO parts (id, job) VALUES ($1, $2)", [(part, job) for part in parts]
    )
    await connection.close()
    return job, parts


async def submit_all(ledger: Ledger, *items: Item) -> tuple[list[Outcome], int]:
    """Together, in this order; and how many batches that took."""
    before = ledger.batches
    async with asyncio.TaskGroup() as tasks:
        submitted = [tasks.create_task(ledger.submit(item)) for item in items]
    return [task.result() for task in submitted], ledger.batches - before


def work_on(part: uuid.UUID, job: uuid.UUID) -> Item:
    """Guarded by its part alone, though it changes the job's row too."""
    return Item(
        (),
        (),
        (Guard("part_of_open", (part,)),),
        (Change("touch_part", (part,)), Change("count", (job,))),
    )


async def counted(database: Database, job: uuid.UUID) -> Any:
    connection = await asyncpg.connect(database.url)
    value = await connection.fetchval("SELECT counted FROM lots WHERE id = $1", job)
    await connection.close()
    return value


async def test_work_on_different_parts_shares_a_batch(
    database: Database, jobs: tuple[uuid.UUID, list[uuid.UUID]]
) -> None:
    job, parts = jobs
    async with Ledger(database, statements=STATEMENTS) as ledger:
        outcomes, batches = await submit_all(ledger, *[work_on(part, job) for part in parts])
    assert {outcome.status for outcome in outcomes} == {Status.APPLIED}
    assert batches == 1
    assert await counted(database, job) == 3


async def test_who_guards_a_row_keeps_all_others_away_from_it(
    database: Database, jobs: tuple[uuid.UUID, list[uuid.UUID]]
) -> None:
    """Once it is shut, it is shut for those too whose own guards do not name the row."""
    job, parts = jobs
    shut = Item((), (), (Guard("is_open", (job,)),), (Change("shut_all"),))
    async with Ledger(database, statements=STATEMENTS) as ledger:
        assert (await ledger.submit(work_on(parts[0], job))).status is Status.APPLIED
        outcomes, _ = await submit_all(ledger, shut, work_on(parts[1], job), shut)
    assert [outcome.status for outcome in outcomes] == [Status.APPLIED, Status.STALE, Status.STALE]
    assert await counted(database, job) == 1


async def test_repeats_of_one_item_wait_for_each_other_and_others_do_not(
    database: Database,
) -> None:
    async with Ledger(database, statements={}) as ledger:
        await endow(ledger, {1: 100})
        same = paying(move(available(1), available(2), 1))
        others = [paying(move(available(1), available(2), 1)) for _ in range(50)]
        outcomes, batches = await submit_all(ledger, same, same, *others, same)
    statuses = [outcome.status for outcome in outcomes]
    assert statuses.count(Status.DUPLICATE) == 2
    assert statuses.count(Status.APPLIED) == 51
    assert batches == 3


async def test_whoever_is_passed_over_is_first_in_the_next_batch(
    database: Database, jobs: tuple[uuid.UUID, list[uuid.UUID]]
) -> None:
    """Nobody starves: of twenty that need the same row, each gets its turn in order."""
    job, _ = jobs
    items = [
        Item((), (), (Guard("is_open", (job,)),), (Change("count", (job,)),)) for _ in range(20)
    ]
    items.insert(10, Item((), (), (Guard("is_open", (job,)),), (Change("shut", (job,)),)))
    async with Ledger(database, statements=STATEMENTS) as ledger:
        outcomes, batches = await submit_all(ledger, *items)
    assert [outcome.status for outcome in outcomes] == [Status.APPLIED] * 11 + [Status.STALE] * 10
    assert batches == 21
    assert await counted(database, job) == 10
