"""How many tasks the next chunk of a lease holds (DESIGN.md 4)."""

from typing import Final

FIRST_WORK_MS: Final = 500  # the first measured chunk aims at half a second of work
WORK_MS_MAX: Final = 20_000
SHARE_OF_REST: Final = 8  # never over an eighth of what is left for a slot …
CHUNK_TASKS_MAX: Final = 4_096


def chunk_tasks(*, left: int, slots: int, chunks_done: int, task_us: int | None) -> int:
    """Tasks for the next chunk of a lease; at least 1.

    `left` pending tasks of the job, `slots` live leases, `chunks_done` by this lease, `task_us` the
    measured microseconds per task, None while nothing was measured (then 1: a probe).
    The eighth protects the tail of long jobs; below half a second of work it would only cost
    round trips, so a slot may take up to that at once.
    """
    if task_us is None:
        return 1
    per_task_us = max(1, task_us)
    target_ms = min(WORK_MS_MAX, FIRST_WORK_MS << min(chunks_done, 10))
    share = max(1, -(-left // max(1, slots)))
    small = FIRST_WORK_MS * 1_000 // per_task_us
    large = min(target_ms * 1_000 // per_task_us, share // SHARE_OF_REST)
    return max(1, min(CHUNK_TASKS_MAX, share, max(small, large)))
