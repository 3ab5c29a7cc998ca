"""Statements of jobs: reads, locks, appends, ends."""

from collections.abc import Sequence
from uuid import UUID

import msgspec

from market.domain import job as states
from market.domain.transition import sources
from market.store.rows import Connection, Row
from settlement.domain.trade import Manifest

_STOPPABLE = [state.value for state in sources(states.TRANSITIONS, states.JobEvent.STOPPED)]

_COMPLETE = "(sealed OR $3) AND accepted = tasks + $2 AND state IN ('open', 'running')"

_EXTENDED = f"""
UPDATE jobs SET tasks = tasks + $2, sealed = sealed OR $3, touched_ms = $4,
  state = CASE WHEN {_COMPLETE} THEN 'finishing' ELSE state END,
  reason = CASE WHEN {_COMPLETE} THEN 'done' ELSE reason END,
  order_state = CASE WHEN {_COMPLETE} THEN 'closed' ELSE order_state END WHERE id = $1"""

_WAKE = """
WITH live AS MATERIALIZED (SELECT provider, worked_ms, state = 'active' AND NOT EXISTS
    (SELECT 1 FROM attempts WHERE lease = leases.id AND state = 'handed') AS idle
  FROM leases WHERE job = $1 AND state <> 'closed'),
chosen AS (SELECT provider FROM live WHERE idle ORDER BY worked_ms DESC LIMIT $2)
SELECT pg_notify('gridpact', topic) FROM (
  SELECT DISTINCT 'p' || provider AS topic FROM live
  WHERE (SELECT count(*) FROM chosen) < $2 OR provider IN (SELECT provider FROM chosen)
  UNION ALL SELECT 'm' FROM jobs WHERE id = $1 AND ($3 OR slots > (SELECT count(*) FROM live))) AS concerned"""

_VIEW = """
SELECT j.*, (SELECT count(*) FROM leases WHERE job = j.id AND state <> 'closed') AS leases,
       EXISTS (SELECT 1 FROM leases WHERE job = j.id AND state = 'paused') AS paused FROM jobs AS j"""


async def order_digest(connection: Connection, job: UUID) -> str | None:
    digest: str | None = await connection.fetchval(
        "SELECT order_digest FROM jobs WHERE id = $1", job
    )
    return digest


async def open_jobs(connection: Connection, consumer: str) -> int:
    count: int = await connection.fetchval(
        "SELECT count(*) FROM jobs WHERE consumer = $1 AND state <> 'closed'", consumer
    )
    return count


async def environment(connection: Connection, digest: str) -> Manifest | None:
    data = await connection.fetchval("SELECT manifest FROM environments WHERE digest = $1", digest)
    return None if data is None else msgspec.json.decode(data, type=Manifest)


async def environments(connection: Connection) -> list[Manifest]:
    rows = await connection.fetch("SELECT manifest FROM environments ORDER BY digest")
    return [msgspec.json.decode(row["manifest"], type=Manifest) for row in rows]


async def read(connection: Connection, job: UUID) -> Row:
    return await connection.fetchrow(f"{_VIEW} WHERE j.id = $1", job)


async def page(
    connection: Connection, consumer: str, *, after: tuple[int, UUID], limit: int
) -> list[Row]:
    """Newest first; `after` is the last row's (created_ms, id) of the page before."""
    rows: list[Row] = await connection.fetch(
        f"{_VIEW} WHERE j.consumer = $1 AND (j.created_ms, j.id) < ($2, $3)"
        " ORDER BY j.created_ms DESC, j.id DESC LIMIT $4",
        consumer,
        *after,
        limit,
    )
    return rows


async def locked(connection: Connection, job: UUID) -> Row:
    return await connection.fetchrow("SELECT * FROM jobs WHERE id = $1 FOR UPDATE", job)


async def append_tasks(
    connection: Connection,
    job: UUID,
    *,
    first: int,
    columns: tuple[list[str], list[int], list[bytes | None]],
) -> None:
    """New inputs, pending at once."""
    await connection.execute(
        "WITH made AS (INSERT INTO intervals (job, first, tasks, state)"
        " VALUES ($1, $2, cardinality($3::text[]), 'pending'))"
        " INSERT INTO tasks (job, index, digest, size, body) SELECT $1, $2 + n - 1, digest, size, body"
        " FROM unnest($3::text[], $4::bigint[], $5::bytea[]) WITH ORDINALITY AS t(digest, size, body, n)",
        job,
        first,
        *columns,
    )


