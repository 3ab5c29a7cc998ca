"""The tasks of a job as intervals: pending, leased, executed, accepted; never a hole, never twice."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from market.domain.transition import advance
from settlement.domain.errors import Stale


class IntervalState(StrEnum):
    PENDING = "pending"
    LEASED = "leased"
    EXECUTED = "executed"  # a receipt is in, a check is open
    ACCEPTED = "accepted"


class IntervalEvent(StrEnum):
    CLAIM = "claim"
    EXECUTE = "execute"
    ACCEPT = "accept"
    RETURN = "return"  # rejected or lost


TRANSITIONS: Final[Mapping[tuple[IntervalState, IntervalEvent], IntervalState]] = MappingProxyType(
    {
        (IntervalState.PENDING, IntervalEvent.CLAIM): IntervalState.LEASED,
        (IntervalState.LEASED, IntervalEvent.EXECUTE): IntervalState.EXECUTED,
        (IntervalState.LEASED, IntervalEvent.ACCEPT): IntervalState.ACCEPTED,
        (IntervalState.EXECUTED, IntervalEvent.ACCEPT): IntervalState.ACCEPTED,
        (IntervalState.LEASED, IntervalEvent.RETURN): IntervalState.PENDING,
        (IntervalState.EXECUTED, IntervalEvent.RETURN): IntervalState.PENDING,
    }
)


@dataclass(frozen=True, slots=True)
class Interval:
    """Tasks `first … first + tasks - 1` in one state, at one attempt when not pending."""

    first: int
    tasks: int
    state: IntervalState = IntervalState.PENDING
    attempt: str = ""

    @property
    def end(self) -> int:
        return self.first + self.tasks


@dataclass(frozen=True, slots=True)
class IntervalSet:
    """All intervals of a job in order; together they are exactly 0 … tasks - 1."""

    intervals: tuple[Interval, ...] = ()

    def __post_init__(self) -> None:
        expected = 0
        for interval in self.intervals:
            assert interval.first == expected
            assert interval.tasks > 0
            assert (interval.state is IntervalState.PENDING) == (not interval.attempt)
            expected = interval.end

    @property
    def tasks(self) -> int:
        return self.intervals[-1].end if self.intervals else 0

    def count(self, state: IntervalState) -> int:
        """Tasks in a state."""
        return sum(interval.tasks for interval in self.intervals if interval.state is state)

    def append(self, tasks: int) -> "IntervalSet":
        """New pending tasks at the end."""
        return IntervalSet((*self.intervals, Interval(self.tasks, tasks)))

    def claim(self, tasks_max: int, attempt: str) -> tuple["IntervalSet", Interval | None]:
        """The first pending tasks for an attempt, at most `tasks_max`; the rest stays pending."""
        assert tasks_max > 0
        for position, interval in enumerate(self.intervals):
            if interval.state is IntervalState.PENDING:
                taken, rest = split(interval, tasks_max, attempt)
                pieces = (taken,) if rest is None else (taken, rest)
                before, after = self.intervals[:position], self.intervals[position + 1 :]
                return IntervalSet((*before, *pieces, *after)), taken
        return self, None

    def step(self, attempt: str, event: IntervalEvent) -> "IntervalSet":
        """The attempt's interval takes a step; `Stale` when the attempt holds none."""
        for position, interval in enumerate(self.intervals):
            if attempt and interval.attempt == attempt:
                state = advance(TRANSITIONS, interval.state, event)
                holder = "" if state is IntervalState.PENDING else attempt
                moved = replace(interval, state=state, attempt=holder)
                return IntervalSet(
                    (*self.intervals[:position], moved, *self.intervals[position + 1 :])
                )
        raise Stale("the attempt holds no interval")


def split(interval: Interval, tasks_max: int, attempt: str) -> tuple[Interval, Interval | None]:
    """A claim on a pending interval: what the attempt gets, and what stays pending."""
    state = advance(TRANSITIONS, interval.state, IntervalEvent.CLAIM)
    tasks = min(tasks_max, interval.tasks)
    taken = Interval(interval.first, tasks, state, attempt)
    left = interval.tasks - tasks
    return taken, Interval(taken.end, left) if left else None
