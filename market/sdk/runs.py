"""Jobs in motion: a session that takes calls one by one, and a run over many inputs at once."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass
from typing import Final

from market.domain.jobspec import Spec
from market.domain.kind import Kind
from market.sdk.client import MarketClient, batches
from market.sdk.packing import Outcome
from market.wire.jobs import APPEND_TASKS_MAX, JobView, Results, TaskResult
from market.wire.payload import inline
from settlement.domain.errors import GridpactError, JobEnded, Stale
from settlement.domain.trade import TASKS_MAX

CLOSED: Final = "closed"


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything about a job but its inputs."""

    job: str
    spec: Spec
    function: bytes
    slots: int
    rate_cap_microcredits: int
    budget_microcredits: int
    deadline_seconds: float


async def outcome_of(client: MarketClient, result: TaskResult, kind: Kind = "function") -> Outcome:
    """A result with its bytes, fetched if they were too large to travel inline."""
    body = await client.content(result.output)
    return Outcome(
        result.index, result.status, body, result.log, result.attempt, result.provider, kind
    )


async def _order(
    client: MarketClient, plan: Plan, bodies: Sequence[bytes], *, tasks: int, sealed: bool
) -> JobView:
    return await client.submit(
        plan.spec,
        await client.payloads(bodies),
        function=plan.function,
        slots=plan.slots,
        rate_cap_microcredits=plan.rate_cap_microcredits,
        budget_microcredits=plan.budget_microcredits,
        sealed=sealed,
        tasks_max=tasks,
        deadline_seconds=plan.deadline_seconds,
        job=plan.job,
    )


class _Pending:
    """A call that was not sent yet: its bytes, and its index once the market has it."""

    __slots__ = ("body", "result", "sent")

    def __init__(self, body: bytes, loop: asyncio.AbstractEventLoop) -> None:
        self.body = body
        self.sent: asyncio.Future[int] = loop.create_future()
        self.result: asyncio.Future[Outcome] = loop.create_future()


class Session:
    """One open job whose leases stay warm; calls are appended as they come, many at a time."""

    def __init__(self, client: MarketClient, plan: Plan) -> None:
        self.client = client
        self.plan = plan
        self.usable = True  # until it is sealed, ends, or refuses a call
        self._first = 0  # index of the next task
        self._queue: deque[_Pending] = deque()
        self._waiting: dict[int, _Pending] = {}
        self._ordered = False
        self._sending = asyncio.Lock()
        self._wanted = asyncio.Event()

    @property
    def job(self) -> str:
        return self.plan.job

    @property
    def idle(self) -> bool:
        """No call waits for anything."""
        return not self._queue and not self._waiting

    async def call(self, body: bytes) -> asyncio.Future[Outcome]:
        """Send one task; returns once the market has it. `JobEnded` if the session is over."""
        pending = _Pending(body, self.client.loop)
        self._queue.append(pending)
        async with self._sending:  # whoever comes first sends for all that wait
            if not pending.sent.done():
                await self._send()
        await pending.sent
        return pending.result

    async def _send(self) -> None:
        batch: list[_Pending] = []
        while self._queue and len(batch) < APPEND_TASKS_MAX:
            batch.append(self._queue.popleft())
        try:
            if not self.usable:
                raise JobEnded(f"session {self.job} is over")
            await self._deliver([pending.body for pending in batch])
        except GridpactError as error:
            self.usable = False  # which of the tasks the market has is not known
            for pending in batch:
                pending.sent.set_exception(error)
            return
        for index, pending in enumerate(batch, start=self._first):
            self._waiting[index] = pending
            pending.sent.set_result(index)
        self._first += len(batch)
        self._wanted.set()

    async def _deliver(self, bodies: list[bytes]) -> None:
        if not self._ordered:
            await _order(self.client, self.plan, bodies, tasks=TASKS_MAX, sealed=False)
            self._ordered = True
            self.client.start(self._poll)
            return
        first = self._first
        for part in batches(await self.client.payloads(bodies)):
            await self.client.append(self.job, first, part)
            first += len(part)

    async def _poll(self) -> None:
        """Hand results to their calls; only asks while some call waits."""
        error = JobEnded(f"session {self.job} was closed")
        try:
            after = 0
            while self.usable or self._waiting:
                await self._wanted.wait()
                after = await self._drain(after)
        except GridpactError as trouble:
            self._fail(trouble)
        finally:
            self._fail(error)

    def _fail(self, error: GridpactError) -> None:
        self.usable = False
        for pending in self._waiting.values():
            if not pending.result.done():
                pending.result.set_exception(error)
                pending.result.exception()  # nobody may ever ask for it
        self._waiting.clear()

    async def _drain(self, after: int) -> int:
        async with aclosing(self.client.stream(self.job, after=after)) as pages:
            async for page in pages:
                after = page.next
                for result in page.results:
                    await self._give(result)
                if page.state == CLOSED and not page.results:
                    raise JobEnded(f"session {self.job} ended: {page.reason or page.state}")
                if not self._waiting:
                    self._wanted.clear()
                    break
        return after

    async def _give(self, result: TaskResult) -> None:
        pending = self._waiting.pop(result.index, None)
        if pending is None or pending.result.done():
            return
        try:
            pending.result.set_result(await outcome_of(self.client, result, self.plan.spec.kind))
        except GridpactError as error:
            pending.result.set_exception(error)
            pending.result.exception()

    async def close(self) -> None:
        """Seal the job, so that what is left of its budget comes back."""
        async with self._sending:
            if self.usable and self._ordered:
                self.usable = False
                with suppress(JobEnded, Stale):  # the market was first
                    await self.client.append(self.job, self._first, [], sealed=True)
            self.usable = False


