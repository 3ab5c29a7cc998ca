"""Statements of idempotency keys, which are the nonces of signed writes."""

from typing import Final

from market.store.rows import Connection, Row

KEPT_MS: Final = 24 * 3_600_000  # far longer than any signature lives


async def find(connection: Connection, caller: str, key: str) -> Row:
    return await connection.fetchrow(
        "SELECT digest, status, body FROM requests WHERE caller = $1 AND key = $2", caller, key
    )


async def keep(
    connection: Connection,
    caller: str,
    key: str,
    digest: str,
    *,
    status: int,
    body: bytes,
    now_ms: int,
) -> None:
    """By one statement that does not wait for the disk: what it answers is stored for good already,

    and a repeat after a crash that lost this row finds the same ids and changes nothing.
    """
    await connection.execute(
        "INSERT INTO requests (caller, key, digest, status, body, created_ms)"
        " SELECT $1, $2, $3, $4, $5, $6 FROM set_config('synchronous_commit', 'off', true)"
        " ON CONFLICT DO NOTHING",
        caller,
        key,
        digest,
        status,
        body,
        now_ms,
    )


async def forget(connection: Connection, *, now_ms: int) -> None:
    """Answers nobody can ask for any more: their signatures have expired long ago."""
    await connection.execute("DELETE FROM requests WHERE created_ms < $1", now_ms - KEPT_MS)
