"""What the explorer says of a ledger in which everything happened, against plain sums."""

import uuid
from typing import Any

import asyncpg
import pytest
import pytest_asyncio

from market.service import explorer
from market.store import explorer as store
from market.wire import explorer as wire
from settlement.domain.errors import LimitExceeded, Malformed, NotFound
from settlement.domain.ledger import Purpose
from settlement.service.engine import Item, Ledger
from settlement.store.database import Database
from tests.store.explored import SECOND_NS, START_NS, fill, market_on, posted, shown
from tests.store.ledger_maker import available, move, party, paying, statement


@pytest_asyncio.fixture
async def books(database: Database) -> Database:
    await fill(database)
    return database


async def test_balance_at_every_past_point(books: Database) -> None:
    """From both ends of the history, by number and by time."""
    market = market_on(books)
    everything = await shown(books, 1, order="asc")
    for number, last in enumerate(everything, start=1):
        known = posted(everything[:number], party(1))
        for point in (
            wire.BalanceQuery(at_seq=last.sequence),
            wire.BalanceQuery(at_ns=int(last.at_ns)),
        ):
            found = await explorer.balance(market, party(1), point, now_ns=START_NS)
            assert (int(found.balance), found.sequence) == (known, last.sequence)
            assert found.at_ns == last.at_ns
    before = wire.BalanceQuery(at_ns=int(everything[0].at_ns) - 1)
    nothing = await explorer.balance(market, party(1), before, now_ns=START_NS)
    assert (nothing.balance, nothing.sequence) == ("0", 0)
    now = await explorer.balance(market, party(1), wire.BalanceQuery(), now_ns=START_NS)
    (account,) = (await explorer.accounts_of(market, party(1), after="", limit=10)).views
    assert now.balance == account.balance == str(posted(everything, party(1)))


