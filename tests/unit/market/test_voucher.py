"""A provider that stops when the next voucher is late risks one interval; no time is paid twice."""

from hypothesis import given
from hypothesis import strategies as st

from market.domain.voucher import at_risk_ms, may_serve_ms, payable_ms

INTERVAL_MS = 10_000


@given(st.lists(st.tuples(st.integers(0, 3 * INTERVAL_MS), st.booleans()), max_size=50))
def test_never_more_than_one_interval_is_at_risk(steps: list[tuple[int, bool]]) -> None:
    """Whenever vouchers come, or stop to come: it serves no longer than the rule allows."""
    served_ms = vouched_ms = 0
    for wanted_ms, signs in steps:
        left_ms = may_serve_ms(
            served_ms=served_ms, receipted_ms=0, vouched_ms=vouched_ms, interval_ms=INTERVAL_MS
        )
        served_ms += min(wanted_ms, left_ms)
        risk_ms = at_risk_ms(served_ms=served_ms, receipted_ms=0, vouched_ms=vouched_ms)
        assert risk_ms == served_ms - vouched_ms <= INTERVAL_MS
        if signs:
            vouched_ms += payable_ms(
                lasted_ms=served_ms, receipted_ms=0, vouched_ms=vouched_ms, promised_ms=served_ms
            )
            assert vouched_ms == served_ms


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("passes"), st.integers(0, 5_000)),
            st.tuples(st.just("voucher"), st.integers(0, 40_000)),
            st.tuples(st.just("receipt"), st.integers(0, 5_000)),
        ),
        max_size=60,
    )
)
def test_each_millisecond_is_paid_at_most_once(events: list[tuple[str, int]]) -> None:
    """Vouchers of any size, old ones and repeats, between receipts: never more than the lease's time."""
    lasted_ms = receipted_ms = vouched_ms = signed_ms = 0
    for what, number in events:
        if what == "passes":
            lasted_ms += number
        elif what == "receipt":  # as the market bounds it: what is left of the lease's time
            receipted_ms += min(number, lasted_ms - receipted_ms - vouched_ms)
        else:
            signed_ms = max(signed_ms, number)
            vouched_ms += payable_ms(
                lasted_ms=lasted_ms, receipted_ms=receipted_ms, vouched_ms=vouched_ms, promised_ms=number
            )  # fmt: skip
        assert receipted_ms + vouched_ms <= lasted_ms
        assert vouched_ms <= signed_ms


def test_the_rule_by_example() -> None:
    assert at_risk_ms(served_ms=9_000, receipted_ms=4_000, vouched_ms=3_000) == 2_000
    assert at_risk_ms(served_ms=9_000, receipted_ms=9_000, vouched_ms=3_000) == 0
    assert may_serve_ms(served_ms=9_000, receipted_ms=4_000, vouched_ms=3_000, interval_ms=5_000) == 3_000  # fmt: skip
    assert may_serve_ms(served_ms=9_000, receipted_ms=0, vouched_ms=0, interval_ms=5_000) == 0
    assert payable_ms(lasted_ms=10_000, receipted_ms=2_000, vouched_ms=3_000, promised_ms=7_000) == 4_000  # fmt: skip
    assert payable_ms(lasted_ms=10_000, receipted_ms=2_000, vouched_ms=3_000, promised_ms=70_000) == 5_000  # fmt: skip
    assert payable_ms(lasted_ms=10_000, receipted_ms=2_000, vouched_ms=3_000, promised_ms=2_000) == 0  # fmt: skip
