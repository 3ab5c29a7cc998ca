"""What a trade is agreed by: offer, order, top-up, lease, close; statements that bind money."""

from enum import StrEnum
from typing import Annotated, Final

import msgspec

from settlement.domain import canonical
from settlement.domain.resources import Rates, Resources
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

TASKS_MAX: Final = 1_000_000  # of one job
SLOTS_MAX: Final = 1_000

Version = Annotated[str, msgspec.Meta(min_length=1, max_length=60)]
# ASCII, because keys beyond it sort differently in every encoder
Package = Annotated[str, msgspec.Meta(pattern=r"^[!-~]{1,100}$(?!\n)")]
Protection = Annotated[str, msgspec.Meta(pattern=r"^(W|S|G|R|L|none)$(?!\n)")]


class JobEnd(StrEnum):
    """Why a job ended."""

    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"
    BUDGET = "budget"
    DEADLINE = "deadline"


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An environment's content: packages by version and the Python minor. Its digest names it."""

    packages: Annotated[dict[Package, Version], msgspec.Meta(max_length=200)]
    python: Version

    def digest(self) -> str:
        return canonical.digest(canonical.encode(self))


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
    consumer: Address
    order: Digest
    end: JobEnd
    accepted: Count
    spent: Amount
    transfer: Identifier
    at_ms: TimeMs
