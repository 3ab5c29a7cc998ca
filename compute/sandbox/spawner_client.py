"""The spawner seen from the processes that use it: starting it, and asking it for sandboxes."""

import asyncio
import logging
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

import msgspec

from compute.sandbox import messages
from compute.sandbox.messages import (
    Answer,
    End,
    Ended,
    Enumerate,
    Kill,
    Listed,
    Live,
    Meter,
    Metered,
    Ready,
    Refusal,
    Request,
    Setting,
    Spawn,
    Spawned,
)
from compute.sandbox.policy import Limits
from settlement.domain.errors import GridpactError, NoSandbox, SlotLost

LOG: Final = logging.getLogger(__name__)

START_TIMEOUT_SECONDS: Final = 20.0
STOP_TIMEOUT_SECONDS: Final = 10.0
ANSWER_TIMEOUT_SECONDS: Final = 30.0
DESCRIPTOR_BYTES: Final = 4
LINKER_VARIABLES: Final = ("LD_LIBRARY_PATH",)
PROGRAM: Final = (
    "import sys; sys.path.insert(0, sys.argv[1]); from compute.sandbox.spawner import main; main()"
)

A = TypeVar("A", Spawned, Metered, Ended, Listed)


@dataclass(frozen=True)
class Opened:
    """A new sandbox and the descriptors that lead to it."""

    number: int
    channel: socket.socket
    log_fd: int


