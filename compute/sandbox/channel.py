"""The trusted end of a sandbox's channel: frames in and out, deadlines, caps, and what it printed.

Nothing that comes out is believed: lengths are checked before a byte is kept, answers must come in
the order asked, and descriptors that ride on them find no room.
"""

import asyncio
import os
import struct
from collections import deque
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Final

import msgpack

from compute.sandbox import kinds
from compute.sandbox.policy import LOG_BYTES_MAX, OUTPUT_BYTES_MAX
from compute.sandbox.spawner_client import Opened
from market.domain.kind import Kind

HEADER: Final = struct.Struct("<cQ")
ANSWER: Final = struct.Struct("<IB")
STATUSES: Final = ("ok", "error", "unsafe_result", "output_exceeded")  # by the runner's byte
STREAM_BYTES_MAX: Final = 1 << 20
LOG_PIECE_BYTES: Final = 65_536
CUT_BYTES: Final = 16
READS_MAX: Final = 4  # a full pipe takes one or two; a flood must not hold us here
LOGS_BYTES_MAX: Final = 16 << 20  # of all tasks of a chunk together
LOG_PAUSE_SECONDS: Final = 0.01  # a flood past the cap is read slowly, so that it costs us little


class Ended(Exception):
    """The sandbox is of no more use; `how` says why."""

    def __init__(self, how: str) -> None:
        super().__init__(how)
        self.how = how


@dataclass(frozen=True)
class Answered:
    """One task's answer."""

    index: int
    status: str
    output: bytes
    log: bytes


