"""Statements that move money by themselves: issue, payment, payout, release, withdrawal, expiry."""

from typing import Annotated, Final

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

PAYEES_MAX: Final = 200  # of one payout: its payload stays below 32 KiB
EXPIRED_MAX: Final = 600  # of one expiry, likewise
WITHDRAWAL_SECONDS: Final = 7 * 24 * 3_600  # then what is asked for and not decided is free again

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


class Payee(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One line of a payout."""

    to: Address
    amount: Amount
    transfer: Identifier


@register
class Payout(Statement, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Signed by the debited party: its available tokens to many, all of them or none."""

    payer: Address
    payees: Annotated[list[Payee], msgspec.Meta(min_length=1, max_length=PAYEES_MAX)]
    memo: Memo
    at_ms: TimeMs

    def signer(self) -> str:
        return self.payer


@register
class Release(Statement, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Signed by the market: the provider's charges whose hold ended by `until_ms` become its own.

    One transfer. `receipts_root` is the RFC 6962 root over the digests of their receipts (32 bytes
    each) in ascending order; `receipts` counts them.
    """

    provider: Address
    until_ms: TimeMs
    receipts: Count
    receipts_root: Digest
    amount: Amount
    transfer: Identifier
    at_ms: TimeMs


@register
class Withdraw(Statement, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Signed by the party: take available tokens out of the market, to where `destination` says.

    They are reserved until the operator says that it was done or not, or for
    `WITHDRAWAL_SECONDS`; after those they are free again.
    """

    party: Address
    amount: Amount
    transfer: Identifier
    destination: Memo
    at_ms: TimeMs

    def signer(self) -> str:
        return self.party


@register
class Withdrawn(Statement, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Signed by the operator: the withdrawal of that transfer id was paid out, or was refused."""

    operator: Address
    party: Address
    withdrawal: Identifier
    transfer: Identifier
    outcome: Annotated[str, msgspec.Meta(pattern=r"^(paid|refused)$(?!\n)")]
    memo: Memo
    at_ms: TimeMs

    def signer(self) -> str:
        return self.operator


@register
class Expiry(Statement, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Signed by the market: these pending transfers ran out at ledger time `ledger_ns`."""

    transfers: Annotated[list[Identifier], msgspec.Meta(min_length=1, max_length=EXPIRED_MAX)]
    ledger_ns: Amount
    at_ms: TimeMs
