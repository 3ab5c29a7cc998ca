"""Slots held by the provider's own Ray, seen from the daemon, which never loads Ray itself."""

import asyncio
import logging
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec

from compute.executors import bridge_wire, ground
from compute.executors.bridge_wire import READY_ID, Done, Lost, Open, Reply, Request, Run, Stop
from compute.executors.executor import Chunk, ChunkOutcome, SlotLost, SlotSpec
from compute.executors.ray_box import RayBox
from compute.sandbox.claims import Claim, claim
from compute.sandbox.staging import StagedRay, stage_ray
from settlement.domain.errors import EnvironmentMismatch, GridpactError, NoRay
from settlement.domain.resources import Resources

START_TIMEOUT_SECONDS: Final = 60.0
OPEN_TIMEOUT_SECONDS: Final = 120.0
STOP_TIMEOUT_SECONDS: Final = 20.0
RUN_GRACE_SECONDS: Final = 60.0
MS_PER_SECOND: Final = 1000
LOG: Final = logging.getLogger(__name__)
RESTART_PAUSE_SECONDS: Final = 1.0


class Link(asyncio.Protocol):
    """The daemon's end of the channel; every call in flight fails when the bridge dies."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.ready: asyncio.Future[None] = loop.create_future()
        self.lost = asyncio.Event()
        self._waiting: dict[int, asyncio.Future[Reply]] = {}
        self._count = READY_ID
        self._buffer = bytearray()
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        prefix = bridge_wire.LENGTH_BYTES
        while len(self._buffer) >= prefix:
            end = prefix + int.from_bytes(self._buffer[:prefix], "little")
            if end > bridge_wire.FRAME_BYTES_MAX:
                self.close()
                return
            if len(self._buffer) < end:
                return
            body = bytes(self._buffer[prefix:end])
            del self._buffer[:end]
            try:
                self._hear(bridge_wire.decode_reply(body))
            except msgspec.DecodeError:
                self.close()
                return

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.set()
        told = f"the Ray bridge ended: {exc or 'no word'}"
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(SlotLost(told))
        if not self.ready.done():
            self.ready.set_exception(SlotLost(told))
        if self.ready.done() and not self.ready.cancelled():
            self.ready.exception()  # looked at, so that nobody is told of it at exit

    async def call(self, make: Callable[[int], Request], timeout_seconds: float) -> Done:
        """One request and its answer."""
        if self.lost.is_set() or self._transport is None:
            raise SlotLost("the Ray bridge is not there")
        self._count += 1
        number = self._count
        future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._waiting[number] = future
        try:
            self._transport.write(bridge_wire.encode(make(number)))
            async with asyncio.timeout(timeout_seconds):
                reply = await future
        except TimeoutError:
            raise SlotLost(f"the Ray bridge did not answer in {timeout_seconds} s") from None
        finally:
            self._waiting.pop(number, None)
        if isinstance(reply, Lost):
            raise SlotLost(reply.detail)
        if not isinstance(reply, Done):
            raise SlotLost("the Ray bridge answered out of turn")
        return reply

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def _hear(self, reply: Reply) -> None:
        if reply.id == READY_ID:
            if not self.ready.done():
                self.ready.set_result(None)
            return
        future = self._waiting.get(reply.id)
        if future is not None and not future.done():
            future.set_result(reply)


class RayExecutor(ground.Grounded):
    """One Ray of our own in a box; restarted when it dies, which loses its slots and nothing else."""

    def __init__(self, state_folder: Path, *, capacity: Resources, insecure: bool = False) -> None:
        self._state_folder, self._capacity, self._insecure = state_folder, capacity, insecure
        self._stage: StagedRay | None = None
        self._uid: Claim | None = None
        self._box: RayBox | None = None
        self._link: Link | None = None
        self._leases: set[str] = set()
        self._turn = asyncio.Lock()
        self._ended = False
        self._least = "none"

    @property
    def ready(self) -> bool:
        alive = self._ground is not None and self._ground.alive
        return alive and self._link is not None and not self._link.lost.is_set()

    async def start(self) -> None:
        """Stage, start the spawner, see a sandbox work, start Ray."""
        async with self._turn:
            self._ended = False
            await self._start()

    async def supervise(self) -> None:
        """Restart what dies, for as long as it runs; belongs into the daemon's own task group."""
        while not self._ended:
            if self._link is not None:
                await self._link.lost.wait()
            try:
                if not self._ended:
                    LOG.warning("Ray has ended and is started anew")
                await self._restart()
            except GridpactError as error:
                LOG.warning("%s", error.detail)
            if not self.ready:
                await asyncio.sleep(RESTART_PAUSE_SECONDS)

    async def open(self, slot: SlotSpec, function: bytes) -> None:
        """A slot actor and its sandbox; a bridge that died is started anew first."""
        if not self.ready:
            await self._restart()
        if slot.environment != self.environment.digest:
            raise EnvironmentMismatch(
                f"asked for {slot.environment}, this machine has {self.environment.digest}"
            )
        if slot.lease in self._leases:
            raise SlotLost(f"lease {slot.lease} is open already")
        self._leases.add(slot.lease)
        try:
            await self._call(lambda n: Open(n, slot, function), OPEN_TIMEOUT_SECONDS)
        except BaseException:
            with suppress(SlotLost):
                await self.close(slot.lease)
            raise

    async def run(self, lease: str, chunk: Chunk) -> ChunkOutcome:
        """Run one chunk in the lease's sandbox."""
        timeout_seconds = chunk.window_ms / MS_PER_SECOND + RUN_GRACE_SECONDS
        done = await self._call(lambda n: Run(n, lease, chunk), timeout_seconds)
        if done.outcome is None:
            raise SlotLost("the Ray bridge answered without an outcome")
        return done.outcome

    async def cancel(self, lease: str) -> None:
        """Stop the chunk that runs."""
        if lease in self._leases:
            await self._call(lambda n: Stop(n, lease, "cancel"), STOP_TIMEOUT_SECONDS)

    async def close(self, lease: str) -> None:
        """Free the slot; whatever the bridge says, the spawner kills and proves empty."""
        if lease not in self._leases:
            return
        with suppress(SlotLost):
            await self._call(lambda n: Stop(n, lease, "close"), STOP_TIMEOUT_SECONDS)
        if self._ground is None or not self._ground.alive:
            self._leases.discard(lease)  # the spawner is gone, and with it all that it started
            return
        ended = await self.ground.client.end(lease)
        if not ended.empty:
            raise SlotLost("the sandbox is not proven empty; the slot is withdrawn")
        self._leases.discard(lease)

    async def shutdown(self) -> None:
        """End Ray, every sandbox, the spawner."""
        self._ended = True
        async with self._turn:
            await self._stop()

    async def _call(self, make: Callable[[int], Request], timeout_seconds: float) -> Done:
        if self._link is None:
            raise SlotLost("the executor is not started")
        return await self._link.call(make, timeout_seconds)

    async def _restart(self) -> None:
        async with self._turn:
            if self._ended or self.ready:
                return
            await self._stop_box()
            if self._ground is not None and not self._ground.alive:
                await self._stop()
            await self._start()

    async def _start(self) -> None:
        if self._ground is None:
            self._uid = claim() if os.geteuid() == 0 else None
            uid = self._uid.uid if self._uid else None
            self._stage = stage_ray(self._state_folder)
            self._ground = await ground.lay(
                self._state_folder, guest_uid=uid, insecure=self._insecure, least=self._least
            )
            self._least = self.protection  # what was offered once must hold after a restart too
        assert self._stage is not None
        uid = self._uid.uid if self._uid else None
        self._box = await RayBox.start(self._ground, self._stage, self._capacity, uid)
        try:
            loop = asyncio.get_running_loop()
            _, self._link = await loop.create_connection(Link, sock=self._box.channel)
            async with asyncio.timeout(START_TIMEOUT_SECONDS):
                await self._link.ready
        except (SlotLost, TimeoutError, OSError) as error:
            complaint = self._box.complaint()
            await self._stop_box()
            raise NoRay(f"Ray did not start ({type(error).__name__}): {complaint}") from None

    async def _stop_box(self) -> None:
        if self._link is not None:
            self._link.close()
        if self._box is not None:
            await self._box.stop()
            self._box = None
        if self._ground is not None and self._ground.alive:
            for lease in self._leases:
                with suppress(GridpactError):
                    await self._ground.client.end(lease)
        self._leases.clear()

    async def _stop(self) -> None:
        await self._stop_box()
        if self._ground is not None:
            await self._ground.stop()
            self._ground = None
        if self._uid is not None:
            self._uid.release()
            self._uid = None
