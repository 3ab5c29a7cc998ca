"""The daemon's hands: one task per lease arms it, runs its chunks one by one and signs receipts."""

import asyncio
import logging
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Final

from compute.daemon import receipts
from compute.daemon.blobs import Blobs
from compute.daemon.journal import Journal, Signed
from compute.daemon.receipts import Provider, Span
from compute.domain.holding import (
    ATTEMPTS_WAITING_MAX,
    Arm,
    Armed,
    Emptied,
    Event,
    Failed,
    Finished,
    Run,
    Unarmed,
)
from compute.executors.executor import (
    Chunk,
    ChunkOutcome,
    Executor,
    SlotSpec,
    Task,
    TaskOutcome,
)
from market.wire import codec
from market.wire.control import WINDOW_LOST, Done, Grant, Work
from market.wire.payload import Payload
from settlement.domain.errors import GridpactError, SlotLost

LOG: Final = logging.getLogger(__name__)

ORDERS_MAX: Final = ATTEMPTS_WAITING_MAX + 2  # the agent gives a lease one at a time
REASON_CHARS_MAX: Final = 300
WINDOW_GRACE_SECONDS: Final = 30.0  # the executor ends a chunk at its window; this is the guard
CLOSE_ATTEMPTS_MAX: Final = 5
CLOSE_PAUSE_SECONDS: Final = 1.0
NONCE_BYTES: Final = 16
INPUT_BYTES_MAX: Final = 256 << 20  # of a chunk; fewer tasks may come again
FETCHES_MAX: Final = 8  # of a chunk at a time
HASHED_AT_ONCE_BYTES_MAX: Final = 1 << 20  # more would hold up everything else
NS_PER_MS: Final = 1_000_000


@dataclass
class Worker:
    """One lease's task and what it is to do next."""

    orders: asyncio.Queue[Arm | Run]
    task: asyncio.Task[None]


