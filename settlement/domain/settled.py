"""Statements that settle usage: what a receipt or voucher was charged, and what the consumer says of it."""

from typing import Annotated, Final

import msgspec

from settlement.domain.charge import Charge, charge
from settlement.domain.statement import (
    Address,
    Amount,
    Count,
    Digest,
    Identifier,
    Statement,
    TimeMs,
    register,
)  # fmt: skip

WORK: Final = "work"
CHECK: Final = "check"
VOUCHER: Final = "voucher"


@register
class Charged(Statement, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Signed by the market: what one receipt (or voucher) costs, with all that it follows from.

    `handed_ms` … `received_ms` is the time that the market saw, `window_ms` the most that one chunk
    may take. `surcharge_basis_points` is 0 in a job that is not checked, and for checks. Until
    `release_ms` what was earned stands in the provider's `held`.
    """

    receipt: Digest
    role: Annotated[str, msgspec.Meta(pattern=r"^(work|check|voucher)$(?!\n)")]
    job: Identifier
    provider: Address
    consumer: Address
    wall_ms: Count
    handed_ms: TimeMs
    received_ms: TimeMs
    window_ms: Count
    rate: Amount
    surcharge_basis_points: Annotated[int, msgspec.Meta(ge=0, le=10_000)]
    gross: Amount
    fee: Amount
    surcharge: Amount
    release_ms: TimeMs
    at_ms: TimeMs

    @property
    def billed_ms(self) -> int:
        """The time that is paid."""
        return max(0, min(self.wall_ms, self.received_ms - self.handed_ms, self.window_ms))

    def due(self) -> Charge:
        """The charge that the other fields lead to; the three amounts must be its own."""
        return charge(
            wall_ms=self.wall_ms,
            clock_ms=self.received_ms - self.handed_ms,
            window_ms=self.window_ms,
            rate_microcredits=int(self.rate),
            checked=self.surcharge_basis_points > 0,
        )


@register
class Acceptance(Statement, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Signed by the consumer: it takes this receipt as it is; no check need be waited for."""

    consumer: Address
    job: Identifier
    receipt: Digest
    at_ms: TimeMs

    def signer(self) -> str:
        return self.consumer


@register
class Voucher(Statement, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Signed by the consumer: so much time of this lease it has had by now, beside what was receipted.

    Cumulative: each voucher of a lease contains those before it, so the last one is worth all of
    them, and a provider that stops when the next one is late never risks more than one interval.
    """

    consumer: Address
    provider: Address
    job: Identifier
    lease: Digest
    wall_ms: Count
    at_ms: TimeMs

    def signer(self) -> str:
        return self.consumer
