"""Metered usage × agreed rate: the one rounding rule, and who gets which part of it."""

from typing import Final

import msgspec

from settlement.domain import amount

FEE_BASIS_POINTS: Final = 500  # of the charge, kept by the market
CHECK_BASIS_POINTS: Final = 1_000  # flat surcharge on checked jobs; feeds the account `checks`
MILLISECONDS: Final = 1_000


class Charge(msgspec.Struct, frozen=True):
    """One receipt's money, micro-credits. The consumer pays `gross + surcharge`."""

    gross_microcredits: int
    fee_microcredits: int
    surcharge_microcredits: int

    @property
    def earned_microcredits(self) -> int:
        """What the provider gets, first into `held`."""
        return self.gross_microcredits - self.fee_microcredits

    @property
    def paid_microcredits(self) -> int:
        """What leaves the consumer's budget."""
        return self.gross_microcredits + self.surcharge_microcredits


def gross(*, wall_ms: int, rate_microcredits: int) -> int:
    """Wall milliseconds × rate per slot-second ÷ 1000, rounded down, once per receipt."""
    return amount.checked(wall_ms * rate_microcredits // MILLISECONDS)


def billed_ms(*, wall_ms: int, clock_ms: int, window_ms: int) -> int:
    """The time that is paid of what a receipt claims."""
    return max(0, min(wall_ms, clock_ms, window_ms))


def charge(
    *, wall_ms: int, clock_ms: int, window_ms: int, rate_microcredits: int, checked: bool
) -> Charge:
    """The charge for one receipt: never more time than the market's clock and the window allow."""
    billed = billed_ms(wall_ms=wall_ms, clock_ms=clock_ms, window_ms=window_ms)
    whole = gross(wall_ms=billed, rate_microcredits=rate_microcredits)
    return split(whole, checked=checked)


def split(whole_microcredits: int, *, checked: bool) -> Charge:
    """Fee and surcharge of a gross charge, each rounded down."""
    fee = amount.share(whole_microcredits, basis_points=FEE_BASIS_POINTS)
    surcharge = amount.share(whole_microcredits, basis_points=CHECK_BASIS_POINTS) if checked else 0
    return Charge(whole_microcredits, fee, surcharge)


def cap(*, window_ms: int, rate_microcredits: int, checked: bool) -> int:
    """The most that one window of lease time can cost the consumer."""
    return split(
        gross(wall_ms=window_ms, rate_microcredits=rate_microcredits), checked=checked
    ).paid_microcredits
