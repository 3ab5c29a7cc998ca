"""Code that runs on the market, a Python function above all: one call, many, what they would cost."""

import asyncio
import copy
import functools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from typing import Any, Final, Generic, ParamSpec, TypeVar
from uuid import uuid4

from market.domain.jobspec import Spec
from market.domain.kind import Kind
from market.sdk import packing
from market.sdk.budget import Budget, current
from market.sdk.client import DEADLINE_SECONDS, MarketClient
from market.sdk.evidence import Receipt, credits_of
from market.sdk.home import at_home
from market.sdk.packing import Outcome
from market.sdk.runs import Plan, Run, Session
from market.wire.jobs import JobView, QuotedOffer, QuoteRequest
from market.wire.money import Accepted
from settlement.domain import canonical, charge
from settlement.domain.amount import from_text, parse_credits
from settlement.domain.errors import (
    BudgetExceeded,
    GridpactError,
    JobEnded,
    LimitExceeded,
    NotFound,
    Stale,
)
from settlement.domain.resources import Resources

SLOTS_DEFAULT: Final = 32  # of a map; the matcher gives what there is
SESSION_SLOTS_DEFAULT: Final = 1
SECONDS_PER_HOUR: Final = 3_600
MILLI: Final = 1_000
CHECKING: Final = "checking"  # a receipt that waits for its check
CLOSE_POLL_MS: Final = 500
NAME_CHARS_MAX: Final = 100
OPENINGS_MAX: Final = 3  # sessions that may end under one call before it gives up

P = ParamSpec("P")
R = TypeVar("R")
Money = str | Decimal | float


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What a function needs and may cost. Prices are in credits."""

    cpu: float = 1.0
    memory_mib: int = 512
    gpu: int = 0
    max_price: Money = "1.00"  # per slot-hour
    budget: Money = "5"  # of one map, or of the session that single calls share
    verify: str = "spot"
    protection: str = "L"  # the weakest sandbox class that will do
    task_timeout_seconds: float = 300.0
    slots: int | None = None
    environment: str | None = None
    seed: int = 0
    deadline_seconds: float = DEADLINE_SECONDS

    @property
    def slot(self) -> Resources:
        return Resources(round(self.cpu * MILLI), self.memory_mib, self.gpu)

    @property
    def rate_cap_microcredits(self) -> int:
        """Micro-credits per slot-second, rounded down."""
        return parse_credits(self.max_price) // SECONDS_PER_HOUR

    @property
    def budget_microcredits(self) -> int:
        return parse_credits(self.budget)

    @property
    def timeout_ms(self) -> int:
        return round(self.task_timeout_seconds * MILLI)

    @property
    def checked(self) -> bool:
        return self.verify != "none"

    def task_worst_microcredits(self, rate_microcredits: int) -> int:
        """The most that one task can cost: all its time at this rate, and the surcharge."""
        return charge.cap(
            window_ms=self.timeout_ms, rate_microcredits=rate_microcredits, checked=self.checked
        )


@dataclass(frozen=True, slots=True)
class Estimate:
    """What calls would cost now. Rates are micro-credits per slot-second, without surcharge."""

    tasks: int
    slots: int
    rate_least_microcredits: int
    rate_worst_microcredits: int
    task_worst_microcredits: int
    budget_microcredits: int
    offers: tuple[QuotedOffer, ...]

    @property
    def unit(self) -> Decimal:
        """Credits for one slot-hour at the dearest rate that would match."""
        return credits_of(self.rate_worst_microcredits * SECONDS_PER_HOUR)

    @property
    def worst_case(self) -> Decimal:
        """Credits, if each task took all its time; never more than the budget."""
        worst = min(self.budget_microcredits, self.tasks * self.task_worst_microcredits)
        return credits_of(worst)


class Call(Generic[R]):
    """One task on its way."""

    def __init__(self, client: MarketClient, job: str, result: asyncio.Future[Outcome]) -> None:
        self.client = client
        self.job_id = job
        self._result = result

    def done(self) -> bool:
        return self._result.done()

    @at_home
    async def outcome(self, timeout_seconds: float | None = None) -> Outcome:
        """The accepted result as it came; `TimeoutError` leaves the call as it is."""
        async with asyncio.timeout(timeout_seconds):
            return await asyncio.shield(self._result)

    async def get(self, timeout_seconds: float | None = None) -> R:
        """What the function returned; what it raised is raised here."""
        value: R = (await self.outcome(timeout_seconds)).value()
        return value

    @at_home
    async def receipt(self) -> Receipt:
        """The receipt of the attempt that made the result."""
        outcome = await self.outcome()
        for view in await self.client.receipts(self.job_id):
            if view.attempt == outcome.attempt:
                return Receipt(self.client, view)
        raise NotFound(f"no receipt of attempt {outcome.attempt} is listed yet")

    @at_home
    async def cost(self) -> Decimal:
        """Credits paid for it: its share of its receipt's charge."""
        receipt = await self.receipt()
        share = Fraction(receipt.cost_microcredits, max(1, receipt.view.tasks))
        return credits_of(round(share))


