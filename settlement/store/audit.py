"""Statements that recompute what the ledger's tables must agree on; each lists what does not."""

from typing import Any, Final

# Posted are plain transfers and posts; pending ones count while they are open; voids move nothing.
_RECOMPUTED: Final = """
WITH moved AS (
  SELECT t.id, t.dr, t.cr, CASE WHEN t.flags & 10 = 0 THEN t.amount ELSE 0 END AS posted,
    CASE WHEN t.flags & 2 <> 0 AND p.status = 1 THEN t.amount ELSE 0 END AS held
  FROM transfers AS t LEFT JOIN pending AS p ON p.id = t.id),
sides AS (
  SELECT dr AS account, held AS dr_pending, posted AS dr_posted, 0 AS cr_pending, 0 AS cr_posted FROM moved
  UNION ALL SELECT cr, 0, 0, held, posted FROM moved),
sums AS (
  SELECT account, sum(dr_pending) AS dr_pending, sum(dr_posted) AS dr_posted,
    sum(cr_pending) AS cr_pending, sum(cr_posted) AS cr_posted FROM sides GROUP BY account)
SELECT 'account ' || a.id FROM accounts AS a LEFT JOIN sums AS s ON s.account = a.id
WHERE (a.dr_pending, a.dr_posted, a.cr_pending, a.cr_posted) IS DISTINCT FROM
  (COALESCE(s.dr_pending, 0), COALESCE(s.dr_posted, 0), COALESCE(s.cr_pending, 0), COALESCE(s.cr_posted, 0))"""

RULES: Final = {
    "an account's counters are what its transfers add up to": _RECOMPUTED,
    "the sum over all accounts of a ledger is zero": (
        "SELECT 'ledger ' || ledger FROM accounts GROUP BY ledger"
        " HAVING sum(cr_posted - dr_posted) <> 0 OR sum(cr_pending - dr_pending) <> 0"
    ),
    "an account's limit holds": (
        "SELECT 'account ' || id FROM accounts WHERE (flags & 2 <> 0 AND dr_pending + dr_posted > cr_posted)"
        " OR (flags & 4 <> 0 AND cr_pending + cr_posted > dr_posted)"
    ),
    "a transfer's accounts exist, on its own ledger": (
        "SELECT 'transfer ' || t.id FROM transfers AS t LEFT JOIN accounts AS d ON d.id = t.dr"
        " LEFT JOIN accounts AS c ON c.id = t.cr"
        " WHERE (d.ledger, c.ledger) IS DISTINCT FROM (t.ledger, t.ledger)"
    ),
    "a transfer's cause is logged": (
        "SELECT 'transfer ' || t.id FROM transfers AS t"
        " WHERE NOT EXISTS (SELECT 1 FROM statements AS s WHERE s.digest = t.cause)"
    ),
    "a failed transfer never succeeds": (
        "SELECT 'transfer ' || id FROM transfers WHERE id IN (SELECT id FROM failed)"
    ),
    "every pending transfer has a state, and nothing else has": (
        "SELECT 'pending ' || COALESCE(t.id, p.id) FROM (SELECT id FROM transfers WHERE flags & 2 <> 0) AS t"
        " FULL JOIN pending AS p ON p.id = t.id WHERE t.id IS NULL OR p.id IS NULL"
    ),
    "a pending transfer resolves once, as its state says": (
        "SELECT 'pending ' || p.id FROM pending AS p LEFT JOIN transfers AS t ON t.pending_id = p.id"
        " GROUP BY p.id HAVING count(t.id) <> CASE WHEN p.status IN (2, 3) THEN 1 ELSE 0 END"
        " OR max(t.flags & 12) IS DISTINCT FROM CASE p.status WHEN 2 THEN 4 WHEN 3 THEN 8 END"
    ),
    "ledger time grows with the sequence": (
        "SELECT 'transfer ' || id FROM (SELECT id, ts, lag(ts) OVER (ORDER BY seq) AS before FROM transfers)"
        " AS t WHERE ts <= before"
    ),
    "sequence, log and batches have no gap and end where the clock stands": (
        "SELECT name FROM (SELECT 'transfers' AS name, count(*) AS n, COALESCE(max(seq), 0) AS last,"
        " (SELECT seq FROM clock) AS stands FROM transfers"
        " UNION ALL SELECT 'statements', count(*), COALESCE(max(idx) + 1, 0), (SELECT log_size FROM clock)"
        " FROM statements"
        " UNION ALL SELECT 'batches', count(*), COALESCE(max(number), 0), (SELECT batch FROM clock) FROM batches"
        ") AS counted WHERE n <> last OR n <> stands"
    ),
    "batches follow one another": (
        "SELECT 'batch ' || number FROM (SELECT number, seq_first,"
        " COALESCE(lag(seq_last) OVER (ORDER BY number), 0) AS before FROM batches) AS b"
        " WHERE seq_first <> before + 1"
    ),
}


async def broken(connection: Any) -> list[tuple[str, str]]:
    """Rule and row, for everything that breaks a rule."""
    return [(rule, row[0]) for rule, sql in RULES.items() for row in await connection.fetch(sql)]


async def heads(connection: Any) -> dict[int, tuple[bytes, str]]:
    """Root and note of every checkpoint by its size."""
    rows = await connection.fetch("SELECT size, root, note FROM checkpoints")
    return {row["size"]: (row["root"], row["note"]) for row in rows}


async def statements(connection: Any, *, first: int, count: int) -> list[Any]:
    """The log's rows from a position on."""
    rows: list[Any] = await connection.fetch(
        "SELECT idx, digest, kind, signer, envelope FROM statements WHERE idx >= $1 ORDER BY idx LIMIT $2",
        first,
        count,
    )
    return rows
