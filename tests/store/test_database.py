"""The pool and its transactions, on a real PostgreSQL."""

import asyncio
from typing import Any

import asyncpg
import pytest
import sqlalchemy
from sqlalchemy.ext.asyncio import AsyncConnection

from settlement.domain.errors import MisConfigured, Unavailable, Unknown
from settlement.store.database import Database, driver

BIG = 2**128 - 1


async def execute(database: Database, statement: str, *values: object) -> Any:
    async def work(transaction: AsyncConnection) -> Any:
        return await (await driver(transaction)).fetchval(statement, *values)

    return await database.run(work)


async def test_core_and_driver_share_one_transaction(database: Database) -> None:
    async def work(transaction: AsyncConnection) -> tuple[Any, Any]:
        raw = await driver(transaction)
        mine = await raw.fetchval("SELECT pg_current_xact_id()::text")
        theirs = await transaction.scalar(sqlalchemy.text("SELECT pg_current_xact_id()::text"))
        return mine, theirs

    mine, theirs = await database.run(work)
    assert mine == theirs


@pytest.mark.parametrize("core", [True, False])
async def test_an_error_undoes_everything(database: Database, core: bool) -> None:
    async def work(transaction: AsyncConnection) -> None:
        raw = await driver(transaction)
        await raw.execute("CREATE TABLE t (a int)")
        if core:
            await transaction.execute(sqlalchemy.text("INSERT INTO t VALUES (1)"))
        raise KeyError

    with pytest.raises(KeyError):
        await database.run(work)
    assert await execute(database, "SELECT to_regclass('t')") is None


async def test_core_alone_commits(database: Database) -> None:
    async def work(transaction: AsyncConnection) -> None:
        await transaction.execute(sqlalchemy.text("CREATE TABLE t (a int)"))
        await transaction.execute(sqlalchemy.text("INSERT INTO t VALUES (7)"))

    await database.run(work)
    assert await execute(database, "SELECT a FROM t") == 7


async def test_amounts_stay_whole_numbers(database: Database) -> None:
    found = await execute(database, "SELECT $1::numeric(39, 0)", BIG)
    assert found == BIG
    assert type(found) is int
    assert await execute(database, "SELECT '{\"a\": 1}'::jsonb") == '{"a": 1}'
    connection = await database.connect()
    assert await connection.fetchval("SELECT $1::numeric", -BIG) == -BIG
    await connection.close()


async def test_conflicts_are_repeated_whole_and_counted(database: Database) -> None:
    await execute(database, "CREATE TABLE t (a int PRIMARY KEY, n int)")
    await execute(database, "INSERT INTO t VALUES (1, 0), (2, 0)")
    both = asyncio.Barrier(2)
    runs = 0

    async def work(transaction: AsyncConnection, first: int, second: int) -> None:
        nonlocal runs
        runs += 1
        raw = await driver(transaction)
        await raw.execute("UPDATE t SET n = n + 1 WHERE a = $1", first)
        if runs <= 2:
            await both.wait()  # each holds one row and wants the other: a deadlock
        await raw.execute("UPDATE t SET n = n + 1 WHERE a = $1", second)

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(database.run(work, 1, 2))
        tasks.create_task(database.run(work, 2, 1))
    assert database.retries == runs - 2 >= 1
    assert await execute(database, "SELECT sum(n) FROM t") == 4


async def test_serialization_failures_of_core_are_repeated(database: Database) -> None:
    left = [2]

    async def work(transaction: AsyncConnection) -> str:
        if left[0]:
            left[0] -= 1
            statement = "DO $$ BEGIN RAISE 'x' USING ERRCODE = '40001'; END $$"
            await transaction.execute(sqlalchemy.text(statement))
        return "done"

    assert await database.run(work) == "done"
    assert database.retries == 2


