"""Gives the machine back by itself when its owner works on it: the load that is not ours is watched."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final, Literal

import psutil

SAMPLE_SECONDS: Final = 2.0
BUSY_SAMPLES: Final = 2  # in a row: one burst is no owner at work
CALM_SAMPLES: Final = 30  # in a row below half of the threshold: a minute of quiet
CALM_PART: Final = 0.5
NOT_BUSY: Final = ("idle", "iowait", "steal", "guest", "guest_nice")  # guests count as user already

Verdict = Literal["yield", "resume"]


@dataclass
class Judge:
    """From samples of foreign load, in cpus, to when to yield and when to come back."""

    threshold_cpus: float
    yielded: bool = False
    _busy: int = 0
    _calm: int = 0

    def sample(self, foreign_cpus: float) -> Verdict | None:
        """What this sample leads to, if anything."""
        self._busy = self._busy + 1 if foreign_cpus >= self.threshold_cpus else 0
        quiet = foreign_cpus < self.threshold_cpus * CALM_PART
        self._calm = self._calm + 1 if quiet else 0
        if not self.yielded and self._busy >= BUSY_SAMPLES:
            self.yielded = True
            return "yield"
        if self.yielded and self._calm >= CALM_SAMPLES:
            self.yielded = False
            return "resume"
        return None


@dataclass
class ForeignLoad:
    """Cpus that others than this process and its children keep busy, since the last reading.

    Processes of ours that came and went between two readings count as foreign; sandboxes live
    longer than that.
    """

    _own: dict[tuple[int, float], float] = field(default_factory=dict)
    _whole: float | None = None
    _at: float = 0.0

    def read(self) -> float:
        """0 at the first reading, which has nothing to compare with."""
        own, whole, at = _own_seconds(), _busy_seconds(), time.monotonic()
        before, since = self._whole, at - self._at
        ours = sum(seconds - self._own.get(process, 0.0) for process, seconds in own.items())
        self._own, self._whole, self._at = own, whole, at
        if before is None or since <= 0:
            return 0.0
        return max(0.0, (whole - before - ours) / since)


def _own_seconds() -> dict[tuple[int, float], float]:
    here = psutil.Process()
    found: dict[tuple[int, float], float] = {}
    for process in (here, *here.children(recursive=True)):
        try:
            times = process.cpu_times()
            found[process.pid, process.create_time()] = times.user + times.system
        except psutil.Error:
            continue  # it has just ended
    return found


def _busy_seconds() -> float:
    times = psutil.cpu_times()._asdict()
    return float(sum(seconds for name, seconds in times.items() if name not in NOT_BUSY))


async def watch(
    judge: Judge,
    *,
    give_way: Callable[[], Awaitable[object]],
    come_back: Callable[[], Awaitable[object]],
    foreign_cpus: Callable[[], float] | None = None,
    pause_seconds: float = SAMPLE_SECONDS,
) -> None:
    """Sample for as long as the daemon lives."""
    read = foreign_cpus or ForeignLoad().read
    while True:
        verdict = judge.sample(await asyncio.to_thread(read))
        if verdict == "yield":
            await give_way()
        elif verdict == "resume":
            await come_back()
        await asyncio.sleep(pause_seconds)
