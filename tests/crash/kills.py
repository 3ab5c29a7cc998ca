"""Random `kill -9` under load: of a writing process, or of PostgreSQL with all its processes.

PostgreSQL runs with fsync and synchronous commit on. After each kill every acknowledged payment must
be there, once and with its amount; nothing may be there that nobody intended; the books balance,
and every checkpoint ever signed has the root of the entries.
"""

import asyncio
import contextlib
import itertools
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import asyncpg
import psutil

from settlement.service.engine import Ledger
from settlement.store import migrate
from settlement.store.database import Database
from settlement.store.embedded import EmbeddedPostgres
from tests.crash.payer import PARTIES
from tests.store.ledger_maker import assert_sound, endow

CALLERS: Final = 32
ENDS_WITHIN_SECONDS: Final = 30.0
GROWTH: Final = 400  # acknowledged payments that must come between two kills
ISSUED_EACH: Final = 1_000
PATIENCE_SECONDS: Final = 120.0
POLL_SECONDS: Final = 0.01
PAUSE_SECONDS_MAX: Final = 0.5  # of load between two kills, beyond the growth
ROOT: Final = Path(__file__).parents[2]
SOUND_EVERY: Final = 25  # kills between two audits of the whole log, which grows
WRITERS: Final = 2
_TRANSFERS: Final = "SELECT id, amount::bigint, seq FROM transfers WHERE seq > $1 ORDER BY seq"


@dataclass
class Killed:
    """What was done, and what stood after it."""

    writer: int = 0
    postgresql: int = 0
    acknowledged: int = 0
    not_acknowledged: int = 0  # stored, and its client was killed before it noted the answer
    heads: int = 0  # checkpoints that clients saw
    entries: int = 0
    recoveries_seconds: list[float] = field(default_factory=list)


@dataclass
class Journals:
    """Everything that clients of any life have noted: amounts by transfer id, roots by size."""

    folder: Path
    heads: dict[int, str] = field(default_factory=dict)
    acknowledged: dict[uuid.UUID, int] = field(default_factory=dict)
    intended: dict[uuid.UUID, int] = field(default_factory=dict)
    _read: dict[Path, int] = field(default_factory=dict)

    def catch_up(self) -> None:
        """Whole lines that were added since."""
        for path in self.folder.iterdir():
            with path.open("rb") as file:
                file.seek(self._read.get(path, 0))
                lines, _, rest = file.read().rpartition(b"\n")
                self._read[path] = file.tell() - len(rest)
            for line in lines.split(b"\n") if lines else ():
                self._take(path.suffix, *line.decode().split())

    def _take(self, sort: str, name: str, value: str) -> None:
        if sort == ".heads":
            known = self.heads.setdefault(int(name), value)
            assert known == value, f"two roots for size {name}"
            return
        kept = self.acknowledged if sort == ".acknowledged" else self.intended
        kept[uuid.UUID(name)] = int(value)


