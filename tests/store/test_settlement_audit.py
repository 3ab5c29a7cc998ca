"""The audit and the database's own checks: what they hold, and that each of them can fail."""

import uuid
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest
import pytest_asyncio

from settlement.domain.identity import PrivateKey
from settlement.domain.ledger import ALL, Flag
from settlement.service.audit import Difference, check_invariants
from settlement.service.engine import Item, Ledger
from settlement.service.publish import Sealer
from settlement.store import audit as store
from settlement.store.database import Database
from tests.store.ledger_maker import MARKET, available, endow, move, paying, statement

LOG_KEY = PrivateKey(b"\2" * 32)


@pytest_asyncio.fixture
async def books(database: Database) -> Database:
    """A database in which everything happened once: holds, posts, voids, expiry, refusals."""
    now = [10**18]
    sealer = Sealer(database, LOG_KEY, origin=MARKET)
    async with Ledger(database, statements={}, clock=lambda: now[0]) as ledger:
        await endow(ledger, {1: 1_000, 2: 50})
        await sealer.seal()
        holds = [
            move(available(1), available(2), amount, flags=Flag.PENDING, timeout_seconds=seconds)
            for amount, seconds in ((10, 0), (20, 0), (30, 5), (40, 900))
        ]
        for hold in holds:
            await ledger.submit(paying(hold))
        await ledger.submit(
            paying(move(available(1), available(2), 7, flags=Flag.POST, pending_id=holds[0].id))
        )
        await ledger.submit(
            paying(move(available(1), available(2), 0, flags=Flag.VOID, pending_id=holds[1].id))
        )
        await ledger.submit(paying(move(available(9), available(1), 5)))
        now[0] += 10**10
        await ledger.submit(Item((), (statement(),)))
        await ledger.submit(
            paying(move(available(2), available(3), ALL, flags=Flag.BALANCING_DEBIT))
        )
    await sealer.seal()
    return database


@pytest_asyncio.fixture
async def attacker(books: Database) -> AsyncIterator[Any]:
    """Somebody with the database's password, whom triggers do not stop."""
    connection = await asyncpg.connect(books.url)
    await connection.execute("SET session_replication_role = replica")
    yield connection
    await connection.close()


async def differences(database: Database) -> list[Difference]:
    async def look(transaction: Any) -> list[Difference]:
        return await check_invariants(transaction, market=MARKET)

    return await database.run(look)


async def test_sound_books_have_no_difference(books: Database) -> None:
    assert await differences(books) == []


@pytest.mark.parametrize(
    ("tampering", "rules"),
    [
        ("UPDATE accounts SET cr_posted = cr_posted + 1 WHERE id = 2", 2),
        ("UPDATE accounts SET dr_pending = dr_pending + 1 WHERE dr_pending > 0", 2),
        ("UPDATE transfers SET amount = amount + 1 WHERE seq = 1", 1),
        ("UPDATE transfers SET dr = 999 WHERE seq = 2", 2),
        ("UPDATE transfers SET cause = sha256('x') WHERE seq = 2", 1),
        ("UPDATE transfers SET ts = 1 WHERE seq = 3", 1),
        ("UPDATE transfers SET seq = 100 WHERE seq = 3", 1),
        ("DELETE FROM transfers WHERE flags = 8", 2),
        ("UPDATE failed SET id = (SELECT id FROM transfers LIMIT 1)", 1),
        ("UPDATE pending SET status = 3 WHERE status = 2", 1),
        ("UPDATE pending SET status = 1 WHERE status = 4", 1),
        ("DELETE FROM pending WHERE status = 4", 1),
        ("UPDATE clock SET seq = seq + 1", 1),
        ("UPDATE clock SET log_size = log_size + 1", 1),
        ("UPDATE clock SET batch = batch - 1", 1),
        (
            "UPDATE batches SET seq_first = seq_first + 1, seq_last = seq_last + 1 WHERE number = 3",
            1,
        ),
        ("DELETE FROM statements WHERE idx = 3", 1),
        ("UPDATE statements SET kind = 'payment' WHERE idx = 3", 1),
        ("UPDATE statements SET digest = sha256('x') WHERE idx = 3", 2),
        ("UPDATE statements SET signer = digest WHERE idx = 3", 1),
        ("UPDATE statements SET envelope = set_byte(envelope, 30, 65) WHERE idx = 3", 2),
        ("UPDATE checkpoints SET root = sha256('x') WHERE size = 1", 1),
        ("UPDATE checkpoints SET note = 'x' WHERE size = 1", 1),
        ("UPDATE checkpoints SET size = 999 WHERE size = 1", 1),
    ],
)
async def test_every_tampering_is_listed(
    books: Database, attacker: Any, tampering: str, rules: int
) -> None:
    status = await attacker.execute(tampering)
    assert int(status.rsplit(" ", 1)[1]) > 0
    assert len({found.rule for found in await differences(books)}) >= rules