async def extended(
    connection: Connection, job: UUID, *, tasks: int, sealed: bool, now_ms: int
) -> None:
    """More tasks, or the last: a sealed job without open tasks is complete."""
    await connection.execute(_EXTENDED, job, tasks, sealed, now_ms)


async def wake_workers(connection: Connection, job: UUID, *, tasks: int, sealed: bool) -> None:
    """Tell providers of the job's leases of new tasks; the matcher too where it may have to act.

    Under the job's lock. No more idle leases are woken than there are tasks, the warmest first; if
    there are fewer, everybody is.
    """
    await connection.execute(_WAKE, job, tasks, sealed)


async def live_leases(connection: Connection, job: UUID) -> list[Row]:
    rows: list[Row] = await connection.fetch(
        "SELECT id, provider FROM leases WHERE job = $1 AND state <> 'closed' ORDER BY id", job
    )
    return rows


async def stopped(connection: Connection, job: UUID, reason: str) -> bool:
    """Open or running becomes finishing; receipts that wait for a check will be accepted unchecked."""
    status: str = await connection.execute(
        "UPDATE jobs SET state = 'finishing', reason = $2, order_state = 'closed'"
        " WHERE id = $1 AND state = ANY($3::text[])",
        job,
        reason,
        _STOPPABLE,
    )
    return status.endswith(" 1")


async def finishing(connection: Connection, job: UUID) -> Row:
    """The row of a job that can be closed now, or None."""
    return await connection.fetchrow(
        "SELECT consumer, order_digest, reason, accepted, spent FROM jobs WHERE id = $1"
        " AND state = 'finishing' AND NOT EXISTS (SELECT 1 FROM attempts WHERE job = $1"
        " AND state IN ('handed', 'checking'))",
        job,
    )


async def results(connection: Connection, job: UUID, *, after: int, limit: int) -> list[Row]:
    """Delivered results in the order of acceptance."""
    rows: list[Row] = await connection.fetch(
        "SELECT o.position, o.index, o.status, o.digest, o.size, o.body, o.log, o.attempt, a.provider"
        " FROM outputs AS o JOIN attempts AS a ON a.id = o.attempt"
        " WHERE o.job = $1 AND o.position > $2 ORDER BY o.position LIMIT $3",
        job,
        after,
        limit,
    )
    return rows


async def events(connection: Connection, job: UUID, *, after: int, limit: int) -> list[Row]:
    rows: list[Row] = await connection.fetch(
        "SELECT position, at_ms, kind, detail FROM job_events WHERE job = $1 AND position > $2"
        " ORDER BY position LIMIT $3",
        job,
        after,
        limit,
    )
    return rows


async def attempts(connection: Connection, job: UUID, *, after: UUID, limit: int) -> list[Row]:
    """Attempts with receipts and money, by id."""
    rows: list[Row] = await connection.fetch(
        "SELECT a.*, p.name AS provider_name, c.state AS money FROM attempts AS a"
        " JOIN providers AS p ON p.address = a.provider LEFT JOIN charges AS c ON c.attempt = a.id"
        " WHERE a.job = $1 AND a.id > $2 ORDER BY a.id LIMIT $3",
        job,
        after,
        limit,
    )
    return rows


async def due(connection: Connection, *, now_ms: int, session_idle_ms: int) -> Sequence[Row]:
    """Jobs that time has something to say to: past the deadline, idle sessions, finishing ones."""
    rows: Sequence[Row] = await connection.fetch(
        "SELECT id, state, deadline_ms <= $1 AS late FROM jobs WHERE state = 'finishing'"
        " OR (state <> 'closed' AND (deadline_ms <= $1"
        " OR (NOT sealed AND accepted = tasks AND touched_ms <= $1::bigint - $2::bigint))) ORDER BY id",
        now_ms,
        session_idle_ms,
    )
    return rows