@dataclass
class Slots:
    """All leases' tasks live in the group; what happens to them is told by `happened`."""

    executor: Executor
    blobs: Blobs
    journal: Journal
    provider: Provider
    group: asyncio.TaskGroup
    happened: Callable[[Event], None]
    _workers: dict[str, Worker] = field(default_factory=dict)
    _closing: set[asyncio.Task[None]] = field(default_factory=set)

    def arm(self, order: Arm) -> None:
        """Start the lease's sandbox; its task begins here."""
        lease = order.grant.lease
        if lease not in self._workers:
            orders: asyncio.Queue[Arm | Run] = asyncio.Queue(ORDERS_MAX)
            task = self.group.create_task(self._serve(orders), name=f"lease {lease}")
            self._workers[lease] = Worker(orders, task)
        self._workers[lease].orders.put_nowait(order)

    def run(self, order: Run) -> None:
        """Run a chunk on a lease that was armed."""
        self._workers[order.grant.lease].orders.put_nowait(order)

    def empty(self, lease: str) -> None:
        """Kill what the lease runs; `Emptied` follows when nothing is left."""
        closing = self.group.create_task(self._empty(lease), name=f"closing {lease}")
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)

    def stop(self) -> None:
        """End all tasks; the sandboxes themselves are ended with the executor."""
        for task in [*self._closing, *(worker.task for worker in self._workers.values())]:
            task.cancel()

    async def _serve(self, orders: asyncio.Queue[Arm | Run]) -> None:
        while True:
            order = await orders.get()
            if isinstance(order, Arm):
                self.happened(await self._arm(order))
                continue
            self.happened(await self._run(order))
            # The frame leaves while the disk still writes: a kill loses nothing, and a power cut in
            # between could as well have come before the signature.
            await self.journal.commit()

    async def _arm(self, order: Arm) -> Armed | Unarmed:
        grant = order.grant
        try:
            if order.again:
                await self.executor.close(grant.lease)
            function = await self.blobs.get(grant.spec.function)
            await self.executor.open(_slot(grant), function)
        except GridpactError as error:
            return Unarmed(grant.lease, _reason(error))
        except Exception as error:  # one lease's trouble is not the daemon's end
            LOG.exception("lease %s could not be armed", grant.lease)
            return Unarmed(grant.lease, _reason(error))
        return Armed(grant.lease)

    async def _run(self, order: Run) -> Finished | Failed:
        grant, work = order.grant, order.work
        sizes = [payload.size for payload in work.inputs]
        if len(sizes) > 1 and sum(sizes) > INPUT_BYTES_MAX:
            return Failed(grant.lease, work.attempt, WINDOW_LOST, slot_lost=False)
        try:
            bodies = await self._bodies(work)
            span, outcome = await self._execute(grant, work, bodies)
            tasks = receipts.checked(work, outcome)
            if receipts.unfinished(tasks):
                return Failed(grant.lease, work.attempt, WINDOW_LOST, slot_lost=False)
            done = await self._signed(grant, work, outcome, tasks, span)
        except SlotLost as error:
            return Failed(grant.lease, work.attempt, _reason(error), slot_lost=True)
        except GridpactError as error:
            return Failed(grant.lease, work.attempt, _reason(error), slot_lost=False)
        except Exception as error:  # one chunk's trouble is not the daemon's end
            LOG.exception("attempt %s on lease %s failed", work.attempt, grant.lease)
            return Failed(grant.lease, work.attempt, _reason(error), slot_lost=True)
        return Finished(grant.lease, done)

    async def _bodies(self, work: Work) -> list[bytes]:
        """What is not inline is fetched side by side, and once."""
        room = asyncio.Semaphore(FETCHES_MAX)
        fetched: dict[Payload, bytes] = {}

        async def fetch(payload: Payload) -> None:
            async with room:
                fetched[payload] = await self.blobs.body(payload)

        try:
            async with asyncio.TaskGroup() as group:
                for payload in {payload for payload in work.inputs if payload.body is None}:
                    group.create_task(fetch(payload))
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from None
        return [
            await self.blobs.body(payload) if payload.body is not None else fetched[payload]
            for payload in work.inputs
        ]

    async def _execute(
        self, grant: Grant, work: Work, bodies: list[bytes]
    ) -> tuple[Span, ChunkOutcome]:
        tasks = tuple(Task(work.first + place, body) for place, body in enumerate(bodies))
        chunk = Chunk(
            attempt=work.attempt,
            tasks=tasks,
            task_timeout_ms=grant.spec.task_timeout_ms,
            window_ms=work.window_ms,
            seed=receipts.seed(grant),
        )
        started_ms, started_ns = now_ms(), time.monotonic_ns()
        try:
            async with asyncio.timeout(work.window_ms / 1000 + WINDOW_GRACE_SECONDS):
                outcome = await self.executor.run(grant.lease, chunk)
        except TimeoutError:
            raise SlotLost("the executor did not end the chunk at its window") from None
        # Rounded down, so that the claim is never above the time that the market saw pass.
        measured_ms = (time.monotonic_ns() - started_ns) // NS_PER_MS
        outcome = replace(outcome, wall_ms=min(outcome.wall_ms, measured_ms))
        return Span(started_ms, max(started_ms, now_ms())), outcome

    async def _signed(
        self,
        grant: Grant,
        work: Work,
        outcome: ChunkOutcome,
        tasks: tuple[TaskOutcome, ...],
        span: Span,
    ) -> Done:
        """Outputs stored, receipt signed and in the journal: only then may it be sent."""
        large = sum(len(task.output) for task in tasks) > HASHED_AT_ONCE_BYTES_MAX
        facts = (
            await asyncio.to_thread(receipts.leaves, work, tasks)
            if large
            else receipts.leaves(work, tasks)
        )
        travelling, uploads = receipts.outputs(tasks, facts)
        for body in uploads:
            await self.blobs.put(body)
        nonce = secrets.token_hex(NONCE_BYTES)
        envelope = receipts.sign(self.provider, grant, work, outcome, facts, span=span, nonce=nonce)
        done = Done(attempt=work.attempt, receipt=envelope, leaves=facts, outputs=travelling)
        self.journal.append(Signed(work.attempt, grant.lease, codec.pack(done)))
        return done

    async def _empty(self, lease: str) -> None:
        """First the sandbox, which ends what runs in it, then the task that waits for it."""
        worker = self._workers.get(lease)
        emptied = await self._close(lease)
        if worker is not None:
            worker.task.cancel()
            await asyncio.wait([worker.task])
            del self._workers[lease]
            emptied = await self._close(lease)  # an arming that came through meanwhile
        if emptied:
            self.happened(Emptied(lease))
        else:
            LOG.error("lease %s cannot be proven empty: its room is withdrawn", lease)

    async def _close(self, lease: str) -> bool:
        for attempt in range(1, CLOSE_ATTEMPTS_MAX + 1):
            try:
                await self.executor.close(lease)
            except Exception as error:  # noqa: BLE001 - what counts is that it is not empty
                LOG.warning("closing lease %s: %s", lease, _reason(error))
                await asyncio.sleep(attempt * CLOSE_PAUSE_SECONDS)
            else:
                return True
        return False


def now_ms() -> int:
    """Milliseconds since 1970."""
    return time.time_ns() // NS_PER_MS


def _slot(grant: Grant) -> SlotSpec:
    return SlotSpec(
        lease=grant.lease,
        environment=grant.spec.environment,
        cpus_milli=grant.slot.cpus_milli,
        memory_mib=grant.slot.memory_mib,
        gpus=grant.slot.gpus,
        kind=grant.spec.kind,
    )


def _reason(error: Exception) -> str:
    """For the market: the refusal's sentence, or only the class of what nobody expected."""
    text = error.detail if isinstance(error, GridpactError) else type(error).__name__
    return text[:REASON_CHARS_MAX]
