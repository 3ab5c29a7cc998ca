"""Reads of the ledger explorer: whatever it lists is found by an index, a bounded share at a time.

A filter that no index serves is applied to a window of rows in the list's own order; the page says
where that window ended. So no page costs more than its window, however long the list is.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple
from uuid import UUID

from market.store.rows import Connection, Row
from settlement.domain.ledger import LEDGER_CREDITS, Flag, Purpose

SCAN_ROWS_MAX: Final = 10_000  # looked at for one page
JOBS_SCANNED_MAX: Final = 20  # whose attempts are looked at for one page of a consumer's receipts
HISTORY_ROWS_MAX: Final = 200_000  # added up on either side of an account for a past balance
VERDICT_REACH: Final = 8  # a verdict stands in the log beside the receipt that decided it
SEQUENCE_MAX: Final = 2**63 - 1
_UNMOVED: Final = int(Flag.PENDING | Flag.VOID)  # transfers that post nothing

# Two settings for every look: a plan is made for the values at hand, and never scans a table.
_BEGIN = """
SELECT set_config('enable_seqscan', 'off', true), set_config('plan_cache_mode', 'force_custom_plan', true),
  set_config('transaction_read_only', 'on', true)"""

_CLOCK = "SELECT seq, ts, batch, log_size FROM clock"

# Ledger time grows with the batches' numbers, which have no gaps: halving finds the first batch
# that ends after a time, in as many probes of the primary key as its number has bits.
_BATCH_AFTER = """
WITH RECURSIVE search(low, high) AS (
  SELECT 1::bigint, $2::bigint + 1
  UNION ALL
  SELECT CASE WHEN b.ts_last > $1 THEN s.low ELSE (s.low + s.high) / 2 + 1 END,
         CASE WHEN b.ts_last > $1 THEN (s.low + s.high) / 2 ELSE s.high END
  FROM search AS s JOIN batches AS b ON b.number = (s.low + s.high) / 2 WHERE s.low < s.high)
SELECT b.seq_first, b.seq_last FROM search AS s JOIN batches AS b ON b.number = s.low WHERE s.low = s.high"""

_ACCOUNT = (
    "SELECT id, owner, purpose, job, dr_pending, dr_posted, cr_pending, cr_posted FROM accounts"
)
_OWNED = f"{_ACCOUNT} WHERE owner = $1 AND ledger = {LEDGER_CREDITS}"
_ACCOUNTS_OF = f"""
(({_OWNED} AND purpose = $2 AND job > $3 ORDER BY job LIMIT $4)
UNION ALL ({_OWNED} AND purpose > $2 ORDER BY purpose, job LIMIT $4)) ORDER BY purpose, job LIMIT $4"""

# Rows of two columns, so that only the index over both can serve: one over `seq` alone would be read
# until enough rows of the account are met, which may be all of it.
_TRANSFER = "seq, id, dr, cr, amount, pending_id, timeout_s, code, flags, ts, cause"


def _window(order: str) -> str:
    """Both sides of one account as one list. $2 < seq < $3 and $4 <= ts <= $5; $6 rows; $7 a code."""
    sides = " UNION ALL ".join(
        f"(SELECT {_TRANSFER} FROM transfers WHERE ({side}, seq) > ($1, $2) AND ({side}, seq) < ($1, $3)"
        f" AND ts >= $4 AND ts <= $5 ORDER BY {side} {order}, seq {order} LIMIT $6)"
        for side in ("dr", "cr")
    )
    return (
        f"WITH scanned AS MATERIALIZED (SELECT * FROM ({sides}) AS both_sides ORDER BY seq {order} LIMIT $6),"
        " edge AS (SELECT count(*) AS scanned_rows, min(seq) AS least, max(seq) AS most FROM scanned)"
        " SELECT * FROM edge LEFT JOIN (SELECT * FROM scanned WHERE $7::int IS NULL OR code = $7"
        f" ORDER BY seq {order} LIMIT $8) AS found ON true ORDER BY seq {order}"
    )


_TRANSFERS: Final = {"asc": _window("ASC"), "desc": _window("DESC")}

_HISTORY = f"""
WITH both_sides AS MATERIALIZED (
  (SELECT true AS debit, amount, flags FROM transfers
   WHERE (dr, seq) > ($1, $2) AND (dr, seq) <= ($1, $3) AND ts > $4 AND ts <= $5 ORDER BY dr, seq LIMIT $6)
  UNION ALL
  (SELECT false, amount, flags FROM transfers
   WHERE (cr, seq) > ($1, $2) AND (cr, seq) <= ($1, $3) AND ts > $4 AND ts <= $5 ORDER BY cr, seq LIMIT $6))
