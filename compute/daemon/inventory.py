"""What this machine has: cpus and memory that the daemon may really use, and the share offered."""

import os
from pathlib import Path
from typing import Final

import psutil

from compute.daemon import share
from settlement.domain.errors import MisConfigured
from settlement.domain.resources import CPUS_MILLI_MAX, MEMORY_MIB_MAX, Resources

MIB: Final = 1024 * 1024
MILLI: Final = 1_000
MEMORY_PARTS: Final = 2  # one of these parts is offered where nothing else is said
QUOTA_FILES: Final = ("/sys/fs/cgroup/cpu.max",)
QUOTA_FILES_V1: Final = (
    "/sys/fs/cgroup/cpu/cpu.cfs_quota_us",
    "/sys/fs/cgroup/cpu/cpu.cfs_period_us",
)
MEMORY_FILES: Final = (
    "/sys/fs/cgroup/memory.max",
    "/sys/fs/cgroup/memory/memory.limit_in_bytes",
)


def machine() -> Resources:
    """All that this process could use, a container's limits included. GPUs are not offered yet."""
    cpus_milli = len(os.sched_getaffinity(0)) * MILLI
    quota_milli = _quota_milli()
    if quota_milli is not None:
        cpus_milli = min(cpus_milli, quota_milli)
    memory_bytes = psutil.virtual_memory().total
    for name in MEMORY_FILES:
        limit_bytes = _number(name)
        if limit_bytes is not None:
            memory_bytes = min(memory_bytes, limit_bytes)
    return Resources(cpus_milli, memory_bytes // MIB, 0)


def capacity(
    whole: Resources, *, cpus: float | str | None, memory_mib: int | str | None
) -> Resources:
    """What is offered: as told, else all cpus and half of the memory."""
    milli = whole.cpus_milli if cpus is None else share.cpus_milli(cpus, whole.cpus_milli)
    mib = (
        whole.memory_mib // MEMORY_PARTS
        if memory_mib is None
        else share.memory_mib(memory_mib, whole.memory_mib)
    )
    if not 0 < milli <= CPUS_MILLI_MAX:
        raise MisConfigured(f"cpus must be above 0 and at most {CPUS_MILLI_MAX // MILLI}")
    if not 0 < mib <= min(whole.memory_mib, MEMORY_MIB_MAX):
        raise MisConfigured(
            f"memory must be above 0 and at most the machine's {whole.memory_mib} MiB"
        )
    return Resources(milli, mib, 0)


def _quota_milli() -> int | None:
    """Thousandths of a cpu that the control group allows; None when it does not limit them."""
    parts = _words(QUOTA_FILES[0]) or [word for name in QUOTA_FILES_V1 for word in _words(name)]
    if len(parts) != 2 or not all(part.isdigit() for part in parts) or int(parts[1]) == 0:  # noqa: PLR2004 - quota, period
        return None
    return max(1, int(parts[0]) * MILLI // int(parts[1]))


def _number(name: str) -> int | None:
    words = _words(name)
    return int(words[0]) if len(words) == 1 and words[0].isdigit() else None


def _words(name: str) -> list[str]:
    try:
        return Path(name).read_text(encoding="ascii").split()
    except OSError:
        return []
