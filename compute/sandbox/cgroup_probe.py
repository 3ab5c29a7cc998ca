"""Which control groups this process may make, found out by making one."""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

from compute.sandbox.cgroup import (
    PARENT,
    V1_CONTROLLERS,
    V2_CONTROLLERS,
    Backend,
    BackendV1,
    BackendV2,
)
from compute.sandbox.janitor import group_name
from compute.sandbox.policy import Limits

MOUNTS: Final = Path("/proc/self/mounts")
OWN_GROUP: Final = Path("/proc/self/cgroup")
LEAF: Final = "daemon"


def detect(mounts: Path = MOUNTS, own_group: Path = OWN_GROUP) -> tuple[Backend | None, list[str]]:
    """The backend that works here, or none and the reasons."""
    reasons: list[str] = []
    unified = [place for place, kind, _ in _mounted(mounts) if kind == "cgroup2"]
    for root in unified:
        for base in _v2_bases(root, own_group):
            try:
                return _v2(base), []
            except OSError as error:
                reasons.append(f"control groups v2 at {base}: {error}")
    try:
        return _v1(mounts), []
    except OSError as error:
        reasons.append(f"control groups v1: {error}")
    return None, reasons


def _mounted(mounts: Path) -> Iterator[tuple[Path, str, set[str]]]:
    for line in mounts.read_text().splitlines():
        _, place, kind, options = line.split()[:4]
        if kind in {"cgroup", "cgroup2"}:
            yield Path(place), kind, set(options.split(","))


def _try(backend: Backend) -> Backend:
    group = backend.make(group_name("probe"))
    try:
        group.limit(Limits())
        group.read(reset_peak=True)
    finally:
        group.remove()
    return backend


def _v1(mounts: Path) -> Backend:
    roots: dict[str, Path] = {}
    for place, kind, options in _mounted(mounts):
        if kind == "cgroup":
            roots |= {controller: place for controller in V1_CONTROLLERS if controller in options}
    missing = [controller for controller in V1_CONTROLLERS if controller not in roots]
    if missing:
        raise OSError(f"no mount of {', '.join(missing)}")
    return _try(BackendV1(roots))


def _v2_bases(root: Path, own_group: Path) -> Iterator[Path]:
    """Our own delegated folder first, then the whole tree."""
    for line in own_group.read_text().splitlines():
        number, _, path = line.split(":", 2)
        if number == "0" and path != "/" and ".." not in path:
            yield root / path.lstrip("/")
    yield root


def _v2(base: Path) -> Backend:
    offered = (base / "cgroup.controllers").read_text().split()
    missing = [controller for controller in V2_CONTROLLERS if controller not in offered]
    if missing:
        raise OSError(f"not delegated: {', '.join(missing)}")
    parent = base / PARENT
    parent.mkdir(exist_ok=True)
    _hand_down(base)
    _hand_down(parent)
    return _try(BackendV2(parent))


def _hand_down(folder: Path) -> None:
    """Controllers reach children only from a folder that holds no process itself, the root apart."""
    control = folder / "cgroup.subtree_control"
    wanted = " ".join(f"+{controller}" for controller in V2_CONTROLLERS)
    try:
        control.write_text(wanted)
    except OSError:
        leaf = folder / LEAF
        with suppress(OSError):
            leaf.mkdir(exist_ok=True)
            for pid in (folder / "cgroup.procs").read_text().split():
                (leaf / "cgroup.procs").write_text(pid)
        control.write_text(wanted)
