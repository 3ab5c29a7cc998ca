"""Statements of the ledger's engine; asyncpg, because every payment of the market runs through them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from settlement.domain.ledger import Account, AccountKey, Code, Entry, PendingState, Purpose
from settlement.domain.ledger_rules import State, expires_ns

EXPIRIES_MAX: Final = 4_096  # released in one batch; the rest follows in the next

_ACCOUNTS_OPEN = """
INSERT INTO accounts (owner, purpose, job, ledger, flags)
SELECT DISTINCT owner, purpose, job, ledger, flags
FROM unnest($1::bytea[], $2::smallint[], $3::uuid[], $4::int[], $5::int[]) AS wanted(owner, purpose, job, ledger, flags)
ON CONFLICT (owner, purpose, job, ledger) DO NOTHING"""

# Two halves, because IS NOT DISTINCT FROM would read every budget that the owner ever had.
_ACCOUNTS_LOAD = """
WITH wanted AS MATERIALIZED (
  SELECT * FROM unnest($1::bytea[], $2::smallint[], $3::uuid[], $4::int[]) AS wanted(owner, purpose, job, ledger))
SELECT a.* FROM wanted AS w JOIN accounts AS a
  ON a.owner = w.owner AND a.purpose = w.purpose AND a.job = w.job AND a.ledger = w.ledger
UNION ALL
SELECT a.* FROM wanted AS w JOIN accounts AS a
  ON a.owner = w.owner AND a.purpose = w.purpose AND a.job IS NULL AND a.ledger = w.ledger
WHERE w.job IS NULL"""

_TRANSFERS_LOAD = """
SELECT t.id, t.dr, t.cr, t.amount, t.pending_id, t.timeout_s, t.ledger, t.code, t.flags, t.cause, t.ts, p.status
FROM transfers AS t LEFT JOIN pending AS p ON p.id = t.id WHERE t.id = ANY($1::uuid[])"""

_WRITE = """
WITH
  moved AS (UPDATE accounts AS a SET dr_pending = w.dp, dr_posted = w.dd, cr_pending = w.cp, cr_posted = w.cc
    FROM unnest($1::bigint[], $2::numeric[], $3::numeric[], $4::numeric[], $5::numeric[]) AS w(id, dp, dd, cp, cc)
    WHERE a.id = w.id),
  made AS (INSERT INTO transfers (seq, id, dr, cr, amount, pending_id, timeout_s, ledger, code, flags, ts, cause)
    SELECT * FROM unnest($6::bigint[], $7::uuid[], $8::bigint[], $9::bigint[], $10::numeric[], $11::uuid[],
      $12::int[], $13::int[], $14::int[], $15::int[], $16::bigint[], $17::bytea[])),
  stood AS (INSERT INTO pending (id, status, expires_at)
    SELECT * FROM unnest($18::uuid[], $19::smallint[], $20::bigint[])
    ON CONFLICT (id) DO UPDATE SET status = EXCLUDED.status),
  burnt AS (INSERT INTO failed (id, code) SELECT * FROM unnest($21::uuid[], $22::smallint[])),
  logged AS (INSERT INTO statements (idx, digest, kind, signer, envelope)
    SELECT * FROM unnest($23::bigint[], $24::bytea[], $25::text[], $26::bytea[], $27::bytea[])),
  batched AS (INSERT INTO batches (number, seq_first, seq_last, ts_last, events) VALUES ($28, $29, $30, $31, $32))
UPDATE clock SET ts = $31, seq = $30, log_size = $33, batch = $28"""


@dataclass(frozen=True, slots=True)
class Clock:
    """The baton's row: ledger time, last sequence number, size of the log, last batch."""

    ts: int
    seq: int
    log_size: int
    batch: int


@dataclass(frozen=True, slots=True)
class Logged:
    """A statement for the log, at its position."""

    index: int
    digest: bytes
    kind: str
    signer: bytes
    envelope: bytes


async def take_baton(connection: Any) -> Clock:
    """Lock the one row that orders all batches of all processes.

    From here to COMMIT no plan may scan a table: everything is found by an index, and a plan made
    while a table was empty and analysed would be ten times slower once it is not.
    """
    row = await connection.fetchrow(
        "SELECT ts, seq, log_size, batch, set_config('enable_seqscan', 'off', true) FROM clock FOR UPDATE"
    )
    return Clock(*row[:4])