SELECT count(amount) AS found, a.dr_posted, a.cr_posted,
  COALESCE(sum(amount) FILTER (WHERE debit AND both_sides.flags & {_UNMOVED} = 0), 0) AS debits,
  COALESCE(sum(amount) FILTER (WHERE NOT debit AND both_sides.flags & {_UNMOVED} = 0), 0) AS credits
FROM accounts AS a LEFT JOIN both_sides ON true WHERE a.id = $1 GROUP BY a.id"""

_LAST_UP_TO = """
SELECT seq, ts FROM (
  (SELECT seq, ts FROM transfers WHERE (dr, seq) > ($1, 0) AND (dr, seq) <= ($1, $2) AND ts <= $3
   ORDER BY dr DESC, seq DESC LIMIT 1)
  UNION ALL
  (SELECT seq, ts FROM transfers WHERE (cr, seq) > ($1, 0) AND (cr, seq) <= ($1, $2) AND ts <= $3
   ORDER BY cr DESC, seq DESC LIMIT 1)) AS last
ORDER BY seq DESC LIMIT 1"""

_DETAIL = f"""
SELECT {", ".join(f"t.{name}" for name in _TRANSFER.split(", "))}, p.status, p.expires_at, s.idx, s.kind
FROM transfers AS t LEFT JOIN pending AS p ON p.id = t.id LEFT JOIN statements AS s ON s.digest = t.cause
WHERE t.id = $1"""

_ENTRY_KEYS = """
WITH scanned AS MATERIALIZED (
  SELECT idx, digest, kind, signer, octet_length(envelope) AS size FROM statements WHERE idx >= $1 ORDER BY idx LIMIT $2),
edge AS (SELECT count(*) AS scanned_rows, max(idx) AS most FROM scanned)
SELECT * FROM edge LEFT JOIN (
  SELECT * FROM scanned WHERE ($3::text IS NULL OR kind = $3) AND ($4::bytea IS NULL OR signer = $4)
  ORDER BY idx LIMIT $5) AS found ON true ORDER BY idx"""

_ENTRIES = "SELECT idx, digest, kind, signer, envelope FROM statements WHERE idx = ANY($1::bigint[]) ORDER BY idx"

_LOGGED = "SELECT idx, digest FROM statements WHERE digest = ANY($1::bytea[]) AND kind = 'receipt'"

_ATTEMPTS = """
SELECT a.*, j.consumer, c.state AS money, k.receipt AS check_receipt
FROM attempts AS a JOIN jobs AS j ON j.id = a.job LEFT JOIN charges AS c ON c.receipt = a.receipt
LEFT JOIN attempts AS k ON k.checks = a.id AND k.state NOT IN ('lost', 'rejected') AND k.state = 'accepted'
WHERE a.receipt = ANY($1::text[])"""

_VERDICTS = f"""
SELECT v.envelope FROM unnest($1::bytea[]) AS wanted(digest) JOIN statements AS s ON s.digest = wanted.digest
JOIN statements AS v ON v.idx BETWEEN s.idx - {VERDICT_REACH} AND s.idx + {VERDICT_REACH} AND v.kind = 'verdict'"""

_OF_JOBS = """
SELECT p.created_ms, p.id AS job, a.id AS attempt, a.receipt
FROM unnest($1::bigint[], $2::uuid[]) AS p(created_ms, id) JOIN attempts AS a ON a.job = p.id
WHERE a.receipt IS NOT NULL AND ($3::text IS NULL OR a.provider = $3)
  AND (p.created_ms, p.id, a.id) > ($4::bigint, $5::uuid, $6::uuid)
