"""`ledger`: transfers, escrow lives, settled receipts and sealed entries a second, against pgbench.

All of it goes through `Ledger.submit` on a PostgreSQL with fsync, synchronous commit and checksums
on, whose tables hold 10,000 parties and 200,000 older transfers; the books are audited at the end.
The reference is pgbench (TPC-B-like, prepared, 16 clients, scale 20) on the same server, run before
and after each round; figures are medians of five rounds. Callers run in the engine's own process.
What moves money names a logged cause: in the cases of single payments and of escrow lives, as in the
full batches, that is one statement which many share, so that they measure the ledger itself. The
8,190 transfers of a batch are one item: each stands apart and gets its own answer. In the cases
`…-signed` each payment brings a statement of its own, signed by its payer, which is logged with it;
in `settled-receipts` each life brings two, whose signatures are checked, and all of it is sealed.
Ids, statements and signatures are made ahead. `--accounts-10m` adds ten million stored accounts and
compares the cost of ten thousand active ones with that before (minutes, and 6 GB of disk).
"""

import asyncio
import contextlib
import gc
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from sqlalchemy.ext.asyncio import AsyncConnection

from market.http.running import COLLECTOR
from settlement.service.audit import Difference, check_invariants
from settlement.service.engine import Item, Ledger, Status
from settlement.service.opening import Opener
from settlement.service.publish import Sealer
from settlement.store import migrate
from settlement.store.database import Database
from settlement.store.embedded import EmbeddedPostgres
from tests.bench.figures import Figure, command_line, figure, percentile, publish, tell
from tests.bench.ledger_world import BATCH, MARKET, OPERATOR, Life, World
from tests.bench.pgbench import Pgbench

BATCHES: Final = 8  # a round
BATCH_CALLERS: Final = 2  # one batch is prepared while the other is in flight
AT_ONCE: Final = 64  # receipts that come together
ENDS_WITHIN_SECONDS: Final = 30.0
STORED: Final = 10_000_000
STORE: Final = """INSERT INTO accounts (owner, purpose, ledger, flags)
SELECT sha256(('stranger ' || n)::bytea), 1, 1, 2 FROM generate_series(0, $1::bigint - 1) AS n"""
STORE_SECONDS_MAX: Final = 1_800.0
LIVES: Final = 4_096
LIVES_CALLERS: Final = 1_024
MS: Final = 1_000.0
PASSABLE: Final = 0o711  # another user runs PostgreSQL below it
PARTIES: Final = 10_000
OLDER_TRANSFERS: Final = 200_000
ROUNDS: Final = 5
SEAL_LEAVES: Final = 256
SEALS: Final = 40
SINGLES: Final = {64: 160, 1_024: 20}  # callers → payments each


Timed = tuple[int, float]


@dataclass(frozen=True)
class Size:
    """How much is measured."""

    rounds: int = ROUNDS
    pgbench_seconds: int = 3
    older: int = OLDER_TRANSFERS
    scale: int = 20
    part: int = 1  # that part of each round's work


QUICK: Final = Size(rounds=1, pgbench_seconds=1, older=BATCH, scale=1, part=4)


