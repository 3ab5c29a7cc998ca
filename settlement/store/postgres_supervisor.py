"""Runs one embedded PostgreSQL for as long as somebody uses it: a process of its own.

Users hold a shared lock on a file, so that the system itself counts them: a user that is killed
lets go. Whoever starts this program is not its owner; it outlives it while others use the database.
"""

import argparse
import contextlib
import ctypes
import fcntl
import os
import pwd
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

from settlement.domain.errors import GridpactError, MisConfigured, NoDatabase
from settlement.store.postgres_programs import Programs, find, reachable_by_others

CRASHES_MAX: Final = 20  # quick ends in a row before giving up
CRASH_PAUSE_SECONDS: Final = 0.2
CRASH_SECONDS: Final = 5.0  # an end within this time of the start is a quick one
LOCK_PATIENCE_SECONDS: Final = 0.5  # others look at the lock for moments only
LOCK_POLL_SECONDS: Final = 0.01
LOG_MAX_BYTES: Final = 8 * 2**20
POLL_SECONDS: Final = 0.2
PORT: Final = 5432  # names the socket; no network address is listened on
PR_SET_PDEATHSIG: Final = 1
ROLE: Final = "gridpact"
SOCKET_PATH_MAX_BYTES: Final = 100
STOP_SECONDS: Final = 30.0  # of a fast shutdown, before an immediate one
# A page that changes first after a checkpoint goes whole into the log, and a ledger's indexes change
# all over: so checkpoints are rare. Nothing here says less of what a COMMIT has on disk.
WORKLOAD: Final = {
    "shared_buffers": "512MB",  # as far as it is used
    "wal_buffers": "16MB",
    "max_wal_size": "4GB",
    "checkpoint_timeout": "30min",
}
UNPRIVILEGED: Final = "nobody"  # PostgreSQL refuses to run as root
VERSION_OF_BUILTIN_LOCALE: Final = 17


@dataclass(frozen=True, slots=True)
class Place:
    """The files of one embedded PostgreSQL."""

    folder: Path

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def sockets(self) -> Path:
        return self.folder / "run"

    @property
    def socket(self) -> Path:
        return self.sockets / f".s.PGSQL.{PORT}"

    @property
    def log(self) -> Path:
        return self.folder / "log"

    @property
    def users(self) -> Path:
        return self.folder / "users"

    @property
    def supervisor(self) -> Path:
        return self.folder / "supervisor"

    def prepare(self) -> None:
        """Make the folder; refuse one that cannot work."""
        if len(os.fsencode(self.socket)) > SOCKET_PATH_MAX_BYTES:
            raise MisConfigured(
                f"{self.folder} is too long for a socket's path; set GRIDPACT_HOME to a shorter one"
            )
        for folder in (*reversed(self.folder.parents), self.folder):
            if not folder.exists():
                folder.mkdir(mode=0o711, exist_ok=True)
                folder.chmod(0o711)  # mkdir's mode is cut by the umask
        if _owner() is not None and not reachable_by_others(self.data):
            raise MisConfigured(
                f"the user {UNPRIVILEGED} cannot reach {self.folder}, and PostgreSQL does not run as"
                " root: set GRIDPACT_HOME to a folder that others may enter"
            )


