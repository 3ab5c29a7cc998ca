"""Statements of handing out work: claims, losses, leases. The caller holds the job's row lock."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from market.domain.attempt import Purpose
from market.domain.interval import Interval
from market.store.rows import Connection, Row

CHUNK_BYTES_MAX: Final = 32 * 1024 * 1024  # inputs of one chunk; a frame and a daemon hold more

_LOCK_LEASE = """
SELECT l.id, l.job, l.provider, l.state AS lease_state, l.rate, l.chunks, l.granted_ms, l.deadline_ms, j.state,
       j.spec, j.budget, j.spent, j.reserved, j.task_us, j.tasks, j.accepted,
       (SELECT count(*) FROM leases WHERE job = j.id AND state <> 'closed') AS live,
       EXISTS (SELECT 1 FROM attempts WHERE lease = l.id AND state = 'handed') AS busy,
       EXISTS (SELECT 1 FROM attempts WHERE job = j.id AND state = 'checking') AS checking,
       EXISTS (SELECT 1 FROM attempts WHERE job = j.id AND provider = l.provider AND state = 'checking')
       AND NOT EXISTS (SELECT 1 FROM attempts WHERE job = j.id AND provider = l.provider
         AND purpose = 'work' AND state = 'accepted') AS on_probation,
       p.first, p.length, COALESCE(p.pending, 0)::bigint AS pending
FROM jobs AS j JOIN leases AS l ON l.job = j.id LEFT JOIN LATERAL (
  SELECT first, tasks AS length, sum(tasks) OVER () AS pending FROM intervals
  WHERE job = j.id AND state = 'pending' ORDER BY first LIMIT 1) AS p ON true
WHERE l.id = $1"""

_HAND_OUT = """
WITH handed AS (INSERT INTO attempts (id, job, lease, provider, purpose, checks, first, tasks, state,
    window_ms, cap, handed_ms) VALUES ($1, $2, $3, $4, 'work', NULL, $5, $6, 'handed', $7, $8, $9)),
  reserved AS (UPDATE jobs SET reserved = reserved + $8 WHERE id = $2),
  rest AS (INSERT INTO intervals (job, first, tasks, state)
    SELECT $2, $5 + $6, $10 - $6, 'pending' WHERE $10 > $6)
UPDATE intervals SET tasks = $6, state = $11, attempt = $1
WHERE job = $2 AND first = $5 AND state = 'pending'"""


@dataclass(frozen=True, slots=True)
class LockedLease:
    """A lease with what its job's row says, read under the job's lock."""

    id: UUID
    job: UUID
    provider: str
    lease_state: str
    rate: int
    chunks: int
    granted_ms: int
    deadline_ms: int
    state: str
    spec: bytes
    budget: int
    spent: int
    reserved: int
    task_us: int | None
    tasks: int
    accepted: int
    live: int
    busy: bool
    checking: bool  # something of the job waits for a check
    on_probation: bool  # and so does the first receipt of this provider
    first: int | None  # of the first pending interval, if there is one
    length: int | None
    pending: int  # tasks, in all intervals

    def open(self) -> Interval | None:
        """The first pending interval."""
        if self.first is None or self.length is None:
            return None
        return Interval(self.first, self.length)


@dataclass(frozen=True, slots=True)
class Input:
    """One stored input; a body of None stands for a blob."""

    index: int
    digest: str
    size: int
    body: bytes | None


async def lock_job(connection: Connection, job: UUID) -> str | None:
    """Lock the job's row, which guards all that belongs to it; its state."""
    state: str | None = await connection.fetchval(
        "SELECT state FROM jobs WHERE id = $1 FOR UPDATE", job
    )
    return state


async def lock_lease(connection: Connection, lease: UUID) -> LockedLease | None:
    """Lock the lease's job, then read both; None when there is no such lease."""
    job = await connection.fetchval(
        "SELECT id FROM jobs WHERE id = (SELECT job FROM leases WHERE id = $1) FOR UPDATE", lease
    )
    if job is None:
        return None
    row = await connection.fetchrow(_LOCK_LEASE, lease)
    return LockedLease(**dict(row.items()))


async def find_check(connection: Connection, job: UUID, provider: str) -> Row:
    """The oldest receipt of another provider that waits for a check, if there is one."""
    return await connection.fetchrow(
        "SELECT id, first, tasks, window_ms FROM attempts AS work WHERE job = $1 AND state = 'checking'"
        " AND purpose = 'work' AND provider <> $2 AND NOT EXISTS (SELECT 1 FROM attempts AS checker"
        " WHERE checker.checks = work.id AND checker.state NOT IN ('lost', 'rejected')) ORDER BY received_ms LIMIT 1",
        job,
        provider,
    )


async def fitting(connection: Connection, job: UUID, *, first: int, tasks: int) -> list[Input]:
    """The tasks' inputs in order, as many as fit into one chunk; at least one."""
    rows = await connection.fetch(
        "SELECT index, digest, size, body FROM (SELECT index, digest, size, body,"
        " sum(size) OVER (ORDER BY index) AS bytes"
        " FROM tasks WHERE job = $1 AND index >= $2 AND index < $2 + $3) AS running"
        " WHERE bytes <= $4 OR index = $2 ORDER BY index",
        job,
        first,
        tasks,
        CHUNK_BYTES_MAX,
    )
    return [Input(*row) for row in rows]


