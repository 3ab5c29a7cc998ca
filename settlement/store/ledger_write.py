"""The one statement that writes a batch: the baton first, and everything else only if it was had.

It names the clock it was decided on. If the row says anything else, another process has written in
between, and nothing at all happens; so the statement may be sent without asking before, and be a
transaction of its own.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from settlement.domain.ledger import Entry
from settlement.domain.ledger_rules import State, expires_ns
from settlement.store.ledger import Clock, array_text, ids_text

# Arrays come as texts: the driver's own arrays cost it more than all else that a batch needs. A
# column that has one value throughout comes as that value: arrays that are too short end in NULLs.
_BATON: Final = """baton AS (UPDATE clock SET ts = $1, seq = $2, log_size = $3, batch = $4
    WHERE (ts, seq, log_size, batch) = ($5, $6, $7, $8) RETURNING batch),
  batched AS (INSERT INTO batches (number, seq_first, seq_last, ts_last, events)
    SELECT $4, $6 + 1, $2, $1, $9::int WHERE EXISTS (SELECT FROM baton))"""
_MOVED: Final = """moved AS (UPDATE accounts AS a
    SET dr_pending = w.dp, dr_posted = w.dd, cr_pending = w.cp, cr_posted = w.cc
    FROM unnest({}::text::bigint[], {}::text::numeric[], {}::text::numeric[], {}::text::numeric[],
      {}::text::numeric[]) AS w(id, dp, dd, cp, cc)
    WHERE a.id = w.id AND EXISTS (SELECT FROM baton))"""
_MADE: Final = """made AS (INSERT INTO transfers
      (seq, id, dr, cr, amount, pending_id, timeout_s, ledger, code, flags, ts, cause)
    SELECT $6 + w.n, w.id, w.dr, w.cr, w.amount, w.pending_id, COALESCE(w.timeout_s, {}),
      COALESCE(w.ledger, {}), COALESCE(w.code, {}), COALESCE(w.flags, {}),
      COALESCE(w.ts, {}::bigint + w.n), COALESCE(decode(w.cause, 'hex'), {})
    FROM unnest({}::text::uuid[], {}::text::bigint[], {}::text::bigint[], {}::text::numeric[],
      {}::text::uuid[], {}::text::int[], {}::text::int[], {}::text::int[], {}::text::int[],
      {}::text::bigint[], {}::text::text[]) WITH ORDINALITY
      AS w(id, dr, cr, amount, pending_id, timeout_s, ledger, code, flags, ts, cause, n)
    WHERE EXISTS (SELECT FROM baton))"""
_STOOD: Final = """stood AS (INSERT INTO pending (id, status, expires_at)
    SELECT * FROM unnest({}::text::uuid[], {}::text::smallint[], {}::text::bigint[])
    WHERE EXISTS (SELECT FROM baton)
    ON CONFLICT (id) DO UPDATE SET status = EXCLUDED.status)"""
_BURNT: Final = """burnt AS (INSERT INTO failed (id, code)
    SELECT * FROM unnest({}::text::uuid[], {}::text::smallint[]) WHERE EXISTS (SELECT FROM baton))"""
_LOGGED: Final = """logged AS (INSERT INTO statements (idx, digest, kind, signer, envelope)
    SELECT $7 - 1 + w.n, decode(w.digest, 'hex'), w.kind, decode(w.signer, 'hex'), w.envelope
    FROM unnest({}::text::text[], {}::text[], {}::text::text[], {}::bytea[]) WITH ORDINALITY
      AS w(digest, kind, signer, envelope, n)
    WHERE EXISTS (SELECT FROM baton))"""
_COMMON: Final = 9  # parameters of the baton's own part
_NULL: Final = "NULL"


@dataclass(frozen=True, slots=True)
class Logged:
    """A statement for the log; its position follows from its place among the batch's."""

    digest: bytes
    kind: str
    signer: str  # in hex
    envelope: bytes


