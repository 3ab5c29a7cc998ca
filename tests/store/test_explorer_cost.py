"""The explorer on a large ledger: no page touches more rows than its window, however long the list."""

import json
import uuid
from typing import Any

import asyncpg
import pytest_asyncio

from market.service import explorer, explorer_receipts
from market.store import explorer as store
from market.wire import explorer as wire
from settlement.store.database import Database
from tests.store.explored import START_NS, fill, market_on
from tests.store.ledger_maker import statement

BULK = 60_000  # transfers of the account that everybody pays to
SCANS = {"Index Scan", "Index Only Scan", "Bitmap Heap Scan", "Bitmap Index Scan"}


@pytest_asyncio.fixture
async def books(database: Database) -> Database:
    await fill(database)
    return database


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
