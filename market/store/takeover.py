"""Statements of a takeover: what the log says but the ledger's engine does not write."""

from collections.abc import Iterable, Sequence
from uuid import UUID

from market.store.rows import Connection


async def put_charges(connection: Connection, held: Iterable[tuple[str, str, int, int]]) -> None:
    """Earnings that are still held: receipt, provider, amount, when they are released."""
    await connection.executemany(
        "INSERT INTO charges (receipt, attempt, provider, amount, state, release_after_ms)"
        " VALUES ($1, NULL, $2, $3, 'charged', $4) ON CONFLICT (receipt) DO NOTHING",
        list(held),
    )


async def put_standings(connection: Connection, standings: Iterable[tuple[str, int, int]]) -> None:
    """What verdicts say of providers; they have to offer anew."""
    await connection.executemany(
        "INSERT INTO providers (address, name, agreed, differed) VALUES ($1, '', $2, $3)"
        " ON CONFLICT (address) DO NOTHING",
        list(standings),
    )


async def put_withdrawals(
    connection: Connection, waiting: Iterable[tuple[UUID, str, int, str, str, int]]
) -> None:
    """What waits to leave: transfer, party, amount, where to, its statement, since when."""
    await connection.executemany(
        "INSERT INTO withdrawals (transfer, party, amount, destination, statement, asked_ms)"
        " VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (transfer) DO NOTHING",
        list(waiting),
    )


async def envelope(connection: Connection, digest: bytes) -> bytes | None:
    """The logged statement of that digest."""
    found: bytes | None = await connection.fetchval(
        "SELECT envelope FROM statements WHERE digest = $1", digest
    )
    return found


async def put_validators(connection: Connection, members: Sequence[str], quorum: int) -> None:
    """The set that stands."""
    await connection.execute(
        "INSERT INTO validator_set (one, members, quorum) VALUES (true, $1, $2) ON CONFLICT (one) DO NOTHING",
        list(members),
        quorum,
    )


async def put_charter(
    connection: Connection, terms: bytes, *, grace_from_ms: int, grace_until_ms: int
) -> None:
    """The terms that go on, and from when on old statements may be handed in again."""
    await connection.execute(
        "INSERT INTO charter (one, terms, grace_from_ms, grace_until_ms) VALUES (true, $1, $2, $3)"
        " ON CONFLICT (one) DO NOTHING",
        terms,
        grace_from_ms,
        grace_until_ms,
    )


async def tail(connection: Connection, first: int) -> list[bytes]:
    """What the log holds from that position on."""
    rows = await connection.fetch(
        "SELECT envelope FROM statements WHERE idx >= $1 ORDER BY idx", first
    )
    return [row["envelope"] for row in rows]
