"""What the daemon asks of whatever runs its slots, and the words for it."""

from dataclasses import dataclass
from typing import Final, Literal, Protocol

from compute.sandbox.staging import StagedEnvironment
from market.domain.kind import Kind
from settlement.domain.errors import SlotLost as SlotLost  # noqa: PLC0414 - part of this interface

Status = Literal[
    "ok",
    "error",
    "oom",
    "timeout",
    "died",
    "output_exceeded",
    "unsafe_result",
    "cancelled",
]
SCRATCH_MIB: Final = 64


@dataclass(frozen=True)
class SlotSpec:
    """One lease's share of this machine."""

    lease: str
    environment: str
    cpus_milli: int
    memory_mib: int
    gpus: int = 0
    scratch_mib: int = SCRATCH_MIB
    kind: Kind = "function"


@dataclass(frozen=True)
class Task:
    """One call: of a function the cloudpickled (args, kwargs), else its input; opened inside only."""

    index: int
    body: bytes


@dataclass(frozen=True)
class Chunk:
    """Tasks run one after another; each has its own time, all together have the window."""

    attempt: str
    tasks: tuple[Task, ...]
    task_timeout_ms: int
    window_ms: int
    seed: int


@dataclass(frozen=True)
class TaskOutcome:
    """How one task ended; the output is plain data (market/wire/plain.py) and may be hostile.

    `ok` carries the value, `error` the exception, every other status one sentence as text;
    a task that was never begun is `cancelled` with no output at all.
    """

    index: int
    status: Status
    output: bytes
    log: bytes


@dataclass(frozen=True)
class ChunkOutcome:
    """All outcomes in the order of the tasks, and what was metered from outside.

    Without control groups (classes L and none) nothing counts cpu and memory: both are 0.
    """

    tasks: tuple[TaskOutcome, ...]
    cpu_ms: int
    memory_mib_s: int
    wall_ms: int
    protection: str


class Executor(Protocol):
    """Slots of one machine. Any call may raise SlotLost: the machine failed, not the user's code.

    `protection` and `environment` may be read once `start` has returned.
    """

    @property
    def protection(self) -> str:
        """`S`, `L` or `none`: how well strangers' code is held."""

    @property
    def environment(self) -> StagedEnvironment:
        """What the code finds inside."""

    @property
    def ready(self) -> bool:
        """Whether slots can be opened just now."""

    async def start(self) -> None:
        """Stage, probe and start whatever stands below."""

    async def open(self, slot: SlotSpec, function: bytes) -> None:
        """Reserve the slot and load the function; its own failure to load is each task's error."""

    async def run(self, lease: str, chunk: Chunk) -> ChunkOutcome:
        """Run one chunk; one at a time for a lease, later callers wait their turn."""

    async def cancel(self, lease: str) -> None:
        """Stop the chunk that runs; what is not done comes back as `cancelled`."""

    async def close(self, lease: str) -> None:
        """Kill whatever the lease runs and prove it gone; nothing happens the second time."""

    async def shutdown(self) -> None:
        """Close every lease and end all processes below."""
