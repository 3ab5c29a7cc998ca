"""Receipts, charges, verdicts: what was done, what it costs, what a second run says of it."""

from fractions import Fraction
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from settlement.domain import canonical, charge, merkle, receipt, reputation, verdict
from settlement.domain.errors import BadAmount
from settlement.domain.receipt import Leaf
from settlement.domain.reputation import Standing
from settlement.domain.verdict import Conclusion, Verdict

times = st.integers(0, 10**9)
rates = st.integers(0, 10**12)


def leaf(index: int, output: str = "a", status: str = "ok") -> Leaf:
    return Leaf(index, canonical.digest(b"%d" % index), canonical.digest(output.encode()), status)


LEAVES: Final = [leaf(index) for index in range(7)]


def test_the_root_covers_every_leaf_in_its_place() -> None:
    root = receipt.tasks_root(LEAVES)
    assert root == canonical.digest_text(merkle.root(canonical.encode(one) for one in LEAVES))
    assert canonical.encode(LEAVES[0]).startswith(b'[0,"sha256:')
    for at in range(len(LEAVES)):
        for other in (leaf(at, "b"), leaf(at, status="failed"), leaf(at + 1)):
            changed = [*LEAVES[:at], other, *LEAVES[at + 1 :]]
            assert receipt.tasks_root(changed) != root
            assert receipt.outputs_digest(changed) != receipt.outputs_digest(LEAVES)
    assert receipt.tasks_root(LEAVES[::-1]) != root
    assert receipt.inputs_digest(LEAVES) == receipt.inputs_digest(
        [leaf(at, "b") for at in range(7)]
    )
    assert receipt.inputs_digest(LEAVES[1:]) != receipt.inputs_digest(LEAVES)


@given(times, times, times, rates, st.booleans())
def test_a_charge_never_exceeds_its_window(
    wall_ms: int, clock_ms: int, window_ms: int, rate: int, checked: bool
) -> None:
    made = charge.charge(
        wall_ms=wall_ms, clock_ms=clock_ms, window_ms=window_ms, rate_microcredits=rate, checked=checked
    )  # fmt: skip
    cap = charge.cap(window_ms=window_ms, rate_microcredits=rate, checked=checked)
    assert 0 <= made.paid_microcredits <= cap
    billed_ms = min(wall_ms, clock_ms, window_ms)
    assert 0 <= billed_ms * rate - made.gross_microcredits * 1_000 < 1_000
    assert made.earned_microcredits + made.fee_microcredits == made.gross_microcredits
    assert made.fee_microcredits == made.gross_microcredits // 20
    assert made.surcharge_microcredits == (made.gross_microcredits // 10 if checked else 0)


def test_time_before_its_start_costs_nothing() -> None:
    made = charge.charge(
        wall_ms=-5, clock_ms=10, window_ms=10, rate_microcredits=1_000, checked=True
    )
    assert made == charge.Charge(0, 0, 0)


def test_a_charge_beyond_all_amounts_is_refused() -> None:
    with pytest.raises(BadAmount):
        charge.gross(wall_ms=2**70, rate_microcredits=2**70)


def test_comparison_names_the_tasks_that_differ() -> None:
    other = [*LEAVES]
    other[2], other[5] = leaf(2, "b"), leaf(5, status="failed")
    assert verdict.compare(LEAVES, LEAVES) == []
    assert verdict.compare(LEAVES, other) == [2, 5]
    assert verdict.conclude([]) is Conclusion.AGREED
    assert verdict.conclude([2]) is Conclusion.DIFFERED


def said(conclusion: Conclusion, *providers: str) -> Verdict:
    return Verdict(
        v=1, kind="verdict", market="m", job="j", receipt="r", checks=[], providers=list(providers),
        comparator="bytes", conclusion=conclusion, differing=0, first_differing=0, reason="", at_ms=0,
    )  # fmt: skip


def test_standing_comes_from_verdicts_alone() -> None:
    standings = reputation.fold(
        {"a": Standing(1, 0)},
        [
            said(Conclusion.AGREED, "a", "b"),
            said(Conclusion.DIFFERED, "c", "a"),
            said(Conclusion.UNCHECKED, "d"),
        ],
    )
    assert standings == {"a": Standing(2, 0), "b": Standing(1, 0), "c": Standing(0, 1)}
    assert standings["a"].mean == Fraction(3, 4)
    assert Standing().mean == Fraction(1, 2)


@given(
    st.lists(st.tuples(st.sampled_from(list(Conclusion)), st.sampled_from("abc")), max_size=20),
    st.integers(0, 20),
)
def test_a_fold_in_pieces_is_the_fold_in_one(steps: list[tuple[Conclusion, str]], cut: int) -> None:
    verdicts = [said(conclusion, name) for conclusion, name in steps]
    once = reputation.fold({}, verdicts)
    assert reputation.fold(reputation.fold({}, verdicts[:cut]), verdicts[cut:]) == once
