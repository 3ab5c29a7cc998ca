"""What an engine remembers between batches is never older than the database."""

import asyncpg
import pytest

from settlement.domain.errors import Failed
from settlement.domain.ledger import ALL, Flag
from settlement.service import memory as module
from settlement.service.engine import Change, Item, Ledger, Status
from settlement.store.database import Database
from tests.store.ledger_maker import assert_sound, available, endow, move, paying, statement

STATEMENTS = {"fail": "SELECT 1 / 0 WHERE $1::text IS NOT NULL"}


async def take_all(ledger: Ledger, debit: int, credit: int) -> int:
    """Everything that the party has, as this engine sees it."""
    outcome = await ledger.submit(
        paying(move(available(debit), available(credit), ALL, flags=Flag.BALANCING_DEBIT))
    )
    assert outcome.status is Status.APPLIED
    return outcome.amounts[0]


async def test_another_engine_wrote_in_between(database: Database) -> None:
    other = Database(database.url)
    async with Ledger(database, statements={}) as left, Ledger(other, statements={}) as right:
        await endow(left, {1: 100})
        for _ in range(5):  # each sees at once what the other did, and each remembers the accounts
            assert await take_all(left, 1, 2) == 100
            assert await take_all(right, 2, 1) == 100
            assert await take_all(left, 1, 3) == 100
            assert await take_all(left, 3, 2) == 100
            assert await take_all(right, 2, 1) == 100
            assert await take_all(right, 1, 2) == 100
            assert await take_all(right, 2, 1) == 100
    await other.close()
    await assert_sound(database, issued=100)


async def test_a_batch_that_failed_is_forgotten(database: Database) -> None:
    async with Ledger(database, statements=STATEMENTS) as ledger:
        await endow(ledger, {1: 100})
        failing = Item(
            (move(available(1), available(2), 60),), (statement(),), (), (Change("fail", ("x",)),)
        )
        for _ in range(3):
            with pytest.raises(Failed, match="division by zero"):
                await ledger.submit(failing)
        assert await take_all(ledger, 2, 1) == 0
        assert await take_all(ledger, 1, 2) == 100
    await assert_sound(database, issued=100)


async def test_with_too_many_accounts_it_begins_anew(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ACCOUNTS_MAX", 10)
    async with Ledger(database, statements={}) as ledger:
        await endow(ledger, {number: number for number in range(1, 40)})
        assert [await take_all(ledger, number, 50) for number in range(1, 40)] == [*range(1, 40)]
        assert len(ledger._memory.accounts) <= 12
    await assert_sound(database, issued=780)


async def test_a_remembered_account_is_the_stored_one(database: Database) -> None:
    """After any batch each remembered counter is what its row says."""
    async with Ledger(database, statements={}) as ledger:
        await endow(ledger, {1: 100, 2: 50})
        held = move(available(1), available(3), 30, flags=Flag.PENDING)
        post = move(available(1), available(3), 20, flags=Flag.POST, pending_id=held.id)
        broken = paying(move(available(1), available(2), 5), move(available(2), available(3), 999))
        for item in (paying(held), broken, paying(post), broken):
            await ledger.submit(item)
        connection = await asyncpg.connect(database.url)
        rows = await connection.fetch(
            "SELECT id, dr_pending, dr_posted, cr_pending, cr_posted FROM accounts"
        )
        await connection.close()
        for row in rows:
            known = ledger._memory.accounts[row["id"]]
            assert [int(value) for value in row[1:]] == [
                known.debits_pending,
                known.debits_posted,
                known.credits_pending,
                known.credits_posted,
            ]