async def test_conflicts_without_end_are_given_up(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("settlement.store.database.ATTEMPTS_MAX", 3)
    with pytest.raises(Unavailable, match="3 attempts"):
        await execute(database, "DO $$ BEGIN RAISE 'x' USING ERRCODE = '40P01'; END $$")
    assert database.retries == 2


async def test_other_errors_are_not_repeated(database: Database) -> None:
    with pytest.raises(asyncpg.CheckViolationError):
        await execute(database, "INSERT INTO clock VALUES (false, 0, 0, 0, 0, 0)")
    assert database.retries == 0


async def test_a_swallowed_error_is_no_commit(database: Database) -> None:
    async def work(transaction: AsyncConnection) -> None:
        raw = await driver(transaction)
        await raw.execute("UPDATE clock SET seq = 5")
        try:
            await raw.execute("SELECT 1 / 0")
        except asyncpg.DivisionByZeroError:
            return

    with pytest.raises(AssertionError, match="swallowed"):
        await database.run(work)
    assert await execute(database, "SELECT seq FROM clock") == 0


async def test_a_deferred_refusal_is_certain(database: Database) -> None:
    await execute(database, "CREATE TABLE t (a int UNIQUE DEFERRABLE INITIALLY DEFERRED)")
    with pytest.raises(asyncpg.UniqueViolationError):
        await execute(database, "INSERT INTO t VALUES (1), (1)")
    assert await execute(database, "SELECT count(*) FROM t") == 0


DEAF = (
    "DO $$ BEGIN LOOP BEGIN PERFORM pg_sleep(60);"
    " EXCEPTION WHEN query_canceled THEN END; END LOOP; END $$"  # requests to cancel are lost on it
)
KILL = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND datname = current_database()"


async def test_a_session_lost_at_work_is_unavailable(database: Database, database_url: str) -> None:
    other = Database(database_url)

    async def work(transaction: AsyncConnection) -> None:
        raw = await driver(transaction)
        await raw.execute("UPDATE clock SET seq = 5")
        await execute(other, KILL)
        await raw.fetchval("SELECT 1")

    with pytest.raises(Unavailable):
        await database.run(work)
    assert await execute(database, "SELECT seq FROM clock") == 0
    await other.close()


async def test_a_session_lost_at_commit_is_unknown(database: Database, database_url: str) -> None:
    other = Database(database_url)

    async def work(transaction: AsyncConnection) -> None:
        await execute(other, KILL)

    with pytest.raises(Unknown):
        await database.run(work)
    await other.close()


async def test_sessions_lost_in_the_pool_are_replaced(
    database: Database, database_url: str
) -> None:
    async def wait(transaction: AsyncConnection, all_in: asyncio.Barrier) -> None:
        await all_in.wait()

    all_in = asyncio.Barrier(5)
    async with asyncio.TaskGroup() as tasks:
        for _ in range(5):
            tasks.create_task(database.run(wait, all_in))
    other = Database(database_url)
    await execute(other, KILL)
    await asyncio.sleep(0.2)  # the sockets' ends reach the loop
    assert [await execute(database, "SELECT 1") for _ in range(5)] == [1] * 5
    await other.close()


async def test_cancelled_work_is_undone(database: Database) -> None:
    begun = asyncio.Event()

    async def work(transaction: AsyncConnection) -> None:
        raw = await driver(transaction)
        await raw.execute("UPDATE clock SET seq = 5")
        begun.set()
        await raw.execute("SELECT pg_sleep(60)")

    task = asyncio.ensure_future(database.run(work))  # noqa: TID251 - to be cancelled
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await execute(database, "UPDATE clock SET seq = seq + 1 RETURNING seq") == 1


async def test_a_statement_that_runs_on_after_its_caller_frees_its_locks(
    database: Database,
) -> None:
    begun = asyncio.Event()

    async def work(transaction: AsyncConnection) -> None:
        raw = await driver(transaction)
        await raw.execute("UPDATE clock SET seq = 5")
        begun.set()
        await raw.execute(DEAF)

    task = asyncio.ensure_future(database.run(work))  # noqa: TID251 - to be cancelled
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await execute(database, "UPDATE clock SET seq = seq + 1 RETURNING seq") == 1


async def test_more_callers_than_connections(database_url: str) -> None:
    database = Database(database_url, pool_size=3)
    async with asyncio.TaskGroup() as tasks:
        for _ in range(50):
            tasks.create_task(execute(database, "UPDATE clock SET seq = seq + 1"))
    assert await execute(database, "SELECT seq FROM clock") == 50
    assert database.retries == 0
    await database.close()


async def test_notifications_arrive_outside_the_pool(database: Database) -> None:
    heard: asyncio.Queue[str] = asyncio.Queue()
    connection = await database.connect()
    await connection.add_listener("news", lambda *arguments: heard.put_nowait(arguments[3]))
    await execute(database, "SELECT pg_notify('news', 'hello')")
    assert await heard.get() == "hello"
    await connection.close()


async def test_no_server_is_unavailable() -> None:
    database = Database("postgresql://nobody@/none?host=/nonexistent")
    with pytest.raises(Unavailable):
        await execute(database, "SELECT 1")
    with pytest.raises(OSError, match=r"."):
        await database.connect()
    await database.close()


async def test_an_unknown_database_is_unavailable(postgres: str) -> None:
    database = Database(postgres.replace("/postgres?", "/absent?"))
    with pytest.raises(Unavailable, match="absent"):
        await execute(database, "SELECT 1")
    await database.close()


def test_the_address_is_checked() -> None:
    with pytest.raises(MisConfigured):
        Database("mysql://x")


async def look(database: Database, statement: str, *values: object) -> Any:
    async def work(transaction: AsyncConnection) -> Any:
        return await (await driver(transaction)).fetchval(statement, *values)

    return await database.look(work)


async def test_a_look_has_no_transaction(database: Database) -> None:
    """Each statement is one of its own, and what it wrote stands."""
    await execute(database, "CREATE TABLE t (a int)")

    async def work(transaction: AsyncConnection) -> list[Any]:
        raw = await driver(transaction)
        assert not raw.is_in_transaction()
        return [await raw.fetchval("SELECT pg_current_xact_id()::text") for _ in range(2)]

    first, second = await database.look(work)
    assert first != second
    await look(database, "INSERT INTO t VALUES (1)")
    assert await execute(database, "SELECT sum(a) FROM t") == 1


async def test_a_session_lost_at_a_look_is_unavailable(
    database: Database, database_url: str
) -> None:
    other = Database(database_url, pool_size=1)

    async def work(transaction: AsyncConnection) -> None:
        await execute(other, KILL)
        await (await driver(transaction)).fetchval("SELECT 1")

    with pytest.raises(Unavailable):
        await database.look(work)
    await other.close()
    assert await look(database, "SELECT 1") == 1


async def test_a_cancelled_look_leaves_nothing_behind(database_url: str) -> None:
    """Its connection is gone; the next caller gets another, which answers its own question."""
    database = Database(database_url, pool_size=1)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await look(database, "SELECT pg_sleep(60)")
    assert await look(database, "SELECT 7") == 7
    await database.close()