class Run:
    """One sealed job over many inputs; outcomes are taken as they are accepted."""

    def __init__(self, client: MarketClient, plan: Plan, bodies: list[bytes]) -> None:
        self.client = client
        self.plan = plan
        self.total = len(bodies)
        self.taken = 0
        self._bodies = bodies
        self._seen: set[int] = set()
        self._pages: AsyncGenerator[Results] | None = None
        self._trouble: GridpactError | None = None
        self._after = 0
        self._end = ""

    async def start(self) -> None:
        """Order the job with the first inputs; the others follow beside what comes next."""
        count = len(batches([inline(body) for body in self._bodies[:APPEND_TASKS_MAX]])[0])
        sealed = count == self.total
        await _order(self.client, self.plan, self._bodies[:count], tasks=self.total, sealed=sealed)
        if not sealed:
            self.client.start(lambda: self._feed(count))
        else:
            self._bodies = []

    async def _feed(self, start: int) -> None:
        try:
            while start < self.total:
                bodies = self._bodies[start : start + APPEND_TASKS_MAX]
                for part in batches(await self.client.payloads(bodies)):
                    end = start + len(part)
                    await self.client.append(self.plan.job, start, part, sealed=end == self.total)
                    start = end
            self._bodies = []
        except GridpactError as error:
            self._trouble = error
            await self._try_cancel()

    async def _try_cancel(self) -> None:
        try:
            await self.client.cancel(self.plan.job)
        except GridpactError:
            return  # the first trouble is the one to tell

    async def take(self) -> list[Outcome]:
        """The next outcomes, at least one; none when all were taken.

        `JobEnded` if the job closed with tasks missing, `BudgetExceeded` if it is paused.
        """
        while self.taken < self.total:
            if self._pages is None:
                self._pages = self.client.stream(self.plan.job, after=self._after)
            try:
                page = await anext(self._pages, None)
            except GridpactError:
                self._pages = None  # so that a caller may top up and go on
                raise
            if page is None:
                raise self._trouble or self._ended()
            self._after = page.next
            self._end = page.reason or page.state
            fresh = [result for result in page.results if result.index not in self._seen]
            self._seen.update(result.index for result in fresh)
            self.taken += len(fresh)
            if fresh:
                kind = self.plan.spec.kind
                return [await outcome_of(self.client, result, kind) for result in fresh]
        return []

    def _ended(self) -> GridpactError:
        missing = self.total - self.taken
        return JobEnded(f"job {self.plan.job} ended ({self._end}) without {missing} results")
