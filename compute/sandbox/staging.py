"""A world-readable copy of this Python and a closed set of packages: the environment that jobs name.

A machine's Python may lie where no other user gets to; what runs under another uid is copied here,
once per content, and made complete before it gets its name.
"""

import fcntl
import hashlib
import os
import re
import shutil
import stat
import sys
import sysconfig
import tempfile
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from importlib import metadata
from itertools import islice
from pathlib import Path
from typing import Final

from settlement.domain import canonical
from settlement.domain.errors import MisConfigured

PACKAGES: Final = ("numpy", "scikit-learn", "cloudpickle", "msgpack", "wasmtime")
STDLIB_LEFT_OUT: Final = frozenset({
    "ensurepip", "idlelib", "lib2to3", "pydoc_data", "site-packages", "test", "tests", "tkinter",
    "turtledemo", "venv",
})  # fmt: skip
TESTS: Final = frozenset({"tests", "test"})
SUFFIXES_LEFT_OUT: Final = (".a", ".c", ".h", ".hpp", ".o", ".pxd", ".pyi", ".pyx", ".tp")
FOLDER_MODE: Final = 0o755
FILE_MODE: Final = 0o644
PROGRAM_MODE: Final = 0o755
COPY_THREADS: Final = 4
LOCK_NAME: Final = "lock"
RAY_PACKAGES: Final = ("msgpack", "msgspec", "ray")
RAY_LEFT_OUT: Final = tuple(
    f"site/ray/{part}/" for part in ("cpp", "dashboard/client", "jars", "llm", "rllib")
)  # other languages, web pages, and libraries that a slot has no use for
OWN_PACKAGES: Final = ("compute", "market", "settlement")
KEY_CHARS: Final = 24
NAME_PATTERN: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True)
class StagedEnvironment:
    """What runs in the sandbox; the digest is what offers, jobs and receipts name."""

    digest: str
    manifest: dict[str, object]
    python_path: Path
    site_path: Path

    @property
    def equivalence(self) -> str:
        """Results are compared bit by bit only within one such class."""
        short = self.digest.removeprefix(canonical.DIGEST_PREFIX)[:12]
        return f"cpython-{python_minor()}/linux-{os.uname().machine}/{short}"

    @property
    def home(self) -> Path:
        """The folder that holds `bin` and `lib` of the interpreter."""
        return self.python_path.parent.parent


@dataclass(frozen=True)
class StagedRay:
    """What Ray's processes find: an interpreter with packages, and our own code."""

    home: Path
    code: Path


@dataclass(frozen=True)
class Entry:
    """One file to copy: where it lies, and where it goes below the new folder."""

    source: Path
    target: str
    size: int
    mode: int
    version: str = ""  # what tells apart two files of one size, where that matters


def python_minor() -> str:
    """`3.11`."""
    return f"{sys.version_info.major}.{sys.version_info.minor}"


def environment_manifest() -> dict[str, object]:
    """The environment by name and version, without touching a file of it."""
    versions = {name: metadata.version(name) for name in sorted(closure(PACKAGES))}
    return {"packages": versions, "python": python_minor()}


def manifest_digest(manifest: dict[str, object]) -> str:
    """The digest over a manifest's canonical JSON."""
    return canonical.digest(canonical.encode(manifest))


def stage_environment(state_folder: Path) -> StagedEnvironment:
    """Copy the interpreter and the packages below the state folder, unless they are there."""
    manifest = environment_manifest()
    entries = [*_interpreter(), *package_entries(closure(PACKAGES), "site")]
    folder = stage(state_folder / "environments", entries)
    return StagedEnvironment(
        digest=manifest_digest(manifest),
        manifest=manifest,
        python_path=folder / "bin" / f"python{python_minor()}",
        site_path=folder / "site",
    )


def stage_ray(state_folder: Path) -> StagedRay:
    """Copy the interpreter with Ray, and beside it our own code, which changes more often."""
    packages = package_entries(closure(RAY_PACKAGES), "site")
    kept = [entry for entry in packages if not entry.target.startswith(RAY_LEFT_OUT)]
    own = [entry for name in OWN_PACKAGES for entry in _own_entries(name)]
    return StagedRay(
        home=stage(state_folder / "ray", [*_interpreter(), *kept]),
        code=stage(state_folder / "code", own),
    )


def _own_entries(name: str) -> Iterator[Entry]:
    root = Path(__file__).parent.parent.parent / name
    for entry in tree_entries(root, name, frozenset({"__pycache__"})):
        content = hashlib.sha256(entry.source.read_bytes()).hexdigest()
        yield replace(entry, version=content)


def stage(parent: Path, entries: list[Entry]) -> Path:
    """Copy the entries into a folder named by their list; whole or not at all."""
    listing = "\n".join(sorted(f"{e.target} {e.size} {e.mode:o} {e.version}" for e in entries))
    key = hashlib.sha256(f"{sys.version}\n{listing}".encode()).hexdigest()[:KEY_CHARS]
    final = parent / key
    if final.is_dir():
        return final
    make_passable(parent)
    with (parent / LOCK_NAME).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two daemons that start together copy once
        if final.is_dir():
            return final
        for left_over in parent.glob("*.*"):  # by a daemon that was killed while it held the lock
            shutil.rmtree(left_over, ignore_errors=True)
        partial = Path(tempfile.mkdtemp(prefix=f"{key}.", dir=parent))
        try:
            _copy(partial, entries)
            partial.chmod(FOLDER_MODE)
            partial.rename(final)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return final


