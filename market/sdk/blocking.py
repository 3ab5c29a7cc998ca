"""The one blocking facade: `from market.sdk import blocking as gp`.

Everything here waits for its async twin, which stands under `.aio` and can be awaited from any
loop. It works in scripts and in notebooks, whose loop it never touches.
"""

import copy
import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Generic, ParamSpec, TypedDict, TypeVar, Unpack, overload

from market.sdk import budget as budgets
from market.sdk import command as commands
from market.sdk import function as heart
from market.sdk import wasm as modules
from market.sdk.blocking_jobs import HOME, MapJob
from market.sdk.blocking_jobs import Call as Call  # noqa: PLC0414 - part of this facade
from market.sdk.blocking_jobs import Receipt as Receipt  # noqa: PLC0414 - likewise
from market.sdk.client import MarketClient
from market.sdk.explorer import BlockingExplorer
from market.sdk.function import Estimate, Money, Terms
from market.sdk.money import BlockingMoney
from market.sdk.portal import Portal
from market.sdk.progress import no_progress, progress_bar
from market.sdk.results import CommandResult, WasmResult
from market.wire.trade import AccountView
from settlement.domain.amount import parse_credits

P = ParamSpec("P")
R = TypeVar("R")


def configure(
    *, url: str | None = None, key: str | Path | None = None, home: str | Path | None = None
) -> None:
    """Name the market, the key file or the state folder; else environment and profile say."""
    HOME.configure(url=url, key=key, home=home)


def close() -> None:
    """Seal open sessions, so that their budgets come back, and close the connection."""
    HOME.close()


def client() -> MarketClient:
    """The async client that this facade uses."""
    return HOME.portal().client


def balances() -> AccountView:
    """What this program's key holds, in micro-credits."""
    portal = HOME.portal()
    return portal.run(portal.client.balances())


def explorer() -> BlockingExplorer:
    """The public ledger and log: balances, transfers, receipts, entries."""
    portal = HOME.portal()
    return BlockingExplorer(portal.client.explorer, portal)


def money() -> BlockingMoney:
    """Payouts, withdrawals, leases and vouchers of this program's key."""
    portal = HOME.portal()
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
            HOME.portal().run(scope.seal_all())


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
        portal = HOME.portal()
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
        return Call(HOME.portal().run(aio.spawn(*args, **kwargs)))

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
        job = HOME.portal().run(aio.map(wanted, slots=slots))
        return MapJob(
            job,
            ordered=ordered,
            return_exceptions=return_exceptions,
            progress=progress_bar(self.plain.__name__, job.total) if progress else no_progress(),
        )

    def estimate(self, tasks: int = 1) -> Estimate:
        """What so many calls would cost now."""
        aio = self.aio
        return HOME.portal().run(aio.estimate(tasks))

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


class Program(Generic[R]):
    """A command or a WASM module at the market; inputs are bytes, text or JSON values."""

    def __init__(self, make: Callable[[MarketClient], commands.Command | modules.Wasm]) -> None:
        self._make = make
        self._aio: commands.Command | modules.Wasm | None = None
        self._portal: Portal | None = None

    @property
    def aio(self) -> Any:  # noqa: ANN401 - a `Command` or a `Wasm`, whose results are R
        """The async object; the connection is opened for it if need be."""
        portal = HOME.portal()
        if self._aio is None or self._portal is not portal:
            made = self._make(portal.client)
            portal.at_close(functools.partial(made.close, everything=True))
            self._aio, self._portal = made, portal
        return self._aio

    def remote(self, value: object = b"") -> R:
        """Run it for one input and wait for the result."""
        return self.spawn(value).get()

    def spawn(self, value: object = b"") -> Call[R]:
        """Send one input and go on."""
        aio = self.aio
        return Call(HOME.portal().run(aio.spawn(value)))

    def map(
        self,
        values: Iterable[object],
        *,
        ordered: bool = True,
        progress: bool = False,
        return_exceptions: bool = False,
        slots: int | None = None,
    ) -> MapJob[R]:
        """Send one task per input, as one job."""
        aio = self.aio
        job = HOME.portal().run(aio.map(list(values), slots=slots))
        return MapJob(
            job,
            ordered=ordered,
            return_exceptions=return_exceptions,
            progress=progress_bar(aio.code.name, job.total) if progress else no_progress(),
        )

    def estimate(self, tasks: int = 1) -> Estimate:
        """What so many inputs would cost now."""
        aio = self.aio
        estimate: Estimate = HOME.portal().run(aio.estimate(tasks))
        return estimate

    def close(self) -> None:
        """Seal its session, so that the rest of the budget comes back."""
        if self._aio is not None and self._portal is not None and self._portal.alive:
            self._portal.run(self._aio.close(everything=True))


def command(
    arguments: Sequence[str],
    *,
    directory: str | Path | None = None,
    collect: Sequence[str] = (),
    **options: Unpack[Options],
) -> Program[CommandResult]:
    """A command that runs in a copy of a directory; files that fit `collect` come back.

    `{input}` in a word is the input's text, `{input_file}` the path of a file that holds it,
    `{index}` the task's number; without the first two the input is standard input.
    """
    terms = _terms(options)
    return Program(
        lambda client: commands.Command(
            client, arguments, terms, directory=directory, collect=collect
        )
    )


def wasm(
    module: bytes | str | Path,
    *,
    arguments: Sequence[str] = (),
    fuel: int = modules.FUEL_DEFAULT,
    wasm_memory_mib: int = modules.MEMORY_MIB_DEFAULT,
    **options: Unpack[Options],
) -> Program[WasmResult]:
    """A WASI command: the same result and the same fuel on every machine.

    The input is its standard input, its standard output the result.
    """
    terms = _terms(options)
    return Program(
        lambda client: modules.Wasm(
            client, module, terms, arguments=arguments, fuel=fuel, memory_mib=wasm_memory_mib
        )
    )
