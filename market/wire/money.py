"""Shapes of payouts, withdrawals, acceptances, leases and their vouchers."""

from typing import Annotated

import msgspec

from market.wire.trade import Page
from settlement.domain.statement import Address, Amount, Count, Digest, Identifier, TimeMs


class PayMany(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A signed payout (envelope)."""

    payout: bytes


class WithdrawPost(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A party's signed wish to withdraw (envelope)."""

    withdraw: bytes


class DecisionPost(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The operator's signed word on a withdrawal (envelope)."""

    decision: bytes


class WithdrawalQuery(Page, frozen=True, forbid_unknown_fields=True):
    """Whose withdrawals, and which of them; everybody's are for the operator alone."""

    whose: Annotated[str, msgspec.Meta(pattern=r"^(mine|all)$(?!\n)")] = "mine"
    state: Annotated[str, msgspec.Meta(pattern=r"^(any|waiting)$(?!\n)")] = "any"


class WithdrawalView(msgspec.Struct, frozen=True, kw_only=True):
    """Tokens that leave: waiting, paid, refused or expired; the last two are free again."""

    transfer: Identifier
    party: Address
    amount: Amount
    destination: str
    state: str
    asked_ms: TimeMs
    expires_ms: TimeMs
    decided_ms: TimeMs  # 0 while nobody has
    memo: str  # the operator's
    statement: Digest
    decision: str  # digest of the operator's statement; empty while there is none


class Withdrawals(msgspec.Struct, frozen=True):
    withdrawals: list[WithdrawalView]
    next: str


class AcceptancePost(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The consumer's signed acceptance of a receipt (envelope)."""

    acceptance: bytes


class Accepted(msgspec.Struct, frozen=True, kw_only=True):
    """How a receipt stands; once it is settled, by whatever way, the same for ever."""

    receipt: Digest
    attempt: Identifier
    job: Identifier
    state: str
    charge: Amount
    fee: Amount
    surcharge: Amount


class VoucherPost(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A consumer's signed voucher (envelope)."""

    voucher: bytes


class LeaseView(msgspec.Struct, frozen=True, kw_only=True):
    """A lease as its two parties see it; `statement` is the digest that vouchers name."""

    id: Identifier
    statement: Digest
    job: Identifier
    provider: Address
    consumer: Address
    state: str
    reason: str
    rate: Amount  # micro-credits per slot-second
    granted_ms: TimeMs
    lasted_ms: Count  # until now, or until it ended
    receipted_ms: Count  # of it: what receipts have
    vouched_ms: Count  # and what vouchers have paid
    vouched: Amount
    at_risk_ms: Count  # what nobody has signed for
    status: str = ""  # of a voucher that was handed in: applied or duplicate


class Leases(msgspec.Struct, frozen=True):
    leases: list[LeaseView]