def make_passable(folder: Path) -> None:
    """Make a folder and those above it; as root, others may pass through, whatever the umask is."""
    missing = [place for place in (folder, *folder.parents) if not place.exists()]
    try:
        for place in reversed(missing):
            place.mkdir(exist_ok=True)
            if os.geteuid() == 0:
                place.chmod(FOLDER_MODE)
    except OSError as error:
        raise MisConfigured(f"{error.filename}: {error.strerror}") from None


def check_reachable(path: Path) -> None:
    """Refuse a folder that a sandbox's own user could not get to, or that anybody could exchange."""
    for folder in (path, *path.parents):
        if not folder.is_dir():
            continue
        mode = folder.stat().st_mode
        if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
            raise MisConfigured(f"{folder} may be written by anybody; choose another state folder")
        if not mode & stat.S_IXOTH:
            raise MisConfigured(
                f"{folder} is closed to other users, so that no sandbox can use what lies in {path}; "
                "choose another state folder"
            )


def closure(names: Iterable[str]) -> set[str]:
    """The distributions and all that they need, extras and what is not installed left out."""
    found: set[str] = set()
    waiting = list(names)
    while waiting:
        name = _normal(waiting.pop())
        if name in found:
            continue
        try:
            requirements = metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            continue
        found.add(name)
        for requirement in requirements:
            if "extra" in requirement.partition(";")[2]:
                continue
            match = NAME_PATTERN.match(requirement)
            if match is not None:
                waiting.append(match[0])
    missing = {_normal(name) for name in names} - found
    if missing:
        raise MisConfigured(f"not installed here, but part of the environment: {sorted(missing)}")
    return found


def package_entries(names: Iterable[str], below: str) -> Iterator[Entry]:
    """Every file that the distributions need at run time, by their own records."""
    for name in sorted(names):
        distribution = metadata.distribution(name)
        for file in distribution.files or []:
            inside = [part for part in file.parts[:-1] if part in TESTS or part == ".."]
            if inside or file.name.endswith(SUFFIXES_LEFT_OUT) or _foreign_cache(file.name):
                continue
            source = Path(str(distribution.locate_file(file)))
            yield from _entry(source, f"{below}/{file}")


def tree_entries(root: Path, below: str, left_out: frozenset[str] = frozenset()) -> Iterator[Entry]:
    """Every file under a folder, some names left out wherever they stand."""
    for folder, folders, files in os.walk(root):
        folders[:] = [name for name in folders if name not in left_out]
        for name in files:
            if name.endswith(SUFFIXES_LEFT_OUT) or _foreign_cache(name):
                continue
            source = Path(folder, name)
            yield from _entry(source, f"{below}/{source.relative_to(root)}")


def _interpreter() -> Iterator[Entry]:
    """This interpreter as a folder that finds its own library: bin, lib, and libpython if shared."""
    name = f"python{python_minor()}"
    program = Path(getattr(sys, "_base_executable", sys.executable)).resolve()
    for entry in _entry(program, f"bin/{name}"):
        yield Entry(entry.source, entry.target, entry.size, PROGRAM_MODE)
    stdlib = Path(sysconfig.get_path("stdlib"))
    yield from tree_entries(stdlib, f"lib/{name}", STDLIB_LEFT_OUT)
    library = sysconfig.get_config_var("INSTSONAME") or ""
    if library.endswith((".so.1.0", ".so")):
        places = (Path(sys.base_prefix, "lib"), Path(sysconfig.get_config_var("LIBDIR") or ""))
        found = (entry for place in places for entry in _entry(place / library, f"lib/{library}"))
        yield from islice(found, 1)


def _entry(source: Path, target: str) -> Iterator[Entry]:
    try:
        status = source.stat()
    except OSError:
        return  # a record may name what was removed after the installation
    mode = PROGRAM_MODE if status.st_mode & 0o100 else FILE_MODE
    yield Entry(source, target, status.st_size, mode)


def _foreign_cache(name: str) -> bool:
    return name.endswith(".pyc") and f".{sys.implementation.cache_tag}." not in name


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _copy(folder: Path, entries: list[Entry]) -> None:
    """Times are kept, so that compiled files stay valid."""
    for place in sorted({str(Path(entry.target).parent) for entry in entries}):
        (folder / place).mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
    for place, _, _ in os.walk(folder):
        Path(place).chmod(FOLDER_MODE)  # whatever the umask was
    with ThreadPoolExecutor(COPY_THREADS) as threads:
        for _ in threads.map(lambda entry: _copy_one(folder, entry), entries, chunksize=64):
            pass


def _copy_one(folder: Path, entry: Entry) -> None:
    target = folder / entry.target
    shutil.copyfile(entry.source, target)
    target.chmod(entry.mode)
    status = entry.source.stat()
    os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns))
