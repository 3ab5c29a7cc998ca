"""The resource vector of slots and machines."""

from typing import Annotated, Final

import msgspec

CPUS_MILLI_MAX: Final = 1_024_000
MEMORY_MIB_MAX: Final = 16 * 1024 * 1024
GPUS_MAX: Final = 64

_MIB_PER_GIB: Final = 1_024
_MILLI: Final = 1_000


class Resources(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Thousandths of a cpu, mebibytes, whole GPUs."""

    cpus_milli: Annotated[int, msgspec.Meta(ge=0, le=CPUS_MILLI_MAX)]
    memory_mib: Annotated[int, msgspec.Meta(ge=0, le=MEMORY_MIB_MAX)]
    gpus: Annotated[int, msgspec.Meta(ge=0, le=GPUS_MAX)]

    def fits(self, room: "Resources") -> bool:
        """Whether this need fits into that room."""
        return not self.lacks(room)

    def lacks(self, room: "Resources") -> tuple[str, ...]:
        """The resources of which that room has too little."""
        pairs = (
            ("cpu", self.cpus_milli, room.cpus_milli),
            ("memory", self.memory_mib, room.memory_mib),
            ("gpu", self.gpus, room.gpus),
        )
        return tuple(name for name, need, there in pairs if need > there)

    def plus(self, other: "Resources") -> "Resources":
        return Resources(
            self.cpus_milli + other.cpus_milli,
            self.memory_mib + other.memory_mib,
            self.gpus + other.gpus,
        )

    def minus(self, other: "Resources") -> "Resources":
        """What is left; never below zero, since offers may shrink below what is leased."""
        return Resources(
            max(0, self.cpus_milli - other.cpus_milli),
            max(0, self.memory_mib - other.memory_mib),
            max(0, self.gpus - other.gpus),
        )


class Rates(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Posted prices, micro-credits per second of one cpu, one GiB, one GPU."""

    cpu: Annotated[int, msgspec.Meta(ge=0, le=10**12)]
    gib: Annotated[int, msgspec.Meta(ge=0, le=10**12)]
    gpu: Annotated[int, msgspec.Meta(ge=0, le=10**12)]


def slot_rate(slot: Resources, rates: Rates) -> int:
    """Micro-credits per second of a slot, rounded down once."""
    cpu_and_memory = (
        slot.cpus_milli * rates.cpu * _MIB_PER_GIB + slot.memory_mib * rates.gib * _MILLI
    )
    return cpu_and_memory // (_MILLI * _MIB_PER_GIB) + slot.gpus * rates.gpu