class MapJob(Generic[R]):
    """Many tasks in one sealed job."""

    def __init__(self, client: MarketClient, run: Run | None) -> None:
        self.client = client
        self._run = run

    @property
    def job_id(self) -> str:
        """Empty if there was nothing to do."""
        return self._run.plan.job if self._run else ""

    @property
    def total(self) -> int:
        return self._run.total if self._run else 0

    @at_home
    async def take(self) -> list[Outcome]:
        """The next outcomes in order of acceptance; empty at the end."""
        return await self._run.take() if self._run else []

    @at_home
    async def view(self) -> JobView:
        """The job as the market sees it."""
        if self._run is None:
            raise NotFound("a map over nothing has no job")
        return await self.client.job(self.job_id)

    @at_home
    async def receipts(self) -> list[Receipt]:
        """All attempts, checks included."""
        if self._run is None:
            return []
        return [Receipt(self.client, view) for view in await self.client.receipts(self.job_id)]

    @at_home
    async def accept(self) -> list[Accepted]:
        """Take all receipts that wait for a check as they are: nobody waits for it then."""
        waiting = [one for one in await self.receipts() if one.view.state == CHECKING]
        return [await receipt.accept() for receipt in waiting]

    @at_home
    async def cost(self) -> Decimal:
        """Credits spent so far."""
        return credits_of(from_text((await self.view()).spent) if self._run else 0)

    @at_home
    async def wait(self) -> None:
        """Until the job is closed and its budget's rest is back."""
        after, state = 0, "" if self._run else "closed"
        while state != "closed":
            page = await self.client.events(self.job_id, after=after, wait_ms=CLOSE_POLL_MS)
            after, state = page.next, (await self.client.job(self.job_id)).state

    @at_home
    async def cancel(self) -> None:
        """End it now; what ran is paid."""
        if self._run is not None:
            await self.client.cancel(self.job_id)


@dataclass(frozen=True, slots=True)
class Code:
    """What a job runs, whatever its kind; packed when it is first sent."""

    kind: Kind
    name: str
    pack: Callable[[], bytes]


