"""One step of any state machine: a table is the documentation, the guard and the test."""

from collections.abc import Mapping
from enum import StrEnum
from typing import TypeVar

from settlement.domain.errors import BadTransition

S = TypeVar("S", bound=StrEnum)
E = TypeVar("E", bound=StrEnum)


def advance(table: Mapping[tuple[S, E], S], state: S, event: E) -> S:
    """The next state; `BadTransition` for a pair outside the table."""
    try:
        return table[state, event]
    except KeyError:
        raise BadTransition(f"{type(state).__name__} {state} has no step {event}") from None


def sources(table: Mapping[tuple[S, E], S], event: E) -> tuple[S, ...]:
    """The states that an event may leave: what a guarded UPDATE names."""
    return tuple(state for state, happening in table if happening is event)
