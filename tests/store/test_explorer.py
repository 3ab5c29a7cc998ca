"""The explorer's reads on a large ledger: right against plain sums, and never more than their window."""

import json
import uuid
from typing import Any, cast

import asyncpg
import pytest
import pytest_asyncio

from market.service import explorer, explorer_receipts
from market.service.market import Market
from market.store import explorer as store
from market.store.bus import Bus
from market.wire import explorer as wire
from settlement.domain.errors import LimitExceeded, Malformed, NotFound
from settlement.domain.identity import PrivateKey
from settlement.domain.ledger import Flag, Purpose
from settlement.service.engine import Item, Ledger
from settlement.store.database import Database
from tests.store.ledger_maker import MARKET, available, endow, move, party, paying, statement

SECOND_NS = 10**9
START_NS = 10**18
BULK = 60_000  # transfers of the account that everybody pays to
SCANS = {"Index Scan", "Index Only Scan", "Bitmap Heap Scan", "Bitmap Index Scan"}


def market_on(database: Database) -> Market:
    """A market of which only the database is used."""
    nothing: Any = None
    return Market(
        database, cast("Ledger", nothing), cast("Bus", nothing), MARKET, PrivateKey(b"\2" * 32), "", 0
    )  # fmt: skip


@pytest_asyncio.fixture
async def books(database: Database) -> Database:
    """Holds, posts, voids, an expiry: one step a second, each a batch of its own."""
    now = [START_NS]
    async with Ledger(database, statements={}, clock=lambda: now[0]) as ledger:
        await endow(ledger, {1: 1_000, 2: 50})
        holds = [
            move(available(1), available(2), amount, flags=Flag.PENDING, timeout_seconds=seconds)
            for amount, seconds in ((10, 0), (20, 0), (30, 2), (40, 900))
        ]
        steps = [
            *holds,
            move(available(1), available(2), 7, flags=Flag.POST, pending_id=holds[0].id),
            move(available(1), available(2), 0, flags=Flag.VOID, pending_id=holds[1].id),
            move(available(2), available(1), 5),
            move(available(1), available(3), 100),
            move(available(3), available(1), 1),
        ]
        for step in steps:
            now[0] += SECOND_NS
            await ledger.submit(paying(step))
    return database


async def shown(database: Database, owner: int, **query: Any) -> list[wire.LedgerTransfer]:
    listed = await explorer.transfers(
        market_on(database), party(owner), wire.TransferQuery(**query), after="", limit=1_000
    )
    return listed.views


def posted(transfers: list[wire.LedgerTransfer], owner: str) -> int:
    """A balance by adding up, as a person would."""
    moving = [row for row in transfers if not {"pending", "void"} & set(row.flags)]
    into = sum(int(row.amount) for row in moving if row.credit.startswith(owner))
    return into - sum(int(row.amount) for row in moving if row.debit.startswith(owner))


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


# ── a large ledger ──────────────────────────────────────────────────────────────────────────


@pytest_asyncio.fixture
async def large(books: Database) -> Database:
    """The same with an account of 60 000 transfers, and as many statements; tables analysed."""
    connection = await asyncpg.connect(books.url)
    await connection.execute(
        "WITH made AS (INSERT INTO accounts (owner, purpose, ledger, flags)"
        " VALUES (decode(repeat('ab', 32), 'hex'), 1, 1, 2), (decode(repeat('cd', 32), 'hex'), 1, 1, 2)"
        " RETURNING id), pair AS (SELECT min(id) AS dr, max(id) AS cr FROM made)"
        " INSERT INTO transfers (id, seq, dr, cr, amount, timeout_s, ledger, code, flags, ts, cause)"
        " SELECT gen_random_uuid(), c.seq + n, CASE WHEN n % 2 = 0 THEN dr ELSE cr END,"
        " CASE WHEN n % 2 = 0 THEN cr ELSE dr END, 1, 0, 1, CASE WHEN n = $1 THEN 3 ELSE 2 END, 0,"
        " c.ts + n, decode(repeat('00', 32), 'hex') FROM pair, clock AS c, generate_series(1, $1::bigint) AS n",
        BULK,
    )
    await connection.execute(
        "INSERT INTO statements (idx, digest, kind, signer, envelope) SELECT c.log_size + n - 1,"
        " sha256(int8send(n)), CASE WHEN n = $1 THEN 'receipt' ELSE 'payment' END,"
        " decode(repeat('ab', 32), 'hex'), $2 FROM clock AS c, generate_series(1, $1::bigint) AS n",
        BULK,
        statement().envelope,
    )
    await connection.execute(
        "INSERT INTO batches (number, seq_first, seq_last, ts_last, events)"
        " SELECT c.batch + n, c.seq + n, c.seq + n, c.ts + n, 1 FROM clock AS c,"
        " generate_series(1, $1::bigint) AS n",
        BULK,
    )
    await connection.execute(
        "UPDATE clock SET seq = seq + $1, ts = ts + $1, batch = batch + $1, log_size = log_size + $1",
        BULK,
    )
    await connection.execute("ANALYZE")
    await connection.close()
    return books


HOT = "ab" * 32


