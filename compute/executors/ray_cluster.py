"""The Ray bridge: a process of its own, inside the box, that starts Ray and drives its slot actors.

The only module that imports ray. The processes of Ray run our code alone; strangers' code runs in
sandboxes, which the spawner outside makes for the actors.
"""

import asyncio
import logging
import os
import socket
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NoReturn

import msgspec
import ray
from ray.scripts import scripts

from compute.domain.placement import reservation
from compute.executors import bridge_wire
from compute.executors.bridge_wire import (
    READY_ID,
    Done,
    Hello,
    Lost,
    Open,
    Reply,
    Request,
    Run,
    Stop,
)
from compute.executors.executor import SlotLost, SlotSpec
from compute.executors.slot import Slot
from compute.sandbox.spawner_client import SpawnerClient
from settlement.domain.errors import GridpactError

GCS_PORT: Final = 6379
LINE: Final = "/tmp/line.sock"  # noqa: S108 - the box's own folder; umask 077
OBJECT_STORE_BYTES: Final = 100_000_000
MEBIBYTE: Final = 1 << 20
MILLI: Final = 1000
WATCH_SECONDS: Final = 0.5
VITAL: Final = frozenset({"gcs_server", "raylet"})
PLACE_TIMEOUT_SECONDS: Final = 60.0
CLOSE_TIMEOUT_SECONDS: Final = 15.0


class SlotActor:
    """Holds a slot's resources within Ray, and drives the slot's sandbox beside it."""

    def __init__(self) -> None:
        self.slot: Slot | None = None
        self.spawner: SpawnerClient | None = None

    async def open(self, door: str, protection: str, spec: SlotSpec, function: bytes) -> None:
        self.spawner = await SpawnerClient.connect(Path(door))
        self.slot = Slot(self.spawner, spec, function, protection)
        await self.slot.open()

    async def serve(self, lease: str) -> None:
        """Chunks come by a line of their own: through Ray's calls each would cost milliseconds more."""
        reader, writer = await asyncio.open_unix_connection(LINE, limit=MEBIBYTE)
        writer.write(bridge_wire.encode(Hello(READY_ID, lease)))
        async with asyncio.TaskGroup() as group:
            while True:
                request = bridge_wire.decode_request(await receive(reader))
                group.create_task(self.answer(request, writer))

    async def answer(self, request: Request, writer: asyncio.StreamWriter) -> None:
        """Whatever goes wrong here is the machine's fault, and says so."""
        assert self.slot is not None
        reply: Reply
        try:
            if isinstance(request, Run):
                reply = Done(request.id, await self.slot.run(request.chunk))
            else:
                await self.slot.cancel()
                reply = Done(request.id)
        except GridpactError as error:
            reply = Lost(request.id, error.detail)
        writer.write(bridge_wire.encode(reply))

    async def close(self) -> None:
        if self.slot is not None:
            await self.slot.close()
        if self.spawner is not None:
            self.spawner.close()


async def receive(reader: asyncio.StreamReader) -> bytes:
    """One frame's body."""
    length = int.from_bytes(await reader.readexactly(bridge_wire.LENGTH_BYTES), "little")
    if length > bridge_wire.FRAME_BYTES_MAX:
        raise SlotLost("a frame over the limit")
    return await reader.readexactly(length)


@dataclass
class Seat:
    """One lease's actor, and the line to it once it has called."""

    actor: Any
    joined: asyncio.Event = field(default_factory=asyncio.Event)
    line: asyncio.StreamWriter | None = None
    pending: set[int] = field(default_factory=set)
    serving: Any = None


