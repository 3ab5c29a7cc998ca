"""Transfers that share a cause and stand each for itself: one answer each, none for another's sake."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from settlement.domain.errors import BadStatement, InsufficientFunds, LedgerRefused
from settlement.domain.ledger import Code, Flag
from settlement.service.engine import Change, Item, Ledger, Outcome, Status
from settlement.store.database import Database
from tests.store.ledger_maker import assert_sound, available, endow, move, statement


@pytest_asyncio.fixture
async def ledger(database: Database) -> AsyncIterator[Ledger]:
    async with Ledger(database, statements={"nothing": "SELECT 1"}) as running:
        await endow(running, {1: 100, 2: 5})
        yield running


async def test_one_refused_spares_its_neighbours(ledger: Ledger, database: Database) -> None:
    item = Item(
        (
            move(available(1), available(3), 10),
            move(available(2), available(3), 6),
            move(available(3), available(1), 10),
        ),
        (statement(),),
        apart=True,
    )
    codes = (Code.CREATED, Code.EXCEEDS_CREDITS, Code.CREATED)
    outcome = await ledger.submit(item)
    assert outcome == Outcome(Status.APPLIED, codes, (10, 0, 10), (1,))
    outcome.raise_for_refusal()
    again = await ledger.submit(item)
    codes = (Code.EXISTS, Code.ALREADY_FAILED, Code.EXISTS)
    assert again == Outcome(Status.DUPLICATE, codes, (10, 0, 10), (1,))
    await assert_sound(database, issued=105)


async def test_chains_within_stand_and_fall_by_themselves(
    ledger: Ledger, database: Database
) -> None:
    item = Item(
        (
            move(available(1), available(3), 1, flags=Flag.LINKED),
            move(available(2), available(3), 6),
            move(available(1), available(3), 2, flags=Flag.LINKED),
            move(available(2), available(3), 5),
        ),
        (statement(),),
        apart=True,
    )
    outcome = await ledger.submit(item)
    assert outcome.status is Status.APPLIED
    assert outcome.codes == (
        Code.LINKED_FAILED,
        Code.EXCEEDS_CREDITS,
        Code.CREATED,
        Code.CREATED,
    )
    assert outcome.amounts == (0, 0, 2, 5)
    await assert_sound(database, issued=105)


async def test_all_refused_logs_nothing(ledger: Ledger, database: Database) -> None:
    item = Item(
        (move(available(2), available(3), 6), move(available(2), available(3), 7)),
        (statement(),),
        apart=True,
    )
    outcome = await ledger.submit(item)
    assert outcome == Outcome(Status.REFUSED, (Code.EXCEEDS_CREDITS,) * 2, (0, 0))
    with pytest.raises(InsufficientFunds):
        outcome.raise_for_refusal()
    log_position = (await ledger.submit(Item((), (statement(),)))).positions
    assert log_position == (1,)
    await assert_sound(database, issued=105)


async def test_more_of_the_same_cause_later(ledger: Ledger, database: Database) -> None:
    """A second item under the logged statement adds to it; a transfer known under another is told."""
    cause = statement()
    first, second = move(available(1), available(3), 1), move(available(1), available(3), 2)
    await ledger.submit(Item((first,), (cause,), apart=True))
    outcome = await ledger.submit(Item((first, second), (cause,), apart=True))
    assert outcome == Outcome(Status.APPLIED, (Code.EXISTS, Code.CREATED), (1, 2), (1,))
    other = await ledger.submit(Item((first, second), (statement(),), apart=True))
    assert other == Outcome(Status.REFUSED, (Code.EXISTS_OTHER_CAUSE,) * 2, (0, 0))
    with pytest.raises(LedgerRefused):
        other.raise_for_refusal()
    await assert_sound(database, issued=105)


async def test_apart_means_transfers_under_one_statement(ledger: Ledger) -> None:
    moved = move(available(1), available(3), 1)
    for item in (
        Item((), (statement(),), apart=True),
        Item((moved,), (statement(), statement()), apart=True),
        Item((moved,), (statement(),), (), (Change("nothing"),), apart=True),
    ):
        with pytest.raises(BadStatement):
            await ledger.submit(item)
