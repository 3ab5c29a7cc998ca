"""Guards and changes that ride in the ledger's batches, by name: what changes with money or the log.

A guard takes its rows FOR UPDATE and answers one boolean; a change runs only when its item applies.
Every change of a state names the states it may leave, so that no update can skip a table's step.
Whoever changes a job, its leases, intervals or attempts locks the job's row first, then at most a
provider's: one order for all, so nobody deadlocks.
"""

from typing import Final

from market.domain import attempt, interval, job, lease, order
from market.domain.transition import sources
from market.store import money


def _from(*states: str) -> str:
    return "(" + ", ".join(f"'{state}'" for state in states) + ")"


def _attempt_guard(condition: str) -> str:
    """The job's row is locked before the attempt's, whose newest version then decides."""
    return (
        "WITH locked AS MATERIALIZED (SELECT id FROM jobs"
        " WHERE id = (SELECT job FROM attempts WHERE id = $1) FOR UPDATE)"
        f" SELECT {condition} FROM attempts WHERE id = $1 AND EXISTS (SELECT 1 FROM locked) FOR UPDATE"
    )


_TO_CHECK = _from(*sources(attempt.TRANSITIONS, attempt.AttemptEvent.CHECK))
_TO_ACCEPT = _from(*sources(attempt.TRANSITIONS, attempt.AttemptEvent.ACCEPT))
_TO_LOSE = _from(*sources(attempt.TRANSITIONS, attempt.AttemptEvent.LOSE))
_TO_REJECT = _from(*sources(attempt.TRANSITIONS, attempt.AttemptEvent.REJECT))
_INTERVAL_EXECUTE = _from(*sources(interval.TRANSITIONS, interval.IntervalEvent.EXECUTE))
_INTERVAL_ACCEPT = _from(*sources(interval.TRANSITIONS, interval.IntervalEvent.ACCEPT))
_INTERVAL_RETURN = _from(*sources(interval.TRANSITIONS, interval.IntervalEvent.RETURN))
_JOB_LEASED = _from(*sources(job.TRANSITIONS, job.JobEvent.LEASED))
_JOB_COMPLETE = _from(*sources(job.TRANSITIONS, job.JobEvent.COMPLETED))
_JOB_SETTLE = _from(*sources(job.TRANSITIONS, job.JobEvent.SETTLED))
_LEASE_END = _from(*sources(lease.TRANSITIONS, lease.LeaseEvent.ENDED))
_ORDER_FILL = _from(*sources(order.TRANSITIONS, order.OrderEvent.FILLED))


def _job_progress(job: str, *, tasks: str, paid: str, cap: str, at_ms: str, task_us: str) -> str:
    """Tasks were accepted; the last of a sealed job make it complete.

    The measured time is a mean by tasks, in which what came before counts three times at most.
    """
    complete = f"sealed AND accepted + {tasks} = tasks"
    before = f"least(accepted, 3 * {tasks})"
    return (
        f"UPDATE jobs SET accepted = accepted + {tasks}, spent = spent + {paid},"
        f" reserved = reserved - {cap}, touched_ms = {at_ms}, task_us = CASE WHEN task_us IS NULL THEN {task_us}"
        f" ELSE (task_us * {before} + {task_us} * {tasks}) / ({before} + {tasks}) END,"
        f" state = CASE WHEN {complete} AND state IN {_JOB_COMPLETE} THEN 'finishing' ELSE state END,"
        f" reason = CASE WHEN {complete} AND state IN {_JOB_COMPLETE} THEN 'done' ELSE reason END,"
        f" order_state = CASE WHEN {complete} AND order_state IN {_ORDER_FILL} THEN 'closed'"
        f" ELSE order_state END WHERE id = {job}"
    )


