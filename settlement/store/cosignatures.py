"""Statements of finality: who cosigns, what they cosigned, and which checkpoint is final by that."""

from collections.abc import Sequence
from typing import Any


async def validators(connection: Any) -> tuple[list[str], int]:
    """Members and quorum of the set that stands; nobody before a first set."""
    row = await connection.fetchrow("SELECT members, quorum FROM validator_set")
    return ([], 0) if row is None else (row["members"], row["quorum"])


async def lines(connection: Any, size: int) -> list[str]:
    """The cosignature lines under the checkpoint of one size."""
    rows = await connection.fetch(
        "SELECT line FROM cosignatures WHERE size = $1 ORDER BY validator", size
    )
    return [row["line"] for row in rows]


async def final_size(connection: Any, members: Sequence[str], quorum: int) -> int | None:
    """The newest size that at least `quorum` of the members cosigned."""
    found: int | None = await connection.fetchval(
        "SELECT size FROM cosignatures WHERE validator = ANY($1::text[]) GROUP BY size"
        " HAVING count(*) >= $2 ORDER BY size DESC LIMIT 1",
        list(members),
        quorum,
    )
    return found


async def cosigned_size(connection: Any, members: Sequence[str], *, final: int) -> int | None:
    """What most of the members cosigned of all that is newer than the last final size.

    Not the newest: one member that begins with every head would let the others complete none.
    """
    found: int | None = await connection.fetchval(
        "SELECT size FROM cosignatures WHERE validator = ANY($1::text[]) AND size >= $2"
        " GROUP BY size ORDER BY size > $2 DESC, count(*) DESC, size DESC LIMIT 1",
        list(members),
        final,
    )
    return found


async def keep(
    connection: Any, size: int, taken: Sequence[tuple[str, str]], *, now_ms: int
) -> None:
    """Lines by verifier key; a newer line of a key replaces its older one."""
    await connection.executemany(
        "INSERT INTO cosignatures (size, validator, line, at_ms) VALUES ($1, $2, $3, $4)"
        " ON CONFLICT (size, validator) DO UPDATE SET line = EXCLUDED.line, at_ms = EXCLUDED.at_ms",
        [(size, validator, line, now_ms) for validator, line in taken],
    )


async def forget(connection: Any, *, keep_last: int) -> None:
    """Lines under old checkpoints are dropped: a newer final one covers what they covered."""
    await connection.execute(
        "DELETE FROM cosignatures WHERE size < (SELECT min(size) FROM (SELECT DISTINCT size"
        " FROM cosignatures ORDER BY size DESC LIMIT $1) AS last)",
        keep_last,
    )
