"""Control groups, v1 and v2: one per sandbox, which limits, meters, kills, and proves emptiness.

All groups lie under one name and carry their owner's process in theirs, so that a janitor can tell
leftovers from live ones. What this machine lets us do is found out by doing it.
"""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from compute.sandbox.policy import MEBIBYTE, Limits

PARENT: Final = "gridpact"
PERIOD_US: Final = 50_000
V1_CONTROLLERS: Final = ("memory", "pids", "cpu", "cpuacct", "freezer")
V2_CONTROLLERS: Final = ("memory", "pids", "cpu")
KILL_ROUNDS_MAX: Final = 1_000
ROUND_SECONDS: Final = 0.002
REMOVE_TIMEOUT_SECONDS: Final = 2.0
NANOSECONDS_PER_US: Final = 1_000


@dataclass(frozen=True)
class Reading:
    """What a group has counted so far."""

    cpu_ns: int
    memory_peak_bytes: int
    oom_kills: int


class Group(Protocol):
    """One sandbox's group."""

    def limit(self, limits: Limits) -> None: ...
    def add(self, pid: int) -> None: ...
    def watch(self) -> int | None: ...
    def read(self, *, reset_peak: bool = False) -> Reading: ...
    def kill(self) -> None: ...
    def remove(self) -> bool: ...


class Backend(Protocol):
    """The machine's way of making groups."""

    name: str

    def make(self, name: str) -> Group: ...
    def names(self) -> list[str]: ...
    def existing(self, name: str) -> Group: ...


def _remove(directories: Iterator[Path]) -> bool:
    """True when every directory is gone, which the kernel allows for an empty group only."""
    deadline = time.monotonic() + REMOVE_TIMEOUT_SECONDS
    for directory in directories:
        while directory.exists():
            try:
                directory.rmdir()
            except OSError:
                if time.monotonic() > deadline:
                    return False
                time.sleep(ROUND_SECONDS)
    return True


def _field(text: str, name: str) -> int:
    for line in text.splitlines():
        key, _, value = line.partition(" ")
        if key == name:
            return int(value)
    return 0


def _signal_all(pids: list[int]) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


class GroupV1:
    """One directory below each controller."""

    def __init__(self, roots: dict[str, Path], name: str) -> None:
        self.at = {controller: root / PARENT / name for controller, root in roots.items()}

    def make(self) -> "GroupV1":
        for directory in self.at.values():
            directory.mkdir(parents=True, exist_ok=True)
        return self

    def limit(self, limits: Limits) -> None:
        memory_bytes = str(limits.memory_mib * MEBIBYTE)
        (self.at["memory"] / "memory.limit_in_bytes").write_text(memory_bytes)
        with_swap = self.at["memory"] / "memory.memsw.limit_in_bytes"
        if with_swap.exists():  # otherwise swap adds to the limit
            with_swap.write_text(memory_bytes)
        (self.at["pids"] / "pids.max").write_text(str(limits.processes_max))
        (self.at["cpu"] / "cpu.cfs_period_us").write_text(str(PERIOD_US))
        quota_us = limits.cpus_milli * PERIOD_US // 1000
        (self.at["cpu"] / "cpu.cfs_quota_us").write_text(str(max(quota_us, 1000)))

    def add(self, pid: int) -> None:
        for directory in self.at.values():
            (directory / "cgroup.procs").write_text(str(pid))

    def watch(self) -> int | None:
        """A descriptor that becomes readable when memory runs out: the kernel then kills one only."""
        event = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        with (self.at["memory"] / "memory.oom_control").open() as control:
            line = f"{event} {control.fileno()}"
            (self.at["memory"] / "cgroup.event_control").write_text(line)
        return event

    def read(self, *, reset_peak: bool = False) -> Reading:
        memory = self.at["memory"]
        reading = Reading(
            cpu_ns=int((self.at["cpuacct"] / "cpuacct.usage").read_text()),
            memory_peak_bytes=int((memory / "memory.max_usage_in_bytes").read_text()),
            oom_kills=_field((memory / "memory.oom_control").read_text(), "oom_kill"),
        )
        if reset_peak:
            (memory / "memory.max_usage_in_bytes").write_text("0")
        return reading

    def kill(self) -> None:
        """Freeze, signal, thaw until empty: a fork bomb cannot outrun it."""
        freezer = self.at["freezer"]
        if not freezer.exists():
            return
        for _ in range(KILL_ROUNDS_MAX):
            (freezer / "freezer.state").write_text("FROZEN")
            members = [int(pid) for pid in (freezer / "cgroup.procs").read_text().split()]
            _signal_all(members)
            (freezer / "freezer.state").write_text("THAWED")
            if not members:
                return
            time.sleep(ROUND_SECONDS)

    def remove(self) -> bool:
        return _remove(iter(self.at.values()))


