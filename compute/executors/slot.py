"""One lease's slot: a sandbox with the function loaded, chunks run in it, a fresh one after each death.

Used by the local executor and by the actor behind Ray alike.
"""

import asyncio
from dataclasses import dataclass, field
from typing import Final, cast

from compute.domain.metering import Sample, usage
from compute.executors.executor import (
    Chunk,
    ChunkOutcome,
    SlotLost,
    SlotSpec,
    Status,
    Task,
    TaskOutcome,
)
from compute.sandbox.channel import Channel, Ended
from compute.sandbox.messages import Metered
from compute.sandbox.policy import Limits
from compute.sandbox.spawner_client import SpawnerClient
from market.wire.plain_write import encode
from settlement.domain.errors import GridpactError, NotFound

READY_TIMEOUT_SECONDS: Final = 30.0
LOAD_TIMEOUT_SECONDS: Final = 60.0
LOAD_ERROR_BYTES_MAX: Final = 64 * 1024  # it is each task's answer
OUTPUT_BYTES_MAX: Final = 256 << 20  # of a chunk; the sandbox caps a single answer
OOM_SETTLES_SECONDS: Final = 0.01  # the kernel counts a moment after it kills
MS_PER_SECOND: Final = 1000
NOTHING: Final = Metered(
    id=0, cpu_ns=0, memory_peak_bytes=0, oom_kills=0, grouped=False, alive=False, empty=True
)


@dataclass
class Armed:
    """A live sandbox that has the function, or the reason why it does not load."""

    number: int
    channel: Channel
    since: float
    cpu_ns: int = 0
    oom_kills: int = 0
    load_error: bytes | None = None
    final: Metered | None = None


@dataclass
class Progress:
    """One chunk under way."""

    chunk: Chunk
    started: float
    window_end: float
    outcomes: list[TaskOutcome] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    output_bytes: int = 0

    @property
    def full(self) -> bool:
        """Whether the answers are more than is held at a time; fewer tasks may come again."""
        return self.output_bytes > OUTPUT_BYTES_MAX

    @property
    def rest(self) -> tuple[Task, ...]:
        return self.chunk.tasks[len(self.outcomes) :]

    def add(self, status: str, output: bytes, log: bytes) -> None:
        """The next task's outcome."""
        index = self.chunk.tasks[len(self.outcomes)].index
        self.outcomes.append(TaskOutcome(index, cast("Status", status), output, log))
        self.output_bytes += len(output)


