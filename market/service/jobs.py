"""Jobs: submit (fills the budget), append, top up, cancel, finish (returns the rest)."""

import uuid
from typing import Final
from uuid import UUID

import msgspec

from market.domain.job import JobState
from market.domain.jobspec import SLOT_LEAST, Spec, check_environment
from market.service.market import Market, change, check_fresh, guard
from market.store import blobs, work
from market.store import jobs as store
from market.store.bus import MATCH, job_topic, provider_topic
from market.store.rows import Connection, Row
from market.wire.jobs import Append, JobView, Submit
from market.wire.payload import Payload
from settlement.domain import amount, canonical, charge
from settlement.domain.errors import (
    BadStatement,
    BudgetExceeded,
    DuplicateKey,
    EnvironmentMismatch,
    Forbidden,
    JobEnded,
    LimitExceeded,
    Malformed,
    NotFound,
    Stale,
)  # fmt: skip
from settlement.domain.moves import moves
from settlement.domain.statement import open_envelope
from settlement.domain.trade import Close, JobEnd, Manifest, Order, TopUp
from settlement.service.engine import Item, Status

WINDOW_MS_MIN: Final = 30_000  # of lease time that the budget must cover before work goes out
WINDOW_GRACE_MS: Final = 5_000
JOBS_OPEN_MAX: Final = 200  # of one consumer
DEADLINE_MS_MAX: Final = 30 * 24 * 3_600_000


def window_ms(spec: Spec) -> int:
    """How long one chunk may take: at least one task's own limit."""
    return max(WINDOW_MS_MIN, spec.task_timeout_ms) + WINDOW_GRACE_MS


def is_checked(spec: Spec) -> bool:
    """Whether the job pays the surcharge for checks."""
    return spec.verify != "none"


async def submit(market: Market, caller: str, body: Submit, *, now_ms: int) -> JobView:
    """Accept an order: its budget moves, its statement enters the log, its job waits for a match."""
    order, opened = open_envelope(body.order, Order, market=market.origin)
    if order.consumer != caller:
        raise Forbidden("the order is another party's")
    _check_order(order, body, now_ms)
    job = UUID(order.job)
    if (known := await market.read(store.order_digest, job)) is not None:
        if known != opened.digest:
            raise DuplicateKey("this job id is taken by another order")
        return await view(market, caller, job)
    await market.read(_admit, body, caller)
    spec = canonical.encode(body.spec)
    changes = [
        change(
            "job_insert", job, caller, opened.digest, spec, order.spec, body.spec.environment, order.tasks,
            len(body.inputs), body.sealed, order.slots, amount.from_text(order.rate_cap),
            amount.from_text(order.budget), now_ms, order.deadline_ms,
        ),
        change("event", job, now_ms, "submitted", f"budget {order.budget}, {len(body.inputs)} tasks"),
        change("notify", MATCH),
    ]  # fmt: skip
    if body.inputs:
        changes.insert(1, change("tasks_insert", job, 0, *_columns(body.inputs)))
        changes.insert(2, change("interval_insert", job, 0, len(body.inputs)))
    item = Item(
        moves(opened, market.address), (opened,), (guard("job_absent", job),), tuple(changes)
    )
    outcome = await market.ledger.submit(item)
    if outcome.status is Status.STALE:
        raise DuplicateKey("this job id is taken by another order")
    outcome.raise_for_refusal()
    return await view(market, caller, job)


def _check_order(order: Order, body: Submit, now_ms: int) -> None:
    spec = body.spec
    if order.spec != spec.digest():
        raise BadStatement("the order names another spec than the one that came with it")
    check_fresh(order.at_ms, now_ms, what="order")
    if not now_ms < order.deadline_ms <= now_ms + DEADLINE_MS_MAX:
        raise LimitExceeded("the deadline must lie within the next 30 days")
    if lacking := SLOT_LEAST.lacks(spec.slot):
        raise LimitExceeded(f"a slot has at least 0.05 cpu and 64 MiB; too little {lacking[0]}")
    if len(body.inputs) > order.tasks:
        raise LimitExceeded(f"the order allows {order.tasks} tasks, {len(body.inputs)} came")
    if body.sealed and not body.inputs:
        raise Malformed("a sealed job needs tasks")
    _check_budget(order, spec)
    for payload in body.inputs:
        payload.check()


