"""Statements of the ledger's engine; asyncpg, because every payment of the market runs through them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

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

_ACCOUNTS_AGAIN = """
SELECT id, ledger, flags, dr_pending, dr_posted, cr_pending, cr_posted
FROM accounts WHERE id = ANY($1::text::bigint[])"""

# Everything that a batch must know beside its accounts: which of its transfers, burnt ids and
# statements are there already, and what is due to expire. Mostly there is none of it.
_LOAD = """
WITH due AS MATERIALIZED (
  SELECT id FROM pending WHERE status = 1 AND expires_at <= $1 ORDER BY expires_at, id LIMIT $2)
SELECT 1 AS what, t.id, t.dr, t.cr, t.amount, t.pending_id, t.timeout_s, t.ledger, t.code, t.flags, t.cause, t.ts, p.status
FROM transfers AS t LEFT JOIN pending AS p ON p.id = t.id WHERE t.id = ANY($3::text::uuid[])
UNION ALL
SELECT 1, t.id, t.dr, t.cr, t.amount, t.pending_id, t.timeout_s, t.ledger, t.code, t.flags, t.cause, t.ts, p.status
FROM due JOIN transfers AS t ON t.id = due.id JOIN pending AS p ON p.id = due.id
UNION ALL
SELECT 2, id, 0, 0, 0, NULL, 0, 0, code, 0, NULL, 0, NULL FROM failed WHERE id = ANY($3::text::uuid[])
UNION ALL
SELECT 3, NULL, 0, 0, 0, NULL, 0, 0, 0, 0, digest, idx, NULL FROM statements WHERE digest = ANY($4::bytea[])"""
_TRANSFER, _BURNT = 1, 2

# Arrays come as texts: the driver's own arrays cost it more than all else that a batch needs.
_WRITE = """
WITH
  moved AS (UPDATE accounts AS a SET dr_pending = w.dp, dr_posted = w.dd, cr_pending = w.cp, cr_posted = w.cc
    FROM unnest($1::text::bigint[], $2::text::numeric[], $3::text::numeric[], $4::text::numeric[],
      $5::text::numeric[]) AS w(id, dp, dd, cp, cc)
    WHERE a.id = w.id),
  made AS (INSERT INTO transfers (seq, id, dr, cr, amount, pending_id, timeout_s, ledger, code, flags, ts, cause)
    SELECT $6 - 1 + w.n, w.id, w.dr, w.cr, w.amount, w.pending_id, w.timeout_s, w.ledger, w.code, w.flags, w.ts,
      decode(w.cause, 'hex')
    FROM unnest($7::text::uuid[], $8::text::bigint[], $9::text::bigint[], $10::text::numeric[], $11::text::uuid[],
      $12::text::int[], $13::text::int[], $14::text::int[], $15::text::int[], $16::text::bigint[], $17::text::text[])
      WITH ORDINALITY AS w(id, dr, cr, amount, pending_id, timeout_s, ledger, code, flags, ts, cause, n)),
  stood AS (INSERT INTO pending (id, status, expires_at)
    SELECT * FROM unnest($18::text::uuid[], $19::text::smallint[], $20::text::bigint[])
    ON CONFLICT (id) DO UPDATE SET status = EXCLUDED.status),
  burnt AS (INSERT INTO failed (id, code) SELECT * FROM unnest($21::text::uuid[], $22::text::smallint[])),
  logged AS (INSERT INTO statements (idx, digest, kind, signer, envelope)
    SELECT w.idx, decode(w.digest, 'hex'), w.kind, decode(w.signer, 'hex'), w.envelope
    FROM unnest($23::text::bigint[], $24::text::text[], $25::text[], $26::text::text[], $27::bytea[])
      AS w(idx, digest, kind, signer, envelope)),
  batched AS (INSERT INTO batches (number, seq_first, seq_last, ts_last, events) VALUES ($28, $6, $29, $30, $31))
