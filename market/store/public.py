"""Statements of what the market says about itself: charter, state, validators, cosignatures."""

from market.store.rows import Connection, Row
from settlement.domain.ledger import AccountKey, Purpose
from settlement.domain.reputation import Standing
from settlement.domain.state_lines import account_line, held_line, standing_line

TERMS_LOCK = 0x7465_726D  # "term"
LOCK_NOT_AVAILABLE = "55P03"
STATE_FILES_KEPT = 3  # whoever asked for an exit has its file; the log keeps the statements

_ACCOUNTS = """
SELECT owner, purpose, job, ledger, dr_pending, dr_posted, cr_pending, cr_posted FROM accounts
WHERE cr_posted <> dr_posted OR dr_pending <> 0 OR cr_pending <> 0"""


async def terms(connection: Connection) -> bytes | None:
    """The terms of the last charter; none before the first."""
    found: bytes | None = await connection.fetchval("SELECT terms FROM charter")
    return found


async def lock_terms(connection: Connection, *, wait_seconds: float) -> bool:
    """The terms alone, for a change of them; False while others live by them."""
    await connection.execute(f"SET lock_timeout = {int(wait_seconds * 1_000)}")
    try:
        await connection.execute("SELECT pg_advisory_lock($1)", TERMS_LOCK)
    except Exception as error:
        if getattr(error, "sqlstate", "") != LOCK_NOT_AVAILABLE:
            raise
        return False
    return True


async def unlock_terms(connection: Connection) -> None:
    await connection.execute("SELECT pg_advisory_unlock($1)", TERMS_LOCK)


async def share_terms(connection: Connection) -> None:
    """The terms with everybody who lives by them, until the connection ends."""
    await connection.execute("SET lock_timeout = 0")
    await connection.execute("SELECT pg_advisory_lock_shared($1)", TERMS_LOCK)


async def grace(connection: Connection) -> tuple[int, int]:
    """From when to when old statements are fresh, after a takeover."""
    row = await connection.fetchrow("SELECT grace_from_ms, grace_until_ms FROM charter")
    return (0, 0) if row is None else (row[0], row[1])


async def log_size(connection: Connection) -> tuple[int, int]:
    """How many entries the log has, and what the last state statement was about."""
    row = await connection.fetchrow(
        "SELECT log_size, COALESCE((SELECT max(size) FROM state_files), 0) FROM clock"
    )
    return row[0], row[1]


async def snapshot(connection: Connection) -> tuple[Row, list[bytes]]:
    """The clock's row and all state lines, of one moment: run it as the first work of a transaction."""
    await connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
    clock = await connection.fetchrow("SELECT ts, log_size, batch FROM clock")
    lines = []
    async for row in connection.cursor(_ACCOUNTS, prefetch=10_000):
        key = AccountKey(row["owner"].hex(), Purpose(row["purpose"]), row["job"], row["ledger"])
        counters = (row["dr_pending"], row["dr_posted"], row["cr_pending"], row["cr_posted"])
        lines.append(account_line(key, tuple(int(counter) for counter in counters)))
    charges = await connection.fetch(
        "SELECT provider, receipt, amount, release_after_ms FROM charges WHERE state = 'charged'"
    )
    lines += [
        held_line(
            provider=row["provider"], receipt=row["receipt"], amount=int(row["amount"]),
            release_ms=row["release_after_ms"],
        )
        for row in charges
    ]  # fmt: skip
    providers = await connection.fetch("SELECT address, agreed, differed FROM providers")
    lines += [
        standing_line(row["address"], Standing(row["agreed"], row["differed"])) for row in providers
    ]
    return clock, sorted(line for line in lines if line is not None)


async def newest_state(connection: Connection) -> Row | None:
    """What the newest state is about, without its lines."""
    row: Row | None = await connection.fetchrow(
        "SELECT size, statement, at_ms FROM state_files ORDER BY size DESC LIMIT 1"
    )
    return row


async def state_lines(connection: Connection, size: int) -> bytes | None:
    """The lines of a state that is kept."""
    lines: bytes | None = await connection.fetchval(
        "SELECT lines FROM state_files WHERE size = $1", size
    )
    return lines


async def proposals(connection: Connection, limit: int) -> list[Row]:
    """The newest proposals."""
    rows: list[Row] = await connection.fetch(
        "SELECT digest, members, quorum, approvals, state, at_ms FROM proposals ORDER BY at_ms DESC LIMIT $1",
        limit,
    )
    return rows
