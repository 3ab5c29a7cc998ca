"""Many callers, several processes, a writer killed in the middle: nothing acknowledged is lost."""

import asyncio
import contextlib
import sys
import uuid
from collections import Counter
from pathlib import Path

import asyncpg
import pytest

from settlement.domain.ledger import ALL, AccountKey, Flag, Purpose
from settlement.service.engine import Guard, Item, Ledger, Status
from settlement.store.database import Database
from tests.store.ledger_maker import assert_sound, available, endow, move, paying, statement
from tests.store.ledger_writer import PARTIES

ROOT = Path(__file__).parents[2]
ISSUED_EACH = 1_000


async def test_many_callers_on_few_accounts(database: Database) -> None:
    """Hot accounts, holds, refusals, repeats, all at once; and no lock is ever waited for in vain."""
    async with Ledger(database, statements={}) as ledger:
        await endow(ledger, dict.fromkeys(range(1, 5), 100))
        seen: Counter[Status] = Counter()

        async def caller(number: int) -> None:
            for step in range(6):
                debit, credit = available(1 + number % 4), available(1 + (number + step) % 5)
                if debit == credit:
                    continue
                hold = move(debit, credit, 1 + number % 40, flags=Flag.PENDING)
                post = move(debit, credit, ALL, flags=Flag.POST, pending_id=hold.id)
                for item in (paying(hold), paying(post)):
                    outcome = await ledger.submit(item)
                    seen[outcome.status] += 1
                    again = await ledger.submit(item)
                    expected = {Status.APPLIED: Status.DUPLICATE}
                    assert again.status is expected.get(outcome.status, outcome.status)
                    if outcome.status is Status.REFUSED:
                        break

        async with asyncio.TaskGroup() as tasks:
            for number in range(64):
                tasks.create_task(caller(number))
    assert min(seen[Status.APPLIED], seen[Status.REFUSED]) > 50
    assert ledger.batches < ledger.items / 4  # callers share commits
    assert database.retries == 0
    await assert_sound(database, issued=400)


@pytest.mark.parametrize("callers", [1, 32])
async def test_a_killed_writer_loses_nothing_acknowledged(database: Database, callers: int) -> None:
    """Two processes write; one is killed in the middle, the other goes on, and then dies too."""
    async with Ledger(database, statements={}) as ledger:
        await endow(ledger, dict.fromkeys(range(1, PARTIES + 1), ISSUED_EACH))
    acknowledged: list[str] = []
    writers = [await start_writer(database.url, callers) for _ in range(2)]
    try:
        for writer in writers:  # the second has been writing all the while
            assert writer.stdout is not None
            said = [await writer.stdout.readline() for _ in range(200)]
            acknowledged += [line.decode().strip() for line in said]
            writer.kill()
            lines = (await writer.stdout.read()).decode()
            acknowledged += lines[: lines.rfind("\n") + 1].split()
    finally:
        for writer in writers:
            with contextlib.suppress(ProcessLookupError):
                writer.kill()
            await writer.wait()
    connection = await asyncpg.connect(database.url)
    found = await connection.fetchval(
        "SELECT count(*) FROM transfers WHERE id = ANY($1::uuid[])",
        [uuid.UUID(line) for line in acknowledged],
    )
    await connection.close()
    assert found == len(acknowledged) >= 400
    # and the ledger goes on, whatever the dead writer had locked
    async with Ledger(database, statements={}) as ledger:
        assert (await ledger.submit(Item((), (statement(),)))).status is Status.APPLIED
    await assert_sound(database, issued=PARTIES * ISSUED_EACH)


async def start_writer(url: str, callers: int) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.store.ledger_writer", url, str(callers),
        cwd=ROOT, stdout=asyncio.subprocess.PIPE, limit=2**20,
    )  # fmt: skip


async def test_budgets_are_accounts_of_their_own(database: Database) -> None:
    """One a job, also where an owner has many; whoever made the UUID."""
    jobs = [uuid.uuid4() for _ in range(30)]
    owner = available(1).owner
    async with Ledger(database, statements={}) as ledger:
        await endow(ledger, {1: 1_000})
        funds = [
            move(available(1), AccountKey(owner, Purpose.BUDGET, job), 1 + at)
            for at, job in enumerate(jobs)
        ]
        assert (await ledger.submit(paying(*funds))).status is Status.APPLIED
        connection = await asyncpg.connect(database.url)
        rows = await connection.fetch(
            "SELECT job, cr_posted FROM accounts WHERE purpose = 4 ORDER BY cr_posted"
        )
        await connection.close()
        assert [(row["job"], int(row["cr_posted"])) for row in rows] == [
            (job, 1 + at) for at, job in enumerate(jobs)
        ]
        back = [
            move(
                AccountKey(owner, Purpose.BUDGET, row["job"]),
                available(1),
                ALL,
                flags=Flag.BALANCING_DEBIT,
            )
            for row in rows
        ]
        assert (await ledger.submit(paying(*back))).amounts == tuple(range(1, 31))
    await assert_sound(database, issued=1_000)


async def test_a_batch_that_meets_a_deadlock_is_repeated_whole(database: Database) -> None:
    """A caller's transaction locks a row that a guard needs, and waits for one that the batch has."""
    connection = await asyncpg.connect(database.url)
    await connection.execute("CREATE TABLE rows (id uuid PRIMARY KEY)")
    first, second = uuid.uuid4(), uuid.uuid4()
    await connection.executemany("INSERT INTO rows VALUES ($1)", [(first,), (second,)])
    await connection.execute("SET deadlock_timeout = '10s'")  # the batch shall be the victim
    statements = {"there": "SELECT true FROM rows WHERE id = $1 FOR UPDATE"}
    async with Ledger(database, statements=statements) as ledger:
        await endow(ledger, {1: 10})
        item = Item(
            (move(available(1), available(2), 3),),
            (statement(),),
            (Guard("there", (first,)), Guard("there", (second,))),
        )
        async with asyncio.TaskGroup() as tasks, connection.transaction():
            await connection.execute("SELECT 1 FROM rows WHERE id = $1 FOR UPDATE", second)
            submitted = tasks.create_task(ledger.submit(item))
            await waits_for_lock(database.url)
            await connection.execute("SELECT 1 FROM rows WHERE id = $1 FOR UPDATE", first)
    assert submitted.result().status is Status.APPLIED
    assert database.retries > 0
    await connection.close()
    await assert_sound(database, issued=10)


async def waits_for_lock(url: str) -> None:
    """Until some session waits for a row."""
    watcher = await asyncpg.connect(url)
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    while not await watcher.fetchval(waiting):  # noqa: ASYNC110 - another process's state
        await asyncio.sleep(0.01)
    await watcher.close()