def _check_budget(order: Order, spec: Spec) -> None:
    """Work goes out one window at a time: a budget below that could never buy any."""
    rate_cap, budget = amount.from_text(order.rate_cap), amount.from_text(order.budget)
    least = charge.cap(
        window_ms=window_ms(spec), rate_microcredits=rate_cap, checked=is_checked(spec)
    )
    if budget < least:
        raise BudgetExceeded(
            f"at this price cap one window of {window_ms(spec) // 1000} s costs up to"
            f" {amount.format_credits(least)} credits; the budget is {amount.format_credits(budget)}"
        )


async def _admit(connection: Connection, body: Submit, caller: str) -> None:
    """What must stand in the database before money moves."""
    if await store.open_jobs(connection, caller) >= JOBS_OPEN_MAX:
        raise LimitExceeded(f"a consumer has at most {JOBS_OPEN_MAX} open jobs")
    manifest = await store.environment(connection, body.spec.environment)
    if manifest is None:
        offered = await store.environments(connection)
        names = "; ".join(sorted(describe(known) for known in offered)) or "none"
        wanted = describe(body.spec.client)
        raise EnvironmentMismatch(
            f"nobody offers this environment; you run {wanted}; offered: {names}"
        )
    check_environment(body.spec.kind, body.spec.client, manifest)
    needed = [
        body.spec.function,
        *(payload.digest for payload in body.inputs if payload.body is None),
    ]
    await _require_blobs(connection, needed, caller)


async def _require_blobs(connection: Connection, digests: list[str], caller: str) -> None:
    if not digests:
        return
    missing = await blobs.missing(connection, digests, caller)
    if missing:
        raise NotFound(f"upload the blob {missing[0]} first ({len(missing)} missing)")


def describe(manifest: Manifest) -> str:
    """An environment in a few words: Python and the libraries that matter most."""
    named = [f"{name} {version}" for name, version in sorted(manifest.packages.items())]
    return ", ".join([f"Python {manifest.python}", *named])


def _columns(inputs: list[Payload]) -> tuple[list[str], list[int], list[bytes | None]]:
    return (
        [payload.digest for payload in inputs],
        [payload.size for payload in inputs],
        [payload.body for payload in inputs],
    )


async def append(market: Market, caller: str, job: UUID, body: Append, *, now_ms: int) -> JobView:
    """Add tasks to an open job. `first` makes a repeat harmless; a gap is refused."""
    for payload in body.inputs:
        payload.check()
    await market.transact(_append, caller, job, body, now_ms)
    return await view(market, caller, job)


async def _append(
    connection: Connection, caller: str, job: UUID, body: Append, now_ms: int
) -> None:
    row = await store.locked(connection, job)
    if row is None or row["consumer"] != caller:
        raise NotFound("no such job of yours")
    tasks, count = row["tasks"], len(body.inputs)
    if body.first < tasks or (row["sealed"] and not count):
        known = await work.inputs(connection, job, first=body.first, tasks=count)
        if [stored.digest for stored in known] != [payload.digest for payload in body.inputs]:
            raise Stale(f"the job has {tasks} tasks already, with other inputs")
        if not body.sealed or row["sealed"] or body.first + count < tasks:
            return
        body = Append(tasks, [], sealed=True)  # all that a repeat may add is the seal
        count = 0
    _check_room(row, body)
    await _require_blobs(connection, [p.digest for p in body.inputs if p.body is None], caller)
    if count:
        await store.append_tasks(connection, job, first=tasks, columns=_columns(body.inputs))
    await store.extended(connection, job, tasks=count, sealed=body.sealed, now_ms=now_ms)
    await store.wake_workers(connection, job, tasks=count, sealed=body.sealed)


def _check_room(row: Row, body: Append) -> None:
    if row["sealed"] or row["state"] not in {JobState.OPEN, JobState.RUNNING}:
        raise JobEnded(f"the job takes no more tasks: {row['reason'] or 'it is sealed'}")
    if body.first > row["tasks"]:
        raise Stale(f"the next task is number {row['tasks']}")
    if row["tasks"] + len(body.inputs) > row["tasks_max"]:
        raise LimitExceeded(f"the order allows {row['tasks_max']} tasks")


