"""The state diagrams of docs/architecture.md are the tables of market/domain, and these are sound."""

import importlib
import re
from collections.abc import Mapping
from enum import StrEnum
from typing import Final, cast

import pytest

from market.domain.transition import advance
from settlement.domain.errors import BadTransition
from tests.meta import documents, tree

EDGE: Final = re.compile(r"^\s*(\S+) --> (\S+?)(?:\s*:\s*(.+))?$")
MODULES: Final = sorted(
    tree.name(path).removesuffix(".py").replace("/", ".")
    for path in tree.modules("market/domain", "compute/domain", "settlement/domain")
    if "\nTRANSITIONS: " in path.read_text(encoding="utf-8")
)
Table = Mapping[tuple[StrEnum, StrEnum], StrEnum]


def test_every_table_is_drawn() -> None:
    assert {"market.domain.job", "market.domain.lease"} <= set(MODULES)
    assert sorted(documents.diagrams()) == MODULES


@pytest.mark.parametrize("module", MODULES)
def test_the_drawing_is_the_table(module: str) -> None:
    table, start = _table(module)
    drawn = _edges(documents.diagrams()[module])
    expected = {(f"{was}", f"{now}", f"{event}") for (was, event), now in table.items()}
    expected.add(("[*]", f"{start}", ""))
    expected |= {(f"{state}", "[*]", "") for state in _terminal(table)}
    assert drawn == expected


@pytest.mark.parametrize("module", MODULES)
def test_every_state_is_reached_and_every_life_ends(module: str) -> None:
    table, start = _table(module)
    assert _reached(table, start) == set(type(start))
    terminal = _terminal(table)
    assert terminal
    assert all(_reached(table, state) & terminal for state in type(start))


@pytest.mark.parametrize("module", MODULES)
def test_every_other_step_is_refused(module: str) -> None:
    table, start = _table(module)
    events = type(next(iter(table))[1])
    assert {event for _, event in table} == set(events)
    for state in type(start):
        for event in events:
            if (state, event) not in table:
                with pytest.raises(BadTransition):
                    advance(table, state, event)


def _table(module: str) -> tuple[Table, StrEnum]:
    """The module's table, and the state that a life begins in: its enum's first."""
    table = cast("Table", importlib.import_module(module).TRANSITIONS)
    states = type(next(iter(table))[0])
    return table, next(iter(states))


def _terminal(table: Table) -> set[StrEnum]:
    states = type(next(iter(table))[0])
    return set(states) - {was for was, _ in table}


def _reached(table: Table, start: StrEnum) -> set[StrEnum]:
    reached, before = {start}, set[StrEnum]()
    while reached != before:
        before = set(reached)
        reached |= {now for (was, _), now in table.items() if was in before}
    return reached


def _edges(diagram: str) -> set[tuple[str, str, str]]:
    """`a --> b : event`; several events on one arrow are separated by commas."""
    lines = diagram.strip().splitlines()
    assert lines[0] == "stateDiagram-v2"
    edges = set()
    for line in lines[1:]:
        matched = EDGE.match(line)
        assert matched, f"not an edge: {line}"
        for event in (matched[3] or "").split(","):
            edges.add((matched[1], matched[2], event.strip()))
    return edges
