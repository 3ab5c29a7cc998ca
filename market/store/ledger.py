"""Reads over settlement's tables for people: balances, transfers, totals. Nothing here writes."""

import json
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


async def balances(connection: Connection, address: str) -> dict[Purpose, int]:
    """Posted balances of a party by purpose, micro-credits; budgets added up."""
    rows = await connection.fetch(
        "SELECT purpose, sum(cr_posted - dr_posted) AS balance FROM accounts WHERE owner = $1 GROUP BY purpose",
        bytes.fromhex(address),
    )
    found = {Purpose(row["purpose"]): int(row["balance"]) for row in rows}
    return {purpose: found.get(purpose, 0) for purpose in Purpose}


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
    """One consistent look at everything."""
    row = await connection.fetchrow(
        "SELECT (SELECT count(*) FROM accounts) AS accounts, (SELECT seq FROM clock) AS transfers,"
        " (SELECT log_size FROM clock) AS statements,"
        " COALESCE((SELECT max(size) FROM checkpoints), 0) AS checkpoint_size,"
        " (SELECT json_object_agg(purpose, balance::text) FROM (SELECT purpose, sum(cr_posted - dr_posted)"
        "   AS balance FROM accounts GROUP BY purpose) AS sums) AS sums"
    )
    sums = _purposes(row["sums"])
    return Totals(
        sums,
        sum(sums.values()),
        row["accounts"],
        row["transfers"],
        row["statements"],
        row["checkpoint_size"],
    )


def _purposes(text: str | None) -> dict[Purpose, int]:
    found = json.loads(text) if text else {}
    return {purpose: int(found.get(str(purpose.value), "0")) for purpose in Purpose}
