"""Leases for tests: functions from source, as a consumer's program would send them."""

import itertools
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from textwrap import dedent

import cloudpickle

from compute.executors.executor import Chunk, ChunkOutcome, Executor, SlotSpec, Task
from market.domain.kind import Kind
from market.wire import plain

PLANTED = "PLANTED_TOKEN"
MIXED = """
def task(kind, value=None):
    import os, time
    print('says', kind)
    if kind == 'echo': return value
    if kind == 'raise': raise KeyError(value)
    if kind == 'die': os._exit(0)
    if kind == 'sleep': time.sleep(value)
    if kind == 'strange': return object()
    if kind == 'fill': bytearray(value << 20)
    return 'done'
"""
WAIT_SECONDS = 20.0
_numbers = itertools.count()


def function(source: str) -> bytes:
    """The function `task` of a source text, pickled whole, as from a program's own file."""
    space: dict[str, object] = {"__name__": "__main__"}
    exec(compile(dedent(source), "<consumer>", "exec"), space)
    pickled: bytes = cloudpickle.dumps(space["task"])
    return pickled


def chunk(*calls: tuple[object, ...], timeout_ms: int = 20_000, window_ms: int = 60_000) -> Chunk:
    """One task per tuple of arguments."""
    tasks = tuple(Task(i, cloudpickle.dumps((call, {}))) for i, call in enumerate(calls))
    return Chunk("attempt", tasks, timeout_ms, window_ms, seed=7)


def inputs(*bodies: bytes, first: int = 0, seed: int = 7, timeout_ms: int = 20_000) -> Chunk:
    """One task per input of a program that is no function."""
    tasks = tuple(Task(index, body) for index, body in enumerate(bodies, start=first))
    return Chunk("attempt", tasks, timeout_ms, 60_000, seed=seed)


@asynccontextmanager
async def lease(
    executor: Executor, source: str, *, memory_mib: int = 256, cpus_milli: int = 1000
) -> AsyncIterator[str]:
    """An open lease of a function; closed at the end."""
    code = function(source)
    async with lease_of(
        executor, "function", code, memory_mib=memory_mib, cpus_milli=cpus_milli
    ) as name:
        yield name


@asynccontextmanager
async def lease_of(
    executor: Executor, kind: Kind, code: bytes, *, memory_mib: int = 256, cpus_milli: int = 1000
) -> AsyncIterator[str]:
    """An open lease of any kind; closed at the end."""
    name = f"lease-{next(_numbers)}"
    spec = SlotSpec(name, executor.environment.digest, cpus_milli, memory_mib, kind=kind)
    await executor.open(spec, code)
    try:
        yield name
    finally:
        await executor.close(name)


def values(outcome: ChunkOutcome) -> list[object]:
    """What the tasks returned; all must be ok."""
    assert [task.status for task in outcome.tasks] == ["ok"] * len(outcome.tasks)
    return [plain.decode(task.output) for task in outcome.tasks]


def alive(pid: int) -> bool:
    """Zombies that nobody reaps yet do not count."""
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + WAIT_SECONDS
    while not condition():
        assert time.monotonic() < end, "did not come about"
        time.sleep(0.01)


def wait_gone(pid: int) -> None:
    wait_until(lambda: not alive(pid))
