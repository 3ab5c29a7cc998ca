"""What the blocking facade hands out: receipts, calls and maps, and the one connection behind them."""

import atexit
from collections import deque
from decimal import Decimal
from pathlib import Path
from types import TracebackType
from typing import Final, Generic, Self, TypeVar

from market.sdk import evidence
from market.sdk import function as heart
from market.sdk.packing import Outcome
from market.sdk.portal import Home
from market.sdk.progress import Progress
from market.wire.jobs import JobView
from market.wire.money import Accepted

R = TypeVar("R")

HOME: Final = Home()
atexit.register(HOME.close)


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
        return HOME.portal().run(self.aio.save(path))

    def accept(self) -> Accepted:
        """Take it as it is: it is settled without waiting for a check."""
        return HOME.portal().run(self.aio.accept())

    def verify(self, *, final: bool = False) -> evidence.Proven:
        """Check it against the pinned key of the log."""
        return HOME.portal().run(self.aio.verify(final=final))


class Call(Generic[R]):
    """One task on its way."""

    def __init__(self, aio: heart.Call[R]) -> None:
        self.aio = aio
        self.job_id = aio.job_id

    def done(self) -> bool:
        return self.aio.done()

    def get(self, timeout: float | None = None) -> R:
        """What the function returned; what it raised is raised here."""
        outcome = HOME.portal().run(self.aio.outcome(timeout))
        value: R = outcome.value()
        return value

    @property
    def receipt(self) -> Receipt:
        """The receipt of the attempt that made the result; waits for it."""
        return Receipt(HOME.portal().run(self.aio.receipt()))

    @property
    def cost(self) -> Decimal:
        """Credits paid for it; waits for the result."""
        return HOME.portal().run(self.aio.cost())


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
            fresh = HOME.portal().run(self.aio.take())
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
        return HOME.portal().run(self.aio.view())

    @property
    def cost(self) -> Decimal:
        """Credits spent so far."""
        return HOME.portal().run(self.aio.cost())

    def receipts(self) -> list[Receipt]:
        """All attempts so far, checks included."""
        return [Receipt(receipt) for receipt in HOME.portal().run(self.aio.receipts())]

    def accept(self) -> list[Accepted]:
        """Take all receipts that wait for a check as they are."""
        return HOME.portal().run(self.aio.accept())

    def wait(self) -> None:
        """Until the job is closed and the rest of its budget is back."""
        HOME.portal().run(self.aio.wait())

    def cancel(self) -> None:
        """End it now; what ran is paid."""
        HOME.portal().run(self.aio.cancel())
