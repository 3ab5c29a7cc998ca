"""What strangers' code may touch and how much of it, as data; everything not named here is absent."""

from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final

MEBIBYTE: Final = 1 << 20

# Where things stand inside a sandbox.
PYTHON_INSIDE: Final = "/python"
SITE_INSIDE: Final = "/python/site"
HOME_INSIDE: Final = "/tmp"  # noqa: S108 - the sandbox's own, made new for it
UID_INSIDE: Final = 1000
CHANNEL_FD: Final = 3

# Bytes that come out.
OUTPUT_BYTES_MAX: Final = 64 * MEBIBYTE
LOG_BYTES_MAX: Final = 64 * 1024

# Runs are made repeatable before anything is compared.
ENVIRONMENT: Final = MappingProxyType({
    "HOME": HOME_INSIDE,
    "LANG": "C.UTF-8",
    "MKL_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "PATH": "/usr/bin:/bin",
    "PYTHONHASHSEED": "0",
    "TMPDIR": HOME_INSIDE,
    "TZ": "UTC",
})  # fmt: skip
# What the host may add: workarounds for its hardware, without which a library may misjudge it.
HARDWARE_VARIABLES: Final = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")


@dataclass(frozen=True)
class Limits:
    """One sandbox's share of the machine."""

    memory_mib: int = 512
    cpus_milli: int = 1000
    processes_max: int = 32
    scratch_mib: int = 64
    open_files_max: int = 256


LEAST: Final = Limits(
    memory_mib=32, cpus_milli=10, processes_max=4, scratch_mib=1, open_files_max=32
)
MOST: Final = Limits(
    memory_mib=64 * 1024 * 1024,
    cpus_milli=1_000_000,
    processes_max=4096,
    scratch_mib=1024 * 1024,
    open_files_max=65_536,
)


def within_bounds(limits: Limits) -> bool:
    """Whether every figure is one that the spawner takes."""
    figures = vars(limits)
    return all(vars(LEAST)[name] <= value <= vars(MOST)[name] for name, value in figures.items())


@dataclass(frozen=True)
class Ground:
    """What all sandboxes of one machine have in common."""

    bwrap: Path | None
    python_home: Path
    python_name: str
    protection: str
    hardware: dict[str, str]

    @property
    def confined(self) -> bool:
        """Whether there is a sandbox at all; without one the code runs as a plain child."""
        return self.bwrap is not None

    @property
    def python(self) -> str:
        """The interpreter, as the program that runs there names it."""
        home = PYTHON_INSIDE if self.confined else str(self.python_home)
        return f"{home}/bin/{self.python_name}"

    @property
    def site(self) -> str:
        """The folder of packages, likewise."""
        return SITE_INSIDE if self.confined else str(self.python_home / "site")

    def environment(self) -> dict[str, str]:
        """The whole environment of the program inside."""
        home = PYTHON_INSIDE if self.confined else str(self.python_home)
        return {**ENVIRONMENT, **self.hardware, "LD_LIBRARY_PATH": f"{home}/lib"}