async def hand_out(
    connection: Connection, lease: LockedLease, taken: Interval, *, whole: Interval, window_ms: int,
    cap: int, now_ms: int,
) -> None:  # fmt: skip
    """Write a claim: the pending row becomes the attempt's, the rest a new pending row, cap reserved."""
    await connection.execute(
        _HAND_OUT, UUID(taken.attempt), lease.job, lease.id, lease.provider, taken.first, taken.tasks,
        window_ms, cap, now_ms, whole.tasks, taken.state.value,
    )  # fmt: skip


async def spare_the_disk(connection: Connection) -> None:
    """Let this transaction's commit not wait for the disk.

    For what is only an intention and is found out when it is lost; a later commit that counts
    takes it along, since the database writes commits in order.
    """
    await connection.execute("SET LOCAL synchronous_commit = off")


async def insert_attempt(  # noqa: PLR0913 - the row\'s columns
    connection: Connection, attempt: UUID, lease: LockedLease, *, purpose: Purpose, checks: UUID | None,
    first: int, tasks: int, window_ms: int, cap: int, now_ms: int,
) -> None:  # fmt: skip
    """A chunk is handed out, and its cap reserved in the job's budget."""
    await connection.execute(
        "INSERT INTO attempts (id, job, lease, provider, purpose, checks, first, tasks, state, window_ms,"
        " cap, handed_ms) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, 'handed', $9, $10, $11)",
        attempt, lease.job, lease.id, lease.provider, purpose.value, checks, first, tasks, window_ms, cap, now_ms,
    )  # fmt: skip
    if cap:
        await connection.execute(
            "UPDATE jobs SET reserved = reserved + $2 WHERE id = $1", lease.job, cap
        )


async def inputs(connection: Connection, job: UUID, *, first: int, tasks: int) -> list[Input]:
    """The inputs of a chunk in order."""
    rows = await connection.fetch(
        "SELECT index, digest, size, body FROM tasks WHERE job = $1 AND index >= $2 AND index < $2 + $3"
        " ORDER BY index",
        job,
        first,
        tasks,
    )
    return [Input(*row) for row in rows]


async def set_lease(
    connection: Connection, lease: UUID, state: str, *, now_ms: int, sources: Sequence[str]
) -> bool:
    """Move a lease to a live state; False when it was in none of the sources."""
    status: str = await connection.execute(
        "UPDATE leases SET state = $2, worked_ms = $3 WHERE id = $1 AND state = ANY($4::text[])",
        lease,
        state,
        now_ms,
        list(sources),
    )
    return status.endswith(" 1")


async def end_lease(
    connection: Connection, lease: UUID, reason: str, *, detail: str, now_ms: int
) -> bool:
    """Close a lease; False when it was closed already."""
    status: str = await connection.execute(
        "UPDATE leases SET state = 'closed', reason = $2, detail = $3, closed_ms = $4"
        " WHERE id = $1 AND state <> 'closed'",
        lease,
        reason,
        detail[:500],
        now_ms,
    )
    return status.endswith(" 1")


async def lose(connection: Connection, attempts: Sequence[UUID], reason: str) -> list[Row]:
    """Handed attempts are lost: their tasks are pending again, their caps free. Rows (job, tasks)."""
    rows: list[Row] = await connection.fetch(
        "WITH gone AS (UPDATE attempts SET state = 'lost', reason = $2"
        " WHERE id = ANY($1::uuid[]) AND state = 'handed' RETURNING id, job, first, tasks, cap, purpose),"
        " back AS (UPDATE intervals SET state = 'pending', attempt = NULL FROM gone"
        " WHERE intervals.attempt = gone.id AND intervals.state = 'leased'),"
        " freed AS (UPDATE jobs SET reserved = jobs.reserved - sums.cap"
        " FROM (SELECT job, sum(cap) AS cap FROM gone GROUP BY job) AS sums WHERE jobs.id = sums.job)"
        " SELECT job, first, tasks, purpose FROM gone",
        list(attempts),
        reason[:500],
    )
    return rows


async def handed(connection: Connection, lease: UUID) -> list[UUID]:
    """Attempts of a lease that no receipt has come for."""
    rows = await connection.fetch(
        "SELECT id FROM attempts WHERE lease = $1 AND state = 'handed'", lease
    )
    return [row["id"] for row in rows]


async def slow_down(connection: Connection, job: UUID) -> None:
    """A chunk did not end within its window: take tasks for four times as long as believed."""
    await connection.execute(
        "UPDATE jobs SET task_us = COALESCE(task_us, 1000) * 4 WHERE id = $1", job
    )


async def event(connection: Connection, job: UUID, kind: str, detail: str, *, now_ms: int) -> None:
    """One line of the job's history."""
    await connection.execute(
        "INSERT INTO job_events (job, at_ms, kind, detail) VALUES ($1, $2, $3, $4)",
        job,
        now_ms,
        kind,
        detail,
    )


async def notify(connection: Connection, topic: str) -> None:
    """Wake whoever waits for a topic, in any process, once this transaction is committed."""
    await connection.execute("SELECT pg_notify('gridpact', $1)", topic)