class Work(Generic[R]):
    """Code with its terms at one market; single calls share one warm session."""

    def __init__(self, client: MarketClient, code: Code, terms: Terms) -> None:
        self.client = client
        self.code = code
        self.terms = terms
        self._packed: bytes | None = None
        self._sessions: dict[Budget | None, Session] = {}
        self._opening = asyncio.Lock()

    @at_home
    async def send(self, body: bytes) -> Call[R]:
        """Send one input; the market has it when this returns."""
        for _ in range(OPENINGS_MAX):
            session = await self._session(current.get())
            try:
                return Call(self.client, session.job, await session.call(body))
            except (JobEnded, Stale):  # an idle session is sealed by the market: open another
                continue
        raise JobEnded("the market keeps ending the session of this function")

    @at_home
    async def send_all(self, bodies: list[bytes], *, slots: int | None = None) -> MapJob[R]:
        """Send many inputs as one sealed job."""
        if not bodies:
            return MapJob(self.client, None)
        wanted = slots or self.terms.slots or min(len(bodies), SLOTS_DEFAULT)
        budget = current.get()
        plan = await self._plan(budget, slots=min(wanted, len(bodies)))
        run = Run(self.client, plan, bodies)
        try:
            await run.start()
        except GridpactError:
            if budget is not None:
                budget.release(plan.job)
            raise
        return MapJob(self.client, run)

    @at_home
    async def estimate(self, tasks: int = 1) -> Estimate:
        """Ask the market what `tasks` calls would cost now."""
        if tasks < 1:
            raise LimitExceeded("an estimate is for one task or more")
        offered = await self.client.environments()
        environment = packing.choose_environment(
            offered, packing.client_manifest(), self.terms.environment, kind=self.code.kind
        )
        quote = await self.client.quote(
            QuoteRequest(
                self.terms.slot,
                self.terms.slots or min(tasks, SLOTS_DEFAULT),
                str(self.terms.rate_cap_microcredits),
                self.terms.protection,
                self.terms.verify,
                environment.digest,
            )
        )
        worst = from_text(quote.rate_worst)
        return Estimate(
            tasks,
            quote.slots,
            from_text(quote.rate_least),
            worst,
            self.terms.task_worst_microcredits(worst),
            self.terms.budget_microcredits,
            tuple(quote.offers),
        )

    @at_home
    async def close(self, budget: Budget | None = None, *, everything: bool = False) -> None:
        """Seal the session of a budget's block, or all sessions."""
        for key, session in list(self._sessions.items()):
            if everything or key is budget:
                del self._sessions[key]
                await session.close()

    async def _session(self, budget: Budget | None) -> Session:
        async with self._opening:
            session = self._sessions.get(budget)
            if session is None or not session.usable:
                slots = self.terms.slots or SESSION_SLOTS_DEFAULT
                plan = await self._plan(budget, slots=slots)
                session = self._sessions[budget] = Session(self.client, plan)
                if budget is not None:
                    budget.watch(session)
            return session

    async def _plan(self, budget: Budget | None, *, slots: int) -> Plan:
        terms, client = self.terms, packing.client_manifest()
        offered = await self.client.environments()
        environment = packing.choose_environment(
            offered, client, terms.environment, kind=self.code.kind
        )
        if self._packed is None:
            self._packed = self.code.pack()
        spec = Spec(
            name=self.code.name[-NAME_CHARS_MAX:],
            kind=self.code.kind,
            function=canonical.digest(self._packed),
            environment=environment.digest,
            client=client,
            slot=terms.slot,
            task_timeout_ms=terms.timeout_ms,
            protection=terms.protection,
            verify=terms.verify,
            seed=terms.seed,
        )
        job = str(uuid4())
        allowed = terms.budget_microcredits
        if budget is not None:
            allowed = await self._reserve(budget, job)
        return Plan(
            job,
            spec,
            self._packed,
            slots,
            terms.rate_cap_microcredits,
            allowed,
            terms.deadline_seconds,
        )

    async def _reserve(self, budget: Budget, job: str) -> int:
        """Part of a block's budget; if too little is left, idle sessions give theirs back first."""
        wanted = self.terms.budget_microcredits
        least = self.terms.task_worst_microcredits(self.terms.rate_cap_microcredits)
        if budget.left_microcredits < wanted:
            await budget.settle(self.client)
        try:
            return budget.reserve(job, wanted_microcredits=wanted, least_microcredits=least)
        except BudgetExceeded:
            await budget.free(self.client)
            return budget.reserve(job, wanted_microcredits=wanted, least_microcredits=least)


class Function(Work[R], Generic[P, R]):
    """A Python function with its terms at one market."""

    def __init__(self, client: MarketClient, function: Callable[P, R], terms: Terms) -> None:
        self.function = function
        name = f"{function.__module__}.{function.__qualname__}"
        pack = functools.partial(packing.pack_function, function)
        super().__init__(client, Code("function", name, pack), terms)

    def __reduce__(self) -> tuple[Any, ...]:
        """Within other pickled code this is the plain function (which `copy` returns as it is)."""
        return copy.copy, (self.function,)

    def local(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run it here."""
        return self.function(*args, **kwargs)

    @at_home
    async def remote(self, /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run it on the market and wait for what it returns."""
        call = await self.spawn(*args, **kwargs)
        return await call.get()

    @at_home
    async def spawn(self, /, *args: P.args, **kwargs: P.kwargs) -> Call[R]:
        """Send a call; the market has it when this returns."""
        return await self.send(packing.pack_inputs([(args, dict(kwargs))])[0])

    @at_home
    async def map(
        self,
        calls: Iterable[tuple[tuple[Any, ...], dict[str, Any]]],
        *,
        slots: int | None = None,
    ) -> MapJob[R]:
        """Send many calls, each its positional and keyword arguments, as one sealed job."""
        return await self.send_all(packing.pack_inputs(calls), slots=slots)
