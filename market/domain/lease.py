"""A lease's life: one slot of one provider for one job, at one rate, until a deadline."""

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Final


class LeaseState(StrEnum):
    GRANTED = "granted"  # environment and code are staged; free for the consumer
    ACTIVE = "active"  # its sandbox is warm and takes chunks
    PAUSED = "paused"  # the budget does not cover another window
    CLOSED = "closed"


class LeaseEvent(StrEnum):
    STARTED = "started"
    BUDGET_EMPTY = "budget-empty"
    TOPPED_UP = "topped-up"
    ENDED = "ended"


class LeaseEnd(StrEnum):
    """Why a lease ended. SLASHED: a check found its results to differ."""

    DONE = "done"
    IDLE = "idle"
    CANCELLED = "cancelled"
    BUDGET = "budget"
    DEADLINE = "deadline"
    PROVIDER_GONE = "provider-gone"
    PREEMPTED = "preempted"
    SLASHED = "slashed"


TRANSITIONS: Final[Mapping[tuple[LeaseState, LeaseEvent], LeaseState]] = MappingProxyType(
    {
        (LeaseState.GRANTED, LeaseEvent.STARTED): LeaseState.ACTIVE,
        (LeaseState.ACTIVE, LeaseEvent.BUDGET_EMPTY): LeaseState.PAUSED,
        (LeaseState.PAUSED, LeaseEvent.TOPPED_UP): LeaseState.ACTIVE,
        (LeaseState.GRANTED, LeaseEvent.ENDED): LeaseState.CLOSED,
        (LeaseState.ACTIVE, LeaseEvent.ENDED): LeaseState.CLOSED,
        (LeaseState.PAUSED, LeaseEvent.ENDED): LeaseState.CLOSED,
    }
)