class Field:
    """One PostgreSQL, some writers, and a hand that kills."""

    def __init__(self, folder: Path, seed: int) -> None:
        self._folder, self._chance = folder, random.Random(seed)
        self._server = EmbeddedPostgres(folder / "pg")
        self._names = itertools.count()
        self._writers: list[subprocess.Popen[bytes]] = []
        self._url = ""
        self._stored: dict[uuid.UUID, int] = {}
        self._seq = 0
        (folder / "journals").mkdir()
        self.journals = Journals(folder / "journals")
        self.killed = Killed()

    async def run(self, kills: int) -> Killed:
        """So many kills, half of each sort."""
        async with self._server.running() as self._url:
            await self._open()
            try:
                for _ in range(WRITERS):
                    self._start_writer()
                sorts = [number % 2 == 0 for number in range(kills)]
                self._chance.shuffle(sorts)
                for number, of_writer in enumerate(sorts, start=1):
                    await self._grow()
                    if of_writer:
                        self._kill_writer()
                    else:
                        await self._kill_postgresql()
                    await self._all_there(audit=number % SOUND_EVERY == 0 or number == kills)
            finally:
                for writer in self._writers:
                    writer.kill()
                    writer.wait()
        assert await asyncio.to_thread(self._server.ended, ENDS_WITHIN_SECONDS)
        return self.killed

    async def _open(self) -> None:
        await migrate.upgrade(self._url)
        database = Database(self._url)
        async with Ledger(database, statements={}) as ledger:
            await endow(ledger, dict.fromkeys(range(1, PARTIES + 1), ISSUED_EACH))
        await database.close()

    def _start_writer(self) -> None:
        name = f"writer-{next(self._names)}"
        folder = str(self.journals.folder)
        command = [sys.executable, "-m", "tests.crash.payer", self._url, folder, name, str(CALLERS)]
        self._writers.append(subprocess.Popen(command, cwd=ROOT))

    async def _grow(self) -> None:
        """Until there is load, and for a random time more."""
        self.journals.catch_up()
        wanted = len(self.journals.acknowledged) + GROWTH
        async with asyncio.timeout(PATIENCE_SECONDS):
            while len(self.journals.acknowledged) < wanted:
                await asyncio.sleep(POLL_SECONDS)
                self.journals.catch_up()
        await asyncio.sleep(self._chance.uniform(0, PAUSE_SECONDS_MAX))

    def _kill_writer(self) -> None:
        writer = self._writers.pop(self._chance.randrange(len(self._writers)))
        assert writer.poll() is None, "a writer ended by itself"
        writer.kill()
        writer.wait()
        self.killed.writer += 1
        self._start_writer()

    async def _kill_postgresql(self) -> None:
        """The postmaster first, so that it restarts nobody; then all that it had started."""
        pid = int((self._server._place.data / "postmaster.pid").read_text().split()[0])
        postmaster = psutil.Process(pid)
        for one in (postmaster, *postmaster.children(recursive=True)):
            with contextlib.suppress(psutil.NoSuchProcess):
                os.kill(one.pid, signal.SIGKILL)
        began = time.monotonic()
        await self._answers()
        self.killed.recoveries_seconds.append(time.monotonic() - began)
        self.killed.postgresql += 1

    async def _answers(self) -> None:
        """PostgreSQL is there again, after recovery."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while True:
                try:
                    connection = await asyncpg.connect(self._url, timeout=PATIENCE_SECONDS)
                except (OSError, asyncpg.PostgresError):
                    await asyncio.sleep(POLL_SECONDS)
                else:
                    await connection.close()
                    return

    async def _all_there(self, *, audit: bool) -> None:
        """What was acknowledged until now is stored; what is stored was intended."""
        self.journals.catch_up()
        noted = dict(self.journals.acknowledged)  # before the look, so that it must contain it
        heads = dict(self.journals.heads)
        connection = await asyncpg.connect(self._url)
        try:
            await self._read_on(connection, anew=audit)
            signed = await connection.fetch("SELECT size, encode(root, 'hex') FROM checkpoints")
            self.killed.entries = await connection.fetchval("SELECT log_size FROM clock")
        finally:
            await connection.close()
        stored = self._stored
        lost = noted.items() - stored.items()
        assert not lost, f"{len(lost)} acknowledged payments are lost"
        assert heads.items() <= {tuple(row) for row in signed}, (
            "a checkpoint that was shown is gone"
        )
        self.journals.catch_up()
        strange = stored.keys() - self.journals.intended.keys()
        assert len(strange) == PARTIES, "payments that nobody intended"  # but what was issued
        self.killed.acknowledged = len(noted)
        self.killed.not_acknowledged = len(stored) - PARTIES - len(noted)
        self.killed.heads = len(heads)
        if audit:
            database = Database(self._url)
            await assert_sound(database, issued=PARTIES * ISSUED_EACH)
            await database.close()

    async def _read_on(self, connection: asyncpg.Connection, *, anew: bool) -> None:
        """What is stored since the last look, or all of it; what was there is still as many."""
        if anew:
            self._stored, self._seq = {}, 0
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            rows = await connection.fetch(_TRANSFERS, self._seq)
            count = await connection.fetchval("SELECT count(*) FROM transfers")
        self._stored |= {row["id"]: row["amount"] for row in rows}
        self._seq = rows[-1]["seq"] if rows else self._seq
        assert len(self._stored) == count == self._seq, "transfers are gone, or there twice"


def kill(kills: int, *, seed: int) -> Killed:
    """So many kills on a PostgreSQL of their own."""
    with tempfile.TemporaryDirectory(prefix="gp-") as folder:
        Path(folder).chmod(0o711)  # another user runs PostgreSQL below it
        return asyncio.run(Field(Path(folder), seed).run(kills))