ORDER BY p.created_ms, p.id, a.id LIMIT $7"""

_JOBS_OF = """
SELECT created_ms, id FROM jobs WHERE consumer = $1 AND (created_ms, id) >= ($2, $3)
ORDER BY created_ms, id LIMIT $4"""
_ONE_JOB = "SELECT created_ms, id, consumer FROM jobs WHERE id = $1"

_CHECKPOINTS: Final = {
    "asc": "SELECT size, root, note FROM checkpoints WHERE size > $1 ORDER BY size LIMIT $2",
    "desc": "SELECT size, root, note FROM checkpoints WHERE size < $1 ORDER BY size DESC LIMIT $2",
}


class Span(NamedTuple):
    """Transfers with `above < sequence <= up_to` and `after_ns < time <= until_ns`."""

    above: int = 0
    up_to: int = SEQUENCE_MAX
    after_ns: int = -1
    until_ns: int = SEQUENCE_MAX


class History(NamedTuple):
    """An account's posted counters now, and what the transfers of a span posted, if not too many."""

    debits_now: int
    credits_now: int
    debits: int
    credits: int
    whole: bool


@dataclass(frozen=True, slots=True)
class Found:
    """Rows of one look; `reached` is the key that the look got to, None where the list ends."""

    rows: list[Row]
    reached: int | None


async def begin(connection: Connection) -> None:
    """First in every look's transaction."""
    await connection.execute(_BEGIN)


async def clock(connection: Connection) -> Row:
    """Last sequence number, ledger time and batch; the log's size."""
    return await connection.fetchrow(_CLOCK)


async def batch_after(connection: Connection, at_ns: int, *, batches: int) -> Row | None:
    """The first batch that ends after this ledger time."""
    return await connection.fetchrow(_BATCH_AFTER, at_ns, batches)


# ── accounts ────────────────────────────────────────────────────────────────────────────────


async def accounts_of(
    connection: Connection, owner: bytes, *, after: tuple[int, UUID], limit: int
) -> list[Row]:
    """A party's accounts by purpose and job."""
    rows: list[Row] = await connection.fetch(_ACCOUNTS_OF, owner, *after, limit)
    return rows


async def all_accounts(connection: Connection, *, after: int, limit: int) -> list[Row]:
    """Every account in the order of opening."""
    rows: list[Row] = await connection.fetch(
        f"{_ACCOUNT} WHERE id > $1 ORDER BY id LIMIT $2", after, limit
    )
    return rows


async def account(
    connection: Connection, owner: bytes, purpose: Purpose, job: UUID | None
) -> int | None:
    """An account's number, None while it was never opened."""
    narrowed = f"{_OWNED} AND purpose = $2"
    row = (
        await connection.fetchrow(f"{narrowed} AND job IS NULL", owner, int(purpose))
        if job is None
        else await connection.fetchrow(f"{narrowed} AND job = $3", owner, int(purpose), job)
    )
    return None if row is None else int(row["id"])


async def names(connection: Connection, numbers: Sequence[int]) -> dict[int, Row]:
    """Owner, purpose and job of accounts by number."""
    rows = await connection.fetch(f"{_ACCOUNT} WHERE id = ANY($1::bigint[])", numbers)
    return {row["id"]: row for row in rows}


# ── transfers ───────────────────────────────────────────────────────────────────────────────


async def transfers(
    connection: Connection, number: int, span: Span, *, order: str, code: int | None, limit: int
) -> Found:
    """Transfers of one account from one end of the span on."""
    window = limit if code is None else max(limit, SCAN_ROWS_MAX)
    rows = await connection.fetch(
        _TRANSFERS[order], number, span.above, min(span.up_to, SEQUENCE_MAX - 1) + 1,
        span.after_ns + 1, span.until_ns, window, code, limit,
    )  # fmt: skip
    found = [row for row in rows if row["seq"] is not None]
    edge = rows[0]
    if len(found) == limit:
        return Found(found, found[-1]["seq"])
    full = edge["scanned_rows"] == window
    return Found(found, edge["most" if order == "asc" else "least"] if full else None)


async def transfer(connection: Connection, identifier: UUID) -> Row | None:
    """One transfer with the state of a pending one and the place of its cause."""
    return await connection.fetchrow(_DETAIL, identifier)


