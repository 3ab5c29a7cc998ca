"""The log on a real PostgreSQL: sealed in any steps, by any number of sealers, cut anywhere."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final, TypeVar

import asyncpg
import pytest
import pytest_asyncio

from settlement.domain import checkpoint as checkpoints
from settlement.domain import evidence, merkle, tiles
from settlement.domain.checkpoint import Checkpoint
from settlement.domain.errors import MisConfigured, Unavailable
from settlement.domain.identity import PrivateKey
from settlement.domain.statement import Opened
from settlement.domain.tiles import ENTRIES, Tile
from settlement.service import finality, publish
from settlement.service.engine import Item, Ledger, Status
from settlement.service.publish import Sealer
from settlement.store import log as store
from settlement.store.database import Database
from tests.store.ledger_maker import MARKET, statement

KEY: Final = PrivateKey(b"\2" * 32)
LOG_KEY: Final = checkpoints.verifier_key(MARKET, KEY)
T = TypeVar("T")
UNKNOWN: Final = "sha256:" + "0" * 64
_INSERT: Final = (
    "WITH n AS (SELECT generate_series($1::bigint, $1 + $2 - 1) AS idx), s AS ("
    "INSERT INTO statements (idx, digest, kind, signer, envelope) SELECT idx,"
    " sha256(int8send(idx)), 'made', sha256('signer'), 'entry '::bytea || int8send(idx) FROM n)"
    " UPDATE clock SET log_size = log_size + $2"
)


@pytest_asyncio.fixture
async def connection(database_url: str) -> AsyncIterator[Any]:
    beside = await asyncpg.connect(database_url)
    yield beside
    await beside.close()


@pytest_asyncio.fixture
async def sealer(database: Database) -> Sealer:
    return Sealer(database, KEY, origin=MARKET)


async def log(database: Database, count: int) -> list[Opened]:
    """Real statements through the ledger."""
    made = [statement() for _ in range(count)]
    async with Ledger(database, statements={}) as ledger, asyncio.TaskGroup() as tasks:
        for opened in made:
            tasks.create_task(ledger.submit(Item(statements=(opened,))))
    return made


async def fill(connection: Any, count: int) -> None:
    """Many entries that nobody signed, for the tree's sake."""
    size = await connection.fetchval("SELECT log_size FROM clock")
    await connection.execute(_INSERT, size, count)


def entry(number: int) -> bytes:
    return b"entry " + number.to_bytes(8, "big")


async def stored(connection: Any) -> tuple[list[Any], list[Any]]:
    return (
        await connection.fetch("SELECT level, idx, data FROM log_tiles ORDER BY level, idx"),
        await connection.fetch("SELECT size, root, note FROM checkpoints ORDER BY size"),
    )


async def head(database: Database) -> Checkpoint:
    note = await finality.checkpoint(database)
    assert note is not None
    return checkpoints.verify(note, LOG_KEY)


async def eventually(read: Callable[..., Awaitable[T | None]], *arguments: Any) -> T:
    """What it reads as soon as there is something."""
    while (found := await read(*arguments)) is None:  # noqa: ASYNC110 - the database is asked
        await asyncio.sleep(0.01)
    return found


async def test_an_empty_log_has_nothing_to_show(database: Database, sealer: Sealer) -> None:
    assert await sealer.seal() == 0
    assert await finality.checkpoint(database) is None
    assert await publish.evidence(database, UNKNOWN) is None
    assert await publish.tile(database, "0/000.p/1") is None


async def test_every_statement_is_proven_once_it_is_sealed(
    database: Database, sealer: Sealer
) -> None:
    made = await log(database, 7)
    assert [await publish.evidence(database, opened.digest) for opened in made] == [None] * 7
    assert await sealer.seal() == 7
    made += await log(database, 5)
    files = [await publish.evidence(database, opened.digest) for opened in made]
    assert [data is None for data in files] == [False] * 7 + [True] * 5
    assert await sealer.seal() == 12
    for opened in made:
        data = await publish.evidence(database, opened.digest)
        assert data is not None
        assert evidence.verify(data, LOG_KEY) == opened
    # what was handed out before stays true
    assert files[0] is not None
    assert evidence.verify(files[0], LOG_KEY) == made[0]


@pytest.mark.parametrize("digest", [UNKNOWN, "", "sha256:", "SHA256:" + "0" * 64, "0" * 64, "\0"])
async def test_there_is_no_evidence_of_what_is_not_there(
    database: Database, sealer: Sealer, digest: str
) -> None:
    await log(database, 1)
    await sealer.seal()
    assert await publish.evidence(database, digest) is None