class Slot:
    """Opened once, closed once; chunks of one lease wait for each other."""

    def __init__(
        self, spawner: SpawnerClient, spec: SlotSpec, function: bytes, protection: str
    ) -> None:
        self._spawner, self._spec, self._function = spawner, spec, function
        self._protection = protection
        self._turn = asyncio.Lock()
        self._armed: Armed | None = None
        self._cancelled = False
        self._closed = False

    async def open(self) -> None:
        """The first sandbox, ready with its function."""
        async with self._turn:
            await self._arm()

    async def run(self, chunk: Chunk) -> ChunkOutcome:
        """Every task gets an outcome; only the machine's own failure raises."""
        async with self._turn:
            self._cancelled = False
            loop = asyncio.get_running_loop()
            started = loop.time()
            progress = Progress(chunk, started, started + chunk.window_ms / MS_PER_SECOND)
            while progress.rest:
                self._refuse_closed()
                if self._cancelled or progress.full or loop.time() >= progress.window_end:
                    for _ in progress.rest:
                        progress.add("cancelled", b"", b"")
                    break
                await self._part(progress)
            used = usage(progress.samples)
            return ChunkOutcome(
                tasks=tuple(progress.outcomes),
                cpu_ms=used.cpu_ms,
                memory_mib_s=used.memory_mib_s,
                wall_ms=round((loop.time() - started) * MS_PER_SECOND),
                protection=self._protection,
            )

    async def cancel(self) -> None:
        """End the sandbox under a running chunk; what is not done is reported so."""
        if self._turn.locked():
            self._cancelled = True
            armed = self._armed
            if armed is not None:
                armed.final = await self._spawner.kill(armed.number)

    async def close(self) -> None:
        """Kill and prove empty."""
        self._closed = True
        await self._disarm()

    async def _part(self, progress: Progress) -> None:
        """As many tasks as one sandbox lives through."""
        armed = self._armed or await self._arm()
        began = asyncio.get_running_loop().time()
        how = ""
        if armed.load_error is not None:
            for _ in progress.rest:
                progress.add("error", armed.load_error, b"")
        else:
            how = await self._stream(armed, progress)
        if not how:
            self._sample(progress, armed, await self._meter(armed), began)
            return
        if how == "died":
            await asyncio.sleep(OOM_SETTLES_SECONDS)
        log = armed.channel.log()
        meter = await self._meter(armed)
        if how == "died" and meter.oom_kills > armed.oom_kills:
            how = "oom"
        self._sample(progress, armed, meter, began)
        await self._disarm()
        if how == "window" or self._cancelled:
            how = "cancelled"
        progress.add(how, encode(_sentence(how, progress.chunk, self._spec)), log)

    async def _stream(self, armed: Armed, progress: Progress) -> str:
        """Empty when all answered, else how the sandbox ended at the next task."""
        try:
            async for answered in armed.channel.run(
                [(task.index, task.body) for task in progress.rest],
                seed=progress.chunk.seed,
                timeout_seconds=progress.chunk.task_timeout_ms / MS_PER_SECOND,
                window_end=progress.window_end,
            ):
                progress.add(answered.status, answered.output, answered.log)
                if progress.full and progress.rest:
                    return "window"
        except Ended as ended:
            return ended.how
        return ""

    async def _meter(self, armed: Armed) -> Metered:
        """The counters now; the last ones, where somebody has ended the sandbox meanwhile."""
        try:
            return await self._spawner.meter(armed.number, reset_peak=True)
        except NotFound:
            return armed.final or NOTHING

    def _sample(self, progress: Progress, armed: Armed, meter: Metered, began: float) -> None:
        now = asyncio.get_running_loop().time()
        cpu_ns = max(0, meter.cpu_ns - armed.cpu_ns)
        wall_ms = round((now - began) * MS_PER_SECOND)
        progress.samples.append(Sample(cpu_ns, meter.memory_peak_bytes, wall_ms))
        armed.cpu_ns = meter.cpu_ns

    async def _arm(self) -> Armed:
        """A sandbox from the spawner; a second attempt, then the machine is at fault."""
        try:
            return await self._arm_once()
        except Ended:
            await self._disarm()
        try:
            return await self._arm_once()
        except Ended as ended:
            await self._disarm()
            raise SlotLost(f"no sandbox became ready: {ended.how}") from None

    def _refuse_closed(self) -> None:
        if self._closed:
            raise SlotLost("the slot was closed")

    async def _arm_once(self) -> Armed:
        self._refuse_closed()
        loop = asyncio.get_running_loop()
        limits = Limits(
            memory_mib=self._spec.memory_mib,
            cpus_milli=self._spec.cpus_milli,
            scratch_mib=self._spec.scratch_mib,
        )
        try:
            opened = await self._spawner.spawn(self._spec.lease, limits)
        except GridpactError as error:
            raise SlotLost(f"no sandbox: {error.detail}") from None
        channel = await Channel.attach(opened)
        armed = self._armed = Armed(opened.number, channel, loop.time())
        try:
            self._refuse_closed()  # while the sandbox was on its way
        except SlotLost:
            await self._disarm()
            raise
        await channel.ready(loop.time() + READY_TIMEOUT_SECONDS)
        try:
            deadline = loop.time() + LOAD_TIMEOUT_SECONDS
            armed.load_error = await channel.load(
                self._function,
                deadline,
                kind=self._spec.kind,
                confined=self._protection != "none",
            )
        except Ended as ended:  # ready came, so it is the function's doing
            armed.load_error = encode(f"the function did not load: {ended.how}")
        if armed.load_error is not None and len(armed.load_error) > LOAD_ERROR_BYTES_MAX:
            armed.load_error = encode("the function did not load, and its exception is too large")
        meter = await self._meter(armed)
        armed.cpu_ns, armed.oom_kills = meter.cpu_ns, meter.oom_kills
        return armed

    async def _disarm(self) -> None:
        armed, self._armed = self._armed, None
        if armed is None:
            return
        armed.channel.close()
        try:
            last = armed.final or await self._spawner.kill(armed.number)
        except SlotLost:
            return  # the spawner is gone, and with it all that it started
        except NotFound:
            return  # ended from elsewhere already
        if not last.empty:
            raise SlotLost("the sandbox is not proven empty; the slot is withdrawn")


def _sentence(how: str, chunk: Chunk, spec: SlotSpec) -> str:
    return {
        "oom": f"the task needed more than {spec.memory_mib} MiB",
        "timeout": f"the task took longer than {chunk.task_timeout_ms} ms",
        "died": "the task's process ended without an answer",
        "output_exceeded": "the task's answer is larger than the limit",
        "cancelled": "the task was stopped before it was done",
    }[how]