async def test_each_end_alone_gives_the_same(
    books: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where one end has too many transfers the other decides; where both have, it is refused."""
    market = market_on(books)
    everything = await shown(books, 1, order="asc")
    points = [row.sequence for row in everything]

    async def at(sequence: int) -> int:
        query = wire.BalanceQuery(at_seq=sequence)
        return int((await explorer.balance(market, party(1), query, now_ns=START_NS)).balance)

    known = [await at(point) for point in points]
    monkeypatch.setattr(store, "HISTORY_ROWS_MAX", len(points) // 2 + 1)
    assert [await at(point) for point in points] == known
    monkeypatch.setattr(store, "HISTORY_ROWS_MAX", 1)
    with pytest.raises(LimitExceeded):
        await at(points[len(points) // 2])


async def test_a_point_that_may_still_change_is_refused(books: Database) -> None:
    market = market_on(books)
    last = (await shown(books, 1))[0]
    for query in (
        wire.BalanceQuery(at_seq=last.sequence + 1),
        wire.BalanceQuery(at_ns=int(last.at_ns) + SECOND_NS),
        wire.BalanceQuery(at_seq=1, at_ns=1),
        wire.BalanceQuery(purpose="budget"),
        wire.BalanceQuery(purpose="pockets"),
    ):
        with pytest.raises(Malformed):
            await explorer.balance(market, party(1), query, now_ns=START_NS)
    late = wire.BalanceQuery(at_ns=int(last.at_ns) + SECOND_NS)
    resting = int(last.at_ns) + SECOND_NS + explorer.IDLE_NS
    found = await explorer.balance(market, party(1), late, now_ns=resting)
    assert found.sequence == last.sequence


async def test_counters_show_what_is_pending(books: Database) -> None:
    """40 is still pending; 30 ran out, 20 was voided, 7 of 10 were posted."""
    (account,) = (await explorer.accounts_of(market_on(books), party(1), after="", limit=10)).views
    assert (account.debits_pending, account.purpose, account.job) == ("40", "available", "")
    assert int(account.spendable) == int(account.balance) - 40


async def test_a_transfer_says_what_became_of_it(books: Database) -> None:
    market = market_on(books)
    states = []
    for row in await shown(books, 1, order="asc"):
        detail = await explorer.transfer(market, uuid.UUID(row.id))
        assert detail.transfer == row
        assert (detail.cause_kind, detail.cause_index is not None) == ("issue", True)
        cause = await explorer.entry(market, row.cause)
        assert cause.index == detail.cause_index
        states += [detail.pending_state] if "pending" in row.flags else []
        assert ("pending" in row.flags) == bool(detail.pending_state)
    assert states == ["posted", "voided", "expired", "open"]
    with pytest.raises(NotFound):
        await explorer.transfer(market, uuid.uuid4())


async def test_times_bound_a_list_at_both_ends(books: Database) -> None:
    everything = await shown(books, 1, order="asc")
    times = sorted({int(row.at_ns) for row in everything})
    for early in (0, times[0], times[2], times[-1], times[-1] + 1):
        for late in (0, times[0] - 1, times[3], times[3] + 1, times[-1]):
            wanted = [row for row in everything if early <= int(row.at_ns) <= late]
            for order in ("asc", "desc"):
                found = await shown(books, 1, order=order, from_ns=early, to_ns=late)
                assert found == (wanted if order == "asc" else wanted[::-1])


async def test_a_look_changes_nothing(books: Database) -> None:
    async def write(connection: Any) -> None:
        await connection.execute("INSERT INTO failed (id, code) VALUES (gen_random_uuid(), 54)")

    with pytest.raises(asyncpg.ReadOnlySQLTransactionError):
        await explorer.look(market_on(books), write)


async def test_a_list_is_stable_while_rows_come(books: Database) -> None:
    """Nobody is met twice and nobody is missed, whatever is inserted between two pages."""
    market = market_on(books)
    known = [row.sequence for row in await shown(books, 1)]
    async with Ledger(books, statements={}, clock=lambda: 2 * START_NS) as ledger:

        async def page(after: str, limit: int) -> explorer.Listed[wire.LedgerTransfer]:
            found = await explorer.transfers(
                market, party(1), wire.TransferQuery(), after=after, limit=2
            )
            for _ in range(2):
                await ledger.submit(paying(move(available(2), available(1), 1)))
            return found

        seen = [row.sequence async for row, _ in explorer.rows(page, after="", limit=1_000)]
    assert seen == known


async def test_the_purposes_are_all_shown(books: Database) -> None:
    """A party's budgets come in the order of their jobs, behind one cursor each."""
    connection = await asyncpg.connect(books.url)
    jobs = sorted(uuid.uuid4() for _ in range(7))
    for purpose, job in (
        (Purpose.HELD, None),
        *((Purpose.BUDGET, job) for job in jobs),
        (Purpose.FEES, None),
    ):
        await connection.execute(
            "INSERT INTO accounts (owner, purpose, job, ledger, flags) VALUES ($1, $2, $3, 1, 2)",
            bytes.fromhex(party(1)), int(purpose), job,
        )  # fmt: skip
    await connection.close()
    market = market_on(books)
    for limit in (1, 2, 3, 100):
        seen: list[tuple[str, str]] = []
        after = ""
        while True:
            found = await explorer.accounts_of(market, party(1), after=after, limit=limit)
            seen += [(view.purpose, view.job) for view in found.views]
            after = found.next
            if not after:
                break
        assert seen == [
            ("available", ""), ("held", ""), *(("budget", str(job)) for job in jobs), ("fees", "")
        ]  # fmt: skip


async def test_bytes_bound_a_page(books: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(explorer, "PAGE_BYTES_MAX", 1)
    market = market_on(books)
    async with Ledger(books, statements={}) as ledger:
        await ledger.submit(Item((), (statement(),)))
    seen: list[int] = []
    after = ""
    while True:
        found, size, sealed = await explorer.entries(
            market, wire.EntryQuery(), after=after, limit=50
        )
        assert len(found.views) <= 1
        seen += [view.index for view in found.views]
        after = found.next
        if not after:
            break
    assert (seen, sealed) == (list(range(size)), 0)
