"""An executor that runs nothing: it answers each task with its own input, when it is let."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

from compute.executors.executor import Chunk, ChunkOutcome, SlotSpec, Status, TaskOutcome
from compute.sandbox.staging import StagedEnvironment
from settlement.domain.errors import SlotLost
from tests.unit.daemon.makers import ENVIRONMENT, MANIFEST

Gate = Callable[[Chunk], Awaitable[None]]


async def _open_gate(chunk: Chunk) -> None:
    pass


class FakeExecutor:
    """Behind the daemon's protocol; `gate` holds a run back or lets it fail."""

    def __init__(self, gate: Gate = _open_gate) -> None:
        self.gate = gate
        self.slots: dict[str, asyncio.Event] = {}
        self.functions: dict[str, bytes] = {}
        self.runs: list[str] = []
        self.opened: list[str] = []
        self.shut = False
        self.window_ends = False

    @property
    def protection(self) -> str:
        return "L"

    @property
    def environment(self) -> StagedEnvironment:
        manifest: dict[str, object] = {"packages": dict(MANIFEST.packages), "python": "3.11"}
        return StagedEnvironment(ENVIRONMENT, manifest, Path("python"), Path("site"))

    @property
    def ready(self) -> bool:
        return not self.shut

    async def start(self) -> None:
        self.shut = False

    async def open(self, slot: SlotSpec, function: bytes) -> None:
        assert slot.lease not in self.slots
        self.slots[slot.lease] = asyncio.Event()
        self.functions[slot.lease] = function
        self.opened.append(slot.lease)

    async def run(self, lease: str, chunk: Chunk) -> ChunkOutcome:
        """The gate, unless the slot is closed first."""
        closed = self.slots[lease]
        self.runs.append(chunk.attempt)
        async with asyncio.TaskGroup() as group:
            gate = group.create_task(self._pass(chunk))
            closing = group.create_task(closed.wait())
            await asyncio.wait([gate, closing], return_when=asyncio.FIRST_COMPLETED)
            failure = gate.result() if gate.done() else SlotLost("the slot was closed")
            gate.cancel()
            closing.cancel()
        if failure is not None:
            raise failure
        status: Status = "cancelled" if self.window_ends else "ok"
        tasks = tuple(TaskOutcome(task.index, status, task.body, b"log") for task in chunk.tasks)
        return ChunkOutcome(tasks, 3, 5, wall_ms=10**9, protection="L")

    async def cancel(self, lease: str) -> None:
        raise AssertionError("the daemon closes leases, it does not cancel chunks")

    async def close(self, lease: str) -> None:
        closed = self.slots.pop(lease, None)
        if closed is not None:
            closed.set()

    async def shutdown(self) -> None:
        for lease in list(self.slots):
            await self.close(lease)
        self.shut = True

    async def _pass(self, chunk: Chunk) -> SlotLost | None:
        try:
            await self.gate(chunk)
        except SlotLost as error:
            return error
        return None
