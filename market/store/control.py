"""Statements of a provider's control session: connect, see, leave; leases and attempts it holds."""

from collections.abc import Sequence
from uuid import UUID

from market.store.money import receipted_ms
from market.store.rows import Connection, Row


async def connect(connection: Connection, provider: str, session: UUID, *, now_ms: int) -> bool:
    """The newest session is the provider's; False for a key that never posted an offer."""
    status: str = await connection.execute(
        "UPDATE providers SET connected = true, session = $2, seen_ms = $3, draining = false"
        " WHERE address = $1",
        provider,
        session,
        now_ms,
    )
    return status.endswith(" 1")


async def seen(connection: Connection, provider: str, session: UUID, *, now_ms: int) -> bool:
    """A sign of life; False when a newer session has taken over."""
    status: str = await connection.execute(
        "UPDATE providers SET seen_ms = $3 WHERE address = $1 AND session = $2",
        provider,
        session,
        now_ms,
    )
    return status.endswith(" 1")


async def disconnect(connection: Connection, provider: str, session: UUID, *, now_ms: int) -> None:
    """The channel is gone; its leases wait a grace for the daemon to come back."""
    await connection.execute(
        "UPDATE providers SET connected = false, seen_ms = $3 WHERE address = $1 AND session = $2",
        provider,
        session,
        now_ms,
    )


async def drain(connection: Connection, provider: str, session: UUID) -> None:
    await connection.execute(
        "UPDATE providers SET draining = true WHERE address = $1 AND session = $2",
        provider,
        session,
    )


async def leases_of(
    connection: Connection, provider: str, session: UUID, known: Sequence[UUID]
) -> list[Row]:
    """Live leases of a provider, and those of the known ones that have closed.

    Nothing for a session that a newer one has taken over: what it sent would reach nobody.
    """
    rows: list[Row] = await connection.fetch(
        "SELECT l.*, j.order_digest, j.consumer, j.spec, j.spec_digest,"
        " EXISTS (SELECT 1 FROM attempts WHERE lease = l.id AND state = 'handed') AS busy,"
        " EXISTS (SELECT 1 FROM intervals WHERE job = l.job AND state = 'pending') OR EXISTS"
        " (SELECT 1 FROM attempts WHERE job = l.job AND state = 'checking') AS wanted"
        " FROM leases AS l JOIN jobs AS j ON j.id = l.job"
        " WHERE l.provider = $1 AND (l.state <> 'closed' OR l.id = ANY($3::uuid[]))"
        " AND EXISTS (SELECT 1 FROM providers WHERE address = $1 AND session = $2)"
        " ORDER BY l.granted_ms, l.id",
        provider,
        session,
        list(known),
    )
    return rows


async def open_leases(connection: Connection, provider: str) -> list[UUID]:
    rows = await connection.fetch(
        "SELECT id FROM leases WHERE provider = $1 AND state <> 'closed' ORDER BY id", provider
    )
    return [row["id"] for row in rows]


async def leases_in(connection: Connection, job: UUID, provider: str) -> list[UUID]:
    """Live leases of a provider in one job."""
    rows = await connection.fetch(
        "SELECT id FROM leases WHERE job = $1 AND provider = $2 AND state <> 'closed' ORDER BY id",
        job,
        provider,
    )
    return [row["id"] for row in rows]


async def open_attempts(connection: Connection, provider: str) -> list[UUID]:
    """Attempts that the market believes this provider is running."""
    rows = await connection.fetch(
        "SELECT id FROM attempts WHERE state = 'handed'"
        " AND lease IN (SELECT id FROM leases WHERE provider = $1 AND state <> 'closed')",
        provider,
    )
    return [row["id"] for row in rows]


async def live_providers(connection: Connection, job: UUID) -> list[str]:
    rows = await connection.fetch(
        "SELECT DISTINCT provider FROM leases WHERE job = $1 AND state <> 'closed'", job
    )
    return [row["provider"] for row in rows]


async def attempt(connection: Connection, identifier: UUID) -> Row:
    """An attempt with what its receipt must match; `first_receipt`: none of this provider has passed yet."""
    return await connection.fetchrow(
        "SELECT a.*, l.statement AS lease_digest, l.rate, l.state AS lease_state, j.order_digest,"
        " l.granted_ms, l.vouched_ms, CASE WHEN l.vouched_ms = 0 THEN 0"
        f" ELSE {receipted_ms('l.id')} END AS receipted_ms,"
        " j.spec_digest, j.spec, j.consumer, j.environment, j.state AS job_state,"
        " ARRAY(SELECT digest FROM tasks WHERE job = a.job AND index >= a.first"
        "  AND index < a.first + a.tasks ORDER BY index) AS inputs,"
        " NOT EXISTS (SELECT 1 FROM attempts WHERE job = a.job AND provider = a.provider"
        "  AND purpose = 'work' AND state = 'accepted') AS first_receipt"
        " FROM attempts AS a JOIN leases AS l ON l.id = a.lease JOIN jobs AS j ON j.id = a.job"
        " WHERE a.id = $1",
        identifier,
    )


async def other_providers(
    connection: Connection, job: UUID, provider: str, *, environment: str, now_ms: int
) -> bool:
    """Whether any other connected provider could check: it offers the environment, and is not barred."""
    there: bool = await connection.fetchval(
        "SELECT EXISTS (SELECT 1 FROM providers AS p WHERE p.address <> $2 AND p.connected"
        " AND NOT p.draining AND p.offer_expires_ms > $4"
        " AND p.address <> (SELECT consumer FROM jobs WHERE id = $1)"
        " AND EXISTS (SELECT 1 FROM offer_environments AS e WHERE e.provider = p.address AND e.digest = $3)"
        " AND NOT EXISTS (SELECT 1 FROM leases AS l WHERE l.job = $1 AND l.provider = p.address"
        "  AND l.reason = 'slashed'))",
        job,
        provider,
        environment,
        now_ms,
    )
    return there


async def reject(connection: Connection, attempt_id: UUID, reason: str) -> bool:
    """A receipt that does not hold: unpaid, its tasks pending again, its cap free.

    False when the attempt is decided already.
    """
    status: str = await connection.execute(
        "WITH gone AS (UPDATE attempts SET state = 'rejected', reason = $2 WHERE id = $1"
        " AND state = 'handed' RETURNING id, job, cap), back AS (UPDATE intervals SET state = 'pending',"
        " attempt = NULL FROM gone WHERE intervals.attempt = gone.id)"
        " UPDATE jobs SET reserved = jobs.reserved - gone.cap FROM gone WHERE jobs.id = gone.job",
        attempt_id,
        reason[:500],
    )
    return status.endswith(" 1")


async def bump_tries(connection: Connection, attempt_id: UUID) -> None:
    """The next charge of this attempt takes new transfer ids: refused ids are burnt."""
    await connection.execute("UPDATE attempts SET tries = tries + 1 WHERE id = $1", attempt_id)
