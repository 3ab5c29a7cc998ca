"""A job's life, and that of its standing order (DESIGN.md 5)."""

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Final


class JobState(StrEnum):
    OPEN = "open"  # no lease yet; free for the consumer
    RUNNING = "running"  # leases work; billed by receipt
    FINISHING = "finishing"  # nothing more is handed out; what is out settles
    CLOSED = "closed"  # the rest of the budget is back


class JobEvent(StrEnum):
    LEASED = "leased"
    COMPLETED = "completed"  # every task is accepted and no more may come
    STOPPED = "stopped"  # cancelled, out of time, failed
    SETTLED = "settled"  # no attempt is undecided any more


TRANSITIONS: Final[Mapping[tuple[JobState, JobEvent], JobState]] = MappingProxyType(
    {
        (JobState.OPEN, JobEvent.LEASED): JobState.RUNNING,
        (JobState.RUNNING, JobEvent.LEASED): JobState.RUNNING,
        (JobState.OPEN, JobEvent.COMPLETED): JobState.FINISHING,  # a session that no task came to
        (JobState.RUNNING, JobEvent.COMPLETED): JobState.FINISHING,
        (JobState.OPEN, JobEvent.STOPPED): JobState.FINISHING,
        (JobState.RUNNING, JobEvent.STOPPED): JobState.FINISHING,
        (JobState.FINISHING, JobEvent.SETTLED): JobState.CLOSED,
    }
)
