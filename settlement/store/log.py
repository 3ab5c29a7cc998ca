"""Statements of the log: entries out, tiles and checkpoints in; asyncpg, as the ledger's."""

from collections.abc import Iterable, Mapping
from typing import Any, Final

from settlement.domain.checkpoint import Checkpoint
from settlement.domain.tiles import Place

SEAL_LOCK: Final = 0x7365_616C  # "seal"

_TILES_WRITE = """
INSERT INTO log_tiles (level, idx, data) SELECT * FROM unnest($1::smallint[], $2::bigint[], $3::bytea[])
ON CONFLICT (level, idx) DO UPDATE SET data = EXCLUDED.data"""

_TILES_READ = """
SELECT t.level, t.idx, t.data FROM unnest($1::smallint[], $2::bigint[]) AS wanted(level, idx)
JOIN log_tiles AS t ON t.level = wanted.level AND t.idx = wanted.idx"""


async def lock_sealing(connection: Any) -> None:
    """One sealer at a time, until the transaction ends."""
    await connection.execute("SELECT pg_advisory_xact_lock($1)", SEAL_LOCK)


async def sizes(connection: Any) -> tuple[int, int]:
    """How many entries the log has, and how many of them are sealed."""
    row = await connection.fetchrow(
        "SELECT log_size, COALESCE((SELECT max(size) FROM checkpoints), 0) FROM clock"
    )
    return row[0], row[1]


async def entries(connection: Any, *, first: int, count: int) -> list[bytes]:
    """Envelopes from position `first` on, without a gap."""
    rows = await connection.fetch(
        "SELECT idx, envelope FROM statements WHERE idx >= $1 AND idx < $2 ORDER BY idx",
        first,
        first + count,
    )
    if [row["idx"] for row in rows] != list(range(first, first + len(rows))):
        raise AssertionError(f"the log has a gap after entry {first}")
    return [row["envelope"] for row in rows]


async def note(connection: Any, size: int | None = None) -> str | None:
    """The checkpoint of one size as the log signed it; the newest if no size is named."""
    found: str | None = await connection.fetchval(
        "SELECT note FROM checkpoints WHERE $1::bigint IS NULL OR size = $1 ORDER BY size DESC LIMIT 1",
        size,
    )
    return found


async def find(connection: Any, digest: bytes) -> tuple[int, bytes] | None:
    """A statement's position and envelope."""
    row = await connection.fetchrow(
        "SELECT idx, envelope FROM statements WHERE digest = $1", digest
    )
    return None if row is None else (row["idx"], row["envelope"])


async def tiles(connection: Any, places: Iterable[Place]) -> dict[Place, bytes]:
    """Stored tiles, each as wide as it is by now."""
    wanted = list(places)
    rows = await connection.fetch(
        _TILES_READ, [level for level, _ in wanted], [index for _, index in wanted]
    )
    return {(row["level"], row["idx"]): row["data"] for row in rows}


async def write(
    connection: Any, tiles: Mapping[Place, bytes], checkpoint: Checkpoint, note: str
) -> None:
    """A tree that has grown, and its signed head."""
    await connection.execute(
        _TILES_WRITE,
        [level for level, _ in tiles],
        [index for _, index in tiles],
        list(tiles.values()),
    )
    await connection.execute(
        "INSERT INTO checkpoints (size, root, note) VALUES ($1, $2, $3)",
        checkpoint.size,
        checkpoint.root,
        note,
    )
