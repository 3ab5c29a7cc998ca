"""A PostgreSQL that belongs to the program: started when it is first used, ended after the last user.

`DATABASE_URL` goes before it. See `postgres_supervisor.py` for the process that runs it.
"""

import asyncio
import contextlib
import fcntl
import os
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import IO, Final, Self
from urllib.parse import quote

from settlement.domain.errors import NoDatabase
from settlement.store.postgres_supervisor import PORT, ROLE, Place, locked

DATABASE: Final = "postgres"
LOG_TAIL_CHARS: Final = 1_500
POLL_SECONDS: Final = 0.02
PROTOCOL_VERSION: Final = 3 << 16
READY: Final = b"R"  # PostgreSQL's first word to a session that it takes
START_TIMEOUT_SECONDS: Final = 60.0
STARTS_MAX: Final = 3
URL_VARIABLE: Final = "DATABASE_URL"


class EmbeddedPostgres:
    """One user's hold on the PostgreSQL of a folder; many users, in many processes, share it."""

    def __init__(self, folder: Path, *, fsync: bool = True) -> None:
        self._place, self._fsync = Place(folder.absolute()), fsync
        self._hold: IO[str] | None = None

    @property
    def url(self) -> str:
        return f"postgresql://{ROLE}@/{DATABASE}?host={quote(str(self._place.sockets), safe='/')}&port={PORT}"

    def start(self) -> str:
        """Begin to use it; it runs and answers when this returns its address."""
        if self._hold is None:
            self._place.prepare()
            hold = self._place.users.open("a")
            try:
                fcntl.flock(hold, fcntl.LOCK_SH)  # waits for one that is just ending
                self._await_ready()
            except BaseException:
                hold.close()
                raise
            self._hold = hold
        return self.url

    def stop(self) -> None:
        """Use it no longer; it ends within half a second if nobody else does."""
        if self._hold is not None:
            self._hold.close()
            self._hold = None

    def ended(self, timeout_seconds: float) -> bool:
        """Wait until its processes are gone; false if they are not by then: others use it."""
        deadline = time.monotonic() + timeout_seconds
        while self._supervised():
            if time.monotonic() > deadline:
                return False
            time.sleep(POLL_SECONDS)
        return True

    def running(self) -> Self:
        """For `with` and `async with`: started inside, let go after."""
        return self

    def __enter__(self) -> str:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:  # fmt: skip
        self.stop()

    async def __aenter__(self) -> str:
        return await asyncio.to_thread(self.start)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:  # fmt: skip
        self.stop()

    def _await_ready(self) -> None:
        deadline = time.monotonic() + START_TIMEOUT_SECONDS
        starts = 0
        while not (self._supervised() and self._answers()):
            if not self._supervised():
                if starts == STARTS_MAX:
                    raise NoDatabase(f"PostgreSQL did not start:\n{self._log_tail()}")
                starts += 1
                self._start_supervisor()
            elif time.monotonic() > deadline:
                raise NoDatabase(f"PostgreSQL does not answer:\n{self._log_tail()}")
            else:
                time.sleep(POLL_SECONDS)

    def _supervised(self) -> bool:
        if not self._place.folder.is_dir():
            return False
        with locked(self._place.supervisor, fcntl.LOCK_SH) as free:
            return not free

    def _start_supervisor(self) -> None:
        packages = str(Path(__file__).parents[2])
        paths = [packages, *filter(None, [os.environ.get("PYTHONPATH")])]
        done = subprocess.run(
            [
                sys.executable, "-m", "settlement.store.postgres_supervisor",
                str(self._place.folder), *([] if self._fsync else ["--no-fsync"]),
            ],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
            text=True, check=False, start_new_session=True, cwd=self._place.folder,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
            timeout=START_TIMEOUT_SECONDS,
        )  # fmt: skip
        if done.returncode:
            raise NoDatabase(
                f"PostgreSQL's supervisor did not start:\n{done.stderr[-LOG_TAIL_CHARS:]}"
            )

    def _answers(self) -> bool:
        """Whether PostgreSQL takes a session: asked in its own protocol."""
        words = b"".join(part.encode() + b"\0" for part in ("user", ROLE, "database", DATABASE, ""))
        greeting = struct.pack("!II", 8 + len(words), PROTOCOL_VERSION) + words
        with socket.socket(socket.AF_UNIX) as session, contextlib.suppress(OSError):
            session.settimeout(START_TIMEOUT_SECONDS)
            session.connect(str(self._place.socket))
            session.sendall(greeting)
            return session.recv(1) == READY
        return False

    def _log_tail(self) -> str:
        with contextlib.suppress(OSError):
            return self._place.log.read_text(errors="replace")[-LOG_TAIL_CHARS:]
        return "(there is no log)"


@contextlib.contextmanager
def database_url(folder: Path) -> Iterator[str]:
    """The address to use: `DATABASE_URL` if it is set, else the folder's own PostgreSQL."""
    named = os.environ.get(URL_VARIABLE)
    if named:
        yield named
        return
    with EmbeddedPostgres(folder).running() as url:
        yield url