async def open_accounts(connection: Any, keys: Sequence[AccountKey]) -> dict[AccountKey, Account]:
    """The accounts of these keys; those that are not there yet are opened, empty."""
    if not keys:
        return {}
    columns = (
        [bytes.fromhex(key.owner) for key in keys],
        [int(key.purpose) for key in keys],
        [key.job for key in keys],
        [key.ledger for key in keys],
    )
    rows = await connection.fetch(_ACCOUNTS_LOAD, *columns)
    if len(rows) < len(keys):
        await connection.execute(_ACCOUNTS_OPEN, *columns, [int(key.limit) for key in keys])
        rows = await connection.fetch(_ACCOUNTS_LOAD, *columns)
    return {
        AccountKey(
            row["owner"].hex(), Purpose(row["purpose"]), row["job"], row["ledger"]
        ): _account(row)
        for row in rows
    }


def _account(row: Any) -> Account:
    return Account(
        row["id"], row["ledger"], row["flags"], int(row["dr_pending"]), int(row["dr_posted"]),
        int(row["cr_pending"]), int(row["cr_posted"]),
    )  # fmt: skip


async def load(connection: Any, state: State, ids: Iterable[UUID], *, due_ns: int) -> None:
    """Into the state: transfers and burnt ids by id, what is due to expire, and their accounts."""
    wanted = list(ids)
    due = await connection.fetch(
        "SELECT id FROM pending WHERE status = 1 AND expires_at <= $1 ORDER BY expires_at, id LIMIT $2",
        due_ns,
        EXPIRIES_MAX,
    )
    rows = await connection.fetch(_TRANSFERS_LOAD, [*wanted, *(row["id"] for row in due)])
    missing = set()
    for row in rows:
        entry = Entry(
            row["id"].int, row["dr"], row["cr"], int(row["amount"]),
            0 if row["pending_id"] is None else row["pending_id"].int, row["timeout_s"], row["ledger"],
            row["code"], row["flags"], row["cause"], row["ts"],
        )  # fmt: skip
        state.transfers[entry.id] = entry
        if row["status"] is not None:
            state.pending[entry.id] = PendingState(row["status"])
        missing |= {entry.debit, entry.credit} - state.accounts.keys()
    if missing:
        for row in await connection.fetch(
            "SELECT * FROM accounts WHERE id = ANY($1::bigint[])", list(missing)
        ):
            state.accounts[row["id"]] = _account(row)
    for row in await connection.fetch(
        "SELECT id, code FROM failed WHERE id = ANY($1::uuid[])", wanted
    ):
        state.failed[row["id"].int] = Code(row["code"])


async def positions(connection: Any, digests: Sequence[bytes]) -> dict[bytes, int]:
    """Where statements stand that are logged already."""
    rows = await connection.fetch(
        "SELECT digest, idx FROM statements WHERE digest = ANY($1::bytea[])", list(digests)
    )
    return {row["digest"]: row["idx"] for row in rows}


async def write(
    connection: Any,
    clock: Clock,
    state: State,
    statements: Sequence[Logged],
    *,
    ts: int,
    events: int,
) -> None:
    """Everything a batch changed in the ledger and the log, and the baton, in one statement."""
    accounts = [state.accounts[identifier] for identifier in sorted(state.touched)]
    entries = list(state.created.values())
    stood = list(state.resolved.items())
    seq_last = clock.seq + len(entries)
    await connection.execute(
        _WRITE,
        [account.id for account in accounts],
        [account.debits_pending for account in accounts],
        [account.debits_posted for account in accounts],
        [account.credits_pending for account in accounts],
        [account.credits_posted for account in accounts],
        list(range(clock.seq + 1, seq_last + 1)),
        [UUID(int=entry.id) for entry in entries],
        [entry.debit for entry in entries],
        [entry.credit for entry in entries],
        [entry.amount for entry in entries],
        [UUID(int=entry.pending_id) if entry.pending_id else None for entry in entries],
        [entry.timeout_seconds for entry in entries],
        [entry.ledger for entry in entries],
        [entry.code for entry in entries],
        [entry.flags for entry in entries],
        [entry.at_ns for entry in entries],
        [entry.cause for entry in entries],
        [UUID(int=identifier) for identifier, _ in stood],
        [int(pending) for _, pending in stood],
        [expires_ns(state.transfers[identifier]) for identifier, _ in stood],
        [UUID(int=identifier) for identifier in state.burnt],
        [int(code) for code in state.burnt.values()],
        [statement.index for statement in statements],
        [statement.digest for statement in statements],
        [statement.kind for statement in statements],
        [statement.signer for statement in statements],
        [statement.envelope for statement in statements],
        clock.batch + 1,
        clock.seq + 1,
        seq_last,
        ts,
        events,
        clock.log_size + len(statements),
    )
