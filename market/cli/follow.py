"""Bonds between processes of a development stack: children that end with their parent, and who is left."""

import ctypes
import os
import signal
import sys
from pathlib import Path
from typing import Final

VARIABLE: Final = "GRIDPACT_FOLLOW"  # "<parent's pid>:<signal>", set by whoever starts the child
_PR_SET_PDEATHSIG: Final = 1  # linux/prctl.h
_PR_SET_CHILD_SUBREAPER: Final = 36


def token(number: signal.Signals) -> str:
    """The variable's value for children of this process."""
    return f"{os.getpid()}:{number.value}"


def follow_parent() -> None:
    """End by the wanted signal when the parent ends; at once if it is gone already."""
    given = os.environ.pop(VARIABLE, "")
    parent, _, number = given.partition(":")
    if not (parent.isdigit() and number.isdigit()) or sys.platform != "linux":
        return
    _prctl(_PR_SET_PDEATHSIG, int(number))
    if os.getppid() != int(parent):
        os.kill(os.getpid(), signal.SIGKILL)


def adopt_orphans() -> None:
    """Grandchildren whose parent dies become this process's children, so that none is lost."""
    if sys.platform == "linux":
        _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def _prctl(option: int, value: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl")


def descendants() -> set[int]:
    """All living processes below this one, zombies left out."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            text = (entry / "stat").read_text()
        except OSError:  # it has just ended
            continue
        state, parent = text.rpartition(")")[2].split()[:2]  # the name may hold anything
        if state not in "ZX":
            children.setdefault(int(parent), []).append(int(entry.name))
    found: set[int] = set()
    waiting = [os.getpid()]
    while waiting:
        below = children.get(waiting.pop(), [])
        found.update(below)
        waiting += below
    return found


def reap() -> dict[int, int]:
    """Exit codes of all children, own and adopted, that ended since the last call."""
    ended: dict[int, int] = {}
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return ended
        if pid == 0:
            return ended
        ended[pid] = os.waitstatus_to_exitcode(status)