@dataclass
class Bench:
    """What the cases share."""

    database: Database
    ledger: Ledger
    sealer: Sealer
    world: World
    pgbench: Pgbench
    size: Size
    opener: Opener
    latencies: list[float] = field(default_factory=list)  # seconds of one transfer

    async def measure(self, name: str, work: Callable[[], Awaitable[Timed]]) -> Figure:
        """The medians of so many rounds between runs of the reference."""
        ours, reference = [], [self.pgbench.tps(self.size.pgbench_seconds)]
        for number in range(self.size.rounds):
            count, seconds = await work()
            ours.append(count / seconds)
            reference.append(self.pgbench.tps(self.size.pgbench_seconds))
            beside = (reference[-1] + reference[-2]) / 2
            tell(
                f"{name}, round {number + 1}: {ours[-1]:.0f}/s, pgbench {beside:.0f}/s: {ours[-1] / beside:.2f}"
            )
        return figure(
            "ledger",
            name,
            ours=statistics.median(ours),
            reference=statistics.median(reference),
            unit=UNITS.get(name, "transfers/s"),
            better="higher",
        )

    async def single(self, callers: int, make: Callable[[], Item]) -> Timed:
        """So many callers, each paying again as soon as it was answered."""
        each = max(1, SINGLES[callers] // self.size.part)
        work = [[make() for _ in range(each)] for _ in range(callers)]
        latencies = self.latencies

        async def caller(items: list[Item]) -> None:
            for item in items:
                began = time.perf_counter()
                outcome = await self.ledger.submit(item)
                latencies.append(time.perf_counter() - began)
                assert outcome.status is Status.APPLIED

        return callers * each, await timed(caller(items) for items in work)

    async def batches(self, make: Callable[[], Item]) -> Timed:
        """Full batches, two callers in turns."""
        count = max(2, BATCHES // self.size.part)
        work = [make() for _ in range(count)]

        async def caller() -> None:
            while work:
                item = work.pop()
                outcome = await self.ledger.submit(item)
                assert outcome.status is Status.APPLIED
                assert len(outcome.codes) == len(item.transfers)

        return count * BATCH, await timed(caller() for _ in range(BATCH_CALLERS))

    async def lives(self) -> Timed:
        """Escrow lives, many at once."""
        work = [self.world.life() for _ in range(LIVES // self.size.part)]
        count = len(work)

        async def caller() -> None:
            while work:
                await self._live(work.pop())

        return count, await timed(caller() for _ in range(LIVES_CALLERS))

    async def receipts(self) -> Timed:
        """Escrow lives from the bytes on: both signatures checked, all of it sealed in the end."""
        work = [self.world.signed_life() for _ in range(LIVES // self.size.part)]
        chunks = [work[first : first + AT_ONCE] for first in range(0, len(work), AT_ONCE)]
        sealed = await self._seal_all()

        async def settle() -> None:
            while chunks:
                async with asyncio.TaskGroup() as group:
                    for life in chunks.pop():
                        group.create_task(self._checked(life))

        async def seal() -> None:
            size, goal = sealed, sealed + 2 * len(work)
            while size < goal:
                size = await self.sealer.seal()
                await asyncio.sleep(0.01)

        return len(work), await timed([seal(), *(settle() for _ in range(16))])

    async def _checked(self, life: Life) -> None:
        """The same life, its statements opened from their bytes, as a server gets them."""
        await self._live(Life(await self._opened(life.opening), await self._opened(life.closing)))

    async def _opened(self, item: Item) -> Item:
        return Item(item.transfers, (await self.opener.open(item.statements[0].envelope),))

    async def seal(self) -> Timed:
        """Entries that are in the log already, sealed so many at a time."""
        await self._seal_all()
        count = SEAL_LEAVES * max(1, SEALS // self.size.part)
        async with asyncio.TaskGroup() as group:
            for item in self.world.statements(count):
                group.create_task(self.ledger.submit(item))

        async def rounds() -> None:
            for _ in range(count // SEAL_LEAVES):
                await self.sealer.seal(SEAL_LEAVES)

        return count, await timed([rounds()])

    async def strangers(self) -> Timed:
        """Full batches from the parties to any of the ten million."""
        return await self.batches(lambda: self.world.to_strangers(STORED))

    async def _live(self, life: Life) -> None:
        for item in (life.opening, life.closing):
            assert (await self.ledger.submit(item)).status is Status.APPLIED

    async def _seal_all(self) -> int:
        size = -1
        while (now := await self.sealer.seal()) != size:
            size = now
        return size


UNITS: Final = {
    "escrow-lives": "lives/s",
    "settled-receipts": "receipts/s",
    "seal-256": "entries/s",
}


async def timed(work: Iterable[Awaitable[None]]) -> float:
    """The seconds of all of it at once. What was made ahead is no matter of the collector's."""
    gc.collect()
    gc.freeze()
    began = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for one in work:
            group.create_task(_run(one))
    seconds = time.perf_counter() - began
    gc.unfreeze()
    return seconds


async def _run(work: Awaitable[None]) -> None:
    await work


def cases(bench: Bench) -> dict[str, Callable[[], Awaitable[Timed]]]:
    """All that need no further flag."""
    world = bench.world
    return {
        "single-64-uniform": lambda: bench.single(64, world.payment),
        "single-1024-uniform": lambda: bench.single(1_024, world.payment),
        "single-64-signed": lambda: bench.single(64, world.signed_payment),
        "single-1024-signed": lambda: bench.single(1_024, world.signed_payment),
        "batch-8190-uniform": lambda: bench.batches(world.uniform),
        "batch-8190-hot": lambda: bench.batches(world.hot),
        "batch-8190-rejects-2pc": lambda: bench.batches(world.rejects),
        "escrow-lives": bench.lives,
        "settled-receipts": bench.receipts,
        "seal-256": bench.seal,
    }


@contextlib.asynccontextmanager
async def opened(url: str, size: Size) -> AsyncIterator[Bench]:
    """Everything made, filled and running; audited at the end."""
    began = time.perf_counter()
    await migrate.upgrade(url)
    pgbench = Pgbench(url)
    pgbench.prepare(size.scale)
    database = Database(url)
    world = World(PARTIES)
    async with Ledger(database, statements={}) as ledger, Opener(MARKET) as opener:
        gc.set_threshold(*COLLECTOR)  # as the server's processes do
        await world.endow(ledger)
        await world.age(ledger, size.older)
        await analyse(database)
        sealer = Sealer(database, OPERATOR, origin=MARKET)
        tell(f"ready after {time.perf_counter() - began:.0f} s")
        await opener.warm()
        yield Bench(database, ledger, sealer, world, pgbench, size, opener)
    await audit(database)
    await database.close()


async def analyse(database: Database) -> None:
    """As autovacuum would in time."""
    connection = await database.connect()
    await connection.execute("VACUUM ANALYZE")
    await connection.close()


async def audit(database: Database) -> None:
    """A figure of books that are wrong is none."""

    async def look(transaction: AsyncConnection) -> list[Difference]:
        return await check_invariants(transaction, market=MARKET)

    began = time.perf_counter()
    found = await database.run(look)
    if found:
        raise AssertionError(f"the books are wrong: {found[:5]}")
    tell(f"audited in {time.perf_counter() - began:.0f} s")


async def measure(url: str, size: Size, *, only: list[str], many: bool) -> list[Figure]:
    """The chosen cases in order."""
    found: list[Figure] = []
    async with opened(url, size) as bench:
        for name, work in cases(bench).items():
            if only and name not in only:
                continue
            found.append(await bench.measure(name, work))
            if bench.latencies:
                p99 = percentile(bench.latencies, 99) * MS
                bench.latencies.clear()
                of = "p99-64-callers" if name == "single-64-uniform" else f"p99-{name}"
                found.append(
                    figure("ledger", of, ours=p99, reference=None, unit="ms", better="lower")
                )
        if many:
            found += await among_many(bench)
    return found


async def among_many(bench: Bench) -> list[Figure]:
    """The cost of a transfer before and after ten million accounts more are stored."""
    alone = await bench.measure("accounts-10k", lambda: bench.batches(bench.world.uniform))
    connection = await bench.database.connect()
    await connection.execute("SET session_replication_role = replica")  # they do open empty
    await connection.execute(STORE, STORED, timeout=STORE_SECONDS_MAX)
    await connection.close()
    await analyse(bench.database)
    few = await bench.measure("accounts-10m-active-10k", lambda: bench.batches(bench.world.uniform))
    all_of_them = await bench.measure("accounts-10m-active-10m", bench.strangers)
    return [
        figure(
            "ledger", one.case, ours=1e6 / one.ours, reference=1e6 / alone.ours, unit="us/transfer",
            better="lower",
        )
        for one in (few, all_of_them)
    ]  # fmt: skip


def main() -> int:
    """One figure a case."""
    command = command_line(__doc__)
    command.add_argument("--case", action="append", default=[], help="only this one; repeatable")
    command.add_argument(
        "--accounts-10m", action="store_true", help="also among ten million accounts"
    )
    chosen = command.parse_args()
    with tempfile.TemporaryDirectory(prefix="gp-") as name:
        folder = Path(name)
        folder.chmod(PASSABLE)
        postgres = EmbeddedPostgres(folder / "postgres")
        with postgres as url:
            size = QUICK if chosen.quick else Size()
            figures = asyncio.run(measure(url, size, only=chosen.case, many=chosen.accounts_10m))
        postgres.ended(ENDS_WITHIN_SECONDS)
    publish(figures, record=chosen.record)
    return 0


if __name__ == "__main__":
    sys.exit(main())