class BackendV1:
    """The controllers' own mounts."""

    name = "v1"

    def __init__(self, roots: dict[str, Path]) -> None:
        self.roots = roots

    def make(self, name: str) -> Group:
        return GroupV1(self.roots, name).make()

    def existing(self, name: str) -> Group:
        return GroupV1(self.roots, name)

    def names(self) -> list[str]:
        parents = [root / PARENT for root in self.roots.values()]
        found = {
            d.name for parent in parents if parent.is_dir() for d in parent.iterdir() if d.is_dir()
        }
        return sorted(found)


class GroupV2:
    """One directory in the one tree."""

    def __init__(self, directory: Path) -> None:
        self.at = directory

    def limit(self, limits: Limits) -> None:
        (self.at / "memory.max").write_text(str(limits.memory_mib * MEBIBYTE))
        swap = self.at / "memory.swap.max"
        if swap.exists():
            swap.write_text("0")
        (self.at / "memory.oom.group").write_text("1")
        (self.at / "pids.max").write_text(str(limits.processes_max))
        quota_us = max(limits.cpus_milli * PERIOD_US // 1000, 1000)
        (self.at / "cpu.max").write_text(f"{quota_us} {PERIOD_US}")

    def add(self, pid: int) -> None:
        (self.at / "cgroup.procs").write_text(str(pid))

    def watch(self) -> int | None:
        """Nothing to watch: with memory.oom.group the kernel kills all."""
        return None

    def read(self, *, reset_peak: bool = False) -> Reading:
        peak = self.at / "memory.peak"  # older kernels have none; then the present use stands in
        memory = peak if peak.exists() else self.at / "memory.current"
        reading = Reading(
            cpu_ns=_field((self.at / "cpu.stat").read_text(), "usage_usec") * NANOSECONDS_PER_US,
            memory_peak_bytes=int(memory.read_text()),
            oom_kills=_field((self.at / "memory.events").read_text(), "oom_kill"),
        )
        if reset_peak and peak.exists():
            with suppress(OSError):  # kernels before 6.12 cannot; then the lease's peak stays
                peak.write_text("0")
        return reading

    def kill(self) -> None:
        if not self.at.exists():
            return
        kill = self.at / "cgroup.kill"
        for _ in range(KILL_ROUNDS_MAX):
            members = [int(pid) for pid in (self.at / "cgroup.procs").read_text().split()]
            if not members:
                return
            if kill.exists():
                kill.write_text("1")
            else:
                _signal_all(members)
            time.sleep(ROUND_SECONDS)

    def remove(self) -> bool:
        return _remove(iter([self.at]))


class BackendV2:
    """The unified tree, below a folder that we may divide."""

    name = "v2"

    def __init__(self, parent: Path) -> None:
        self.parent = parent

    def make(self, name: str) -> Group:
        directory = self.parent / name
        directory.mkdir(exist_ok=True)
        return GroupV2(directory)

    def existing(self, name: str) -> Group:
        return GroupV2(self.parent / name)

    def names(self) -> list[str]:
        return sorted(d.name for d in self.parent.iterdir() if d.is_dir())