class Writing(NamedTuple):
    """A batch as the database takes it, and the clock after it."""

    sql: str
    arguments: tuple[Any, ...]
    after: Clock


async def write(connection: Any, writing: Writing) -> bool:
    """Everything a batch changed, in one statement; False: not a thing, the clock says otherwise."""
    return await connection.fetchval(writing.sql, *writing.arguments) is not None


def compose(
    clock: Clock, state: State, statements: Sequence[Logged], *, ts: int, events: int
) -> Writing:
    """What a batch changed in the ledger and the log, decided on that clock."""
    after = Clock(
        ts, clock.seq + len(state.created), clock.log_size + len(statements), clock.batch + 1
    )
    arguments: list[Any] = [*after, *clock, events]
    parts = []
    for part, columns in (
        (_MOVED, _moved(state)),
        (_MADE, _made(list(state.created.values()))),
        (_STOOD, _stood(state)),
        (_BURNT, _burnt(state)),
        (_LOGGED, _logged(statements)),
    ):
        if columns:
            parts.append(part)
            arguments += columns
    return Writing(_statement(tuple(parts)), tuple(arguments), after)


@functools.cache
def _statement(parts: tuple[str, ...]) -> str:
    """The statement of these parts: what a batch does not need, it does not pay for."""
    numbered, last = [_BATON], _COMMON
    for part in parts:
        count = part.count("{}")
        numbered.append(part.format(*[f"${last + at}" for at in range(1, count + 1)]))
        last += count
    return f"WITH {', '.join(numbered)} SELECT batch FROM baton"


def _moved(state: State) -> list[Any]:
    accounts = [state.accounts[identifier] for identifier in sorted(state.touched)]
    if not accounts:
        return []
    return [
        array_text([account.id for account in accounts]),
        array_text([account.debits_pending for account in accounts]),
        array_text([account.debits_posted for account in accounts]),
        array_text([account.credits_pending for account in accounts]),
        array_text([account.credits_posted for account in accounts]),
    ]


def _made(entries: Sequence[Entry]) -> list[Any]:
    """The new transfers, column by column."""
    if not entries:
        return []
    ids, debits, credits_, amounts, pending, timeouts, ledgers, codes, flags, causes, times = zip(
        *entries, strict=True
    )
    first_ns = times[0] - 1
    apart = times[-1] - first_ns != len(times)  # where some failed, their times are missing
    cause, further = _constant(causes)
    columns = [_constant(column) for column in (timeouts, ledgers, codes, flags)]
    return [
        *[value for value, _ in columns],
        first_ns,
        cause,
        ids_text(ids),
        array_text(debits),
        array_text(credits_),
        array_text(amounts),
        array_text([f"{identifier:032x}" if identifier else _NULL for identifier in pending])
        if any(pending)
        else "{}",
        *[array_text(values) for _, values in columns],
        array_text(times if apart else ()),
        array_text([value.hex() for value in further]),
    ]


def _constant(column: Sequence[Any]) -> tuple[Any, Sequence[Any]]:
    """A first value, and the column itself if it has another one."""
    first = column[0]
    return (first, ()) if column.count(first) == len(column) else (first, column)


def _stood(state: State) -> list[Any]:
    stood = state.resolved
    if not stood:
        return []
    expiries = [expires_ns(state.transfers[identifier]) for identifier in stood]
    return [
        ids_text(stood),
        array_text(map(int, stood.values())),
        array_text([_NULL if at_ns is None else at_ns for at_ns in expiries]),
    ]


def _burnt(state: State) -> list[Any]:
    if not state.burnt:
        return []
    return [ids_text(state.burnt), array_text(map(int, state.burnt.values()))]


def _logged(statements: Sequence[Logged]) -> list[Any]:
    if not statements:
        return []
    return [
        array_text([statement.digest.hex() for statement in statements]),
        [statement.kind for statement in statements],
        array_text([statement.signer for statement in statements]),
        [statement.envelope for statement in statements],
    ]