async def history(connection: Connection, number: int, span: Span) -> History:
    """What a span of transfers posted to an account, beside what stands there now."""
    row = await connection.fetchrow(_HISTORY, number, *span, HISTORY_ROWS_MAX + 1)
    return History(
        int(row["dr_posted"]), int(row["cr_posted"]), int(row["debits"]), int(row["credits"]),
        row["found"] <= HISTORY_ROWS_MAX,
    )  # fmt: skip


async def last_up_to(connection: Connection, number: int, span: Span) -> Row | None:
    """An account's last transfer within a span."""
    return await connection.fetchrow(_LAST_UP_TO, number, span.up_to, span.until_ns)


# ── the log ─────────────────────────────────────────────────────────────────────────────────


async def entry_keys(
    connection: Connection, *, first: int, kind: str | None, signer: bytes | None, limit: int
) -> Found:
    """Positions, digests and sizes of statements from a position on."""
    window = limit if kind is None and signer is None else max(limit, SCAN_ROWS_MAX)
    rows = await connection.fetch(_ENTRY_KEYS, first, window, kind, signer, limit)
    found = [row for row in rows if row["idx"] is not None]
    if len(found) == limit:
        return Found(found, found[-1]["idx"])
    edge = rows[0]
    return Found(found, edge["most"] if edge["scanned_rows"] == window else None)


async def entries(connection: Connection, positions: Sequence[int]) -> list[Row]:
    """Whole statements at these positions."""
    rows: list[Row] = await connection.fetch(_ENTRIES, positions)
    return rows


async def entry(connection: Connection, digest: bytes) -> Row | None:
    """The statement with this digest."""
    return await connection.fetchrow(
        "SELECT idx, digest, kind, signer, envelope FROM statements WHERE digest = $1", digest
    )


async def sealed(connection: Connection) -> int:
    """How many entries a checkpoint covers."""
    size = await connection.fetchval("SELECT size FROM checkpoints ORDER BY size DESC LIMIT 1")
    return int(size or 0)


async def checkpoints(connection: Connection, *, after: int, order: str, limit: int) -> list[Row]:
    """Signed heads by size."""
    rows: list[Row] = await connection.fetch(_CHECKPOINTS[order], after, limit)
    return rows


async def cosignatures(connection: Connection, sizes: Sequence[int]) -> list[Row]:
    """Lines that validators put under these checkpoints."""
    rows: list[Row] = await connection.fetch(
        "SELECT size, line FROM cosignatures WHERE size = ANY($1::bigint[]) ORDER BY size, validator",
        sizes,
    )
    return rows


# ── receipts ────────────────────────────────────────────────────────────────────────────────


async def one_job(connection: Connection, job: UUID) -> Row | None:
    """When a job was made, and whose it is."""
    return await connection.fetchrow(_ONE_JOB, job)


async def jobs_of(connection: Connection, consumer: str, *, start: tuple[int, UUID]) -> list[Row]:
    """A consumer's next jobs in the order of creation, that of the cursor included."""
    rows: list[Row] = await connection.fetch(_JOBS_OF, consumer, *start, JOBS_SCANNED_MAX)
    return rows


async def receipts_of(
    connection: Connection, jobs: Sequence[Row], *, provider: str | None,
    after: tuple[int, UUID, UUID], limit: int,
) -> list[Row]:  # fmt: skip
    """Attempts of these jobs that have a receipt."""
    rows: list[Row] = await connection.fetch(
        _OF_JOBS, [row["created_ms"] for row in jobs], [row["id"] for row in jobs], provider, *after, limit
    )  # fmt: skip
    return rows


async def logged(connection: Connection, digests: Sequence[bytes]) -> dict[bytes, int]:
    """Where these receipts stand in the log; what is not there is nobody's business."""
    rows = await connection.fetch(_LOGGED, digests)
    return {row["digest"]: row["idx"] for row in rows}


async def attempts(connection: Connection, receipts: Sequence[str]) -> dict[str, Row]:
    """Attempts with their money, and the receipt of an accepted check, by receipt."""
    rows = await connection.fetch(_ATTEMPTS, receipts)
    return {row["receipt"]: row for row in rows}


async def verdicts(connection: Connection, checks: Sequence[bytes]) -> list[bytes]:
    """Envelopes of the verdicts that stand beside these receipts of checks."""
    rows = await connection.fetch(_VERDICTS, checks)
    return [row["envelope"] for row in rows]