class LogDrain:
    """What the sandbox prints, up to a cap per task; the rest is read and dropped.

    The runner writes `cut` after each task. A job that forges it spoils its own logs only: of more
    marks than tasks nothing is kept.
    """

    def __init__(self, descriptor: int) -> None:
        self.cut = os.urandom(CUT_BYTES)
        self._descriptor = descriptor
        self._kept = bytearray()
        self._carry = b""  # the end of what was read, where half a mark may stand
        self._whole: deque[bytes] = deque()
        self._awaited = 0  # tasks whose logs were not taken yet
        self._task_bytes_max = LOG_BYTES_MAX
        self._loop = asyncio.get_running_loop()
        self._pause: asyncio.TimerHandle | None = None
        self._open = True
        os.set_blocking(descriptor, False)
        self._loop.add_reader(descriptor, self._read)

    def _read(self) -> bool:
        """Read a piece; false when there is none now."""
        try:
            piece = os.read(self._descriptor, LOG_PIECE_BYTES)
        except BlockingIOError:
            return False
        except OSError:
            piece = b""
        if not piece:
            self._loop.remove_reader(self._descriptor)
            return False
        self._split(self._carry + piece)
        if self._full and self._pause is None:
            self._loop.remove_reader(self._descriptor)
            self._pause = self._loop.call_later(LOG_PAUSE_SECONDS, self._resume)
        return True

    def _split(self, data: bytes) -> None:
        *parts, rest = data.split(self.cut)
        for part in parts:
            self._keep(part)
            if len(self._whole) < self._awaited:
                self._whole.append(bytes(self._kept))
            self._kept.clear()
        border = max(0, len(rest) - CUT_BYTES + 1)
        self._keep(rest[:border])
        self._carry = rest[border:]

    def _keep(self, part: bytes) -> None:
        self._kept += part[: max(0, self._task_bytes_max - len(self._kept))]

    @property
    def _full(self) -> bool:
        """Whether all that may still come is to be dropped."""
        return len(self._kept) >= self._task_bytes_max or len(self._whole) >= self._awaited > 0

    def _resume(self) -> None:
        self._pause = None
        if self._open:
            self._loop.add_reader(self._descriptor, self._read)

    def begin(self, tasks: int) -> None:
        """Forget what was printed between chunks, which belongs to no task, and await the next."""
        self.rest()
        self._awaited = tasks
        self._task_bytes_max = min(LOG_BYTES_MAX, LOGS_BYTES_MAX // max(1, tasks))

    def take(self) -> bytes:
        """What the next task in turn printed; its mark is out before its answer."""
        for _ in range(READS_MAX):
            if self._whole or not self._open or not self._read():
                break
        self._awaited -= 1
        return self._whole.popleft() if self._whole else b""

    def rest(self) -> bytes:
        """What was printed after the last mark."""
        for _ in range(READS_MAX):
            if not self._open or not self._read():
                break
        self._keep(self._carry)
        self._carry = b""
        taken = bytes(self._kept)
        self._kept.clear()
        self._whole.clear()
        return taken

    def close(self) -> None:
        if self._open:
            self._open = False
            if self._pause is not None:
                self._pause.cancel()
            self._loop.remove_reader(self._descriptor)
            os.close(self._descriptor)


class Channel:
    """One live sandbox's frames. One caller at a time."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, log: LogDrain
    ) -> None:
        self._reader, self._writer, self._log = reader, writer, log

    @staticmethod
    async def attach(opened: Opened) -> "Channel":
        """Take over a new sandbox's descriptors."""
        log = LogDrain(opened.log_fd)
        opened.channel.settimeout(0)
        reader, writer = await asyncio.open_connection(sock=opened.channel, limit=STREAM_BYTES_MAX)
        return Channel(reader, writer, log)

    async def ready(self, deadline: float) -> None:
        """Wait for its first word."""
        kind, body = await self._receive(deadline)
        if (kind, body) != (b"R", b""):
            raise Ended("died")

    async def load(
        self, code: bytes, deadline: float, *, kind: Kind, confined: bool
    ) -> bytes | None:
        """Load the job's code; its own exception, as plain data, if it does not load."""
        if kind != "function":
            self._send(b"K", kinds.equipment(kind, confined=confined))
        self._send(b"F", code)
        word, body = await self._receive(deadline)
        if word == b"X":
            return body
        if word != b"L":
            raise Ended("died")
        return None

    async def run(
        self,
        tasks: Sequence[tuple[int, bytes]],
        *,
        seed: int,
        timeout_seconds: float,
        window_end: float,
    ) -> AsyncIterator[Answered]:
        """The answers as they come; raises Ended at the task that did not answer."""
        self._log.begin(len(tasks))
        calls = [list(task) for task in tasks]
        self._send(b"C", msgpack.packb({"seed": seed, "cut": self._log.cut, "tasks": calls}))
        loop = asyncio.get_running_loop()
        for index, _ in tasks:
            task_end = loop.time() + timeout_seconds
            try:
                kind, body = await self._receive(min(task_end, window_end))
            except Ended as ended:
                if ended.how == "timeout" and window_end < task_end:
                    raise Ended("window") from None
                raise
            yield self._answered(kind, body, index)

    def log(self) -> bytes:
        """What was printed since the last answer."""
        return self._log.rest()

    def close(self) -> None:
        """Let go of both descriptors; the sandbox itself is the spawner's to end."""
        self._writer.transport.abort()
        self._log.close()

    def _answered(self, kind: bytes, body: bytes, index: int) -> Answered:
        if kind != b"A" or len(body) < ANSWER.size:
            raise Ended("died")
        said, status = ANSWER.unpack_from(body)
        if said != index or status >= len(STATUSES):
            raise Ended("died")
        return Answered(index, STATUSES[status], body[ANSWER.size :], self._log.take())

    def _send(self, kind: bytes, body: bytes) -> None:
        """Never waits: a job that does not read must not hold us up."""
        self._writer.write(HEADER.pack(kind, len(body)))
        self._writer.write(body)

    async def _receive(self, deadline: float) -> tuple[bytes, bytes]:
        try:
            async with asyncio.timeout_at(deadline):
                kind, length = HEADER.unpack(await self._reader.readexactly(HEADER.size))
                if length > OUTPUT_BYTES_MAX + ANSWER.size:
                    raise Ended("output_exceeded")
                return kind, await self._reader.readexactly(length)
        except TimeoutError:
            raise Ended("timeout") from None
        except (asyncio.IncompleteReadError, OSError):
            raise Ended("died") from None
