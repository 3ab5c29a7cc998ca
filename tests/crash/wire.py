"""A wire to PostgreSQL on which a process dies at the k-th round trip, whatever driver it uses.

It stands between the program and the server and understands no more of the protocol than where a
round trip begins and ends. Each has two points: the request is not sent yet; the server has done
it, and nobody heard the answer. A prepare alone (Flush) changes nothing and is no point.
"""

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import TracebackType
from typing import Final, Self
from urllib.parse import parse_qs, quote, urlsplit

ANSWERED: Final = b"Z"  # ReadyForQuery
COPYING: Final = b"G"  # the server wants data before it answers
DONE: Final = frozenset((b"S", b"Q"))  # Sync, Query: the server answers with ReadyForQuery
PASSED: Final = frozenset((b"H", b"p", b"X", b"d", b"c"))  # Flush, password, Terminate, data
PORT: Final = 5432
REQUESTS: Final = frozenset((80_877_103, 80_877_104))  # for encryption, which it declines
Probe = Callable[[int], Awaitable[None]]
"""Is told how many points have passed."""


class Dead(Exception):
    """The wire is cut."""


def kill_self() -> None:
    """The real death."""
    os.kill(os.getpid(), signal.SIGKILL)


class Wire:
    """`async with Wire(url, folder, die_at=k) as wire`: `wire.url` is the way to the server."""

    def __init__(
        self,
        url: str,
        folder: Path,
        *,
        die_at: int = 0,
        probe: Probe | None = None,
        kill: Callable[[], None] | None = None,
    ) -> None:
        self._target, self._folder = urlsplit(url), folder
        self._die_at, self._probe, self._kill = die_at, probe, kill
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self._armed = False
        self.points = 0  # passed since `arm`
        self.dead = False

    @property
    def url(self) -> str:
        user = self._target.netloc.rpartition("@")[0]
        at = f"{user}@" if user else ""
        return f"postgresql://{at}{self._target.path}?host={quote(str(self._folder))}&port={PORT}"

    def arm(self) -> None:
        """Count from now on."""
        self._armed = True

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_unix_server(
            self._serve, self._folder / f".s.PGSQL.{PORT}"
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:  # fmt: skip
        self._cut()
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def _point(self, *, after: bool) -> None:
        if self.dead:
            raise Dead
        if not self._armed:
            return
        self.points += 1
        if after and self._probe is not None:
            await self._probe(self.points)
        if self.points == self._die_at:
            if self._kill is not None:
                self._kill()
            self.dead = True
            self._cut()
            raise Dead

    def _cut(self) -> None:
        if self._server is not None:
            self._server.close()
        for writer in self._writers:
            writer.transport.abort()

    async def _serve(self, client: asyncio.StreamReader, answers: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._writers.add(answers)
        try:
            server, requests = await self._connect()
            self._writers.add(requests)
            session = _Session(client, answers, server, requests, self._point)
            try:
                await session.run()
            finally:
                requests.transport.abort()
                self._writers.discard(requests)
        except* (Dead, OSError, EOFError):
            pass
        finally:
            answers.transport.abort()
            self._writers.discard(answers)
            self._tasks.discard(task)

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self.dead:
            raise Dead
        options = parse_qs(self._target.query)
        host = options["host"][0] if "host" in options else self._target.hostname or "localhost"
        port = int(options["port"][0]) if "port" in options else self._target.port or PORT
        if host.startswith("/"):
            return await asyncio.open_unix_connection(f"{host}/.s.PGSQL.{port}")
        return await asyncio.open_connection(host, port)


class _Session:
    """One connection's two directions."""

    def __init__(
        self,
        client: asyncio.StreamReader,
        answers: asyncio.StreamWriter,
        server: asyncio.StreamReader,
        requests: asyncio.StreamWriter,
        point: Callable[..., Awaitable[None]],
    ) -> None:
        self._client, self._answers = client, answers
        self._server, self._requests = server, requests
        self._point = point
        self._outstanding = 0  # round trips whose answers are not heard yet

    async def run(self) -> None:
        """Until either side goes away."""
        await self._start()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._forth())
            tasks.create_task(self._back())

    async def _start(self) -> None:
        while True:
            head = await self._client.readexactly(8)
            size, code = int.from_bytes(head[:4]), int.from_bytes(head[4:])
            if code not in REQUESTS:
                break
            self._answers.write(b"N")
        self._requests.write(head + await self._client.readexactly(size - 8))

    async def _forth(self) -> None:
        waiting = bytearray()
        while True:
            kind, message = await _message(self._client)
            waiting += message
            if kind in DONE:
                await self._point(after=False)
                self._outstanding += 1
            elif kind not in PASSED:
                continue
            self._requests.write(waiting)
            await self._requests.drain()
            waiting.clear()

    async def _back(self) -> None:
        held = bytearray()
        while True:
            kind, message = await _message(self._server)
            held += message
            if kind == ANSWERED and self._outstanding:
                self._outstanding -= 1
                await self._point(after=True)
            elif kind != COPYING and self._outstanding:
                continue  # nothing is heard before all of it is done
            self._answers.write(held)
            await self._answers.drain()
            held.clear()


async def _message(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    head = await reader.readexactly(5)
    return head[:1], head + await reader.readexactly(int.from_bytes(head[1:]) - 4)
