"""The matcher: cheapest first, nothing oversold, reasons equal to decisions."""

from dataclasses import replace
from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from market.domain.matching import Demand, Idle, Supply, match, preemptions, refusals
from settlement.domain.resources import Rates, Resources, slot_rate

SLOT = Resources(1_000, 512, 0)
DEMAND = Demand(
    job="job", consumer="buyer", slot=SLOT, rate_cap_microcredits=1_000, protection="L",
    environment="env", wanted=1, created_ms=0,
)  # fmt: skip


def supply(
    provider: str, *, cpu: int = 100, slots: int = 1, mean: Fraction = Fraction(1, 2)
) -> Supply:
    return Supply(
        provider=provider, offer=f"offer-{provider}", free=Resources(1_000 * slots, 512 * slots, 0),
        rates=Rates(cpu, 0, 0), protection="S", environments=frozenset({"env"}), standing=mean,
    )  # fmt: skip


def test_cheapest_first_then_standing_then_address() -> None:
    book = [supply("dear", cpu=200), supply("b"), supply("a", mean=Fraction(9, 10)), supply("c")]
    found = match([replace(DEMAND, wanted=4)], book)
    assert [m.provider for m in found] == ["a", "b", "c", "dear"]
    assert [m.rate_microcredits for m in found] == [100, 100, 100, 200]


def test_a_checked_job_spreads_to_a_second_provider_and_then_takes_the_cheapest() -> None:
    book = [supply("cheap", cpu=10, slots=9), supply("dear", cpu=20, slots=9)]
    found = match([replace(DEMAND, wanted=4, spread=True)], book)
    assert [m.provider for m in found] == ["cheap", "dear", "cheap", "cheap"]
    assert [m.provider for m in match([replace(DEMAND, wanted=3, spread=True)], book[:1])] == [
        "cheap"
    ] * 3


def test_a_slot_apart_goes_to_another_provider_or_nowhere() -> None:
    used = replace(DEMAND, apart=1, used=frozenset({"cheap"}), live=1)
    book = [supply("cheap", cpu=10, slots=9), supply("dear", cpu=20, slots=9)]
    assert [m.provider for m in match([used], book)] == ["dear"]
    assert match([used], book[:1]) == []


def test_each_reason_is_named() -> None:
    picky = replace(
        DEMAND, slot=Resources(4_000, 4_096, 1), rate_cap_microcredits=1, protection="G",
        environment="other", consumer="p", barred=frozenset({"p"}),
    )  # fmt: skip
    assert refusals(picky, supply("p")) == (
        "cpu", "memory", "gpu", "price", "protection", "environment", "self", "barred",
    )  # fmt: skip
    assert refusals(DEMAND, supply("p")) == ()


def test_a_small_job_is_not_starved_by_a_large_one() -> None:
    large = replace(DEMAND, job="large", wanted=100)
    small = replace(DEMAND, job="small", wanted=1, created_ms=5)
    found = match([large, small], [supply("p", slots=2)])
    assert {m.job for m in found} == {"large", "small"}


def test_an_idle_lease_makes_room_for_work_and_only_where_that_helps() -> None:
    full = replace(supply("p"), free=Resources(0, 0, 0))
    idle = [
        Idle("young", "other", "p", SLOT, since_ms=9),
        Idle("old", "other", "p", SLOT, since_ms=1),
        Idle("own", "job", "p", SLOT, since_ms=0),
        Idle("elsewhere", "other", "q", SLOT, since_ms=0),
    ]
    assert match([DEMAND], [full]) == []
    assert preemptions([DEMAND], [full], [], idle) == ["old"]
    assert preemptions([replace(DEMAND, rate_cap_microcredits=1)], [full], [], idle) == []
    apart = replace(DEMAND, apart=1, used=frozenset({"p"}))
    assert preemptions([apart], [full], [], idle) == []
    served = match([DEMAND], [supply("p")])
    assert preemptions([DEMAND], [supply("p")], served, idle) == []


supplies = st.lists(
    st.builds(
        supply, st.sampled_from("abcdefgh"), cpu=st.integers(0, 300), slots=st.integers(0, 4),
        mean=st.fractions(0, 1),
    ),
    unique_by=lambda s: s.provider, max_size=8,
)  # fmt: skip
demands = st.lists(
    st.builds(
        Demand, job=st.uuids().map(str), consumer=st.sampled_from("abxy"), slot=st.just(SLOT),
        rate_cap_microcredits=st.integers(0, 300), protection=st.sampled_from(["L", "S", "G"]),
        environment=st.just("env"), wanted=st.integers(0, 4), created_ms=st.integers(0, 3),
        live=st.integers(0, 3), spread=st.booleans(),
    ),
    unique_by=lambda d: d.job, max_size=5,
)  # fmt: skip


@given(demands, supplies)
def test_properties(wanted: list[Demand], book: list[Supply]) -> None:
    found = match(wanted, book)
    assert found == match(list(reversed(wanted)), list(reversed(book)))  # input order says nothing
    by_job = {demand.job: demand for demand in wanted}
    by_provider = {s.provider: s for s in book}
    for m in found:
        demand, offer = by_job[m.job], by_provider[m.provider]
        assert refusals(demand, offer) == ()
        assert m.rate_microcredits == slot_rate(demand.slot, offer.rates)
    for provider, offer in by_provider.items():
        assert 1_000 * sum(m.provider == provider for m in found) <= offer.free.cpus_milli
    for demand in wanted:
        got = sum(m.job == demand.job for m in found)
        assert got <= demand.wanted
        if got < demand.wanted:  # then nothing that fits is left
            for provider, offer in by_provider.items():
                taken = sum(m.provider == provider for m in found)
                left = replace(
                    offer, free=Resources(offer.free.cpus_milli - 1_000 * taken, 9_999, 0)
                )
                assert refusals(demand, left) != ()
