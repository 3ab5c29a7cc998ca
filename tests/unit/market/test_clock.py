"""The market's time goes on at its own pace, whatever somebody does to the machine's clock."""

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from market.service.clock import SteadyClock

SECOND = 1_000_000_000
HOUR = 3_600 * SECOND
START = 1_700_000_000 * SECOND


@dataclass
class Machine:
    """A wall clock that can be set, and one that only passes."""

    wall_ns: int = START
    steady_ns: int = 5

    def passes(self, nanoseconds: int) -> None:
        self.wall_ns += nanoseconds
        self.steady_ns += nanoseconds

    def clock(self, least_ns: int = 0) -> SteadyClock:
        return SteadyClock(least_ns, wall=lambda: self.wall_ns, steady=lambda: self.steady_ns)


def test_it_is_the_machines_clock() -> None:
    machine = Machine()
    clock = machine.clock()
    machine.passes(3 * SECOND)
    assert (clock.ns(), clock.ms()) == (START + 3 * SECOND, START // 1_000_000 + 3_000)
    machine.wall_ns += HOUR  # it was behind, and is set right
    assert clock.ns() == START + 3 * SECOND + HOUR


def test_set_back_it_goes_on_at_its_pace() -> None:
    machine = Machine()
    clock = machine.clock()
    machine.wall_ns -= HOUR
    machine.passes(SECOND)
    assert clock.ns() == START + SECOND
    machine.passes(2 * HOUR)
    assert clock.ns() == START + SECOND + 2 * HOUR
    machine.wall_ns += HOUR  # set right again: nothing was to be seen
    assert clock.ns() == START + SECOND + 2 * HOUR


def test_a_new_process_does_not_fall_behind_the_ledger() -> None:
    machine = Machine()
    clock = machine.clock(START + HOUR)
    machine.passes(SECOND)
    assert clock.ns() == START + HOUR + SECOND
    assert machine.clock(START - HOUR).ns() == START + SECOND


@given(st.lists(st.tuples(st.integers(0, HOUR), st.integers(-3 * HOUR, 3 * HOUR)), max_size=30))
def test_it_never_goes_back_and_never_stands_still(moves: list[tuple[int, int]]) -> None:
    machine = Machine()
    clock = machine.clock()
    before = clock.ns()
    for passed, set_by in moves:
        machine.wall_ns += set_by
        machine.passes(passed)
        now = clock.ns()
        assert now >= before + passed
        assert now >= machine.wall_ns
        before = now
