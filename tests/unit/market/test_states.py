"""Every state table of the market: reachable, able to end, closed to everything else."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Any

import pytest

from market.domain import attempt, interval, job, lease, order
from market.domain.transition import advance, sources
from settlement.domain.errors import BadTransition

MACHINES = [
    (job.TRANSITIONS, job.JobState.OPEN, {job.JobState.CLOSED}, job.JobEvent),
    (order.TRANSITIONS, order.OrderState.OPEN, {order.OrderState.CLOSED}, order.OrderEvent),
    (lease.TRANSITIONS, lease.LeaseState.GRANTED, {lease.LeaseState.CLOSED}, lease.LeaseEvent),
    (
        attempt.TRANSITIONS,
        attempt.AttemptState.HANDED,
        {
            attempt.AttemptState.ACCEPTED,
            attempt.AttemptState.REJECTED,
            attempt.AttemptState.LOST,
        },
        attempt.AttemptEvent,
    ),
    (
        interval.TRANSITIONS,
        interval.IntervalState.PENDING,
        {interval.IntervalState.ACCEPTED},
        interval.IntervalEvent,
    ),
]
Table = Mapping[tuple[Any, Any], Any]


def _reachable(table: Table, start: StrEnum) -> set[StrEnum]:
    seen, waiting = {start}, [start]
    while waiting:
        state = waiting.pop()
        for (source, _), target in table.items():
            if source is state and target not in seen:
                seen.add(target)
                waiting.append(target)
    return seen


@pytest.mark.parametrize(("table", "start", "ends", "events"), MACHINES)
def test_every_state_is_reachable_and_can_end(
    table: Table, start: StrEnum, ends: set[StrEnum], events: type[StrEnum]
) -> None:
    assert _reachable(table, start) == set(type(start))
    for state in type(start):
        assert _reachable(table, state) & ends
        if state in ends:
            assert not [event for event in events if (state, event) in table]


@pytest.mark.parametrize(("table", "start", "ends", "events"), MACHINES)
def test_every_pair_outside_the_table_is_refused(
    table: Table, start: StrEnum, ends: set[StrEnum], events: type[StrEnum]
) -> None:
    used = set()
    for state in type(start):
        for event in events:
            if (state, event) in table:
                assert advance(table, state, event) is table[state, event]
                assert state in sources(table, event)
                used.add(event)
            else:
                with pytest.raises(BadTransition):
                    advance(table, state, event)
                assert state not in sources(table, event)
    assert used == set(events)