class SpawnerClient:
    """One connection; all sandboxes that it asked for end with it."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._count = 0
        self._waiting: dict[int, asyncio.Future[tuple[Answer, list[int]]]] = {}
        self._lost = False

    @staticmethod
    async def connect(path: Path) -> "SpawnerClient":
        """Connect to the spawner that listens there."""
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            connection.connect(str(path))
        except OSError as error:
            connection.close()
            raise SlotLost(f"the spawner is not there: {error}") from None
        connection.settimeout(0)
        client = SpawnerClient(connection)
        asyncio.get_running_loop().add_reader(connection, client._hear)
        return client

    @property
    def lost(self) -> bool:
        """Whether the spawner is gone."""
        return self._lost

    async def spawn(self, lease: str, limits: Limits) -> Opened:
        """A new sandbox, which will say ready on its channel."""

        def request(number: int) -> Request:
            return Spawn(
                id=number,
                lease=lease,
                memory_mib=limits.memory_mib,
                cpus_milli=limits.cpus_milli,
                processes_max=limits.processes_max,
                scratch_mib=limits.scratch_mib,
            )

        answer, descriptors = await self._ask(request, Spawned)
        if len(descriptors) != messages.DESCRIPTORS:
            _close_all(descriptors)
            raise SlotLost("the spawner's answer lacks its descriptors")
        channel, log_fd = descriptors
        return Opened(answer.sandbox, socket.socket(fileno=channel), log_fd)

    async def meter(self, sandbox: int, *, reset_peak: bool = False) -> Metered:
        """The counters of one sandbox."""
        answer, _ = await self._ask(lambda n: Meter(n, sandbox, reset_peak), Metered)
        return answer

    async def kill(self, sandbox: int) -> Metered:
        """The last counters, and the proof that nothing of it is left."""
        answer, _ = await self._ask(lambda n: Kill(n, sandbox), Metered)
        return answer

    async def end(self, lease: str) -> Ended:
        """Kill all that a lease runs, whoever asked for it."""
        answer, _ = await self._ask(lambda n: End(n, lease), Ended)
        return answer

    async def live(self) -> tuple[Live, ...]:
        """All live sandboxes of this spawner."""
        answer, _ = await self._ask(Enumerate, Listed)
        return answer.live

    def close(self) -> None:
        """Hang up; the sandboxes of this connection end."""
        self._lose("the connection was closed")

    async def _ask(self, make: Callable[[int], Request], kind: type[A]) -> tuple[A, list[int]]:
        if self._lost:
            raise SlotLost("the spawner is gone")
        self._count += 1
        number = self._count
        future: asyncio.Future[tuple[Answer, list[int]]] = (
            asyncio.get_running_loop().create_future()
        )
        self._waiting[number] = future
        try:
            self._connection.send(messages.encode(make(number)))
            async with asyncio.timeout(ANSWER_TIMEOUT_SECONDS):
                answer, descriptors = await future
        except (OSError, TimeoutError) as error:
            raise SlotLost(f"the spawner does not answer: {error}") from None
        finally:
            self._waiting.pop(number, None)
        if isinstance(answer, Refusal):
            raise GridpactError.from_code(answer.code, answer.detail)
        if not isinstance(answer, kind):
            _close_all(descriptors)
            raise SlotLost(f"the spawner answered {type(answer).__name__}")
        return answer, descriptors

    def _hear(self) -> None:
        space = socket.CMSG_SPACE(messages.DESCRIPTORS * DESCRIPTOR_BYTES)
        try:
            data, ancillary, _, _ = self._connection.recvmsg(
                messages.MESSAGE_BYTES_MAX, space, socket.MSG_CMSG_CLOEXEC
            )
        except BlockingIOError:
            return
        except OSError as error:
            self._lose(str(error))
            return
        descriptors = [
            int.from_bytes(rights[i : i + DESCRIPTOR_BYTES], sys.byteorder)
            for _, _, rights in ancillary
            for i in range(0, len(rights), DESCRIPTOR_BYTES)
        ]
        try:
            answer = messages.decode_answer(data)
        except msgspec.DecodeError:  # also when the other side has hung up
            _close_all(descriptors)
            self._lose("the spawner is gone")
            return
        future = self._waiting.get(answer.id)
        if future is None or future.done():
            _close_all(descriptors)
        else:
            future.set_result((answer, descriptors))

    def _lose(self, reason: str) -> None:
        if self._lost:
            return
        self._lost = True
        with suppress(RuntimeError):  # the loop may be closed already
            asyncio.get_running_loop().remove_reader(self._connection)
        self._connection.close()
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(SlotLost(reason))


def _close_all(descriptors: list[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)


class SpawnerProcess:
    """The spawner as our child: started with an empty environment, ended by letting go of its stdin."""

    def __init__(
        self, process: asyncio.subprocess.Process, ready: Ready, socket_path: Path
    ) -> None:
        self._process = process
        self.ready = ready
        self.socket_path = socket_path

    @staticmethod
    async def start(setting: Setting) -> "SpawnerProcess":
        """Start it and wait until it listens."""
        root = Path(__file__).parent.parent.parent
        # Empty but for what this interpreter may need to start at all.
        linker = {name: os.environ[name] for name in LINKER_VARIABLES if name in os.environ}
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-I", "-c", PROGRAM, str(root),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=linker, cwd="/", start_new_session=True,
        )  # fmt: skip
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(msgspec.json.encode(setting) + b"\n")
            async with asyncio.timeout(START_TIMEOUT_SECONDS):
                line = await process.stdout.readline()
            ready = msgspec.json.decode(line, type=Ready)
            if ready.reasons:
                LOG.warning("protection %s: %s", ready.protection, "; ".join(ready.reasons))
        except BaseException as error:  # a start that is cancelled leaves nothing either
            spawner = SpawnerProcess(process, Ready("none", "none", (), ()), Path(setting.socket))
            await spawner.stop()
            if not isinstance(error, (OSError, TimeoutError, msgspec.DecodeError)):
                raise
            raise NoSandbox(f"the spawner did not start: {type(error).__name__} {error}") from None
        return SpawnerProcess(process, ready, Path(setting.socket))

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.returncode is None

    async def stop(self) -> None:
        """End it and all its sandboxes."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            async with asyncio.timeout(STOP_TIMEOUT_SECONDS):
                await self._process.wait()
        except TimeoutError:
            self._process.kill()
            await self._process.wait()
