"""What must hold in a market's database at every moment, whatever happened before."""

from functools import partial
from typing import Any, Final

from market.service.market import Market
from market.store import public
from market.store.money import receipted_ms
from market.store.rows import Connection
from settlement.domain import reputation
from settlement.domain.ledger import Purpose
from settlement.domain.replay import Replay
from settlement.domain.reputation import Standing
from settlement.domain.statement import open_any
from settlement.domain.verdict import Verdict
from settlement.service.audit import check_invariants

_BALANCE: Final = (
    f"(SELECT COALESCE(sum(cr_posted - dr_posted), 0) FROM accounts WHERE purpose = {int(Purpose.BUDGET)}"
    " AND job = j.id)"
)
_OWED: Final = "a.purpose = 'work' AND a.state = 'accepted'"

RULES: Final = {
    "a closed job has nothing reserved, nothing open, and its budget account is empty": (
        "SELECT id::text FROM jobs AS j WHERE state = 'closed' AND (reserved <> 0"
        f" OR order_state <> 'closed' OR {_BALANCE} <> 0 OR refunded <> budget - spent"
        " OR EXISTS (SELECT 1 FROM leases WHERE job = j.id AND state <> 'closed')"
        " OR EXISTS (SELECT 1 FROM attempts WHERE job = j.id AND state IN ('handed', 'checking')))"
    ),
    "the budget account of an open job holds what is not spent": (
        f"SELECT id::text FROM jobs AS j WHERE state <> 'closed' AND {_BALANCE} <> budget - spent"
    ),
    "what is reserved are the caps of undecided attempts": (
        "SELECT id::text FROM jobs AS j WHERE reserved <> (SELECT COALESCE(sum(cap), 0) FROM attempts"
        " WHERE job = j.id AND state IN ('handed', 'checking'))"
    ),
    "what is spent are the charges of accepted work and of vouchers": (
        "SELECT id::text FROM jobs AS j WHERE spent <> (SELECT COALESCE(sum(charge + surcharge), 0)"
        f" FROM attempts AS a WHERE a.job = j.id AND {_OWED})"
        " + (SELECT COALESCE(sum(vouched), 0) FROM leases WHERE job = j.id)"
    ),
    "every voucher in the log is charged, and every charge without an attempt is a voucher's": (
        "SELECT COALESCE(encode(s.digest, 'hex'), c.receipt) FROM (SELECT digest FROM statements"
        " WHERE kind = 'voucher') AS s FULL JOIN (SELECT * FROM charges WHERE attempt IS NULL) AS c"
        " ON c.receipt = 'sha256:' || encode(s.digest, 'hex') WHERE (s.digest IS NULL OR c.receipt IS NULL)"
        # what was held when another market took over has no attempt here
        " AND NOT EXISTS (SELECT 1 FROM statements WHERE kind = 'takeover')"
    ),
    "no time of a lease is paid twice": (
        f"SELECT id::text FROM leases AS l WHERE vouched_ms > 0 AND vouched_ms + {receipted_ms('l.id')}"
        " > CASE WHEN state = 'closed' THEN closed_ms"
        " ELSE extract(epoch FROM clock_timestamp()) * 1000 + 3600000 END - granted_ms"
    ),
    "a withdrawal is a pending transfer, and decided as it says": (
        "SELECT w.transfer::text FROM withdrawals AS w LEFT JOIN transfers AS t ON t.id = w.transfer"
        " LEFT JOIN pending AS p ON p.id = w.transfer WHERE t.amount IS DISTINCT FROM w.amount"
        " OR (w.decision IS NOT NULL) <> (p.status IN (2, 3))"
    ),
    "accepted tasks are those of accepted work": (
        "SELECT id::text FROM jobs AS j WHERE accepted <> (SELECT COALESCE(sum(tasks), 0)"
        f" FROM attempts AS a WHERE a.job = j.id AND {_OWED})"
    ),
    "each accepted task has one delivered output, and nothing else has one": (
        "SELECT COALESCE(a.id, o.attempt)::text || ' task ' || COALESCE(task, o.index)"
        " FROM (SELECT a.id, generate_series(a.first, a.first + a.tasks - 1) AS task"
        f" FROM attempts AS a WHERE {_OWED}) AS a"
        " FULL JOIN (SELECT * FROM outputs WHERE position IS NOT NULL) AS o"
        " ON o.attempt = a.id AND o.index = a.task WHERE a.id IS NULL OR o.attempt IS NULL"
    ),
    "accepted work has one charge of what it earned, and so have paid checks, and nothing else": (
        "SELECT COALESCE(a.id, c.attempt)::text FROM (SELECT a.* FROM attempts AS a"
        f" WHERE {_OWED}) AS a FULL JOIN (SELECT * FROM charges WHERE attempt IS NOT NULL) AS c"
        " ON c.attempt = a.id"
        " WHERE (c.attempt IS NULL OR c.amount <> a.charge - a.fee OR c.receipt <> a.receipt"
        "   OR c.provider <> a.provider OR a.id IS NULL)"
        " AND NOT EXISTS (SELECT 1 FROM attempts AS k WHERE k.id = c.attempt AND k.purpose = 'check'"
        "   AND k.state = 'accepted' AND c.amount = k.charge - k.fee)"
    ),
    "intervals cover the tasks without hole or overlap": (
        "SELECT j.id::text FROM jobs AS j LEFT JOIN (SELECT job, sum(tasks) AS tasks, min(first) AS first,"
        " bool_and(fits) AS fits FROM (SELECT job, first, tasks, first = COALESCE(lag(first + tasks)"
        " OVER (PARTITION BY job ORDER BY first), 0) AS fits FROM intervals) AS i GROUP BY job) AS i"
        " ON i.job = j.id WHERE COALESCE(i.tasks, 0) <> j.tasks OR i.first <> 0 OR NOT i.fits"
    ),
    "an interval's holder is in the state that it says": (
        "SELECT i.job::text || ' ' || i.first FROM intervals AS i LEFT JOIN attempts AS a ON a.id = i.attempt"
        " WHERE i.state <> 'pending' AND (a.id IS NULL OR a.first <> i.first OR a.tasks <> i.tasks"
        " OR a.purpose <> 'work' OR a.state <> CASE i.state WHEN 'leased' THEN 'handed'"
        "  WHEN 'executed' THEN 'checking' ELSE 'accepted' END)"
    ),
    "work in hand stands in an interval": (
        "SELECT id::text FROM attempts AS a WHERE purpose = 'work' AND state IN ('handed', 'checking')"
        " AND NOT EXISTS (SELECT 1 FROM intervals WHERE attempt = a.id)"
    ),
    "what is in hand is in hand on a live lease": (
        "SELECT a.id::text FROM attempts AS a JOIN leases AS l ON l.id = a.lease"
        " WHERE a.state = 'handed' AND l.state = 'closed'"
    ),
    "a provider that failed a job holds no lease of it": (
        "SELECT l.id::text FROM leases AS l WHERE l.state <> 'closed' AND EXISTS (SELECT 1 FROM leases AS s"
        " WHERE s.job = l.job AND s.provider = l.provider AND s.reason = 'slashed')"
    ),
    "what a provider has in hold is what was charged and not released": (
        "SELECT encode(a.owner, 'hex') FROM accounts AS a WHERE a.purpose = "
        f"{int(Purpose.HELD)} AND a.cr_posted - a.dr_posted <> (SELECT COALESCE(sum(amount), 0) FROM charges"
        " WHERE provider = encode(a.owner, 'hex') AND state = 'charged')"
    ),
    "a decided receipt is in the log": (
        "SELECT id::text FROM attempts AS a WHERE receipt IS NOT NULL AND NOT EXISTS (SELECT 1 FROM statements"
        " WHERE digest = decode(substr(a.receipt, 8), 'hex'))"
    ),
    "every lease and order is in the log": (
        "SELECT digest FROM (SELECT statement AS digest FROM leases UNION ALL SELECT order_digest FROM jobs)"
        " AS named WHERE NOT EXISTS (SELECT 1 FROM statements"
        "  WHERE statements.digest = decode(substr(named.digest, 8), 'hex'))"
    ),
}


