"""What to ask for: the market's present prices, or else the usual ones for a machine of this speed."""

import statistics
from collections.abc import Sequence
from typing import Final

import msgspec

from compute.daemon.settings import CPU_RATE, GIB_RATE
from market.wire.trade import OfferView
from settlement.domain.resources import Rates, Resources, slot_rate

HOUR_SECONDS: Final = 3_600
WHOLE_BASIS_POINTS: Final = 10_000
USUAL_MIB_S: Final = (
    1_000.0  # SHA-256 on one core of the machine that the usual rates are meant for
)
SPEED_LEAST: Final = 0.5  # a benchmark of half a second moves the price no further than this
SPEED_MOST: Final = 2.0


class Suggestion(msgspec.Struct, frozen=True, kw_only=True):
    """Rates, and what they were made from."""

    rates: Rates
    offers: int  # of others, that were looked at
    speed: float  # of this machine's core against the usual one


def suggest(
    offers: Sequence[OfferView], *, cpu_mib_s: float | None, own: str | None = None
) -> Suggestion:
    """The median of what others ask now, times this machine's speed; one's own offer does not count."""
    others = [offer for offer in offers if offer.connected and offer.provider != own]
    ratio = 1.0 if cpu_mib_s is None else cpu_mib_s / USUAL_MIB_S
    speed = min(SPEED_MOST, max(SPEED_LEAST, ratio))
    cpu = statistics.median([offer.rates.cpu for offer in others]) if others else CPU_RATE
    gib = statistics.median([offer.rates.gib for offer in others]) if others else GIB_RATE
    gpus = [offer.rates.gpu for offer in others if offer.capacity.gpus]
    return Suggestion(
        rates=Rates(round(cpu * speed), round(gib), round(statistics.median(gpus)) if gpus else 0),
        offers=len(others),
        speed=round(speed, 3),
    )


def hourly_microcredits(capacity: Resources, rates: Rates, *, fee_basis_points: int) -> int:
    """What a fully leased hour brings, the market's fee taken off."""
    gross = slot_rate(capacity, rates) * HOUR_SECONDS
    return gross - gross * fee_basis_points // WHOLE_BASIS_POINTS
