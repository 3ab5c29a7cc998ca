"""A slot's resources as what Ray reserves for it."""

from dataclasses import dataclass
from typing import Final

MEBIBYTE: Final = 1 << 20
MILLI: Final = 1000


@dataclass(frozen=True)
class Reservation:
    """The options of the actor that holds the slot."""

    num_cpus: float
    memory_bytes: int
    num_gpus: int


def reservation(*, cpus_milli: int, memory_mib: int, gpus: int) -> Reservation:
    """What the slot occupies, so that Ray's own bookkeeping refuses to place more than there is."""
    if cpus_milli < 0 or memory_mib < 0 or gpus < 0:
        raise ValueError("a slot's resources are not negative")
    return Reservation(
        num_cpus=cpus_milli / MILLI, memory_bytes=memory_mib * MEBIBYTE, num_gpus=gpus
    )
