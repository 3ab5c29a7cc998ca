"""Control groups that a killed spawner left behind: found by their common name, emptied, removed."""

import os
from pathlib import Path
from typing import Final

from compute.sandbox.cgroup import Backend

NAME_PARTS: Final = 3
START_TIME_FIELD: Final = 19  # of /proc/PID/stat, counted after the program's name


def start_time(pid: int) -> str:
    """The kernel's start time of a process, which with its pid names it for good; empty if gone."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return ""
    return status.rpartition(")")[2].split()[START_TIME_FIELD]


def group_name(suffix: str) -> str:
    """A name that says which process answers for the group."""
    pid = os.getpid()
    return f"{pid}-{start_time(pid)}-{suffix}"


def is_left_over(name: str) -> bool:
    """Whether the process that answers for the group is gone."""
    parts = name.split("-", NAME_PARTS - 1)
    if len(parts) != NAME_PARTS or not parts[0].isdigit():
        return False  # not one of ours
    return start_time(int(parts[0])) != parts[1]


def sweep(backend: Backend) -> list[str]:
    """Kill and remove every group whose owner is gone; the names of those removed."""
    removed = []
    for name in filter(is_left_over, backend.names()):
        group = backend.existing(name)
        try:
            group.kill()
            if group.remove():
                removed.append(name)
        except OSError:
            continue  # another janitor was there first
    return removed