async def test_every_rule_can_fail(books: Database, attacker: Any) -> None:
    await attacker.execute("ALTER TABLE accounts DROP CONSTRAINT ck_accounts_debits_within_credits")
    await attacker.execute("ALTER TABLE batches DROP CONSTRAINT ck_batches_range_in_order")
    for change in (
        "UPDATE accounts SET dr_posted = dr_posted + 5000 WHERE purpose = 1",
        "UPDATE transfers SET dr = 999, cause = sha256('x'), ts = 1 WHERE seq = 3",
        "UPDATE failed SET id = (SELECT id FROM transfers WHERE seq = 1)",
        "UPDATE pending SET status = 3 WHERE status = 2",
        "DELETE FROM pending WHERE status = 1",
        "UPDATE clock SET seq = 0",
        "UPDATE batches SET seq_first = 100 WHERE number = 3",
    ):
        await attacker.execute(change)
    broken = {found.rule for found in await differences(books)}
    assert set(store.RULES) - broken == set()


@pytest.mark.parametrize("table", ["transfers", "failed", "batches", "statements", "checkpoints"])
async def test_history_is_append_only(books: Database, table: str) -> None:
    connection = await asyncpg.connect(books.url)
    column = await connection.fetchval(
        "SELECT column_name FROM information_schema.columns WHERE table_name = $1 LIMIT 1", table
    )
    for change in (
        f"UPDATE {table} SET {column} = {column}",
        f"DELETE FROM {table}",
        f"TRUNCATE {table}",
    ):
        with pytest.raises(asyncpg.IntegrityConstraintViolationError, match="append-only"):
            await connection.execute(change)
    await connection.close()


@pytest.mark.parametrize(
    "change",
    [
        "DELETE FROM accounts",
        "TRUNCATE accounts",
        "DELETE FROM pending",
        "DELETE FROM log_tiles",
        "DELETE FROM clock",
        "UPDATE clock SET seq = seq - 1",
        "UPDATE clock SET ts = ts - 1",
        "UPDATE clock SET log_size = 0",
        "INSERT INTO clock VALUES (false, 0, 0, 0, 0, 0)",
        "UPDATE log_tiles SET data = sha256('x')",
        "UPDATE log_tiles SET data = substring(data FROM 1 FOR 32) || sha256('x')",
        "UPDATE accounts SET cr_posted = cr_posted + 1 WHERE id = 2",
        "UPDATE accounts SET cr_pending = cr_pending + 1 WHERE id = 2",
        "UPDATE accounts SET dr_posted = 999999, cr_posted = 0 WHERE purpose = 1",
        f"UPDATE accounts SET dr_posted = {ALL} + 1, cr_posted = {ALL} + 1",
        "INSERT INTO accounts (owner, purpose, ledger, flags, cr_posted) VALUES (sha256('x'), 1, 1, 2, 5)",
        "INSERT INTO accounts (owner, purpose, ledger, flags) VALUES (sha256('x'), 99, 1, 2)",
        "INSERT INTO accounts (owner, purpose, ledger, flags) VALUES ('x', 1, 1, 2)",
        "INSERT INTO accounts (owner, purpose, ledger, flags) SELECT owner, purpose, ledger, flags FROM accounts",
        "INSERT INTO failed VALUES (gen_random_uuid(), 1)",
        "INSERT INTO transfers SELECT * FROM transfers",
        "INSERT INTO statements SELECT idx + 100, digest, kind, signer, envelope FROM statements",
    ],
)
async def test_the_database_refuses_what_the_rules_would_never_do(
    books: Database, change: str
) -> None:
    connection = await asyncpg.connect(books.url)
    with pytest.raises(asyncpg.IntegrityConstraintViolationError):
        await connection.execute(change)
    await connection.close()


async def test_two_sided_changes_pass_the_balance_check(books: Database) -> None:
    """The trigger refuses what does not balance, and nothing else."""
    connection = await asyncpg.connect(books.url)
    find = "SELECT id FROM accounts WHERE owner = $1"
    one = await connection.fetchval(find, bytes.fromhex(available(1).owner))
    other = await connection.fetchval(find, bytes.fromhex(available(3).owner))
    await connection.execute(
        "UPDATE accounts SET dr_posted = dr_posted + CASE WHEN id = $1 THEN 3 ELSE 0 END,"
        " cr_posted = cr_posted + CASE WHEN id = $2 THEN 3 ELSE 0 END WHERE id IN ($1, $2)",
        one,
        other,
    )
    await connection.close()


async def test_load_statements_never_scan_a_table(books: Database) -> None:
    """Analysed while nearly empty, then used: a plan that scans would be kept and grow slow."""
    from settlement.store import ledger as sql

    connection = await asyncpg.connect(books.url)
    await connection.execute("ANALYZE")
    async with connection.transaction():
        await sql.take_baton(connection)
        owner, ids = [bytes(32)], [uuid.uuid4()]
        plans = [
            await connection.fetch(f"EXPLAIN {statement}", *values)
            for statement, values in (
                (sql._ACCOUNTS_LOAD, (owner, [1], [None], [1])),
                (sql._ACCOUNTS_LOAD, (owner, [4], ids, [1])),
                (sql._ACCOUNTS_AGAIN, ("{1}",)),
                (sql._LOAD, (1, 5, sql.ids_text([7]), owner)),
            )
        ]
    await connection.close()
    lines = [line[0] for plan in plans for line in plan]
    assert any("Index" in line for line in lines)
    assert [line for line in lines if "Seq Scan" in line] == []
