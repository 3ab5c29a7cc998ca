"""The child processes of a development stack: start, watch, end, and tell why one failed."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from market.cli import follow
from settlement.domain.errors import Failed

LOG_LINES_SHOWN: Final = 20
POLL_SECONDS: Final = 0.05
LEFTOVER_SECONDS_MAX: Final = 10.0


@dataclass
class Child:
    """One process that was started, and how it ended."""

    name: str
    pid: int
    log: Path
    code: int | None = None

    @property
    def alive(self) -> bool:
        return self.code is None

    def failure(self) -> Failed:
        """How it ended, with the last lines that it said."""
        lines = self.log.read_text(errors="replace").splitlines()[-LOG_LINES_SHOWN:]
        said = "\n".join(f"    {line}" for line in lines)
        return Failed(f"{self.name} ended with code {self.code}; its log {self.log}:\n{said}")


class Children:
    """All of them. Each is the first of its own process group, so that Ctrl-C reaches only us."""

    def __init__(self, logs: Path, hurry: Callable[[], bool]) -> None:
        self.logs = logs
        self.all: dict[str, Child] = {}
        self._hurry = hurry

    def start(self, name: str, arguments: Sequence[str], settings: Mapping[str, str]) -> Child:
        """Start `gridpact ARGUMENTS` with this interpreter; it ends when this process does."""
        self.logs.mkdir(parents=True, exist_ok=True)
        log = self.logs / f"{name}.log"
        environment = {
            **os.environ,
            **settings,
            follow.VARIABLE: follow.token(signal.SIGKILL),
            "PYTHONUNBUFFERED": "1",
        }
        with log.open("wb") as output:
            started = subprocess.Popen(
                [sys.executable, "-m", "market.cli.main", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment,
                process_group=0,
            )
        started.returncode = 0  # `reap` asks for its status, not this object
        child = Child(name, started.pid, log)
        self.all[name] = child
        return child

    def look(self) -> list[Child]:
        """The children that ended since the last look."""
        ended = follow.reap()
        gone = [child for child in self.all.values() if child.alive and child.pid in ended]
        for child in gone:
            child.code = ended[child.pid]
        return gone

    def signal(self, names: Sequence[str], number: signal.Signals) -> None:
        """Send a signal to those that live."""
        self.look()
        for name in names:
            child = self.all.get(name)
            if child is not None and child.alive:
                os.kill(child.pid, number)  # not yet reaped, so the number is still its own

    def end(self, names: Sequence[str], *, grace_seconds: float) -> None:
        """Ask to end, wait, and kill whoever takes longer."""
        self.signal(names, signal.SIGTERM)
        deadline = time.monotonic() + grace_seconds
        while any(self._lives(name) for name in names):
            if self._hurry() or time.monotonic() > deadline:
                self.signal(names, signal.SIGKILL)
            time.sleep(POLL_SECONDS)

    def _lives(self, name: str) -> bool:
        self.look()
        child = self.all.get(name)
        return child is not None and child.alive


def end_leftovers(spared: set[int]) -> int:
    """Wait until nothing is left below this process but the spared; kill what stays. How many."""
    killed: set[int] = set()
    deadline = time.monotonic() + LEFTOVER_SECONDS_MAX
    while left := follow.descendants() - spared:
        if time.monotonic() > deadline:
            for pid in left:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue
                killed.add(pid)
            deadline = time.monotonic() + 1
        time.sleep(POLL_SECONDS)
        follow.reap()
    return len(killed)