@contextlib.contextmanager
def locked(path: Path, operation: int) -> Iterator[bool]:
    """Hold a file's lock, or say that it is taken; never waits."""
    with path.open("a") as file:
        try:
            fcntl.flock(file, operation | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True


def _owner() -> pwd.struct_passwd | None:
    """The user that PostgreSQL runs as, if it is not ourselves."""
    if os.geteuid() != 0:
        return None
    try:
        return pwd.getpwnam(UNPRIVILEGED)
    except KeyError:
        raise NoDatabase(
            f"there is no user {UNPRIVILEGED}, and PostgreSQL does not run as root"
        ) from None


class Supervisor:
    """Starts PostgreSQL, restarts it after a crash, ends it when nobody uses it any more."""

    def __init__(self, place: Place, *, fsync: bool) -> None:
        self._place, self._fsync, self._owner = place, fsync, _owner()

    def run(self, log: IO[bytes]) -> None:
        """Until nobody holds the users' lock."""
        programs = self._programs()
        self._own(self._place.sockets)
        if not self._place.data.exists():
            self._initialise(programs, log)
        crashes = 0
        while crashes < CRASHES_MAX:
            started = time.monotonic()
            with self._start(programs, log) as postgres:
                if self._unused_or_ended(postgres):
                    return
            crashes = crashes + 1 if time.monotonic() - started < CRASH_SECONDS else 0
            time.sleep(CRASH_PAUSE_SECONDS)

    def _unused_or_ended(self, postgres: subprocess.Popen[bytes]) -> bool:
        """True: nobody uses it any more, so it was ended. False: it ended by itself."""
        while postgres.poll() is None:
            with locked(self._place.users, fcntl.LOCK_EX) as unused:
                if unused:  # whoever comes now waits for this lock, then starts another
                    _end(postgres)
                    return True
            with contextlib.suppress(subprocess.TimeoutExpired):
                postgres.wait(POLL_SECONDS)
        return False

    def _programs(self) -> Programs:
        with contextlib.suppress(FileNotFoundError):
            made_by = int((self._place.data / "PG_VERSION").read_text())
            return self._staged(find(made_by))
        return self._staged(find())

    def _staged(self, programs: Programs) -> Programs:
        return programs.stage(self._place.folder / "programs") if self._owner else programs

    def _initialise(self, programs: Programs, log: IO[bytes]) -> None:
        """Make the data folder: whole or not at all."""
        partial = self._place.folder / "data.partial"
        shutil.rmtree(partial, ignore_errors=True)
        self._own(partial)
        locale = ["--locale=C.UTF-8"]
        if programs.major >= VERSION_OF_BUILTIN_LOCALE:
            locale = ["--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--locale=C"]
        command = [
            str(programs.folder / "initdb"), "--pgdata", str(partial), "--username", ROLE,
            "--encoding=UTF8", *locale, "--auth-local=trust", "--auth-host=reject",
            "--data-checksums", *([] if self._fsync else ["--no-sync"]),
        ]  # fmt: skip
        with self._popen(command, log) as initdb:
            status = initdb.wait()
        if status:
            raise NoDatabase(f"initdb ended with status {status}; see {self._place.log}")
        partial.rename(self._place.data)

    def _start(self, programs: Programs, log: IO[bytes]) -> subprocess.Popen[bytes]:
        settings = {
            "listen_addresses": "",
            "port": str(PORT),
            "unix_socket_directories": str(self._place.sockets),
            "unix_socket_permissions": "0700",
            "max_connections": "200",
            "log_min_messages": "fatal",  # refused statements are the callers' business
            **WORKLOAD,
        }
        if not self._fsync:
            settings |= {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        command = [str(programs.folder / "postgres"), "-D", str(self._place.data), *options]
        return self._popen(command, log)

    def _own(self, folder: Path) -> None:
        folder.mkdir(mode=0o700, exist_ok=True)
        if self._owner:
            os.chown(folder, self._owner.pw_uid, self._owner.pw_gid)
        folder.chmod(0o700)

    def _popen(self, command: list[str], log: IO[bytes]) -> subprocess.Popen[bytes]:
        owner = self._owner
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=self._place.folder,
            env={"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"},
            user=owner.pw_uid if owner else None,
            group=owner.pw_gid if owner else None,
            extra_groups=[] if owner else None,
            umask=0o077,
            preexec_fn=_end_with_parent(),  # noqa: PLW1509 - this process has one thread
        )


def _end_with_parent() -> Callable[[], object] | None:
    """Where the system can: PostgreSQL gets a SIGINT when its supervisor is killed."""
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None).prctl
    return lambda: prctl(PR_SET_PDEATHSIG, int(signal.SIGINT), 0, 0, 0)


def _end(postgres: subprocess.Popen[bytes]) -> None:
    postgres.send_signal(signal.SIGINT)  # fast: sessions are ended, transactions rolled back
    try:
        postgres.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        postgres.send_signal(signal.SIGQUIT)  # immediate: the next start recovers
        postgres.wait()


def _take(place: Place) -> IO[str] | None:
    """The supervisor's lock, for as long as the file is open; none: there is a supervisor."""
    file = place.supervisor.open("a")
    deadline = time.monotonic() + LOCK_PATIENCE_SECONDS
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return file
        except BlockingIOError:
            if time.monotonic() > deadline:
                file.close()
                return None
            time.sleep(LOCK_POLL_SECONDS)


def main() -> None:
    """Leave the starter's family, then supervise."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--no-fsync", action="store_true")
    options = parser.parse_args()
    place = Place(options.folder)
    held = _take(place)
    if held is None:
        return
    if os.fork():
        os._exit(0)  # the starter waits for this one only; the lock goes on with the child
    os.setsid()
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # the users decide; a reboot's SIGKILL is survived
    if place.log.exists() and place.log.stat().st_size > LOG_MAX_BYTES:
        place.log.unlink()
    with place.log.open("ab", buffering=0) as log:
        os.dup2(log.fileno(), sys.stdout.fileno())
        os.dup2(log.fileno(), sys.stderr.fileno())
        try:
            Supervisor(place, fsync=not options.no_fsync).run(log)
        except GridpactError as error:
            log.write(f"{error.code}: {error.detail}\n".encode())
    os._exit(0)  # the lock goes with the process, not before it


if __name__ == "__main__":
    main()
