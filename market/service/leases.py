"""Leases at work: started, refused, handed the next chunk, lost, closed."""

from dataclasses import dataclass
from uuid import UUID

import msgspec

from market.domain import chunking, interval
from market.domain import lease as states
from market.domain.attempt import Purpose
from market.domain.jobspec import Spec
from market.domain.lease import LeaseEnd, LeaseEvent, LeaseState
from market.domain.transition import sources
from market.service.clock import SteadyClock
from market.service.jobs import is_checked, new_id, window_ms
from market.service.market import Market
from market.store import control as store
from market.store import work
from market.store.bus import MATCH, job_topic, provider_topic
from market.store.rows import Connection, Row
from market.store.work import LockedLease
from market.wire.control import WINDOW_LOST, Grant, Work
from market.wire.payload import Payload
from settlement.domain import charge
from settlement.domain.resources import Resources


@dataclass(frozen=True, slots=True)
class Outbox:
    """What a provider's session has to send: grants it has not seen, leases that have ended."""

    grants: tuple[Grant, ...]
    closed: tuple[tuple[UUID, str], ...]
    idle: tuple[UUID, ...]  # active leases without work in hand, whose job may have some


async def outbox(market: Market, provider: str, *, session: UUID, known: frozenset[UUID]) -> Outbox:
    """Compare the session's view with the database: desired state stands there."""
    rows = await market.read(store.leases_of, provider, session, list(known))
    grants, closed, idle = [], [], []
    for row in rows:
        if row["state"] == LeaseState.CLOSED:
            closed.append((row["id"], row["reason"]))
        elif row["id"] not in known:
            grants.append(_grant(row))
        elif row["state"] == LeaseState.ACTIVE and row["wanted"] and not row["busy"]:
            idle.append(row["id"])
    return Outbox(tuple(grants), tuple(closed), tuple(idle))


def _grant(row: Row) -> Grant:
    return Grant(
        lease=str(row["id"]), statement=row["statement"], order=row["order_digest"], job=str(row["job"]),
        consumer=row["consumer"], spec=msgspec.json.decode(row["spec"], type=Spec),
        spec_digest=row["spec_digest"],
        slot=Resources(row["cpus_milli"], row["memory_mib"], row["gpus"]), rate=str(int(row["rate"])),
        deadline_ms=row["deadline_ms"],
    )  # fmt: skip


async def started(market: Market, provider: str, lease: UUID, *, now_ms: int) -> None:
    """The sandbox is armed: work may come."""
    await market.transact(_started, provider, lease, now_ms)


async def _started(connection: Connection, provider: str, lease: UUID, now_ms: int) -> None:
    locked = await work.lock_lease(connection, lease)
    if locked is None or locked.provider != provider:
        return
    before = [state.value for state in sources(states.TRANSITIONS, LeaseEvent.STARTED)]
    if await work.set_lease(
        connection, lease, LeaseState.ACTIVE.value, now_ms=now_ms, sources=before
    ):
        await work.event(
            connection, locked.job, "lease-active", f"{lease} {provider}", now_ms=now_ms
        )


async def refused(market: Market, provider: str, lease: UUID, reason: str, *, now_ms: int) -> None:
    """The machine cannot serve the lease: it ends, the order looks for another."""
    await market.transact(end, provider, lease, LeaseEnd.PROVIDER_GONE, reason, now_ms)


async def end(
    connection: Connection,
    provider: str | None,
    lease: UUID,
    reason: LeaseEnd,
    detail: str,
    now_ms: int,
) -> bool:
    """Close a lease; what it holds goes back to pending, unpaid."""
    locked = await work.lock_lease(connection, lease)
    if locked is None or (provider is not None and locked.provider != provider):
        return False
    lost = await work.lose(connection, await work.handed(connection, lease), reason.value)
    if not await work.end_lease(connection, lease, reason.value, detail=detail, now_ms=now_ms):
        return False
    told = f"{lease} {reason.value} {detail}"[:500] + (
        f" ({len(lost)} chunks back)" if lost else ""
    )
    await work.event(connection, locked.job, "lease-closed", told, now_ms=now_ms)
    await work.notify(connection, provider_topic(locked.provider))
    await work.notify(connection, MATCH)
    await _wake_others(connection, locked.job)
    return True


async def preempt(connection: Connection, lease: UUID, now_ms: int) -> bool:
    """End an idle lease for work that waits; False when work has reached it meanwhile."""
    locked = await work.lock_lease(connection, lease)
    if locked is None or locked.busy:
        return False
    return await end(
        connection, None, lease, LeaseEnd.PREEMPTED, "idle, and other work waits", now_ms
    )