async def test_steps_and_restarts_yield_the_same_tiles(database: Database, connection: Any) -> None:
    """A sealer begins anew each time, from what is stored alone."""
    steps = [1, 255, 1, 300, 1_024, 7]
    for step in steps:
        await fill(connection, step)
        await Sealer(database, KEY, origin=MARKET).seal()
    total = sum(steps)
    leaves = [merkle.leaf_hash(entry(number)) for number in range(total)]
    whole = tiles.grow({}, 0, leaves)
    found, heads = await stored(connection)
    assert {(row["level"], row["idx"]): row["data"] for row in found} == whole.tiles
    assert [row["size"] for row in heads] == list(itertools.accumulate(steps))
    for row in heads:
        assert row["root"] == merkle.root_of_leaves(leaves[: row["size"]])
        assert checkpoints.verify(row["note"], LOG_KEY) == (MARKET, row["size"], row["root"])


async def test_a_round_takes_a_bounded_number(
    database: Database, sealer: Sealer, connection: Any
) -> None:
    await fill(connection, publish.LEAVES_MAX + 10)
    assert await sealer.seal() == publish.LEAVES_MAX
    assert await sealer.seal() == publish.LEAVES_MAX + 10
    assert await sealer.seal() == publish.LEAVES_MAX + 10
    assert len((await stored(connection))[1]) == 2


async def test_many_sealers_at_once_sign_one_history(
    database: Database, database_url: str, connection: Any
) -> None:
    other = Database(database_url)
    sealers = [Sealer(pool, KEY, origin=MARKET) for pool in (database, other) * 2]

    async def seal(one: Sealer) -> None:
        for _ in range(10):
            await one.seal()

    async with asyncio.TaskGroup() as tasks:
        for one in sealers:
            tasks.create_task(seal(one))
        made = await log(database, 60)
    await sealers[0].seal()
    assert database.retries == other.retries == 0
    await other.close()
    _, heads = await stored(connection)
    entries = [
        row[0] for row in await connection.fetch("SELECT envelope FROM statements ORDER BY idx")
    ]
    assert sorted(entries) == sorted(opened.envelope for opened in made)
    for row in heads:
        assert row["root"] == merkle.root(entries[: row["size"]])
    assert heads[-1]["size"] == 60


@pytest.mark.parametrize("cut", ["before", "tiles", "after"])
async def test_a_sealer_that_dies_leaves_all_or_nothing(
    database: Database, sealer: Sealer, connection: Any, monkeypatch: pytest.MonkeyPatch, cut: str
) -> None:
    await fill(connection, 300)
    await sealer.seal()
    await fill(connection, 300)
    before = await stored(connection)
    write = store.write

    async def dying(raw: Any, *arguments: Any) -> None:
        if cut == "tiles":
            await raw.execute(
                store._TILES_WRITE,
                *zip(*((*at, data) for at, data in arguments[0].items()), strict=True),
            )
        elif cut == "after":
            await write(raw, *arguments)
        raw.terminate()
        raise ConnectionResetError

    with monkeypatch.context() as patched:
        patched.setattr(store, "write", dying)
        with pytest.raises((ConnectionResetError, Unavailable)):
            await sealer.seal()
    assert await stored(connection) == before
    assert await Sealer(database, KEY, origin=MARKET).seal() == 600
    root = merkle.root([entry(number) for number in range(600)])
    assert await head(database) == (MARKET, 600, root)


async def test_a_log_belongs_to_one_key_and_one_name(
    database: Database, sealer: Sealer, connection: Any
) -> None:
    await fill(connection, 3)
    await sealer.seal()
    await fill(connection, 3)
    before = await stored(connection)
    for wrong in (
        Sealer(database, PrivateKey(b"\6" * 32), origin=MARKET),
        Sealer(database, KEY, origin="other.example"),
    ):
        with pytest.raises(MisConfigured):
            await wrong.seal()
    assert await stored(connection) == before


async def test_damaged_tiles_are_never_signed_over(
    database: Database, sealer: Sealer, connection: Any
) -> None:
    await fill(connection, 300)
    await sealer.seal()
    await fill(connection, 1)
    await connection.execute("ALTER TABLE log_tiles DISABLE TRIGGER ALL")
    await connection.execute(
        "UPDATE log_tiles SET data = set_byte(data, 5, get_byte(data, 5) # 1) WHERE level = 0 AND idx = 1"
    )
    with pytest.raises(AssertionError, match="root signed for 300"):
        await sealer.seal()
    assert (await head(database)).size == 300


async def test_a_gap_in_the_log_is_never_signed_over(
    database: Database, sealer: Sealer, connection: Any
) -> None:
    await fill(connection, 3)
    await sealer.seal()
    await connection.execute("UPDATE clock SET log_size = log_size + 1")
    await fill(connection, 3)
    with pytest.raises(AssertionError, match="gap"):
        await sealer.seal()
    assert (await head(database)).size == 3


