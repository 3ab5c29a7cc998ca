"""`call`: one function call on a warm session, from the program to the sandbox and back, against Ray.

Ours is `f.remote(x)` of the SDK: signed, stored, claimed, run on the provider's Ray in a sandbox,
receipted, verified, paid and delivered, everything durable before the result is. The reference is
`ray.get(f.remote(x))` on a warm Ray without any of that. Both run in turns on the same machine.
"""

import statistics
import sys
import time

from market.sdk import blocking as gp
from tests.bench.figures import figure, options, percentile, publish, tell
from tests.bench.markets import market
from tests.bench.raw_ray import RawRay, raw_ray
from tests.bench.work import double

ROUNDS, CALLS = 25, 20  # in turns, so that both meet the same weather
QUICK_ROUNDS, QUICK_CALLS = 2, 5
WARM_UP_CALLS = 30  # among them the first chunk, which the other provider checks
MS = 1_000.0


def ours(function: gp.Function[[int], int], count: int) -> list[float]:
    """The seconds of so many calls one after another."""
    seconds = []
    for number in range(count):
        began = time.perf_counter()
        assert function.remote(number) == 2 * number
        seconds.append(time.perf_counter() - began)
    return seconds


def measure(ray: RawRay, *, rounds: int, calls: int) -> tuple[list[float], list[float]]:
    """All calls of both, taken in turns."""
    function = gp.function(double)
    ours(function, WARM_UP_CALLS)
    ray.calls(WARM_UP_CALLS)
    mine, theirs = [], []
    for _ in range(rounds):
        mine += ours(function, calls)
        theirs += ray.calls(calls)
    return mine, theirs


def main() -> int:
    """Two figures: the middle and the slow end."""
    chosen = options(__doc__)
    rounds, calls = (QUICK_ROUNDS, QUICK_CALLS) if chosen.quick else (ROUNDS, CALLS)
    with market(), raw_ray(cpus=2) as ray:
        mine, theirs = measure(ray, rounds=rounds, calls=calls)
    tell(
        f"{len(mine)} calls each; means {statistics.mean(mine) * MS:.1f} ms, {statistics.mean(theirs) * MS:.1f} ms"
    )
    publish(
        [
            figure(
                "call",
                f"warm-p{percent}",
                ours=percentile(mine, percent) * MS,
                reference=percentile(theirs, percent) * MS,
                unit="ms",
                better="lower",
            )
            for percent in (50, 99)
        ],
        record=chosen.record,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
