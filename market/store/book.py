"""Statements of the matcher's book: what jobs want, what providers have left."""

from fractions import Fraction

import msgspec

from market.domain.jobspec import Spec
from market.domain.matching import Demand, Idle, Supply
from market.store.rows import Connection, Row
from settlement.domain.reputation import Standing
from settlement.domain.resources import Resources
from settlement.domain.trade import Offer

_DEMANDS = """
SELECT j.id, j.consumer, j.spec, j.rate_cap, j.slots, j.created_ms, j.deadline_ms, j.order_digest,
  COALESCE((SELECT sum(tasks) FROM intervals WHERE job = j.id AND state = 'pending'), 0)::bigint AS pending,
  (SELECT count(*) FROM leases WHERE job = j.id AND state <> 'closed') AS live,
  (SELECT count(*) FROM leases AS l WHERE l.job = j.id AND l.state IN ('granted', 'active')
     AND NOT EXISTS (SELECT 1 FROM attempts WHERE lease = l.id AND state = 'handed')) AS idle,
  ARRAY(SELECT DISTINCT provider FROM leases WHERE job = j.id AND state <> 'closed') AS used,
  ARRAY(SELECT DISTINCT provider FROM leases WHERE job = j.id AND (reason = 'slashed'
     OR (reason = 'provider-gone' AND detail <> '' AND closed_ms > $1::bigint - $2::bigint))) AS barred,
  (SELECT count(*) FROM attempts AS a WHERE a.job = j.id AND a.state = 'checking'
     AND NOT EXISTS (SELECT 1 FROM attempts AS c WHERE c.checks = a.id AND c.state NOT IN ('lost', 'rejected'))
     AND NOT EXISTS (SELECT 1 FROM leases AS l WHERE l.job = j.id AND l.state <> 'closed'
       AND l.provider <> a.provider)) AS unserved,
  EXISTS (SELECT 1 FROM leases WHERE job = j.id AND state = 'paused') AS paused
FROM jobs AS j WHERE j.state IN ('open', 'running') AND j.order_state = 'open' AND j.deadline_ms > $1::bigint"""

_SUPPLIES = """
SELECT p.address, p.name, p.offer, p.terms, p.agreed, p.differed, p.connected, p.offer_expires_ms,
  ARRAY(SELECT digest FROM offer_environments WHERE provider = p.address ORDER BY digest) AS environments,
  COALESCE(sum(l.cpus_milli), 0)::bigint AS cpus_milli, COALESCE(sum(l.memory_mib), 0)::bigint AS memory_mib,
  COALESCE(sum(l.gpus), 0)::bigint AS gpus
FROM providers AS p LEFT JOIN leases AS l ON l.provider = p.address AND l.state <> 'closed'
WHERE p.offer IS NOT NULL AND p.offer_expires_ms > $1 AND NOT p.draining AND (p.connected OR $2)
GROUP BY p.address"""


_STALE_LEASES = """
SELECT id, CASE WHEN gone OR unarmed THEN 'provider-gone' WHEN late THEN 'deadline' ELSE 'idle' END AS reason,
  CASE WHEN unarmed AND NOT gone THEN 'not armed in time' ELSE '' END AS detail
FROM (SELECT l.id,
    (NOT p.connected AND p.seen_ms < $1::bigint - $2::bigint) OR p.seen_ms < $1::bigint - $3::bigint AS gone,
    l.state = 'granted' AND l.granted_ms < $1::bigint - $5::bigint AS unarmed,
    l.deadline_ms <= $1::bigint AS late,
    l.state = 'active' AND greatest(l.worked_ms, j.touched_ms) < $1::bigint - $4::bigint
      AND NOT EXISTS (SELECT 1 FROM intervals WHERE job = l.job AND state <> 'accepted') AS idle
  FROM leases AS l JOIN providers AS p ON p.address = l.provider JOIN jobs AS j ON j.id = l.job
  WHERE l.state <> 'closed') AS live
WHERE gone OR unarmed OR late OR idle ORDER BY id"""


async def demands(
    connection: Connection, *, now_ms: int, failed_ms: int
) -> list[tuple[Row, Demand]]:
    """Every open order that wants more slots, beside its row.

    A provider that refused or failed a lease of the job is passed over for `failed_ms`.
    """
    rows = await connection.fetch(_DEMANDS, now_ms, failed_ms)
    return [(row, to_demand(row)) for row in rows]


def to_demand(row: Row) -> Demand:
    """Slots for pending tasks that no idle lease will take, and one apart for a check nobody can run."""
    spec = msgspec.json.decode(row["spec"], type=Spec)
    wanted = max(0, min(row["slots"] - row["live"], row["pending"] - row["idle"]))
    if row["paused"]:
        wanted = 0  # the budget does not cover the slots that are there
    apart = 1 if row["unserved"] else 0
    return Demand(
        job=str(row["id"]),
        consumer=row["consumer"],
        slot=spec.slot,
        rate_cap_microcredits=int(row["rate_cap"]),
        protection=spec.protection,
        environment=spec.environment,
        wanted=wanted + apart,
        created_ms=row["created_ms"],
        live=row["live"],
        used=frozenset(row["used"]),
        barred=frozenset(row["barred"]),
        apart=apart,
        spread=spec.verify != "none",
    )


