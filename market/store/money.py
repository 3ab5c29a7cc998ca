"""Statements of withdrawals, vouchers and acceptances: reads, and what rides in the ledger's batches."""

from typing import Final
from uuid import UUID

from market.store.rows import Connection, Row

_BILLED: Final = "greatest(0, least(wall_ms, received_ms - handed_ms, window_ms))"


def receipted_ms(lease: str) -> str:
    """The time of a lease that receipts have, paid or waiting for their check."""
    return (
        f"(SELECT COALESCE(sum({_BILLED}), 0)::bigint FROM attempts AS had WHERE had.lease = {lease}"
        " AND had.purpose = 'work' AND had.state IN ('checking', 'accepted'))"
    )


GUARDS: Final[dict[str, str]] = {
    # job, lease; what was vouched before and is now, the price, the time: as it was priced, still
    "voucher_due": (
        "WITH locked AS MATERIALIZED (SELECT state, spent + reserved + $5::numeric <= budget AS covered"
        " FROM jobs WHERE id = $1 FOR UPDATE)"
        " SELECT locked.state <> 'closed' AND locked.covered AND l.reason <> 'slashed'"
        f" AND l.vouched_ms = $3 AND $4::bigint + {receipted_ms('l.id')}"
        " <= CASE WHEN l.state = 'closed' THEN least(l.closed_ms, $6) ELSE $6 END - l.granted_ms"
        " FROM leases AS l JOIN locked ON true WHERE l.id = $2 AND l.job = $1 FOR UPDATE OF l"
    ),
}

CHANGES: Final[dict[str, str]] = {
    "withdrawal_insert": (
        "INSERT INTO withdrawals (transfer, party, amount, destination, statement, asked_ms)"
        " VALUES ($1, $2, $3, $4, $5, $6)"
    ),
    "withdrawal_decided": (
        "UPDATE withdrawals SET decision = $2, memo = $3, decided_ms = $4 WHERE transfer = $1"
    ),
    "job_vouched": "UPDATE jobs SET spent = spent + $2, touched_ms = $3 WHERE id = $1",
    "lease_vouched": (
        "UPDATE leases SET vouched_ms = $2, vouched = vouched + $3, worked_ms = $4 WHERE id = $1"
    ),
    "provider_vouched": (
        "UPDATE providers SET wall_ms = wall_ms + $2, earned = earned + $3 WHERE address = $1"
    ),
}

_WITHDRAWAL = """
SELECT w.*, p.status, p.expires_at FROM withdrawals AS w JOIN pending AS p ON p.id = w.transfer"""
_WAITING: Final = 1

_LEASE = f"""
SELECT l.*, j.consumer, j.state AS job_state, j.spent, j.reserved, j.budget,
  {receipted_ms("l.id")} AS receipted_ms
FROM leases AS l JOIN jobs AS j ON j.id = l.job"""


async def withdrawal(connection: Connection, transfer: UUID) -> Row:
    return await connection.fetchrow(f"{_WITHDRAWAL} WHERE w.transfer = $1", transfer)


async def withdrawals_of(
    connection: Connection, party: str, *, after: tuple[int, UUID], limit: int
) -> list[Row]:
    """A party's withdrawals in the order in which it asked."""
    rows: list[Row] = await connection.fetch(
        f"{_WITHDRAWAL} WHERE w.party = $1 AND (w.asked_ms, w.transfer) > ($2, $3)"
        " ORDER BY w.asked_ms, w.transfer LIMIT $4",
        party,
        *after,
        limit,
    )
    return rows


async def withdrawals(
    connection: Connection, *, waiting: bool, after: tuple[int, UUID], limit: int
) -> list[Row]:
    """Everybody's withdrawals, or only those that wait for the operator; oldest first."""
    only = f"w.decision IS NULL AND p.status = {_WAITING} AND" if waiting else ""
    rows: list[Row] = await connection.fetch(
        f"{_WITHDRAWAL} WHERE {only} (w.asked_ms, w.transfer) > ($1, $2)"
        " ORDER BY w.asked_ms, w.transfer LIMIT $3",
        *after,
        limit,
    )
    return rows


async def waiting_withdrawals(connection: Connection, party: str) -> int:
    count: int = await connection.fetchval(
        "SELECT count(*) FROM withdrawals AS w JOIN pending AS p ON p.id = w.transfer"
        f" WHERE w.party = $1 AND w.decision IS NULL AND p.status = {_WAITING}",
        party,
    )
    return count


async def reserved(connection: Connection, address: str) -> int:
    """What of a party's available tokens waits to leave."""
    value = await connection.fetchval(
        "SELECT sum(dr_pending) FROM accounts WHERE owner = $1", bytes.fromhex(address)
    )
    return int(value or 0)


async def lease(connection: Connection, identifier: UUID) -> Row:
    """A lease with its job's money and the time that receipts have of it."""
    return await connection.fetchrow(f"{_LEASE} WHERE l.id = $1", identifier)


async def lease_by_digest(connection: Connection, job: UUID, digest: str) -> Row:
    return await connection.fetchrow(f"{_LEASE} WHERE l.job = $1 AND l.statement = $2", job, digest)


async def leases_of(connection: Connection, job: UUID) -> list[Row]:
    rows: list[Row] = await connection.fetch(
        f"{_LEASE} WHERE l.job = $1 ORDER BY l.granted_ms, l.id", job
    )
    return rows


async def pause(connection: Connection, job: UUID, lease_id: UUID) -> bool:
    """Under the job's lock: an active lease waits for more budget, unless work in hand may free some."""
    status: str = await connection.execute(
        "UPDATE leases SET state = 'paused' WHERE id = $2 AND state = 'active'"
        " AND (SELECT reserved FROM jobs WHERE id = $1) = 0",
        job,
        lease_id,
    )
    return status.endswith(" 1")


async def last_event(connection: Connection, job: UUID) -> str:
    """What the job's history says last."""
    kind: str | None = await connection.fetchval(
        "SELECT kind FROM job_events WHERE job = $1 ORDER BY position DESC LIMIT 1", job
    )
    return kind or ""


async def attempt_of(connection: Connection, receipt: str) -> Row:
    """The attempt of a receipt, with all that settling it needs."""
    return await connection.fetchrow(
        "SELECT a.*, j.consumer, j.environment, j.state AS job_state, j.spec, l.rate FROM attempts AS a"
        " JOIN jobs AS j ON j.id = a.job JOIN leases AS l ON l.id = a.lease WHERE a.receipt = $1",
        receipt,
    )