GUARDS: Final[dict[str, str]] = {
    "job_absent": "SELECT NOT EXISTS (SELECT 1 FROM jobs WHERE id = $1)",
    # holds off all items of the job, also those whose own guards name an attempt alone
    "job_there": "SELECT true FROM jobs WHERE id = $1 FOR UPDATE",
    "job_open": (
        f"SELECT state IN {_JOB_LEASED} AND order_state = 'open' FROM jobs WHERE id = $1 FOR UPDATE"
    ),
    "job_settled": (  # and nothing was paid since its sum was read
        f"SELECT state IN {_JOB_SETTLE} AND spent = $2 AND NOT EXISTS (SELECT 1 FROM attempts WHERE job = $1"
        " AND state IN ('handed', 'checking')) FROM jobs WHERE id = $1 FOR UPDATE"
    ),
    "job_fundable": (
        f"SELECT state IN {_JOB_LEASED} AND consumer = $2 FROM jobs WHERE id = $1 FOR UPDATE"
    ),
    "offer_stands": (
        "SELECT offer = $2 AND connected AND NOT draining FROM providers WHERE address = $1 FOR UPDATE"
    ),
    "offer_newer": "SELECT COALESCE((SELECT offer_at_ms < $2 FROM providers WHERE address = $1 FOR UPDATE), true)",
    "attempt_handed": _attempt_guard("state = 'handed' AND tries = $2"),
    "attempt_checking": _attempt_guard("state = 'checking' AND tries = $2"),
    # as it was priced: no voucher has paid a part of its time since
    "attempt_payable": _attempt_guard(
        "state = 'handed' AND tries = $2"
        " AND (SELECT vouched_ms FROM leases WHERE id = attempts.lease) = $3"
    ),
    "charge_absent": _attempt_guard(
        "state = 'accepted' AND tries = $2"
        " AND NOT EXISTS (SELECT 1 FROM charges WHERE attempt = attempts.id)"
    ),
    "charter_differs": "SELECT NOT EXISTS (SELECT 1 FROM charter WHERE terms = $1)",
    "state_newer": (  # and not so old, after a slow snapshot, that no replay takes it
        "SELECT NOT EXISTS (SELECT 1 FROM state_files WHERE size >= $1)"
        " AND (SELECT log_size FROM clock) <= $1 + $2"
    ),
    # whatever settles a proposal drops the others: so all of them name one thing, and never share a batch
    "proposal_open": (
        "SELECT state = 'open' AND NOT approvals @> ARRAY[$2::text] AND $3::text IS NOT NULL"
        " FROM proposals WHERE digest = $1 FOR UPDATE"
    ),
    "proposals_alone": "SELECT $1::text IS NOT NULL",
    "charges_due": (  # just as many as the release says: charges are made under the baton only
        "SELECT count(*) = $3 FROM (SELECT 1 FROM charges WHERE provider = $1 AND state = 'charged'"
        " AND release_after_ms <= $2 FOR UPDATE) AS due"
    ),
}