async def _wake_others(connection: Connection, job: UUID) -> None:
    for provider in await store.live_providers(connection, job):
        await work.notify(connection, provider_topic(provider))


async def lost(market: Market, provider: str, attempt: UUID, reason: str, *, now_ms: int) -> None:
    """No receipt will come for this attempt; its tasks go back."""
    await market.transact(_lost, provider, attempt, reason, now_ms)


async def _lost(
    connection: Connection, provider: str, attempt: UUID, reason: str, now_ms: int
) -> None:
    row = await store.attempt(connection, attempt)
    if row is None or row["provider"] != provider:
        return
    await work.lock_job(connection, row["job"])
    if not await work.lose(connection, [attempt], reason):
        return
    if reason == WINDOW_LOST:
        await work.slow_down(connection, row["job"])
    await work.event(connection, row["job"], "chunk-lost", f"{attempt} {reason}", now_ms=now_ms)
    await _wake_others(connection, row["job"])


async def claim(market: Market, lease: UUID, *, now_ms: int) -> Work | None:
    """The next chunk for an active lease: a check that waits, else pending tasks; None for now."""
    return await market.transact(_claim, market.clock, lease, now_ms)


async def _claim(
    connection: Connection, clock: SteadyClock, lease: UUID, now_ms: int
) -> Work | None:
    locked = await work.lock_lease(connection, lease)
    if locked is None or locked.lease_state != LeaseState.ACTIVE or locked.busy:
        return None
    if now_ms >= locked.deadline_ms:
        return None
    if now_ms < locked.granted_ms:  # by another host's clock, which is ahead of ours
        clock.reach(locked.granted_ms)
        now_ms = locked.granted_ms
    spec = msgspec.json.decode(locked.spec, type=Spec)
    checked = None
    if locked.checking:
        checked = await work.find_check(connection, locked.job, locked.provider)
    if checked is not None:
        attempt = new_id()
        await work.insert_attempt(
            connection, attempt, locked, purpose=Purpose.CHECK, checks=checked["id"],
            first=checked["first"], tasks=checked["tasks"], window_ms=window_ms(spec), cap=0, now_ms=now_ms,
        )  # fmt: skip
        stored = await work.inputs(
            connection, locked.job, first=checked["first"], tasks=checked["tasks"]
        )
        return _work(locked, attempt, Purpose.CHECK, stored, window_ms(spec))
    if locked.state != "running":
        return None
    return await _claim_tasks(connection, locked, spec, now_ms)


async def _claim_tasks(
    connection: Connection, locked: LockedLease, spec: Spec, now_ms: int
) -> Work | None:
    whole = locked.open()
    if whole is None or locked.on_probation:  # nobody is paid twice before the first verdict on it
        return None
    window = window_ms(spec)
    rate = int(locked.rate)
    cap = charge.cap(window_ms=window, rate_microcredits=rate, checked=is_checked(spec))
    if int(locked.spent) + int(locked.reserved) + cap > int(locked.budget):
        await _pause(connection, locked, now_ms)
        return None
    size = chunking.chunk_tasks(
        left=locked.pending, slots=locked.live, chunks_done=locked.chunks, task_us=locked.task_us
    )
    size = min(size, whole.tasks)
    stored = await work.fitting(connection, locked.job, first=whole.first, tasks=size)
    attempt = new_id()
    taken, _ = interval.split(whole, len(stored), str(attempt))
    await work.hand_out(
        connection, locked, taken, whole=whole, window_ms=window, cap=cap, now_ms=now_ms
    )
    await work.spare_the_disk(connection)  # an unknown attempt's receipt is refused, nothing more
    return _work(locked, attempt, Purpose.WORK, stored, window)


async def _pause(connection: Connection, locked: LockedLease, now_ms: int) -> None:
    """Another window is not covered. With work in hand elsewhere its end may free enough."""
    before = [state.value for state in sources(states.TRANSITIONS, LeaseEvent.BUDGET_EMPTY)]
    if int(locked.reserved) > 0:
        return
    if await work.set_lease(
        connection, locked.id, LeaseState.PAUSED.value, now_ms=now_ms, sources=before
    ):
        await work.event(
            connection, locked.job, "paused", f"{locked.id} out of budget", now_ms=now_ms
        )
        await work.notify(connection, job_topic(locked.job))


def _work(
    locked: LockedLease, attempt: UUID, purpose: Purpose, stored: list[work.Input], window: int
) -> Work:
    return Work(
        attempt=str(attempt), lease=str(locked.id), purpose=purpose.value, first=stored[0].index,
        inputs=[Payload(row.digest, row.size, row.body) for row in stored], window_ms=window,
    )  # fmt: skip