async def test_tiles_and_bundles_as_they_are_served(
    database: Database, sealer: Sealer, connection: Any
) -> None:
    """Enough for anybody to rebuild the tree, and nothing beyond what is signed."""
    total = 600
    await fill(connection, total)
    await sealer.seal()
    await fill(connection, 200)  # not sealed
    hashes: list[bytes] = []
    for number in range(3):
        width = min(256, total - number * 256)
        data = await publish.tile(database, tiles.path_of(Tile(0, number, width)))
        bundle = await publish.tile(database, tiles.path_of(Tile(ENTRIES, number, width)))
        assert data is not None
        rows = [entry(number * 256 + place) for place in range(width)]
        assert bundle == tiles.bundle(rows)
        assert tiles.split(data) == [merkle.leaf_hash(row) for row in rows]
        hashes += tiles.split(data)
    assert merkle.root_of_leaves(hashes) == (await head(database)).root
    above = await publish.tile(database, "1/000.p/2")
    assert above == merkle.root_of_leaves(hashes[:256]) + merkle.root_of_leaves(hashes[256:512])
    assert await publish.tile(database, "0/002.p/1") == hashes[512]
    for path in (
        "0/002", "0/002.p/89", "0/003", "0/003.p/1", "1/000", "1/000.p/3", "2/000.p/1", "entries/002",
        "entries/002.p/89", "entries/003.p/1", "checkpoint", "0/2", "../0/000", "",
        "0/x999/x999/x999/x999/x999/x999/999",
    ):  # fmt: skip
        assert await publish.tile(database, path) is None, path


async def test_a_bundle_holds_the_envelopes(database: Database, sealer: Sealer) -> None:
    made = await log(database, 3)
    await sealer.seal()
    data = await publish.tile(database, "entries/000.p/3")
    assert data is not None
    assert sorted(data.split(b"}")) == sorted(tiles.bundle(o.envelope for o in made).split(b"}"))
    assert len(data) == sum(len(opened.envelope) + 2 for opened in made)


async def test_the_running_sealer_follows_the_log(database: Database, sealer: Sealer) -> None:
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(sealer.run())
        for _ in range(3):
            made = await log(database, 4)
            for opened in made:
                data = await eventually(publish.evidence, database, opened.digest)
                assert evidence.verify(data, LOG_KEY) == opened
        running.cancel()
    assert (await head(database)).size == 12
    assert sealer.failures == 0


async def test_the_running_sealer_outlives_a_lost_database(
    database: Database, connection: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publish, "PAUSE_SECONDS", 0.01)
    sealer = Sealer(database, KEY, origin=MARKET)
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(sealer.run())
        while not sealer.failures:
            await connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
            await asyncio.sleep(0)
        await fill(connection, 5)
        await eventually(finality.checkpoint, database)
        running.cancel()
    assert (await head(database)).size == 5


async def test_a_repeated_statement_has_one_place(database: Database, sealer: Sealer) -> None:
    opened = statement()
    async with Ledger(database, statements={}) as ledger:
        first = await ledger.submit(Item(statements=(opened,)))
        again = await ledger.submit(Item(statements=(opened,)))
    assert (first.status, again.status) == (Status.APPLIED, Status.DUPLICATE)
    assert first.positions == again.positions == (0,)
    assert await sealer.seal() == 1


@pytest.mark.parametrize(
    "attack",
    [
        "UPDATE checkpoints SET note = ''",
        "DELETE FROM checkpoints",
        "TRUNCATE checkpoints",
        "UPDATE statements SET envelope = 'x'",
        "DELETE FROM statements",
        "TRUNCATE statements",
        "UPDATE log_tiles SET data = substring(data FROM 1 FOR 32) WHERE octet_length(data) > 32",
        "UPDATE log_tiles SET data = set_byte(data, 0, 0)",
        "UPDATE log_tiles SET idx = idx + 1",
        "DELETE FROM log_tiles",
        "TRUNCATE log_tiles",
        "UPDATE clock SET log_size = log_size - 1",
        "DELETE FROM clock",
        "INSERT INTO checkpoints (size, root, note) SELECT size, root, note FROM checkpoints",
        "INSERT INTO log_tiles (level, idx, data) VALUES (0, 9, 'short')",
        "INSERT INTO statements VALUES (9, sha256(''), 'x', sha256(''), decode(repeat('00', 65536), 'hex'))",
    ],
)
async def test_the_log_is_append_only(
    database: Database, sealer: Sealer, connection: Any, attack: str
) -> None:
    await fill(connection, 3)
    await sealer.seal()
    before = await stored(connection)
    with pytest.raises(asyncpg.PostgresError) as caught:
        await connection.execute(attack)
    assert caught.value.sqlstate.startswith("23")
    assert await stored(connection) == before