async def _broken(connection: Connection) -> list[tuple[str, str]]:
    return [(rule, row[0]) for rule, sql in RULES.items() for row in await connection.fetch(sql)]


async def _standings(connection: Connection, origin: str) -> None:
    """What the market says of providers is what the verdicts in its log add up to."""
    logged = await connection.fetch(
        "SELECT envelope FROM statements WHERE kind = 'verdict' ORDER BY idx"
    )
    opened = [open_any(row["envelope"], market=origin).statement for row in logged]
    verdicts = [statement for statement in opened if isinstance(statement, Verdict)]
    assert len(verdicts) == len(logged)
    stored = await connection.fetch("SELECT address, agreed, differed FROM providers")
    folded = reputation.fold({row["address"]: Standing() for row in stored}, verdicts)
    assert folded == {row["address"]: Standing(row["agreed"], row["differed"]) for row in stored}


async def _replayed(market: Market) -> None:
    """The log alone leads to the very state that the market has."""
    clock, lines = await market.transact(public.snapshot)
    rows = await market.transact(_envelopes, clock["log_size"])
    replay = Replay(market.origin)
    for row in rows:
        replay.feed(row["idx"], row["envelope"])
    assert replay.ledger_key == market.address
    assert replay.lines() == lines
    assert Replay.load(replay.dump()).dump() == replay.dump()


async def _envelopes(connection: Connection, size: int) -> list[Any]:
    rows: list[Any] = await connection.fetch(
        "SELECT idx, envelope FROM statements WHERE idx < $1 ORDER BY idx", size
    )
    return rows


async def assert_sound(market: Market) -> None:
    """Settlement's own audit, the market's rules above, and no conflict between transactions."""
    await _replayed(market)
    audit: Any = partial(check_invariants, market=market.origin)
    assert await market.database.run(audit) == []
    assert await market.transact(_broken) == []
    await market.transact(_standings, market.origin)
    assert market.database.retries == 0
