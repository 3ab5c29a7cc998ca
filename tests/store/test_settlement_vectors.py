"""The recorded answers once more through PostgreSQL: loaded and written batch by batch, and foreseen."""

import asyncio
from collections.abc import Sequence
from typing import Any
from uuid import UUID

from settlement.domain.ledger import ID_MAX, Account, Event
from settlement.domain.ledger_rules import State
from settlement.service import batch as engine
from settlement.service.freshness import Freshness
from settlement.service.item import Item
from settlement.service.memory import Memory
from settlement.service.part import Part
from settlement.store import ledger as store
from settlement.store import ledger_write
from settlement.store.database import Database, driver
from tests.unit.settlement.vectors import Batch, groups


class Numbers:
    """Small numbers for the recorded accounts: 0 and the last value stay what they are."""

    def __init__(self, accounts: list[Account], first: int) -> None:
        self.known = {0: 0, ID_MAX: ID_MAX}
        self.known |= {account.id: first + at for at, account in enumerate(accounts)}
        self.last = first + 10_000  # unknown ones stay unknown

    def of(self, recorded: int) -> int:
        if recorded not in self.known:
            self.last += 1
            self.known[recorded] = self.last
        return self.known[recorded]


async def open_group(
    transaction: Any, accounts: list[Account], numbers: Numbers, group: int
) -> None:
    connection = await driver(transaction)
    await connection.executemany(
        "INSERT INTO accounts (id, owner, purpose, job, ledger, flags) VALUES ($1, $2, 4, $3, $4, $5)",
        [
            (
                numbers.of(account.id),
                group.to_bytes(32),
                UUID(int=numbers.of(account.id)),
                account.ledger,
                account.limit,
            )
            for account in accounts
        ],
    )


async def apply(
    transaction: Any, batch: Batch, events: list[Event], accounts: list[int]
) -> tuple[list[int], list[int], list[list[int]]]:
    """As the engine does it, with the recording's clock."""
    connection = await driver(transaction)
    clock = await store.take_baton(connection)
    state = State()
    for row in await connection.fetch(
        "SELECT id, ledger, flags, dr_pending, dr_posted, cr_pending, cr_posted FROM accounts"
        " WHERE id = ANY($1::bigint[])",
        accounts,
    ):
        state.accounts[row["id"]] = Account(*row)
    ids = {number for event in events for number in (event.id, event.pending_id)}
    await store.load(connection, state, ids, due_ns=batch.last_ns)
    results, last_ns, _ = engine.decide(state, events, before_ns=clock.ts, now_ns=batch.last_ns)
    assert last_ns == batch.last_ns
    writing = ledger_write.compose(clock, state, [], ts=last_ns, events=len(events))
    assert await ledger_write.write(connection, writing)
    rows = await connection.fetch(
        "SELECT dr_pending, dr_posted, cr_pending, cr_posted FROM accounts"
        " JOIN unnest($1::bigint[]) WITH ORDINALITY AS wanted(id, n) USING (id) ORDER BY n",
        accounts,
    )
    count, last = await connection.fetchrow("SELECT count(*), max(seq) FROM transfers")
    assert count == (last or 0) == clock.seq + len(state.created)
    return (
        [int(result.code) for result in results],
        [result.at_ns for result in results],
        [[int(value) for value in row] for row in rows],
    )


def own_events(events: Sequence[Event], number: int, numbers: Numbers) -> list[Event]:
    """The events of a group with ids and accounts that no other group has."""
    return [
        event._replace(
            id=unique(event.id, number),
            pending_id=unique(event.pending_id, number),
            debit=numbers.of(event.debit),
            credit=numbers.of(event.credit),
        )
        for event in events
    ]


async def test_every_recorded_answer_and_balance_through_postgresql(
    database: Database,
) -> None:
    shift = 0  # the database keeps one time; each recorded group begins where it likes
    for number, group in enumerate(groups()):
        numbers = Numbers(group.accounts, 1 + number * 1_000_000)
        await database.run(open_group, group.accounts, numbers, number)
        accounts = [numbers.of(account.id) for account in group.accounts]
        first = group.batches[0]
        begin = first.last_ns - len(first.events)
        shift = max(0, shift - begin)
        for batch in group.batches:
            events = own_events(batch.events, number, numbers)
            moved = batch._replace(last_ns=batch.last_ns + shift)
            codes, times, balances = await database.run(apply, moved, events, accounts)
            assert codes == batch.codes
            assert times == [at_ns + shift for at_ns in batch.times]
            assert balances == batch.balances
        shift += group.batches[-1].last_ns
    assert database.retries == 0


class Foresight:
    """Decides each batch while the one before is not written yet, as the engine does."""

    def __init__(self, database: Database) -> None:
        self.database, self.memory = database, Memory()
        self.flight: engine.Batch | None = None
        self.foreseen = 0

    async def land(self) -> None:
        """What is in flight is written."""
        if self.flight is not None and self.flight.writing is not None:
            assert await self.database.run(write, self.flight.writing)
        self.flight = None

    async def apply(self, events: list[Event], now_ns: int) -> list[int]:
        """The codes of one batch."""
        part = Part(Item(apart=True), asyncio.get_running_loop().create_future())
        part.events, part.met = events, True
        part.ids = {event.id for event in events}
        part.pendings = [event.pending_id for event in events if event.pending_id]
        before = self.flight.state if self.flight else None
        batch = await engine.foresee(
            [part], now_ns, self.memory, before, self.database.look, Freshness()
        )
        await self.land()
        if batch is None:  # something is due, or this is the first
            await self.database.run(engine.run, [part], {}, now_ns, self.memory, None, Freshness())
            self.memory.committed()
        else:
            self.flight = batch
            self.foreseen += 1
        assert part.outcome is not None
        return [int(code) for code in part.outcome.codes]


async def write(transaction: Any, writing: ledger_write.Writing) -> bool:
    return await ledger_write.write(await driver(transaction), writing)


async def test_every_recorded_answer_and_balance_foreseen(database: Database) -> None:
    """Decided from memory, behind a batch in flight; only what is due takes the other way."""
    shift = 0
    engine_ = Foresight(database)
    for number, group in enumerate(groups()):
        numbers = Numbers(group.accounts, 1 + number * 1_000_000)
        await database.run(open_group, group.accounts, numbers, number)
        accounts = [numbers.of(account.id) for account in group.accounts]
        first = group.batches[0]
        begin = first.last_ns - len(first.events)
        shift = max(0, shift - begin)
        for batch in group.batches:
            events = own_events(batch.events, number, numbers)
            assert await engine_.apply(events, batch.last_ns + shift) == batch.codes
            known = engine_.memory.accounts
            assert [
                [a.debits_pending, a.debits_posted, a.credits_pending, a.credits_posted]
                for a in (known.get(account) or Account(0, 0, 0) for account in accounts)
            ] == [
                balance if account in known else [0, 0, 0, 0]
                for account, balance in zip(accounts, batch.balances, strict=True)
            ]
        shift += group.batches[-1].last_ns
    await engine_.land()
    assert engine_.foreseen > 0


def unique(identifier: int, group: int) -> int:
    """Recorded ids may come again in another group; the reserved ones stay reserved."""
    return identifier if identifier in {0, ID_MAX} else identifier ^ ((group + 1) << 100)