async def supplies(
    connection: Connection, *, now_ms: int, absent: bool = False
) -> list[tuple[Row, Supply]]:
    """Every live offer with what is left of it; `absent` also shows providers not connected now."""
    rows = await connection.fetch(_SUPPLIES, now_ms, absent)
    return [(row, to_supply(row)) for row in rows]


def to_supply(row: Row) -> Supply:
    terms = msgspec.json.decode(row["terms"], type=Offer)
    taken = Resources(row["cpus_milli"], row["memory_mib"], row["gpus"])
    standing: Fraction = Standing(row["agreed"], row["differed"]).mean
    return Supply(
        provider=row["address"],
        offer=row["offer"],
        free=terms.capacity.minus(taken),
        rates=terms.rates,
        protection=terms.protection,
        environments=frozenset(row["environments"]),
        standing=standing,
    )


async def idle_leases(connection: Connection, *, now_ms: int, idle_ms: int) -> list[Idle]:
    """Warm leases of jobs that have nothing to hand out, for at least `idle_ms`."""
    rows = await connection.fetch(
        "SELECT id, job, provider, cpus_milli, memory_mib, gpus, worked_ms FROM leases AS l"
        " WHERE state = 'active' AND worked_ms <= $1"
        " AND NOT EXISTS (SELECT 1 FROM attempts WHERE lease = l.id AND state = 'handed')"
        " AND NOT EXISTS (SELECT 1 FROM intervals WHERE job = l.job AND state = 'pending')",
        now_ms - idle_ms,
    )
    return [
        Idle(
            str(row["id"]),
            str(row["job"]),
            row["provider"],
            Resources(row["cpus_milli"], row["memory_mib"], row["gpus"]),
            row["worked_ms"],
        )
        for row in rows
    ]


async def providers(connection: Connection) -> list[Row]:
    """Every provider that ever offered, with its counters."""
    rows: list[Row] = await connection.fetch(
        "SELECT p.*, (SELECT count(*) FROM leases WHERE provider = p.address AND state <> 'closed') AS leases,"
        " (SELECT count(*) FROM attempts WHERE provider = p.address AND state = 'accepted'"
        "   AND purpose = 'work') AS chunks"
        " FROM providers AS p WHERE p.offer IS NOT NULL ORDER BY p.name, p.address"
    )
    return rows


async def stale_leases(
    connection: Connection, *, now_ms: int, gone_ms: int, silent_ms: int, idle_ms: int, arm_ms: int
) -> list[Row]:
    """Live leases that must end, with reason and detail.

    `provider-gone`: no channel for `gone_ms`, silence for `silent_ms`, or not armed within `arm_ms`.
    `deadline`: its time is over. `idle`: nothing pending, nothing in hand, for `idle_ms`.
    """
    rows: list[Row] = await connection.fetch(
        _STALE_LEASES, now_ms, gone_ms, silent_ms, idle_ms, arm_ms
    )
    return rows


async def overdue_attempts(connection: Connection, *, now_ms: int, grace_ms: int) -> list[Row]:
    """Handed attempts whose window is over."""
    rows: list[Row] = await connection.fetch(
        "SELECT id, provider, lease FROM attempts WHERE state = 'handed' AND handed_ms + window_ms + $2 < $1",
        now_ms,
        grace_ms,
    )
    return rows


async def waiting_checks(connection: Connection) -> list[Row]:
    """Receipts that wait for a check which nobody runs, oldest first."""
    rows: list[Row] = await connection.fetch(
        "SELECT a.*, j.consumer, j.environment, j.state AS job_state, j.spec, l.rate FROM attempts AS a"
        " JOIN jobs AS j ON j.id = a.job JOIN leases AS l ON l.id = a.lease"
        " WHERE a.state = 'checking' AND NOT EXISTS"
        " (SELECT 1 FROM attempts AS c WHERE c.checks = a.id AND c.state = 'handed') ORDER BY a.received_ms"
    )
    return rows


async def unpaid_checks(connection: Connection, limit: int) -> list[Row]:
    """Accepted checks whose wage is not paid yet."""
    rows: list[Row] = await connection.fetch(
        "SELECT a.*, j.consumer, j.spec, l.rate FROM attempts AS a JOIN jobs AS j ON j.id = a.job"
        " JOIN leases AS l ON l.id = a.lease"
        " WHERE a.purpose = 'check' AND a.state = 'accepted' AND a.charge > 0"
        " AND NOT EXISTS (SELECT 1 FROM charges WHERE attempt = a.id) ORDER BY a.received_ms LIMIT $1",
        limit,
    )
    return rows


async def due_providers(connection: Connection, *, now_ms: int, limit: int) -> list[Row]:
    """Providers with charges whose hold is over, and the last time that covers `limit` of them."""
    rows: list[Row] = await connection.fetch(
        "SELECT provider, max(release_after_ms) AS until_ms FROM (SELECT provider, release_after_ms"
        " FROM charges WHERE state = 'charged' AND release_after_ms <= $1"
        " ORDER BY release_after_ms LIMIT $2) AS due GROUP BY provider ORDER BY provider",
        now_ms,
        limit,
    )
    return rows


async def due_charges(connection: Connection, provider: str, *, until_ms: int) -> list[Row]:
    """All charges of a provider whose hold ends by then."""
    rows: list[Row] = await connection.fetch(
        "SELECT receipt, amount FROM charges WHERE state = 'charged' AND release_after_ms <= $2"
        " AND provider = $1",
        provider,
        until_ms,
    )
    return rows
