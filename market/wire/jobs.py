"""Shapes of jobs: submit, append, results, receipts, events."""

from typing import Annotated, Final

import msgspec

from market.domain.jobspec import Spec
from market.wire.payload import Payload
from settlement.domain.resources import Resources
from settlement.domain.statement import Address, Amount, Count, Digest, Identifier, TimeMs
from settlement.domain.trade import Manifest

APPEND_TASKS_MAX: Final = 2_000
PAGE_MAX: Final = 1_000
WAIT_MS_MAX: Final = 30_000

Inputs = Annotated[list[Payload], msgspec.Meta(max_length=APPEND_TASKS_MAX)]


class Submit(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A new job: the signed order (its envelope's JSON as base64), the spec, the first inputs.

    `sealed` says that no more tasks will come.
    """

    order: bytes
    spec: Spec
    inputs: Inputs
    sealed: bool


class Append(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """More tasks; `first` is the index of the first, so that a repeat changes nothing."""

    first: Count
    inputs: Inputs
    sealed: bool


class TopUpRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A signed top-up of the budget (envelope)."""

    top_up: bytes


class JobView(msgspec.Struct, frozen=True, kw_only=True):
    """A job as its consumer sees it. Amounts are micro-credits as decimal strings."""

    id: Identifier
    name: str
    state: str
    reason: str  # why it ended; empty before
    order: Digest
    order_state: str
    tasks: Count
    accepted: Count
    sealed: bool
    slots: Count
    leases: Count  # live ones
    paused: bool  # out of budget: top up to go on
    rate_cap: Amount
    budget: Amount
    spent: Amount
    refunded: Amount
    verify: str
    environment: Digest
    created_ms: TimeMs
    deadline_ms: TimeMs
    closed_ms: TimeMs  # 0 while not closed


class JobList(msgspec.Struct, frozen=True):
    jobs: list[JobView]
    next: str  # cursor; empty at the end


class TaskResult(msgspec.Struct, frozen=True, kw_only=True):
    """One task's accepted result. `status` ok: `output` is plain data; else a plain exception."""

    index: Count
    status: str
    output: Payload
    log: str
    attempt: Identifier
    provider: Address


class Results(msgspec.Struct, frozen=True):
    """Results in the order of acceptance. `next` is the cursor to go on from."""

    results: list[TaskResult]
    next: Count
    state: str
    reason: str
    accepted: Count
    tasks: Count
    paused: bool


class ReceiptView(msgspec.Struct, frozen=True, kw_only=True):
    """An attempt with its receipt and its money (micro-credits as decimal strings)."""

    attempt: Identifier
    receipt: str  # digest; empty while none came
    purpose: str
    state: str
    reason: str
    provider: Address
    provider_name: str
    first: Count
    tasks: Count
    wall_ms: Count
    cpu_ms: Count
    protection: str
    charge: Amount
    fee: Amount
    surcharge: Amount
    money: str  # "", charged or released


class Receipts(msgspec.Struct, frozen=True):
    receipts: list[ReceiptView]
    next: str


class Event(msgspec.Struct, frozen=True):
    position: Count
    at_ms: TimeMs
    kind: str
    detail: str


class Events(msgspec.Struct, frozen=True):
    events: list[Event]
    next: Count


class QuoteRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What would this cost now?"""

    slot: Resources
    slots: Annotated[int, msgspec.Meta(ge=1, le=1_000)]
    rate_cap: Amount
    protection: Annotated[str, msgspec.Meta(pattern=r"^(W|S|G|R|L|none)$(?!\n)")]
    verify: Annotated[str, msgspec.Meta(pattern=r"^(none|spot)$(?!\n)")]
    environment: Digest


class QuotedOffer(msgspec.Struct, frozen=True):
    provider: Address
    name: str
    rate: Amount  # micro-credits per slot-second
    slots: Count
    refused: list[str]  # empty: it fits


class Quote(msgspec.Struct, frozen=True):
    """Per second of one slot: least and worst rate among the slots that would match now."""

    slots: Count
    rate_least: Amount
    rate_worst: Amount
    surcharge_basis_points: Count
    offers: list[QuotedOffer]


class EnvironmentView(msgspec.Struct, frozen=True):
    digest: Digest
    manifest: Manifest
    providers: Count
