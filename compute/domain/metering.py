"""Readings of a sandbox's counters folded into a chunk's usage; whole numbers, rounded once, up."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

MEBIBYTE: Final = 1 << 20
NANOSECONDS_PER_MS: Final = 1_000_000
MS_PER_SECOND: Final = 1_000


@dataclass(frozen=True)
class Sample:
    """What one sandbox used while it ran a part of the chunk."""

    cpu_ns: int
    memory_peak_bytes: int
    wall_ms: int


@dataclass(frozen=True)
class Usage:
    """A chunk's evidence; what is billed is the reserved time, not this."""

    cpu_ms: int
    memory_mib_s: int


def usage(samples: Iterable[Sample]) -> Usage:
    """Sums over the sandboxes that ran the chunk, one after another: peak memory × its own time."""
    cpu_ns = 0
    byte_ms = 0
    for sample in samples:
        if sample.cpu_ns < 0 or sample.memory_peak_bytes < 0 or sample.wall_ms < 0:
            raise ValueError("a counter does not run backwards")
        cpu_ns += sample.cpu_ns
        byte_ms += sample.memory_peak_bytes * sample.wall_ms
    return Usage(
        cpu_ms=-(-cpu_ns // NANOSECONDS_PER_MS),
        memory_mib_s=-(-byte_ms // (MEBIBYTE * MS_PER_SECOND)),
    )
