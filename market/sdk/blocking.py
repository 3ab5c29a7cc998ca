"""The one blocking facade: `from market.sdk import blocking as gp`.

Everything here waits for its async twin, which stands under `.aio` and can be awaited from any
loop. It works in scripts and in notebooks, whose loop it never touches.
"""

import atexit
import copy
import functools
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Generic, ParamSpec, Self, TypedDict, TypeVar, Unpack, overload

from market.sdk import budget as budgets
from market.sdk import evidence
from market.sdk import function as heart
from market.sdk.client import MarketClient
from market.sdk.explorer import BlockingExplorer
from market.sdk.function import Estimate, Money, Terms
from market.sdk.money import BlockingMoney
from market.sdk.packing import Outcome
from market.sdk.portal import Home, Portal
from market.sdk.progress import Progress, no_progress, progress_bar
from market.wire.jobs import JobView
from market.wire.money import Accepted
from market.wire.trade import AccountView
from settlement.domain.amount import parse_credits

P = ParamSpec("P")
R = TypeVar("R")


_HOME: Final = Home()
atexit.register(_HOME.close)


def configure(
    *, url: str | None = None, key: str | Path | None = None, home: str | Path | None = None
) -> None:
    """Name the market, the key file or the state folder; else environment and profile say."""
    _HOME.configure(url=url, key=key, home=home)


def close() -> None:
    """Seal open sessions, so that their budgets come back, and close the connection."""
    _HOME.close()


def client() -> MarketClient:
    """The async client that this facade uses."""
    return _HOME.portal().client


def balances() -> AccountView:
    """What this program's key holds, in micro-credits."""
    portal = _HOME.portal()
    return portal.run(portal.client.balances())


def explorer() -> BlockingExplorer:
    """The public ledger and log: balances, transfers, receipts, entries."""
    portal = _HOME.portal()
    return BlockingExplorer(portal.client.explorer, portal)


def money() -> BlockingMoney:
    """Payouts, withdrawals, leases and vouchers of this program's key."""
    portal = _HOME.portal()
    return BlockingMoney(portal.client, portal)


@contextmanager
def budget(limit: Money) -> Iterator[budgets.Budget]:
    """Calls within the block may cost at most this many credits together.

    The call that could exceed it raises `BudgetExceeded` before anything is sent.
    """
    scope = budgets.Budget(parse_credits(limit))
    token = budgets.current.set(scope)
    try:
        yield scope
    finally:
        budgets.current.reset(token)
        if scope.used:
            _HOME.portal().run(scope.seal_all())


class Receipt:
    """One attempt of a job, with the provider's signed claim when there is one."""

    def __init__(self, aio: evidence.Receipt) -> None:
        self.aio = aio
        self.view = aio.view
        self.digest = aio.digest
        self.cost = aio.cost
        self.cost_microcredits = aio.cost_microcredits

    def __repr__(self) -> str:
        return repr(self.aio)

    def save(self, path: str | Path) -> Path:
        """Write its file, after it was checked."""
        return _HOME.portal().run(self.aio.save(path))

    def accept(self) -> Accepted:
        """Take it as it is: it is settled without waiting for a check."""
        return _HOME.portal().run(self.aio.accept())

    def verify(self, *, final: bool = False) -> evidence.Proven:
        """Check it against the pinned key of the log."""
        return _HOME.portal().run(self.aio.verify(final=final))


class Call(Generic[R]):
    """One task on its way."""

    def __init__(self, aio: heart.Call[R]) -> None:
        self.aio = aio
        self.job_id = aio.job_id

    def done(self) -> bool:
        return self.aio.done()

    def get(self, timeout: float | None = None) -> R:
        """What the function returned; what it raised is raised here."""
        outcome = _HOME.portal().run(self.aio.outcome(timeout))
        value: R = outcome.value()
        return value

    @property
    def receipt(self) -> Receipt:
        """The receipt of the attempt that made the result; waits for it."""
        return Receipt(_HOME.portal().run(self.aio.receipt()))

    @property
    def cost(self) -> Decimal:
        """Credits paid for it; waits for the result."""
        return _HOME.portal().run(self.aio.cost())


class MapJob(Generic[R]):
    """Many tasks in one job; iterate over it for their results.

    The first failed task is raised and ends the job, unless `return_exceptions` is set. As a
    context manager it cancels what is left when the block ends early.
    """

    def __init__(
        self,
        aio: heart.MapJob[R],
        *,
        ordered: bool,
        return_exceptions: bool,
        progress: Progress,
    ) -> None:
        self.aio = aio
        self.results: dict[int, R | Exception] = {}
        self._ordered = ordered
        self._return_exceptions = return_exceptions
        self._progress = progress
        self._buffer: deque[Outcome] = deque()
        self._early: dict[int, Outcome] = {}
        self._next = 0

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> R:
        outcome = self._outcome()
        if outcome is None:
            self._progress.stop()
            raise StopIteration
        try:
            value: R = outcome.value()
        except Exception as error:
            self.results[outcome.index] = error
            if self._return_exceptions:
                return error  # type: ignore[return-value]  # asked for
            self._progress.stop()
            if self._next < self.total:
                self.cancel()
            raise
        self.results[outcome.index] = value
        return value

    def _outcome(self) -> Outcome | None:
        """The next one to give: in index order, or as they were accepted."""
        while True:
            if self._ordered and self._next in self._early:
                self._next += 1
                return self._early.pop(self._next - 1)
            if not self._ordered and self._buffer:
                self._next += 1
                return self._buffer.popleft()
            fresh = _HOME.portal().run(self.aio.take())
            if not fresh:
                return None
            self._progress.advance(len(fresh))
            if self._ordered:
                self._early.update({outcome.index: outcome for outcome in fresh})
            else:
                self._buffer.extend(fresh)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._progress.stop()
        if self._next < self.total:
            self.cancel()

    @property
    def job_id(self) -> str:
        return self.aio.job_id

    @property
    def total(self) -> int:
        return self.aio.total

    @property
    def view(self) -> JobView:
        """The job as the market sees it now."""
        return _HOME.portal().run(self.aio.view())

    @property
    def cost(self) -> Decimal:
        """Credits spent so far."""
        return _HOME.portal().run(self.aio.cost())

    def receipts(self) -> list[Receipt]:
        """All attempts so far, checks included."""
        return [Receipt(receipt) for receipt in _HOME.portal().run(self.aio.receipts())]

    def accept(self) -> list[Accepted]:
        """Take all receipts that wait for a check as they are."""
        return _HOME.portal().run(self.aio.accept())

    def wait(self) -> None:
        """Until the job is closed and the rest of its budget is back."""
        _HOME.portal().run(self.aio.wait())

    def cancel(self) -> None:
        """End it now; what ran is paid."""
        _HOME.portal().run(self.aio.cancel())