class Bridge:
    """Requests of the daemon: slots are made and freed here, chunks are passed on to their actors."""

    def __init__(self, door: str, protection: str, writer: asyncio.StreamWriter) -> None:
        self.door, self.protection, self.writer = door, protection, writer
        self.actor_class: Any = ray.remote(SlotActor)
        self.seats: dict[str, Seat] = {}

    async def serve(self, reader: asyncio.StreamReader) -> None:
        """Until the daemon hangs up or Ray is dead."""
        lines = await asyncio.start_unix_server(self.join, LINE, limit=MEBIBYTE)
        self.say(Done(READY_ID))
        async with lines, asyncio.TaskGroup() as group:
            group.create_task(watch())
            while True:
                body = await receive(reader)
                request = bridge_wire.decode_request(body)
                if isinstance(request, Run) or (
                    isinstance(request, Stop) and request.how == "cancel"
                ):
                    self.pass_on(request.lease, request.id, body)
                else:
                    group.create_task(self.answer(request))

    def say(self, reply: Reply) -> None:
        self.writer.write(bridge_wire.encode(reply))

    def pass_on(self, lease: str, number: int, body: bytes) -> None:
        """The frame as it is; its answer comes back by the line."""
        seat = self.seats.get(lease)
        if seat is None or seat.line is None:
            self.say(Lost(number, f"lease {lease} has no slot here"))
            return
        seat.pending.add(number)
        seat.line.write(bridge_wire.framed(body))

    async def join(self, reader: asyncio.StreamReader, line: asyncio.StreamWriter) -> None:
        """An actor's line: answers pass through; when it ends, what is open on it is lost."""
        seat = None
        try:
            hello = bridge_wire.decode_reply(await receive(reader))
            seat = self.seats.get(hello.lease) if isinstance(hello, Hello) else None
            if seat is None:
                return
            seat.line = line
            seat.joined.set()
            while True:
                body = await receive(reader)
                seat.pending.discard(bridge_wire.decode_reply(body).id)
                self.writer.write(bridge_wire.framed(body))
        except (asyncio.IncompleteReadError, OSError, msgspec.DecodeError, SlotLost):
            pass
        finally:
            line.close()
            if seat is not None:
                seat.line = None
                for number in seat.pending:
                    self.say(Lost(number, "the slot's process ended"))
                seat.pending.clear()

    async def answer(self, request: Request) -> None:
        """Open or close; whatever goes wrong is the machine's fault."""
        reply: Reply = Done(request.id)
        try:
            if isinstance(request, Open):
                await self.open(request)
            elif isinstance(request, Stop):
                await self.close(request.lease)
        except GridpactError as error:
            reply = Lost(request.id, error.detail)
        except Exception as error:  # noqa: BLE001 - Ray's own classes, user code cannot get here
            cause = getattr(error, "cause", None)
            told = (
                cause.detail
                if isinstance(cause, GridpactError)
                else f"{type(error).__name__}: {error}"
            )
            reply = Lost(request.id, told)
        self.say(reply)

    async def open(self, request: Open) -> None:
        slot = request.slot
        room = reservation(cpus_milli=slot.cpus_milli, memory_mib=slot.memory_mib, gpus=slot.gpus)
        actor = self.actor_class.options(
            num_cpus=room.num_cpus, memory=room.memory_bytes, num_gpus=room.num_gpus
        ).remote()
        seat = self.seats[slot.lease] = Seat(actor)
        try:
            async with asyncio.timeout(PLACE_TIMEOUT_SECONDS):
                await actor.open.remote(self.door, self.protection, slot, request.function)
                seat.serving = actor.serve.remote(slot.lease)
                await seat.joined.wait()
        except TimeoutError:
            raise SlotLost("Ray found no room for the slot in time") from None

    async def close(self, lease: str) -> None:
        seat = self.seats.pop(lease, None)
        if seat is None:
            return
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT_SECONDS):
                await seat.actor.close.remote()
        finally:
            ray.kill(seat.actor)


async def watch() -> None:
    """Ray's death would reach a driver late or never: its vital processes are looked at instead."""
    while True:
        missing = VITAL - living()
        if missing:
            sys.stderr.write(f"bridge: Ray is dead: no {', '.join(sorted(missing))}\n")
            leave(1)  # at once: calls into a dead Ray may not even be cancelled in time
        await asyncio.sleep(WATCH_SECONDS)


def living() -> set[str]:
    """The names of the box's processes; the dead that nobody has reaped do not count."""
    names = set()
    for place in Path("/proc").iterdir():
        if place.name.isdigit():
            try:
                head, _, rest = (place / "stat").read_text().rpartition(")")
            except OSError:
                continue
            if not rest.lstrip().startswith("Z"):
                names.add(head.partition("(")[2])
    return names


def leave(code: int) -> NoReturn:
    """Without Ray's own farewell, which waits for processes that the box ends anyway."""
    sys.stderr.flush()
    os._exit(code)


def start_ray(*, cpus_milli: int, memory_mib: int, gpus: int) -> None:
    """The slim head, by the documented command line, run in this process to spare an import."""
    scripts.start.main(
        args=[
            "--head",
            "--node-ip-address=127.0.0.1",
            f"--port={GCS_PORT}",
            "--include-dashboard=false",
            "--include-log-monitor=false",
            "--no-monitor",
            "--disable-usage-stats",
            f"--num-cpus={max(1, -(-cpus_milli // MILLI))}",
            f"--num-gpus={gpus}",
            f"--memory={memory_mib * MEBIBYTE}",
            f"--object-store-memory={OBJECT_STORE_BYTES}",
        ],
        standalone_mode=False,
    )
    ray.init(
        address=f"127.0.0.1:{GCS_PORT}",
        log_to_driver=False,
        logging_level=logging.ERROR,
        namespace="slots",
    )


async def serve(door: str, protection: str, channel_fd: int) -> None:
    """Speak with the daemon over the inherited channel."""
    channel = socket.socket(fileno=channel_fd)
    channel.settimeout(0)
    reader, writer = await asyncio.open_connection(sock=channel, limit=MEBIBYTE)
    await Bridge(door, protection, writer).serve(reader)


def main() -> None:
    """Start Ray, serve, and leave without a word when the daemon is gone: the box ends with us."""
    door, protection, channel_fd, cpus_milli, memory_mib, gpus = sys.argv[1:]
    code = 0
    try:
        start_ray(cpus_milli=int(cpus_milli), memory_mib=int(memory_mib), gpus=int(gpus))
        asyncio.run(serve(door, protection, int(channel_fd)))
    except* (asyncio.IncompleteReadError, ConnectionError):
        pass
    except* (GridpactError, msgspec.DecodeError) as errors:
        sys.stderr.write(f"bridge: {errors.exceptions}\n")
        code = 1
    finally:
        leave(code)
