"""Intervals against a list of tasks: claimed, returned, accepted; never a hole, never twice."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from market.domain.interval import IntervalEvent, IntervalSet, IntervalState
from settlement.domain.errors import BadTransition, Stale


class Intervals(RuleBasedStateMachine):
    """The model is one (state, attempt) a task."""

    def __init__(self) -> None:
        super().__init__()
        self.intervals = IntervalSet()
        self.model: list[tuple[IntervalState, str]] = []
        self.attempts = 0

    @initialize(tasks=st.integers(1, 40))
    def start(self, tasks: int) -> None:
        self.append(tasks)

    @rule(tasks=st.integers(1, 20))
    def append(self, tasks: int) -> None:
        self.intervals = self.intervals.append(tasks)
        self.model += [(IntervalState.PENDING, "")] * tasks

    @rule(tasks_max=st.integers(1, 15))
    def claim(self, tasks_max: int) -> None:
        self.attempts += 1
        name = str(self.attempts)
        self.intervals, taken = self.intervals.claim(tasks_max, name)
        pending = [i for i, (state, _) in enumerate(self.model) if state is IntervalState.PENDING]
        assert (taken is None) == (not pending)
        if taken is None:
            return
        assert taken.first == pending[0]
        assert 1 <= taken.tasks <= tasks_max
        for index in range(taken.first, taken.end):
            assert self.model[index] == (IntervalState.PENDING, "")
            self.model[index] = (IntervalState.LEASED, name)

    def _holders(self) -> list[str]:
        return sorted({attempt for _, attempt in self.model if attempt})

    @precondition(lambda self: self._holders())
    @rule(data=st.data(), event=st.sampled_from(list(IntervalEvent)))
    def step(self, data: st.DataObject, event: IntervalEvent) -> None:
        name = data.draw(st.sampled_from(self._holders()))
        (state,) = {state for state, attempt in self.model if attempt == name}
        allowed = {
            (IntervalState.LEASED, IntervalEvent.EXECUTE): IntervalState.EXECUTED,
            (IntervalState.LEASED, IntervalEvent.ACCEPT): IntervalState.ACCEPTED,
            (IntervalState.EXECUTED, IntervalEvent.ACCEPT): IntervalState.ACCEPTED,
            (IntervalState.LEASED, IntervalEvent.RETURN): IntervalState.PENDING,
            (IntervalState.EXECUTED, IntervalEvent.RETURN): IntervalState.PENDING,
        }
        if (state, event) not in allowed:
            with pytest.raises(BadTransition):
                self.intervals.step(name, event)
            return
        self.intervals = self.intervals.step(name, event)
        after = allowed[state, event]
        holder = "" if after is IntervalState.PENDING else name
        self.model = [
            (after, holder) if attempt == name else (was, attempt) for was, attempt in self.model
        ]

    @rule(event=st.sampled_from(list(IntervalEvent)))
    def strangers_move_nothing(self, event: IntervalEvent) -> None:
        for name in ("", "nobody"):
            with pytest.raises(Stale):
                self.intervals.step(name, event)

    @invariant()
    def same_as_the_model(self) -> None:
        spread = [
            (interval.state, interval.attempt)
            for interval in self.intervals.intervals
            for _ in range(interval.tasks)
        ]
        assert spread == self.model
        for state in IntervalState:
            assert self.intervals.count(state) == sum(was is state for was, _ in self.model)


Intervals.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestIntervals = Intervals.TestCase