class Function(Generic[P, R]):
    """A function that runs here when called, and on the market by `remote`, `spawn` and `map`."""

    __name__: str

    def __init__(self, plain: Callable[P, R], terms: Terms) -> None:
        self.plain = plain
        self.terms = terms
        self._aio: heart.Function[P, R] | None = None
        self._portal: Portal | None = None
        functools.update_wrapper(self, plain)

    def __reduce__(self) -> tuple[Any, ...]:
        """Within other pickled code this is the plain function."""
        return copy.copy, (self.plain,)  # `copy` gives a function back as it is

    @property
    def aio(self) -> heart.Function[P, R]:
        """The async object; the connection is opened for it if need be."""
        portal = _HOME.portal()
        if self._aio is None or self._portal is not portal:
            made = heart.Function(portal.client, self.plain, self.terms)
            portal.at_close(functools.partial(made.close, everything=True))
            self._aio, self._portal = made, portal
        return self._aio

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        return self.plain(*args, **kwargs)

    def local(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run it here, as a plain call does."""
        return self.plain(*args, **kwargs)

    def remote(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run it on the market and wait for what it returns."""
        return self.spawn(*args, **kwargs).get()

    def spawn(self, *args: P.args, **kwargs: P.kwargs) -> Call[R]:
        """Send a call and go on."""
        aio = self.aio
        return Call(_HOME.portal().run(aio.spawn(*args, **kwargs)))

    def map(
        self,
        *iterables: Iterable[Any],
        ordered: bool = True,
        progress: bool = False,
        return_exceptions: bool = False,
        slots: int | None = None,
    ) -> MapJob[R]:
        """Send one call per item (as the built-in `map` pairs several), as one job."""
        calls = list(zip(*iterables, strict=False))
        return self.starmap(
            calls,
            ordered=ordered,
            progress=progress,
            return_exceptions=return_exceptions,
            slots=slots,
        )

    def starmap(
        self,
        calls: Iterable[Iterable[Any]],
        *,
        ordered: bool = True,
        progress: bool = False,
        return_exceptions: bool = False,
        slots: int | None = None,
    ) -> MapJob[R]:
        """The same for items that are whole lists of arguments."""
        aio = self.aio
        wanted: list[tuple[tuple[Any, ...], dict[str, Any]]] = [
            (tuple(arguments), {}) for arguments in calls
        ]
        job = _HOME.portal().run(aio.map(wanted, slots=slots))
        return MapJob(
            job,
            ordered=ordered,
            return_exceptions=return_exceptions,
            progress=progress_bar(self.plain.__name__, job.total) if progress else no_progress(),
        )

    def estimate(self, tasks: int = 1) -> Estimate:
        """What so many calls would cost now."""
        aio = self.aio
        return _HOME.portal().run(aio.estimate(tasks))

    def close(self) -> None:
        """Seal its session, so that the rest of the budget comes back."""
        if self._aio is not None and self._portal is not None and self._portal.alive:
            self._portal.run(self._aio.close(everything=True))


class Options(TypedDict, total=False):
    """What `@gp.function` takes; money is in credits, times in seconds."""

    cpu: float
    memory_mib: int
    gpu: int
    max_price: Money  # per slot-hour
    budget: Money  # of one map, or of the session that single calls share
    verify: str
    protection: str
    task_timeout: float
    slots: int | None
    environment: str | None
    seed: int
    deadline: float


def _terms(options: Options) -> Terms:
    given: dict[str, Any] = dict(options)
    for name in ("task_timeout", "deadline"):
        if name in given:
            given[f"{name}_seconds"] = given.pop(name)
    return Terms(**given)


@overload
def function(plain: Callable[P, R], /) -> Function[P, R]: ...
@overload
def function(
    **options: Unpack[Options],
) -> Callable[[Callable[P, R]], Function[P, R]]: ...
def function(
    plain: Callable[P, R] | None = None, /, **options: Unpack[Options]
) -> Function[P, R] | Callable[[Callable[P, R]], Function[P, R]]:
    """Decorator: a function that can run on the market. Each option has a default (`Terms`)."""
    terms = _terms(options)
    if plain is not None:
        return Function(plain, terms)
    return lambda decorated: Function(decorated, terms)