CHANGES: Final[dict[str, str]] = {
    "job_insert": (
        "INSERT INTO jobs (id, consumer, order_digest, spec, spec_digest, environment, state,"
        " order_state, tasks_max, tasks, sealed, slots, rate_cap, budget, created_ms, touched_ms,"
        " deadline_ms) VALUES ($1, $2, $3, $4, $5, $6, 'open', 'open', $7, $8, $9, $10, $11, $12, $13,"
        " $13, $14)"
    ),
    "tasks_insert": (
        "INSERT INTO tasks (job, index, digest, size, body)"
        " SELECT $1, $2 + n - 1, digest, size, body"
        " FROM unnest($3::text[], $4::bigint[], $5::bytea[]) WITH ORDINALITY AS t(digest, size, body, n)"
    ),
    "interval_insert": "INSERT INTO intervals (job, first, tasks, state) VALUES ($1, $2, $3, 'pending')",
    "event": "INSERT INTO job_events (job, at_ms, kind, detail) VALUES ($1, $2, $3, $4)",
    "notify": "SELECT pg_notify('gridpact', $1)",
    "environment_keep": (
        "INSERT INTO environments (digest, manifest) VALUES ($1, $2) ON CONFLICT (digest) DO NOTHING"
    ),
    "offer_put": (
        "INSERT INTO providers (address, name, offer, offer_at_ms, offer_expires_ms, terms)"
        " VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (address) DO UPDATE SET name = EXCLUDED.name,"
        " offer = EXCLUDED.offer, offer_at_ms = EXCLUDED.offer_at_ms,"
        " offer_expires_ms = EXCLUDED.offer_expires_ms, terms = EXCLUDED.terms, draining = false"
    ),
    "offer_environments": (
        "WITH gone AS (DELETE FROM offer_environments WHERE provider = $1 AND digest <> ALL($2::text[]))"
        " INSERT INTO offer_environments (provider, digest) SELECT $1, unnest($2::text[])"
        " ON CONFLICT DO NOTHING"
    ),
    "lease_insert": (
        "INSERT INTO leases (id, job, provider, statement, offer, cpus_milli, memory_mib, gpus, rate,"
        " state, granted_ms, worked_ms, deadline_ms)"
        " VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, 'granted', $10, $10, $11)"
    ),
    "job_leased": f"UPDATE jobs SET state = 'running' WHERE id = $1 AND state IN {_JOB_LEASED}",
    "job_funded": "UPDATE jobs SET budget = budget + $2 WHERE id = $1",
    "leases_resumed": "UPDATE leases SET state = 'active' WHERE job = $1 AND state = 'paused'",
    "attempt_checking": (
        "UPDATE attempts SET state = 'checking', receipt = $2, leaves = $3, received_ms = $4,"
        " wall_ms = $5, cpu_ms = $6, protection = $7, charge = $8, fee = $9, surcharge = $10"
        f" WHERE id = $1 AND state IN {_TO_CHECK}"
    ),
    "attempt_accept": (
        "UPDATE attempts SET state = 'accepted', leaves = NULL, receipt = $2, received_ms = $3,"
        " wall_ms = $4, cpu_ms = $5, protection = $6, charge = $7, fee = $8, surcharge = $9"
        f" WHERE id = $1 AND state IN {_TO_ACCEPT}"
    ),
    "attempt_unpaid_since": "UPDATE attempts SET handed_ms = $2 WHERE id = $1",
    "attempt_confirm": (
        f"UPDATE attempts SET state = 'accepted', leaves = NULL WHERE id = $1 AND state IN {_TO_ACCEPT}"
    ),
    "attempt_reject": (
        "UPDATE attempts SET state = 'rejected', leaves = NULL, charge = 0, fee = 0, surcharge = 0,"
        f" reason = $2, receipt = COALESCE(receipt, $3) WHERE id = $1 AND state IN {_TO_REJECT}"
    ),
    "interval_execute": (
        f"UPDATE intervals SET state = 'executed' WHERE attempt = $1 AND state IN {_INTERVAL_EXECUTE}"
    ),
    "interval_accept": (
        f"UPDATE intervals SET state = 'accepted' WHERE attempt = $1 AND state IN {_INTERVAL_ACCEPT}"
    ),
    "interval_return": (
        "UPDATE intervals SET state = 'pending', attempt = NULL"
        f" WHERE attempt = $1 AND state IN {_INTERVAL_RETURN}"
    ),
    "outputs_keep": (
        "INSERT INTO outputs (attempt, index, job, status, digest, size, body, log)"
        " SELECT $1, $2 + n - 1, $3, status, digest, size, body, log FROM unnest($4::text[], $5::text[],"
        " $6::bigint[], $7::bytea[], $8::text[]) WITH ORDINALITY AS t(status, digest, size, body, log, n)"
    ),
    "outputs_deliver": (
        "UPDATE outputs SET position = nextval('result_positions') WHERE attempt = $1 AND position IS NULL"
    ),
    "job_progress": _job_progress("$1", tasks="$2", paid="$3", cap="$4", at_ms="$5", task_us="$6"),
    "job_measured": "UPDATE jobs SET task_us = COALESCE(task_us, $2) WHERE id = $1",
    "chunk_accept": (  # the common case in one statement: each costs a round trip under the baton
        "WITH decided AS (UPDATE attempts SET state = 'accepted', receipt = $2, received_ms = $3,"
        " wall_ms = $4, cpu_ms = $5, protection = $6, charge = $7, fee = $8, surcharge = $9"
        f" WHERE id = $1 AND state IN {_TO_ACCEPT}),"
        " done AS (UPDATE intervals SET state = 'accepted'"
        f" WHERE attempt = $1 AND state IN {_INTERVAL_ACCEPT}),"
        f" progress AS ({_job_progress('$10', tasks='$12', paid='$13', cap='$14', at_ms='$3', task_us='$15')}),"
        " worked AS (UPDATE leases SET chunks = chunks + 1, worked_ms = $3 WHERE id = $16),"
        " earned AS (UPDATE providers SET receipts = receipts + 1, wall_ms = wall_ms + $4,"
        " earned = earned + $18 WHERE address = $17),"
        " held AS (INSERT INTO charges (receipt, attempt, provider, amount, state, release_after_ms)"
        " VALUES ($2, $1, $17, $18, 'charged', $19)),"
        " kept AS (INSERT INTO outputs (attempt, index, job, position, status, digest, size, body, log)"
        " SELECT $1, $11 + n - 1, $10, nextval('result_positions'), status, digest, size, body, log"
        " FROM unnest($20::text[], $21::text[], $22::bigint[], $23::bytea[], $24::text[])"
        " WITH ORDINALITY AS t(status, digest, size, body, log, n) ORDER BY n),"
        " told AS (INSERT INTO job_events (job, at_ms, kind, detail) VALUES ($10, $3, 'accepted', $25))"
        " SELECT pg_notify('gridpact', $26)"
    ),
    "job_unreserve": "UPDATE jobs SET reserved = reserved - $2 WHERE id = $1",
    "lease_progress": "UPDATE leases SET chunks = chunks + 1, worked_ms = $2 WHERE id = $1",
    "attempts_bar": (  # all that these providers have open in the job, checks and checked alike
        "WITH gone AS (UPDATE attempts SET leaves = NULL, charge = 0, fee = 0, surcharge = 0, reason = $3,"
        f" state = CASE WHEN state IN {_TO_LOSE} THEN 'lost' ELSE 'rejected' END"
        f" WHERE job = $1 AND provider = ANY($2::text[]) AND (state IN {_TO_LOSE} OR state IN {_TO_REJECT})"
        " RETURNING id, cap), back AS (UPDATE intervals SET state = 'pending', attempt = NULL FROM gone"
        f" WHERE intervals.attempt = gone.id AND intervals.state IN {_INTERVAL_RETURN})"
        " UPDATE jobs SET reserved = reserved - (SELECT COALESCE(sum(cap), 0) FROM gone) WHERE id = $1"
    ),
    "leases_bar": (
        "UPDATE leases SET state = 'closed', reason = 'slashed', detail = $3, closed_ms = $4"
        f" WHERE job = $1 AND provider = ANY($2::text[]) AND state IN {_LEASE_END}"
    ),
    "provider_progress": (
        "UPDATE providers SET receipts = receipts + 1, wall_ms = wall_ms + $2, earned = earned + $3"
        " WHERE address = $1"
    ),
    "provider_verdict": (
        "UPDATE providers SET agreed = agreed + $2, differed = differed + $3 WHERE address = $1"
    ),
    "charge_insert": (
        "INSERT INTO charges (receipt, attempt, provider, amount, state, release_after_ms)"
        " VALUES ($1, $2, $3, $4, 'charged', $5)"
    ),
    "charter_put": (
        "INSERT INTO charter (one, terms) VALUES (true, $1) ON CONFLICT (one) DO UPDATE SET terms = EXCLUDED.terms"
    ),
    "state_put": (
        "WITH old AS (DELETE FROM state_files WHERE size < (SELECT min(size) FROM (SELECT size"
        " FROM state_files ORDER BY size DESC LIMIT $6 - 1) AS kept))"
        " INSERT INTO state_files (size, statement, root, at_ms, lines) VALUES ($1, $2, $3, $4, $5)"
    ),
    "validators_first": (  # nobody has to agree while there is nobody
        "INSERT INTO validator_set (one, members, quorum) VALUES (true, $1, $2) ON CONFLICT (one) DO UPDATE"
        " SET members = EXCLUDED.members, quorum = EXCLUDED.quorum WHERE cardinality(validator_set.members) = 0"
    ),
    "proposal_put": (
        "INSERT INTO proposals (digest, members, quorum, state, at_ms) SELECT $1, $2, $3, CASE WHEN EXISTS"
        " (SELECT 1 FROM validator_set WHERE cardinality(members) > 0) THEN 'open' ELSE 'taken' END, $4"
    ),
    "proposal_approve": "UPDATE proposals SET approvals = approvals || $2::text WHERE digest = $1",
    "proposal_settle": (  # a quorum of the present set; whatever else was open was for the set before
        "WITH enough AS (SELECT p.digest, p.members, p.quorum FROM proposals AS p, validator_set AS v"
        " WHERE p.digest = $1 AND p.state = 'open' AND cardinality(p.approvals) >= v.quorum),"
        " put AS (UPDATE validator_set SET members = enough.members, quorum = enough.quorum FROM enough)"
        " UPDATE proposals SET state = CASE WHEN proposals.digest = enough.digest THEN 'taken' ELSE 'dropped' END"
        " FROM enough WHERE proposals.state = 'open'"
    ),
    "charges_release": (
        "UPDATE charges SET state = 'released' WHERE provider = $1 AND state = 'charged'"
        " AND release_after_ms <= $2"
    ),
    "job_close": (
        "UPDATE jobs SET state = 'closed', order_state = 'closed', closed_ms = $2,"
        " refunded = budget - spent, reserved = 0"
        f" WHERE id = $1 AND state IN {_JOB_SETTLE}"
    ),
    "leases_end": (
        "UPDATE leases SET state = 'closed', reason = $2, closed_ms = $3"
        f" WHERE job = $1 AND state IN {_LEASE_END}"
    ),
    "leases_notify": (
        "SELECT pg_notify('gridpact', 'p' || provider) FROM (SELECT DISTINCT provider FROM leases"
        " WHERE job = $1 AND (state <> 'closed' OR closed_ms = $2)) AS concerned"
    ),
}

STATEMENTS: Final[dict[str, str]] = {
    **{f"guard:{name}": sql for name, sql in money.GUARDS.items()},
    **{f"change:{name}": sql for name, sql in money.CHANGES.items()},
    **{f"guard:{name}": sql for name, sql in GUARDS.items()},
    **{f"change:{name}": sql for name, sql in CHANGES.items()},
}
"""What `Ledger(statements=…)` registers."""
