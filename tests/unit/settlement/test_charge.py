"""Usage into money: the one rounding rule, the caps, and that no part is lost or invented."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from settlement.domain import amount, charge
from settlement.domain.charge import Charge
from settlement.domain.errors import BadAmount

MS = st.integers(0, 10**9)
RATES = st.integers(0, 10**12)


@pytest.mark.parametrize(
    ("wall_ms", "rate", "checked", "expected"),
    [
        (0, 1_000_000, True, Charge(0, 0, 0)),
        (1, 999, False, Charge(0, 0, 0)),  # below one micro-credit: rounded down
        (1, 1_000, False, Charge(1, 0, 0)),
        (1_500, 200, False, Charge(300, 15, 0)),
        (1_500, 200, True, Charge(300, 15, 30)),
        (3_600_000, 277, True, Charge(997_200, 49_860, 99_720)),
        (1_000, 19, True, Charge(19, 0, 1)),  # each part is rounded by itself
        (1_999, 1, False, Charge(1, 0, 0)),
    ],
)
def test_charges(wall_ms: int, rate: int, checked: bool, expected: Charge) -> None:
    money = charge.charge(
        wall_ms=wall_ms,
        clock_ms=wall_ms,
        window_ms=wall_ms,
        rate_microcredits=rate,
        checked=checked,
    )
    assert money == expected


@pytest.mark.parametrize(
    ("wall_ms", "clock_ms", "window_ms", "billed_ms"),
    [(100, 90, 80, 80), (100, 70, 80, 70), (60, 70, 80, 60), (100, -5, 80, 0), (100, 90, -1, 0)],
)
def test_never_more_time_than_clock_and_window_allow(
    wall_ms: int, clock_ms: int, window_ms: int, billed_ms: int
) -> None:
    money = charge.charge(
        wall_ms=wall_ms,
        clock_ms=clock_ms,
        window_ms=window_ms,
        rate_microcredits=1_000,
        checked=False,
    )
    assert money.gross_microcredits == billed_ms


@given(MS, MS, MS, RATES, st.booleans())
def test_what_is_paid_is_what_is_shared_out_and_within_the_cap(
    wall_ms: int, clock_ms: int, window_ms: int, rate: int, checked: bool
) -> None:
    money = charge.charge(
        wall_ms=wall_ms,
        clock_ms=clock_ms,
        window_ms=window_ms,
        rate_microcredits=rate,
        checked=checked,
    )
    parts = (money.earned_microcredits, money.fee_microcredits, money.surcharge_microcredits)
    assert min(parts) >= 0
    assert sum(parts) == money.paid_microcredits
    assert money.gross_microcredits * 1_000 <= wall_ms * rate
    assert money.fee_microcredits * 20 <= money.gross_microcredits
    cap = charge.cap(window_ms=window_ms, rate_microcredits=rate, checked=checked)
    assert money.paid_microcredits <= cap


@given(MS, MS, RATES)
def test_two_receipts_never_cost_more_than_one(first_ms: int, second_ms: int, rate: int) -> None:
    """Cutting the same time into more receipts earns nobody anything."""
    apart = sum(
        charge.gross(wall_ms=wall_ms, rate_microcredits=rate) for wall_ms in (first_ms, second_ms)
    )
    assert apart <= charge.gross(wall_ms=first_ms + second_ms, rate_microcredits=rate)


def test_a_charge_beyond_all_money_is_refused() -> None:
    with pytest.raises(BadAmount):
        charge.gross(wall_ms=2_000, rate_microcredits=amount.AMOUNT_MAX)
    assert charge.gross(wall_ms=1_000, rate_microcredits=amount.AMOUNT_MAX) == amount.AMOUNT_MAX