async def top_up(
    market: Market, caller: str, job: UUID, envelope: bytes, *, now_ms: int
) -> JobView:
    """More budget: paused leases go on."""
    statement, opened = open_envelope(envelope, TopUp, market=market.origin)
    if statement.consumer != caller or statement.job != str(job):
        raise Forbidden("the top-up is another party's or another job's")
    check_fresh(statement.at_ms, now_ms, what="top-up")
    more = amount.from_text(statement.amount)
    changes = (
        change("job_funded", job, more),
        change("leases_resumed", job),
        change("event", job, now_ms, "topped-up", statement.amount),
        change("leases_notify", job, now_ms),
        change("notify", MATCH),
        change("notify", job_topic(job)),
    )
    outcome = await market.ledger.submit(
        Item(
            moves(opened, market.address), (opened,), (guard("job_fundable", job, caller),), changes
        )
    )
    if outcome.status is Status.STALE:
        raise JobEnded("the job takes no more budget")
    outcome.raise_for_refusal()
    return await view(market, caller, job)


async def cancel(market: Market, caller: str, job: UUID, *, now_ms: int) -> JobView:
    """Stop a job: what is running is lost unpaid, the rest of the budget returns."""
    await market.transact(_cancel, caller, job, now_ms)
    await finish(market, job, now_ms=now_ms)
    return await view(market, caller, job)


async def _cancel(connection: Connection, caller: str, job: UUID, now_ms: int) -> None:
    row = await store.locked(connection, job)
    if row is None or row["consumer"] != caller:
        raise NotFound("no such job of yours")
    await stop(connection, job, JobEnd.CANCELLED, now_ms)


async def stop(connection: Connection, job: UUID, end: JobEnd, now_ms: int) -> bool:
    """Under the job's lock: no more work; leases end, what they run is lost."""
    if not await store.stopped(connection, job, end.value):
        return False
    for lease in await store.live_leases(connection, job):
        await work.lose(connection, await work.handed(connection, lease["id"]), end.value)
        await work.end_lease(connection, lease["id"], end.value, detail="", now_ms=now_ms)
        await work.notify(connection, provider_topic(lease["provider"]))
    await work.event(connection, job, "stopped", end.value, now_ms=now_ms)
    await work.notify(connection, job_topic(job))
    await work.notify(connection, MATCH)
    return True


async def finish(market: Market, job: UUID, *, now_ms: int) -> bool:
    """Close a finishing job once nothing of it is undecided: one statement, one refund."""
    row = await market.read(store.finishing, job)
    if row is None:
        return False
    refund = new_id()  # a foreseeable one could be burnt by others
    statement = market.sign(
        Close(
            v=1, kind="close", market=market.origin, job=str(job), consumer=row["consumer"],
            order=row["order_digest"],
            end=JobEnd(row["reason"]), accepted=row["accepted"], spent=amount.to_text(int(row["spent"])),
            transfer=str(refund), at_ms=now_ms,
        )
    )  # fmt: skip
    changes = (
        change("job_close", job, now_ms),
        change("leases_end", job, row["reason"], now_ms),
        change("event", job, now_ms, "closed", row["reason"]),
        change("leases_notify", job, now_ms),
        change("notify", job_topic(job)),
    )
    outcome = await market.ledger.submit(
        Item(
            moves(statement, market.address),
            (statement,),
            (guard("job_settled", job, int(row["spent"])),),
            changes,
        )
    )
    if outcome.status is Status.STALE:
        return False
    outcome.raise_for_refusal()
    return True


async def view(market: Market, caller: str, job: UUID) -> JobView:
    """The job as its consumer sees it; other parties get NotFound."""
    row = await market.read(store.read, job)
    if row is None or row["consumer"] != caller:
        raise NotFound("no such job of yours")
    return to_view(row)


def to_view(row: Row) -> JobView:
    spec = msgspec.json.decode(row["spec"], type=Spec)
    return JobView(
        id=str(row["id"]), name=spec.name, state=row["state"], reason=row["reason"],
        order=row["order_digest"], order_state=row["order_state"], tasks=row["tasks"],
        accepted=row["accepted"], sealed=row["sealed"], slots=row["slots"], leases=row["leases"],
        paused=row["paused"], rate_cap=str(int(row["rate_cap"])), budget=str(int(row["budget"])),
        spent=str(int(row["spent"])), refunded=str(int(row["refunded"])), verify=spec.verify,
        environment=row["environment"], created_ms=row["created_ms"], deadline_ms=row["deadline_ms"],
        closed_ms=row["closed_ms"],
    )  # fmt: skip


def new_id() -> UUID:
    """A random id for a row that only this market names."""
    return uuid.uuid4()
