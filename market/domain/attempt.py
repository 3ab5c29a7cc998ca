"""An attempt's life: one run of a chunk on a lease, and what became of its receipt."""

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Final


class AttemptState(StrEnum):
    HANDED = "handed"  # the chunk is at the provider
    CHECKING = "checking"  # its receipt is in the log, another provider runs the chunk again
    ACCEPTED = "accepted"  # paid into the provider's hold, result delivered
    REJECTED = "rejected"  # unpaid: the receipt was refused or a check differed
    LOST = "lost"  # no receipt came: machine, provider or time


class AttemptEvent(StrEnum):
    CHECK = "check"
    ACCEPT = "accept"
    REJECT = "reject"
    LOSE = "lose"


class Purpose(StrEnum):
    WORK = "work"
    CHECK = "check"


TRANSITIONS: Final[Mapping[tuple[AttemptState, AttemptEvent], AttemptState]] = MappingProxyType(
    {
        (AttemptState.HANDED, AttemptEvent.CHECK): AttemptState.CHECKING,
        (AttemptState.HANDED, AttemptEvent.ACCEPT): AttemptState.ACCEPTED,
        (AttemptState.HANDED, AttemptEvent.REJECT): AttemptState.REJECTED,
        (AttemptState.HANDED, AttemptEvent.LOSE): AttemptState.LOST,
        (AttemptState.CHECKING, AttemptEvent.ACCEPT): AttemptState.ACCEPTED,
        (AttemptState.CHECKING, AttemptEvent.REJECT): AttemptState.REJECTED,
    }
)
