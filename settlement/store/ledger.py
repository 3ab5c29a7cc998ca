"""Statements of the ledger's engine; asyncpg, because every payment of the market runs through them."""

from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple
from uuid import UUID

from settlement.domain.ledger import Account, AccountKey, Code, Entry, PendingState, Purpose
from settlement.domain.ledger_rules import State

EXPIRIES_MAX: Final = 512  # released in one batch, which one statement tells; the rest in the next

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

_DEADLINE = "SELECT expires_at FROM pending WHERE status = 1 AND expires_at IS NOT NULL ORDER BY expires_at LIMIT 1"

_NEWEST = """
SELECT (SELECT id FROM transfers WHERE id < $1 ORDER BY id DESC LIMIT 1),
  (SELECT id FROM failed WHERE id < $1 ORDER BY id DESC LIMIT 1)"""

_WITHIN = """
(SELECT id FROM transfers WHERE id >= $1 AND id < $2 LIMIT $3)
UNION ALL
(SELECT id FROM failed WHERE id >= $1 AND id < $2 LIMIT $3)"""


class Clock(NamedTuple):
    """The baton's row: ledger time, last sequence number, size of the log, last batch."""

    ts: int
    seq: int
    log_size: int
    batch: int


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
    found = await find_accounts(connection, keys)
    if len(found) < len(keys):
        limits = [int(key.limit) for key in keys]
        await connection.execute(_ACCOUNTS_OPEN, *_key_columns(keys), limits)
        found = await find_accounts(connection, keys)
    return found


async def find_accounts(connection: Any, keys: Sequence[AccountKey]) -> dict[AccountKey, Account]:
    """The accounts of those of these keys that were opened."""
    if not keys:
        return {}
    rows = await connection.fetch(_ACCOUNTS_LOAD, *_key_columns(keys))
    return {
        AccountKey(
            row["owner"].hex(), Purpose(row["purpose"]), row["job"], row["ledger"]
        ): _account(row)
        for row in rows
    }


def _key_columns(keys: Sequence[AccountKey]) -> tuple[list[Any], ...]:
    return (
        [bytes.fromhex(key.owner) for key in keys],
        [int(key.purpose) for key in keys],
        [key.job for key in keys],
        [key.ledger for key in keys],
    )


def _account(row: Any) -> Account:
    return Account(
        row["id"], row["ledger"], row["flags"], int(row["dr_pending"]), int(row["dr_posted"]),
        int(row["cr_pending"]), int(row["cr_posted"]),
    )  # fmt: skip


async def accounts(connection: Any, numbers: Sequence[int]) -> dict[int, Account]:
    """The accounts of these numbers."""
    rows = await connection.fetch(_ACCOUNTS_AGAIN, array_text(numbers))
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
    for row in await connection.fetch(_LOAD, due_ns, EXPIRIES_MAX, ids_text(ids), digests):
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


def array_text(values: Iterable[object]) -> str:
    """Numbers, hex digits or NULL as the text of an array."""
    return f"{{{','.join(map(str, values))}}}"


def ids_text(identifiers: Iterable[int]) -> str:
    return array_text([f"{identifier:032x}" for identifier in identifiers])


async def newest(connection: Any, below: int) -> int:
    """What no transfer's id and no burnt one below a bound reaches."""
    row = await connection.fetchrow(_NEWEST, UUID(int=below))
    return max((last.int for last in row if last is not None), default=-1) + 1


async def ids_within(connection: Any, first: int, end: int, most: int) -> list[int]:
    """The ids of transfers and the burnt ones from `first` to before `end`."""
    rows = await connection.fetch(_WITHIN, UUID(int=first), UUID(int=end), most)
    return [row[0].int for row in rows]


async def deadline(connection: Any) -> int | None:
    """The first deadline of all open pending transfers."""
    found: int | None = await connection.fetchval(_DEADLINE)
    return found


async def is_due(connection: Any, at_ns: int) -> bool:
    """Whether a pending transfer's time has come."""
    found: bool = await connection.fetchval(
        "SELECT EXISTS (SELECT FROM pending WHERE status = 1 AND expires_at <= $1)", at_ns
    )
    return found
