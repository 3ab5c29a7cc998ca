"""Slots without Ray: this process, the spawner, the sandbox."""

import asyncio
from contextlib import suppress
from pathlib import Path

from compute.executors import ground
from compute.executors.executor import Chunk, ChunkOutcome, SlotLost, SlotSpec
from compute.executors.slot import Slot
from settlement.domain.errors import EnvironmentMismatch


class LocalExecutor(ground.Grounded):
    """The executor of tests, and of machines that need no Ray."""

    def __init__(self, state_folder: Path, *, insecure: bool = False, groups: bool = True) -> None:
        self._state_folder = state_folder
        self._insecure, self._groups = insecure, groups
        self._slots: dict[str, Slot] = {}
        self._turn = asyncio.Lock()
        self._least = "none"

    @property
    def ready(self) -> bool:
        return self._ground is not None and self._ground.alive

    async def start(self) -> None:
        """Stage, start the spawner, try a sandbox; raises NoSandbox where none works."""
        self._ground = await ground.lay(
            self._state_folder, insecure=self._insecure, groups=self._groups, least=self._least
        )
        self._least = self.protection  # what was offered once must hold after a restart too

    async def open(self, slot: SlotSpec, function: bytes) -> None:
        """A sandbox for the lease, ready with its function; starts the spawner anew if it died."""
        async with self._turn:  # leases that are opened together find one new spawner
            if not self.ready:
                await self.shutdown()
                await self.start()
        if slot.environment != self.environment.digest:
            raise EnvironmentMismatch(
                f"asked for {slot.environment}, this machine has {self.environment.digest}"
            )
        if slot.lease in self._slots:
            raise SlotLost(f"lease {slot.lease} is open already")
        opened = Slot(self.ground.client, slot, function, self.protection)
        self._slots[slot.lease] = opened
        try:
            await opened.open()
        except BaseException:
            with suppress(SlotLost):
                await self.close(slot.lease)
            raise

    async def run(self, lease: str, chunk: Chunk) -> ChunkOutcome:
        """Run one chunk in the lease's sandbox."""
        slot = self._slots.get(lease)
        if slot is None:
            raise SlotLost(f"lease {lease} has no slot here")
        return await slot.run(chunk)

    async def cancel(self, lease: str) -> None:
        """Stop the chunk that runs."""
        slot = self._slots.get(lease)
        if slot is not None:
            await slot.cancel()

    async def close(self, lease: str) -> None:
        """Kill and prove empty; the lease is known until the proof is there."""
        slot = self._slots.get(lease)
        if slot is None:
            return
        with suppress(SlotLost):
            await slot.close()
        if self.ready:  # else the spawner is gone, and with it all that it started
            ended = await self.ground.client.end(lease)  # also what was on its way just now
            if not ended.empty:
                raise SlotLost("the sandbox is not proven empty; the slot is withdrawn")
        self._slots.pop(lease, None)

    async def shutdown(self) -> None:
        """End every lease and the spawner."""
        for lease in list(self._slots):
            with suppress(SlotLost):
                await self.close(lease)
        self._slots.clear()
        if self._ground is not None:
            await self._ground.stop()
            self._ground = None