class Explaining:
    """A connection that also asks how each query was run, and adds up the rows that it looked at."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self.worst = 0
        self.scans: list[str] = []

    async def execute(self, sql: str, *values: object) -> Any:
        return await self._connection.execute(sql, *values)

    async def fetch(self, sql: str, *values: object) -> Any:
        said = await self._connection.fetchval(f"EXPLAIN (ANALYZE, FORMAT JSON) {sql}", *values)
        looked = self._looked(json.loads(said)[0]["Plan"])
        self.worst = max(self.worst, looked)
        return await self._connection.fetch(sql, *values)

    async def fetchrow(self, sql: str, *values: object) -> Any:
        return next(iter(await self.fetch(sql, *values)), None)

    async def fetchval(self, sql: str, *values: object) -> Any:
        row = await self.fetchrow(sql, *values)
        return None if row is None else row[0]

    def _looked(self, node: dict[str, Any]) -> int:
        """Rows of the base relations that a plan touched, those that it threw away too."""
        looked = 0
        if "Relation Name" in node:
            assert node["Node Type"] in SCANS or node["Relation Name"] == "clock", node
            removed = node.get("Rows Removed by Filter", 0) + node.get(
                "Rows Removed by Index Recheck", 0
            )
            looked = (node["Actual Rows"] + removed) * node["Actual Loops"]
        return looked + sum(self._looked(child) for child in node.get("Plans", ()))


async def worst(database: Database, look: Any) -> int:
    """The most rows that one query of a look touched."""
    market = market_on(database)
    seen: list[Explaining] = []

    class Watched:
        async def transact(self, work: Any, *arguments: Any) -> Any:
            async def inside(connection: Any, *rest: Any) -> Any:
                watched = Explaining(connection)
                seen.append(watched)
                return await work(watched, *rest)

            return await market.transact(inside, *arguments)

    await look(Watched())
    return max(one.worst for one in seen)


HOT_LOOKS: dict[str, Any] = {
    "newest": lambda m: explorer.transfers(m, HOT, wire.TransferQuery(), after="", limit=50),
    "oldest": lambda m: explorer.transfers(m, HOT, wire.TransferQuery(order="asc"), after="", limit=50),
    "behind a cursor": lambda m: explorer.transfers(
        m, HOT, wire.TransferQuery(), after=wire.cursor("transfers.desc", BULK // 2), limit=50
    ),
    "between times": lambda m: explorer.transfers(
        m, HOT, wire.TransferQuery(from_ns=START_NS + BULK // 2, to_ns=2 * START_NS), after="", limit=50
    ),
    "all accounts": lambda m: explorer.all_accounts(m, after="", limit=50),
    "a party's accounts": lambda m: explorer.accounts_of(m, HOT, after="", limit=50),
    "entries": lambda m: explorer.entries(m, wire.EntryQuery(from_=BULK // 2), after="", limit=50),
    "checkpoints": lambda m: explorer.checkpoints(m, order="desc", after="", limit=50),
    "a job's receipts": lambda m: explorer_receipts.receipts(
        m, wire.ReceiptQuery(job=str(uuid.uuid4())), after="", limit=50
    ),
    "a consumer's receipts": lambda m: explorer_receipts.receipts(
        m, wire.ReceiptQuery(consumer=HOT), after="", limit=50
    ),
}  # fmt: skip
SCANNING: dict[str, Any] = {
    "by reason": lambda m: explorer.transfers(
        m, HOT, wire.TransferQuery(reason="fund", order="asc"), after="", limit=50
    ),
    "by kind": lambda m: explorer.entries(m, wire.EntryQuery(kind="lease"), after="", limit=50),
    "by signer": lambda m: explorer.entries(m, wire.EntryQuery(signer="00" * 32), after="", limit=50),
    "receipts": lambda m: explorer_receipts.receipts(m, wire.ReceiptQuery(), after="", limit=50),
}  # fmt: skip


async def test_a_page_costs_its_rows_and_no_more(large: Database) -> None:
    """Twice the page (both sides of an account), and what names the rows."""
    for name, look in HOT_LOOKS.items():
        assert (name, await worst(large, look)) <= (name, 2 * 50 + 4)


async def test_a_filter_costs_its_window_and_no_more(large: Database) -> None:
    for name, look in SCANNING.items():
        cost = await worst(large, look)
        assert (name, 50) < (name, cost) <= (name, 2 * store.SCAN_ROWS_MAX + 4)


async def test_a_filter_goes_on_from_window_to_window(large: Database) -> None:
    """Pages without a row are no end: the one transfer and the one receipt are found at last."""
    market = market_on(large)

    async def by_reason(after: str, limit: int) -> explorer.Listed[wire.LedgerTransfer]:
        query = wire.TransferQuery(reason="fund", order="asc")
        return await explorer.transfers(market, HOT, query, after=after, limit=limit)

    async def by_kind(after: str, limit: int) -> explorer.Listed[wire.LogEntry]:
        query = wire.EntryQuery(kind="receipt")
        found, _, _ = await explorer.entries(market, query, after=after, limit=limit)
        return found

    empty = await by_reason("", 50)
    assert (empty.views, bool(empty.next)) == ([], True)
    found = [view async for view, _ in explorer.rows(by_reason, after="", limit=1_000)]
    assert [view.reason for view in found] == ["fund"]
    entries = [view async for view, _ in explorer.rows(by_kind, after="", limit=1_000)]
    assert [view.kind for view in entries] == ["receipt"]


async def test_a_time_is_found_in_few_probes(large: Database) -> None:
    """By halving over the batches, not by reading them."""

    async def find(market: Any) -> None:
        async def read(connection: Any) -> None:
            clock = await store.clock(connection)
            for nth in (1, 77, BULK // 2, BULK):
                at_ns = clock["ts"] - BULK + nth
                batch = await store.batch_after(connection, at_ns - 1, batches=clock["batch"])
                assert batch is not None
                assert batch["seq_last"] == clock["seq"] - BULK + nth
            assert await store.batch_after(connection, clock["ts"], batches=clock["batch"]) is None

        await explorer.look(market, read)

    assert await worst(large, find) <= 2 * BULK.bit_length()


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
