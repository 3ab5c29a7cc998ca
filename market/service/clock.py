"""The market's own time: it follows the machine's clock forward, and never goes back."""

import time
from collections.abc import Callable
from typing import Final

_NS_PER_MS: Final = 1_000_000


def _wall_ns() -> int:
    return time.time_ns()


def _steady_ns() -> int:
    return time.monotonic_ns()


class SteadyClock:
    """Where the machine's clock is set back, time goes on at its own pace.

    Whatever the market has logged stays in its past, and a run in hand is paid for the time that it
    takes, not for what somebody did to a clock. `least_ns` is the latest time of the ledger, which a
    new process must not fall behind either.
    """

    def __init__(
        self,
        least_ns: int = 0,
        *,
        wall: Callable[[], int] = _wall_ns,
        steady: Callable[[], int] = _steady_ns,
    ) -> None:
        self._wall, self._steady = wall, steady
        self._from_ns = max(least_ns, wall())
        self._since = steady()

    def ns(self) -> int:
        """Nanoseconds since 1970."""
        here = self._steady()
        passed = self._from_ns + here - self._since
        now = self._wall()
        if now >= passed:
            self._from_ns, self._since = now, here
            return now
        return passed

    def reach(self, at_ms: int) -> None:
        """Another host of this market is there already: go on from its time."""
        behind = at_ms * _NS_PER_MS - self.ns()
        self._from_ns += max(0, behind)

    def ms(self) -> int:
        """Milliseconds since 1970."""
        return self.ns() // _NS_PER_MS
