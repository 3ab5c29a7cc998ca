"""The statements of the market: offer, order, top-up, lease, close."""

from typing import Annotated

import msgspec

from market.domain.job import JobEnd
from market.domain.jobspec import SLOTS_MAX, TASKS_MAX, Manifest
from market.domain.resources import Rates, Resources
from settlement.domain.statement import (
    Address,
    Amount,
    Count,
    Digest,
    Identifier,
    Nonce,
    Statement,
    TimeMs,
    register,
)  # fmt: skip

Protection = Annotated[str, msgspec.Meta(pattern=r"^(W|S|G|R|L|none)$(?!\n)")]


@register
class Offer(Statement, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Signed by the provider: capacity, posted rates, environments, until it expires.

    A newer offer (`at_ms`) of the same provider replaces it.
    """

    provider: Address
    name: Annotated[str, msgspec.Meta(min_length=1, max_length=60)]
    capacity: Resources
    rates: Rates
    environments: Annotated[list[Manifest], msgspec.Meta(max_length=16)]
    protection: Protection
    expires_ms: TimeMs
    at_ms: TimeMs
    nonce: Nonce

    def signer(self) -> str:
        return self.provider


@register
class Order(Statement, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Signed by the consumer: a job's demand. `tasks` is the most that may ever be added.

    `rate_cap` is micro-credits per slot-second; `budget` moves at acceptance under id `transfer`.
    """

    consumer: Address
    job: Identifier
    spec: Digest
    tasks: Annotated[int, msgspec.Meta(ge=1, le=TASKS_MAX)]
    slots: Annotated[int, msgspec.Meta(ge=1, le=SLOTS_MAX)]
    rate_cap: Amount
    budget: Amount
    transfer: Identifier
    deadline_ms: TimeMs
    at_ms: TimeMs

    def signer(self) -> str:
        return self.consumer


@register
class TopUp(Statement, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Signed by the consumer: more budget for a job."""

    consumer: Address
    job: Identifier
    amount: Amount
    transfer: Identifier
    at_ms: TimeMs

    def signer(self) -> str:
        return self.consumer


@register
class Lease(Statement, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Signed by the market: a match of an order with an offer, one slot at one rate."""

    lease: Identifier
    offer: Digest
    order: Digest
    job: Identifier
    provider: Address
    consumer: Address
    slot: Resources
    rate: Amount
    deadline_ms: TimeMs
    at_ms: TimeMs


@register
class Close(Statement, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Signed by the market: a job ended, and what is left goes back under id `transfer`."""

    job: Identifier
    order: Digest
    end: JobEnd
    accepted: Count
    spent: Amount
    transfer: Identifier
    at_ms: TimeMs
