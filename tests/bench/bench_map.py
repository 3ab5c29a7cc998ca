"""`map`: an ordered map of trivial calls, from the program and back, against as many raw Ray tasks.

Ours is `list(f.map(range(n)))` of the SDK on the stack's two providers: a new job each time, so with
order, match, leases, new sandboxes, receipts, the check of each provider's first chunk, payment and
results. The reference is `ray.get([f.remote(x) for x in range(n)])` on a warm Ray with two workers.
"""

import statistics
import sys
import time

from market.sdk import blocking as gp
from tests.bench.figures import Figure, figure, options, publish, tell
from tests.bench.markets import market
from tests.bench.raw_ray import RawRay, raw_ray
from tests.bench.work import double

CASES = {2_000: 7, 20_000: 3}  # tasks → rounds
QUICK_CASES = {200: 2}


def ours(function: gp.Function[[int], int], count: int) -> float:
    """The seconds of one map; the job has ended before this returns."""
    began = time.perf_counter()
    job = function.map(range(count))
    results = list(job)
    seconds = time.perf_counter() - began
    assert results == [2 * number for number in range(count)]
    job.wait()
    return seconds


def measure(ray: RawRay, tasks: int, rounds: int) -> Figure:
    """The middle of so many rounds, taken in turns."""
    function = gp.function(double)
    mine, theirs = [], []
    ours(function, tasks)
    ray.map(tasks)
    for number in range(rounds):
        mine.append(tasks / ours(function, tasks))
        theirs.append(tasks / ray.map(tasks))
        tell(f"{tasks} tasks, round {number + 1}: {mine[-1]:.0f}/s against {theirs[-1]:.0f}/s")
    return figure(
        "map",
        f"trivial-{tasks}",
        ours=statistics.median(mine),
        reference=statistics.median(theirs),
        unit="tasks/s",
        better="higher",
    )


def main() -> int:
    """One figure a size."""
    chosen = options(__doc__)
    cases = QUICK_CASES if chosen.quick else CASES
    with market(), raw_ray(cpus=2) as ray:
        figures = [measure(ray, tasks, rounds) for tasks, rounds in cases.items()]
    publish(figures, record=chosen.record)
    return 0


if __name__ == "__main__":
    sys.exit(main())
