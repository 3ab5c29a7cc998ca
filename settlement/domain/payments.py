"""Statements that move money by themselves: the operator's issue and a party's payment."""

from typing import Annotated

import msgspec

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

Memo = Annotated[str, msgspec.Meta(max_length=200)]


@register
class Issue(Statement, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Signed by the operator: new tokens for a party's account, `available` or the market's `checks`."""

    operator: Address
    to: Address
    purpose: Annotated[str, msgspec.Meta(pattern=r"^(available|checks)$(?!\n)")]
    amount: Amount
    transfer: Identifier
    memo: Memo
    at_ms: TimeMs

    def signer(self) -> str:
        return self.operator


@register
class Payment(Statement, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Signed by the debited party: available tokens to another party."""

    payer: Address
    to: Address
    amount: Amount
    transfer: Identifier
    memo: Memo
    at_ms: TimeMs

    def signer(self) -> str:
        return self.payer


@register
class Release(Statement, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Signed by the market: the hold on these receipts is over; one transfer for the provider.

    `receipts_root` is the RFC 6962 root over the digests (32 bytes each) in ascending order.
    """

    provider: Address
    receipts: Count
    receipts_root: Digest
    amount: Amount
    transfer: Identifier
    at_ms: TimeMs
