"""Statements of blobs: who uploaded which bytes, and who may read them."""

from collections.abc import Sequence

from market.store.rows import Connection


async def missing(connection: Connection, digests: Sequence[str], owner: str) -> list[str]:
    """Those of the digests that this party has not uploaded."""
    rows = await connection.fetch(
        "SELECT wanted FROM unnest($1::text[]) AS wanted WHERE NOT EXISTS"
        " (SELECT 1 FROM blobs WHERE digest = wanted AND owner = $2)",
        list(digests),
        owner,
    )
    return [row["wanted"] for row in rows]


async def keep(connection: Connection, digest: str, owner: str, *, size: int, now_ms: int) -> None:
    await connection.execute(
        "INSERT INTO blobs (digest, owner, size, created_ms) VALUES ($1, $2, $3, $4)"
        " ON CONFLICT DO NOTHING",
        digest,
        owner,
        size,
        now_ms,
    )


async def stored_bytes(connection: Connection, owner: str) -> int:
    total: int = await connection.fetchval(
        "SELECT COALESCE(sum(size), 0)::bigint FROM blobs WHERE owner = $1", owner
    )
    return total


async def readable(connection: Connection, digest: str, reader: str) -> bool:
    """The owner reads; so do the providers of its live leases, and the consumer of delivered results."""
    allowed: bool = await connection.fetchval(
        "SELECT EXISTS (SELECT 1 FROM blobs WHERE digest = $1 AND owner = $2)"
        " OR EXISTS (SELECT 1 FROM blobs AS b JOIN jobs AS j ON j.consumer = b.owner"
        "   JOIN leases AS l ON l.job = j.id WHERE b.digest = $1 AND l.provider = $2 AND l.state <> 'closed'"
        "   AND (convert_from(j.spec, 'UTF8')::jsonb->>'function' = $1"
        "        OR EXISTS (SELECT 1 FROM tasks AS t WHERE t.job = j.id AND t.digest = $1 AND t.body IS NULL)))"
        " OR EXISTS (SELECT 1 FROM outputs AS o JOIN jobs AS j ON j.id = o.job"
        "   WHERE o.digest = $1 AND o.body IS NULL AND j.consumer = $2 AND o.position IS NOT NULL)",
        digest,
        reader,
    )
    return allowed
