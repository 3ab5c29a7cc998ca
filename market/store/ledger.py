"""Reads over settlement's tables for people: balances, transfers, totals. Nothing here writes."""

from dataclasses import dataclass

from market.store.rows import Connection, Row
from settlement.domain.ledger import Purpose

_NAMED = """
SELECT t.seq, t.id, t.amount, t.code, t.cause, t.ts, d.owner AS dr_owner, d.purpose AS dr_purpose,
  d.job AS dr_job, c.owner AS cr_owner, c.purpose AS cr_purpose, c.job AS cr_job
FROM transfers AS t JOIN accounts AS d ON d.id = t.dr JOIN accounts AS c ON c.id = t.cr"""


@dataclass(frozen=True, slots=True)
class Totals:
    """Posted balances (credits − debits) by purpose; their sum is 0 or something is very wrong."""

    by_purpose: dict[Purpose, int]
    sum: int
    accounts: int
    transfers: int
    statements: int
    checkpoint_size: int


async def time_ns(connection: Connection) -> int:
    """The ledger's time, after all that it did so far."""
    found: int = await connection.fetchval("SELECT ts FROM clock")
    return found


async def balances(connection: Connection, address: str) -> dict[Purpose, int]:
    """Posted balances of a party by purpose, micro-credits; budgets added up."""
    rows = await connection.fetch(
        "SELECT purpose, sum(cr_posted - dr_posted) AS balance FROM accounts WHERE owner = $1 GROUP BY purpose",
        bytes.fromhex(address),
    )
    found = {Purpose(row["purpose"]): int(row["balance"]) for row in rows}
    return {purpose: found.get(purpose, 0) for purpose in Purpose}


async def balance(connection: Connection, address: str, purpose: Purpose) -> int:
    """One account's posted balance, micro-credits; 0 when it was never opened."""
    value = await connection.fetchval(
        "SELECT cr_posted - dr_posted FROM accounts WHERE owner = $1 AND purpose = $2 AND job IS NULL",
        bytes.fromhex(address),
        int(purpose),
    )
    return int(value or 0)


async def transfers(connection: Connection, address: str, *, after: int, limit: int) -> list[Row]:
    """Transfers of a party in the ledger's order."""
    rows: list[Row] = await connection.fetch(
        f"{_NAMED} WHERE t.seq > $2 AND (t.dr IN (SELECT id FROM accounts WHERE owner = $1)"
        " OR t.cr IN (SELECT id FROM accounts WHERE owner = $1)) ORDER BY t.seq LIMIT $3",
        bytes.fromhex(address),
        after,
        limit,
    )
    return rows


async def totals(connection: Connection) -> Totals:
    """One consistent look at everything: a single statement, so a single snapshot."""
    rows = await connection.fetch(
        "SELECT (SELECT count(*) FROM accounts) AS accounts, clock.seq AS transfers,"
        " clock.log_size AS statements,"
        " COALESCE((SELECT max(size) FROM checkpoints), 0) AS checkpoint_size, sums.purpose, sums.balance"
        " FROM clock LEFT JOIN (SELECT purpose, sum(cr_posted - dr_posted) AS balance FROM accounts"
        " GROUP BY purpose) AS sums ON true"
    )
    sums = dict.fromkeys(Purpose, 0)
    sums |= {Purpose(row["purpose"]): int(row["balance"]) for row in rows if row["purpose"]}
    first = rows[0]
    return Totals(
        sums,
        sum(sums.values()),
        first["accounts"],
        first["transfers"],
        first["statements"],
        first["checkpoint_size"],
    )
