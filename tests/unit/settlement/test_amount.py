"""Money as whole numbers: nothing is rounded, nothing is guessed."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from settlement.domain import amount
from settlement.domain.amount import AMOUNT_MAX
from settlement.domain.errors import BadAmount

whole = st.integers(0, AMOUNT_MAX)


@given(whole)
def test_text_goes_there_and_back(value: int) -> None:
    assert amount.from_text(amount.to_text(value)) == value
    assert amount.parse_credits(amount.format_credits(value)) == value


@pytest.mark.parametrize(
    ("written", "microcredits"),
    [
        ("1", 1_000_000),
        (2, 2_000_000),
        ("0.000001", 1),
        ("1e3", 10**9),
        (0.1, 100_000),
        (1e-06, 1),
        (Decimal("1.25"), 1_250_000),
        ("340282366920938463463374607431768.211455", AMOUNT_MAX),
        ("-0", 0),
    ],
)
def test_credits_as_people_write_them(written: str | int, microcredits: int) -> None:
    assert amount.parse_credits(written) == microcredits


@pytest.mark.parametrize(
    "written",
    [
        "", "x", "1 000", "0.0000001", 0.1 + 0.2, "1e-7", "-1", "nan", "inf", float("nan"), True,
        "340282366920938463463374607431768.211456", "0x10", "1.0000000000000000000000000000000000001",
    ],
)  # fmt: skip
def test_other_credits_are_refused(written: str) -> None:
    with pytest.raises(BadAmount):
        amount.parse_credits(written)


@pytest.mark.parametrize(
    "text", ["", "01", "+1", "-1", " 1", "1\n", "1.0", "1e3", "²", "٣", "1_0", "9" * 39, "9" * 5000]
)
def test_other_texts_are_refused(text: str) -> None:
    with pytest.raises(BadAmount):
        amount.from_text(text)


@pytest.mark.parametrize("value", [-1, AMOUNT_MAX + 1, True, 1.0, "1", None])
def test_what_is_not_an_amount_is_refused(value: int) -> None:
    with pytest.raises(BadAmount):
        amount.checked(value)


@given(whole, st.integers(0, 10_000))
def test_a_share_is_never_more_than_its_part(value: int, basis_points: int) -> None:
    part = amount.share(value, basis_points=basis_points)
    assert 0 <= value * basis_points - part * 10_000 < 10_000
    assert part + amount.share(value, basis_points=10_000 - basis_points) in {value, value - 1}


def test_negative_balances_are_shown_as_such() -> None:
    assert amount.format_credits(-1_250_000) == "-1.250000"
