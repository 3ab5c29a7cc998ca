"""What a provider of a long-running lease risks, and when it must stop: the rule of vouchers.

A lease costs by its time. Receipts pay for chunks, vouchers for whatever time no receipt covers yet;
each voucher is cumulative, so the last one is worth all of them. A provider that serves only while
less than one interval is neither paid nor promised can never lose more than that.
"""


def at_risk_ms(*, served_ms: int, receipted_ms: int, vouched_ms: int) -> int:
    """Time that was served and that nobody has signed for."""
    return max(0, served_ms - receipted_ms - vouched_ms)


def may_serve_ms(*, served_ms: int, receipted_ms: int, vouched_ms: int, interval_ms: int) -> int:
    """How much longer to serve without another voucher; 0: stop now, until one comes."""
    risk_ms = at_risk_ms(served_ms=served_ms, receipted_ms=receipted_ms, vouched_ms=vouched_ms)
    return max(0, interval_ms - risk_ms)


def payable_ms(*, lasted_ms: int, receipted_ms: int, vouched_ms: int, promised_ms: int) -> int:
    """What a voucher of `promised_ms` in all may add; at most the lease's time that is not paid."""
    wanted_ms = max(0, promised_ms - vouched_ms)
    left_ms = max(0, lasted_ms - receipted_ms - vouched_ms)
    return min(wanted_ms, left_ms)
