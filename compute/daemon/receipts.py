"""From what an executor reports to what a provider signs: leaves, roots, usage, claim."""

import hashlib
from dataclasses import dataclass
from typing import Final

from compute.executors.executor import ChunkOutcome, TaskOutcome
from market.wire.control import LOG_CHARS_MAX, Grant, Output, Work
from market.wire.payload import BLOB_BYTES_MAX, INLINE_BYTES_MAX, Payload
from market.wire.plain import encode_exception
from settlement.domain import amount, canonical, charge, statement
from settlement.domain.errors import Oversized, SlotLost
from settlement.domain.identity import PrivateKey
from settlement.domain.receipt import (
    STATUS_OK,
    Environment,
    Leaf,
    Price,
    Receipt,
    Usage,
    inputs_digest,
    outputs_digest,
    tasks_root,
)

LEDGER: Final = 1  # micro-credits
INLINE_TOTAL_BYTES_MAX: Final = 32 * 1024 * 1024  # of all outputs in one frame; others go as blobs
LOGS_TOTAL_CHARS_MAX: Final = 8 * 1024 * 1024
SEED_BYTES: Final = 4


@dataclass(frozen=True, slots=True)
class Provider:
    """Who signs, for which market, and what the code ran in."""

    key: PrivateKey
    market: str
    environment: str
    equivalence: str


@dataclass(frozen=True, slots=True)
class Span:
    """When a chunk ran, milliseconds since 1970."""

    started_ms: int
    finished_ms: int


def seed(grant: Grant) -> int:
    """The same for every attempt and every check of a job, so that runs can be compared."""
    start = hashlib.sha256(grant.job.encode()).digest()[:SEED_BYTES]
    return int.from_bytes(start, "big") ^ grant.spec.seed


def checked(work: Work, outcome: ChunkOutcome) -> tuple[TaskOutcome, ...]:
    """The outcomes, if they are those of the work; else the executor is at fault."""
    wanted = list(range(work.first, work.first + len(work.inputs)))
    if [task.index for task in outcome.tasks] != wanted:
        raise SlotLost("the executor did not bring one outcome for each task")
    return tuple(_bounded(task) for task in outcome.tasks)


def unfinished(tasks: tuple[TaskOutcome, ...]) -> bool:
    """Whether the window ended before every task had its turn."""
    return any(task.status == "cancelled" for task in tasks)


def leaves(work: Work, tasks: tuple[TaskOutcome, ...]) -> list[Leaf]:
    return [
        Leaf(task.index, payload.digest, canonical.digest(task.output), task.status)
        for payload, task in zip(work.inputs, tasks, strict=True)
    ]


def outputs(tasks: tuple[TaskOutcome, ...], facts: list[Leaf]) -> tuple[list[Output], list[bytes]]:
    """The outputs as they travel, and the bodies that have to be uploaded before."""
    room_bytes = INLINE_TOTAL_BYTES_MAX
    log_chars = min(LOG_CHARS_MAX, LOGS_TOTAL_CHARS_MAX // max(1, len(tasks)))
    travelling: list[Output] = []
    uploads: dict[str, bytes] = {}
    for task, leaf in zip(tasks, facts, strict=True):
        size = len(task.output)
        small = size <= INLINE_BYTES_MAX and size <= room_bytes
        if small:
            room_bytes -= size
        else:
            uploads[leaf.output] = task.output
        payload = Payload(leaf.output, size, task.output if small else None)
        travelling.append(Output(payload, _tail(task.log, log_chars)))
    return travelling, list(uploads.values())


def sign(
    provider: Provider,
    grant: Grant,
    work: Work,
    outcome: ChunkOutcome,
    facts: list[Leaf],
    *,
    span: Span,
    nonce: str,
) -> bytes:
    """The envelope of the receipt."""
    # The window is what was agreed on: time beyond it is the provider's own.
    claimed = charge.gross(
        wall_ms=min(outcome.wall_ms, work.window_ms), rate_microcredits=amount.from_text(grant.rate)
    )
    receipt = Receipt(
        v=1,
        kind="receipt",
        market=provider.market,
        lease=grant.statement,
        order=grant.order,
        job=grant.job,
        spec=grant.spec_digest,
        attempt=work.attempt,
        purpose=work.purpose,
        provider=provider.key.address,
        consumer=grant.consumer,
        first=work.first,
        tasks=len(facts),
        tasks_root=tasks_root(facts),
        inputs=inputs_digest(facts),
        outputs=outputs_digest(facts),
        env=Environment(provider.environment, provider.equivalence, seed(grant)),
        protection=outcome.protection,
        started_ms=span.started_ms,
        finished_ms=span.finished_ms,
        status="ok" if all(leaf.status == STATUS_OK for leaf in facts) else "failed",
        usage=_usage(outcome),
        price=Price(amount.to_text(claimed), LEDGER),
        nonce=nonce,
    )
    return statement.sign(receipt, provider.key).envelope


def _usage(outcome: ChunkOutcome) -> Usage:
    return Usage(
        cpu_ms=outcome.cpu_ms,
        gpu_ms=0,
        memory_mib_s=outcome.memory_mib_s,
        network_bytes=0,
        wall_ms=outcome.wall_ms,
    )


def _bounded(task: TaskOutcome) -> TaskOutcome:
    """An output that no blob can hold is the task's own failure."""
    if len(task.output) <= BLOB_BYTES_MAX:
        return task
    error = Oversized(f"the output has {len(task.output)} bytes, the limit is {BLOB_BYTES_MAX}")
    return TaskOutcome(task.index, "output_exceeded", encode_exception(error), task.log)


def _tail(log: bytes, chars_max: int) -> str:
    """The end of a log, which is where the trouble stands."""
    return log[-chars_max * 4 :].decode(errors="replace")[-chars_max:]
