"""The recorded answers once more, with every batch loaded from and written to PostgreSQL."""

from typing import Any
from uuid import UUID

from settlement.domain.ledger import ID_MAX, Account, Event
from settlement.domain.ledger_rules import State
from settlement.service import batch as engine
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
            events = [
                event._replace(
                    id=unique(event.id, number),
                    pending_id=unique(event.pending_id, number),
                    debit=numbers.of(event.debit),
                    credit=numbers.of(event.credit),
                )
                for event in batch.events
            ]
            moved = batch._replace(last_ns=batch.last_ns + shift)
            codes, times, balances = await database.run(apply, moved, events, accounts)
            assert codes == batch.codes
            assert times == [at_ns + shift for at_ns in batch.times]
            assert balances == batch.balances
        shift += group.batches[-1].last_ns
    assert database.retries == 0


def unique(identifier: int, group: int) -> int:
    """Recorded ids may come again in another group; the reserved ones stay reserved."""
    return identifier if identifier in {0, ID_MAX} else identifier ^ ((group + 1) << 100)
