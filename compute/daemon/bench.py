"""What this machine can do, in a few seconds: cpu, memory, disk, and how fast work can start on it."""

import asyncio
import hashlib
import os
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Final

import cloudpickle
import msgspec

from compute.daemon import inventory
from compute.executors.executor import Executor, SlotSpec
from compute.executors.local import LocalExecutor
from compute.executors.ray_bridge import RayExecutor
from settlement.domain.errors import GridpactError, MisConfigured
from settlement.domain.resources import Resources

MIB: Final = 1024 * 1024
MILLI: Final = 1_000
CPU_SECONDS: Final = 0.5
HASHED_BYTES: Final = MIB  # at a time; hashing lets other threads run
COPIED_BYTES: Final = 64 * MIB
COPIES: Final = 6
WRITTEN_BYTES: Final = 64 * MIB
PIECE_BYTES: Final = 4 * MIB
STARTS: Final = 5
SLOT_CPUS_MILLI: Final = 100
SLOT_MEMORY_MIB: Final = 256


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """One run; None where it could not be measured, and then `notes` says why."""

    cpus: float
    cpu_single_mib_s: float  # SHA-256 on one core
    cpu_all_mib_s: float  # on all cores at once
    memory_mib_s: float  # copying, both directions counted once
    disk_write_mib_s: float  # to the state folder, synced
    sandbox_start_ms: float | None
    ray_start_seconds: float | None
    notes: list[str]


async def run(
    state_folder: Path, *, ray: bool = True, capacity: Resources | None = None
) -> Figures:
    """All of it, one after another: nothing disturbs the other."""
    whole = inventory.machine()
    notes: list[str] = []
    cpus = max(1, whole.cpus_milli // MILLI)
    single = await asyncio.to_thread(hashing, 1)
    every = await asyncio.to_thread(hashing, cpus)
    memory = await asyncio.to_thread(copying)
    disk = await asyncio.to_thread(writing, state_folder)
    sandbox_ms = await _noted(notes, "sandbox", sandbox_start_ms(LocalExecutor(state_folder)))
    ray_seconds = None
    if ray:
        offered = capacity or inventory.capacity(whole, cpus=None, memory_mib=None)
        executor = RayExecutor(state_folder, capacity=offered)
        ray_seconds = await _noted(notes, "ray", start_seconds(executor))
    else:
        notes.append("ray: left out")
    return Figures(
        cpus=whole.cpus_milli / MILLI,
        cpu_single_mib_s=single,
        cpu_all_mib_s=every,
        memory_mib_s=memory,
        disk_write_mib_s=disk,
        sandbox_start_ms=sandbox_ms,
        ray_start_seconds=ray_seconds,
        notes=notes,
    )


async def _noted(
    notes: list[str], what: str, measured: "asyncio.Future[float] | object"
) -> float | None:
    """A measurement that a machine may not be able to make."""
    try:
        return float(await measured)  # type: ignore[misc]
    except GridpactError as error:
        notes.append(f"{what}: {error.detail}")
        return None


def hashing(threads: int) -> float:
    """MiB of SHA-256 a second, all threads together."""
    block = bytes(HASHED_BYTES)

    def work() -> tuple[int, float]:
        began = time.perf_counter()
        count = 0
        while time.perf_counter() - began < CPU_SECONDS:
            hashlib.sha256(block).digest()
            count += 1
        return count, time.perf_counter() - began

    with ThreadPoolExecutor(threads) as pool:
        done = [task.result() for task in [pool.submit(work) for _ in range(threads)]]
    return sum(count / seconds for count, seconds in done) * HASHED_BYTES / MIB


def copying() -> float:
    """MiB a second, the best of a few copies of a block that no cache holds."""
    source, target = bytearray(COPIED_BYTES), bytearray(COPIED_BYTES)
    view = memoryview(target)

    def copy() -> None:
        view[:] = source

    return COPIED_BYTES / MIB / min(_timed(copy) for _ in range(COPIES))


def writing(folder: Path) -> float:
    """MiB a second to a new file that is synced and removed."""
    path = folder / f".bench-{os.getpid()}"
    piece = os.urandom(PIECE_BYTES)  # no file system can make it smaller
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:

            def write() -> None:
                for _ in range(WRITTEN_BYTES // PIECE_BYTES):
                    os.write(descriptor, piece)
                os.fsync(descriptor)

            return WRITTEN_BYTES / MIB / _timed(write)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise MisConfigured(f"{folder} cannot be written: {error.strerror}") from None
    finally:
        with suppress(OSError):
            path.unlink(missing_ok=True)


async def sandbox_start_ms(executor: Executor) -> float:
    """Median from the wish for a slot until its function is loaded in a sandbox."""
    await executor.start()
    try:
        function = cloudpickle.dumps(_nothing)
        taken: list[float] = []
        for number in range(STARTS):
            spec = SlotSpec(
                lease=f"bench-{number}",
                environment=executor.environment.digest,
                cpus_milli=SLOT_CPUS_MILLI,
                memory_mib=SLOT_MEMORY_MIB,
            )
            began = time.perf_counter()
            await executor.open(spec, function)
            taken.append(time.perf_counter() - began)
            await executor.close(spec.lease)
        return statistics.median(taken) * MILLI
    finally:
        await executor.shutdown()


async def start_seconds(executor: Executor) -> float:
    """From nothing to an executor that takes slots."""
    began = time.perf_counter()
    try:
        await executor.start()
        return time.perf_counter() - began
    finally:
        await executor.shutdown()


def _nothing() -> None:
    """What a sandbox is started with."""


def _timed(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began
