"""Chunk sizes: a probe first, half a second of work, doubling, an eighth of the rest, 20 s at most."""

from hypothesis import given
from hypothesis import strategies as st

from market.domain.chunking import CHUNK_TASKS_MAX, chunk_tasks


def test_the_first_chunk_is_a_probe() -> None:
    assert chunk_tasks(left=1_000_000, slots=8, chunks_done=0, task_us=None) == 1


def test_half_a_second_then_doubling_to_twenty_seconds() -> None:
    sizes = [
        chunk_tasks(left=1_000_000, slots=1, chunks_done=done, task_us=10_000) for done in range(8)
    ]
    assert sizes == [50, 100, 200, 400, 800, 1_600, 2_000, 2_000]


def test_never_over_an_eighth_of_what_is_left_for_a_slot() -> None:
    assert chunk_tasks(left=1_600, slots=2, chunks_done=9, task_us=10_000) == 100


def test_trivial_tasks_are_not_cut_into_ever_smaller_chunks() -> None:
    assert chunk_tasks(left=2_000, slots=2, chunks_done=1, task_us=1) == 1_000


@given(
    st.integers(1, 10**6),
    st.integers(1, 100),
    st.integers(0, 50),
    st.none() | st.integers(0, 10**9),
)
def test_bounds(left: int, slots: int, done: int, task_us: int | None) -> None:
    size = chunk_tasks(left=left, slots=slots, chunks_done=done, task_us=task_us)
    assert 1 <= size <= min(CHUNK_TASKS_MAX, max(1, -(-left // slots)))
    if task_us and size > 1:
        assert size * task_us <= 20_000_000