UPDATE clock SET ts = $30, seq = $29, log_size = $32, batch = $28"""


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
    signer: str  # in hex
    envelope: bytes


async def take_baton(connection: Any) -> Clock:
    """Lock the one row that orders all batches of all processes.

    From here to COMMIT no plan may scan a table: everything is found by an index, and a plan made
    while a table was empty and analysed would be ten times slower once it is not. Nor is any plan
    made twice: planning the writing statement costs more than running it for a small batch.
    """
    row = await connection.fetchrow(
        "SELECT ts, seq, log_size, batch, set_config('enable_seqscan', 'off', true),"
        " set_config('plan_cache_mode', 'force_generic_plan', true) FROM clock FOR UPDATE"
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


async def accounts(connection: Any, numbers: Sequence[int]) -> dict[int, Account]:
    """The accounts of these numbers."""
    rows = await connection.fetch(_ACCOUNTS_AGAIN, _array(numbers))
    return {row["id"]: _account(row) for row in rows}


async def load(
    connection: Any,
    state: State,
    ids: Iterable[int],
    digests: Sequence[bytes] = (),
    *,
    due_ns: int,
) -> dict[bytes, int]:
    """Into the state: transfers and burnt ids by id, what is due to expire, and their accounts.

    The answer says where those of the statements stand that are logged already.
    """
    positions = {}
    missing = set()
    for row in await connection.fetch(_LOAD, due_ns, EXPIRIES_MAX, _ids(ids), digests):
        if row["what"] == _TRANSFER:
            entry = _entry(row)
            state.transfers[entry.id] = entry
            if row["status"] is not None:
                state.pending[entry.id] = PendingState(row["status"])
            missing |= {key for key in (entry.debit, entry.credit) if key not in state.accounts}
        elif row["what"] == _BURNT:
            state.failed[row["id"].int] = Code(row["code"])
        else:
            positions[row["cause"]] = row["ts"]
    if missing:
        state.accounts.update(await accounts(connection, list(missing)))
    return positions


def _entry(row: Any) -> Entry:
    return Entry(
        row["id"].int, row["dr"], row["cr"], int(row["amount"]),
        0 if row["pending_id"] is None else row["pending_id"].int, row["timeout_s"], row["ledger"],
        row["code"], row["flags"], row["cause"], row["ts"],
    )  # fmt: skip


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
    moved = [state.accounts[identifier] for identifier in sorted(state.touched)]
    stood = state.resolved
    await connection.execute(
        _WRITE,
        _array([account.id for account in moved]),
        _array([account.debits_pending for account in moved]),
        _array([account.debits_posted for account in moved]),
        _array([account.credits_pending for account in moved]),
        _array([account.credits_posted for account in moved]),
        clock.seq + 1,
        *_columns(list(state.created.values())),
        _ids(stood),
        _array(map(int, stood.values())),
        _array([_or_null(expires_ns(state.transfers[identifier])) for identifier in stood]),
        _ids(state.burnt),
        _array(map(int, state.burnt.values())),
        _array([statement.index for statement in statements]),
        _array([statement.digest.hex() for statement in statements]),
        [statement.kind for statement in statements],
        _array([statement.signer for statement in statements]),
        [statement.envelope for statement in statements],
        clock.batch + 1,
        clock.seq + len(state.created),
        ts,
        events,
        clock.log_size + len(statements),
    )


def _columns(entries: Sequence[Entry]) -> list[str]:
    """The new transfers, column by column."""
    if not entries:
        return ["{}"] * 11
    ids, debits, credits_, amounts, pending, timeouts, ledgers, codes, flags, causes, times = zip(
        *entries, strict=True
    )
    return [
        _ids(ids),
        _array(debits),
        _array(credits_),
        _array(amounts),
        _array([f"{identifier:032x}" if identifier else "NULL" for identifier in pending]),
        _array(timeouts),
        _array(ledgers),
        _array(codes),
        _array(flags),
        _array(times),
        _array([cause.hex() for cause in causes]),
    ]


def _array(values: Iterable[object]) -> str:
    """Numbers, hex digits or NULL as the text of an array."""
    return f"{{{','.join(map(str, values))}}}"


def _ids(identifiers: Iterable[int]) -> str:
    return _array([f"{identifier:032x}" for identifier in identifiers])


def _or_null(value: int | None) -> object:
    return "NULL" if value is None else value
