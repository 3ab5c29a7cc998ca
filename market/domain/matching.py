"""The matcher: demands and supplies in, matches out; same input, same output.

Posted prices, cheapest first, standing as tie-break. `refusals` states with the same predicates
why an offer does not fit, so that `why`, `quote` and the matcher cannot disagree (DESIGN.md 10).
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from fractions import Fraction

from market.domain.jobspec import protects
from settlement.domain.resources import Rates, Resources, slot_rate


@dataclass(frozen=True, slots=True)
class Demand:
    """What one job still wants.

    The last `apart` of the `wanted` slots must be with providers not in `used`: they run checks.
    `spread` only prefers a second provider while there is one alone, so that checks find it.
    """

    job: str
    consumer: str
    slot: Resources
    rate_cap_microcredits: int
    protection: str
    environment: str
    wanted: int
    created_ms: int
    live: int = 0
    used: frozenset[str] = frozenset()
    barred: frozenset[str] = frozenset()  # providers whose work for this job did not pass a check
    apart: int = 0
    spread: bool = False


@dataclass(frozen=True, slots=True)
class Supply:
    """What one provider has left, at which price. `standing` is a score in [0, 1]."""

    provider: str
    offer: str
    free: Resources
    rates: Rates
    protection: str
    environments: frozenset[str]
    standing: Fraction = Fraction(1, 2)


@dataclass(frozen=True, slots=True)
class Match:
    job: str
    provider: str
    offer: str
    slot: Resources
    rate_microcredits: int


@dataclass(frozen=True, slots=True)
class Idle:
    """A warm lease that has nothing to do: unpaid, so it must not stand in the way of paid work."""

    lease: str
    job: str
    provider: str
    slot: Resources
    since_ms: int


def refusals(demand: Demand, supply: Supply) -> tuple[str, ...]:
    """Every reason why this supply cannot serve that demand; none means that it can."""
    reasons = list(demand.slot.lacks(supply.free))
    if slot_rate(demand.slot, supply.rates) > demand.rate_cap_microcredits:
        reasons.append("price")
    if not protects(supply.protection, demand.protection):
        reasons.append("protection")
    if demand.environment not in supply.environments:
        reasons.append("environment")
    if supply.provider == demand.consumer:
        reasons.append("self")  # wash trading would buy standing
    if supply.provider in demand.barred:
        reasons.append("barred")
    return tuple(reasons)


def match(demands: Iterable[Demand], supplies: Iterable[Supply]) -> list[Match]:
    """One round over the whole book.

    Jobs take one slot a turn, those with fewest live slots first, then the oldest; so a large job
    cannot starve a small one.
    """
    book = {supply.provider: supply for supply in supplies}
    waiting = [demand for demand in demands if demand.wanted > 0]
    matches: list[Match] = []
    while waiting:
        waiting.sort(key=lambda demand: (demand.live, demand.created_ms, demand.job))
        demand = waiting.pop(0)
        found = _cheapest(demand, book)
        if found is None:
            continue
        rate = slot_rate(demand.slot, found.rates)
        matches.append(Match(demand.job, found.provider, found.offer, demand.slot, rate))
        book[found.provider] = replace(found, free=found.free.minus(demand.slot))
        left = replace(
            demand,
            wanted=demand.wanted - 1,
            live=demand.live + 1,
            used=demand.used | {found.provider},
            apart=min(demand.apart, demand.wanted - 1),
        )
        if left.wanted:
            waiting.append(left)
    return matches


def _cheapest(demand: Demand, book: dict[str, Supply]) -> Supply | None:
    fitting = [supply for supply in book.values() if not refusals(demand, supply)]
    unused = [supply for supply in fitting if supply.provider not in demand.used]
    alone = demand.spread and len(demand.used) == 1
    if demand.wanted <= demand.apart or (alone and unused):
        fitting = unused
    return min(
        fitting,
        key=lambda supply: (
            slot_rate(demand.slot, supply.rates),
            -supply.standing,
            supply.provider,
        ),
        default=None,
    )


def preemptions(
    demands: Iterable[Demand],
    supplies: Iterable[Supply],
    matches: Iterable[Match],
    idle: Iterable[Idle],
) -> list[str]:
    """Idle leases to end so that the next round can match what this one could not.

    One lease at most for each job that is left wanting, the longest idle first, and only where its
    slot makes the offer fit.
    """
    found = list(matches)
    room = {supply.provider: supply for supply in supplies}
    for made in found:
        supply = room[made.provider]
        room[made.provider] = replace(supply, free=supply.free.minus(made.slot))
    waiting = sorted(idle, key=lambda lease: (lease.since_ms, lease.lease))
    ended: list[str] = []
    for demand in sorted(demands, key=lambda demand: (demand.created_ms, demand.job)):
        mine = [made.provider for made in found if made.job == demand.job]
        if len(mine) >= demand.wanted:
            continue
        left = replace(demand, wanted=demand.wanted - len(mine), used=demand.used | set(mine))
        for lease in waiting:
            if lease.job != demand.job and _would_serve(left, lease, room):
                ended.append(lease.lease)
                waiting.remove(lease)
                break
    return ended


def _would_serve(demand: Demand, lease: Idle, room: dict[str, Supply]) -> bool:
    supply = room.get(lease.provider)
    if supply is None or (demand.wanted <= demand.apart and lease.provider in demand.used):
        return False
    return not refusals(demand, replace(supply, free=supply.free.plus(lease.slot)))
