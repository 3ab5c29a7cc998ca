"""The Ray bridge: a process of its own, inside the box, that starts Ray and drives its slot actors.

The only module that imports ray. The processes of Ray run our code alone; strangers' code runs in
sandboxes, which the spawner outside makes for the actors.
"""

import asyncio
import logging
import os
import socket
import sys
from pathlib import Path
from typing import Any, Final, NoReturn

import msgspec
import ray
from ray.scripts import scripts

from compute.domain.placement import reservation
from compute.executors import bridge_wire
from compute.executors.bridge_wire import READY_ID, Done, Lost, Open, Reply, Request, Run, Stop
from compute.executors.executor import Chunk, ChunkOutcome, SlotLost, SlotSpec
from compute.executors.slot import Slot
from compute.sandbox.spawner_client import SpawnerClient
from settlement.domain.errors import GridpactError

GCS_PORT: Final = 6379
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

    async def run(self, chunk: Chunk) -> ChunkOutcome:
        assert self.slot is not None
        return await self.slot.run(chunk)

    async def cancel(self) -> None:
        if self.slot is not None:
            await self.slot.cancel()

    async def close(self) -> None:
        if self.slot is not None:
            await self.slot.close()
        if self.spawner is not None:
            self.spawner.close()


class Bridge:
    """Requests of the daemon, each answered by itself."""

    def __init__(self, door: str, protection: str, writer: asyncio.StreamWriter) -> None:
        self.door, self.protection, self.writer = door, protection, writer
        self.actor_class: Any = ray.remote(SlotActor)
        self.actors: dict[str, Any] = {}

    async def serve(self, reader: asyncio.StreamReader) -> None:
        """Until the daemon hangs up or Ray is dead."""
        self.say(Done(READY_ID))
        async with asyncio.TaskGroup() as group:
            group.create_task(watch())
            while True:
                length = int.from_bytes(
                    await reader.readexactly(bridge_wire.LENGTH_BYTES), "little"
                )
                if length > bridge_wire.FRAME_BYTES_MAX:
                    raise SlotLost("a frame over the limit")
                body = await reader.readexactly(length)
                group.create_task(self.answer(bridge_wire.decode_request(body)))

    def say(self, reply: Reply) -> None:
        self.writer.write(bridge_wire.encode(reply))

    async def answer(self, request: Request) -> None:
        """Whatever goes wrong here is the machine's fault, and says so."""
        reply: Reply
        try:
            reply = Done(request.id, await self.act(request))
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

    async def act(self, request: Request) -> ChunkOutcome | None:
        match request:
            case Open():
                await self.open(request)
            case Run():
                outcome: ChunkOutcome = await self.actor(request.lease).run.remote(request.chunk)
                return outcome
            case Stop(how="cancel"):
                await self.actor(request.lease).cancel.remote()
            case Stop():
                await self.close(request.lease)
        return None

    async def open(self, request: Open) -> None:
        slot = request.slot
        room = reservation(cpus_milli=slot.cpus_milli, memory_mib=slot.memory_mib, gpus=slot.gpus)
        actor = self.actor_class.options(
            num_cpus=room.num_cpus, memory=room.memory_bytes, num_gpus=room.num_gpus
        ).remote()
        self.actors[slot.lease] = actor
        opened = actor.open.remote(self.door, self.protection, slot, request.function)
        try:
            async with asyncio.timeout(PLACE_TIMEOUT_SECONDS):
                await opened
        except TimeoutError:
            raise SlotLost("Ray found no room for the slot in time") from None

    async def close(self, lease: str) -> None:
        actor = self.actors.pop(lease, None)
        if actor is None:
            return
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT_SECONDS):
                await actor.close.remote()
        finally:
            ray.kill(actor)

    def actor(self, lease: str) -> Any:  # noqa: ANN401 - Ray's handles have no types
        if lease not in self.actors:
            raise SlotLost(f"lease {lease} has no slot here")
        return self.actors[lease]


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
