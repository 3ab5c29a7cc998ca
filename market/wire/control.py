"""The provider's control channel: msgpack frames over one outbound signed WebSocket.

The market sends what it wants (grants, work, closes); the daemon answers what happened. Each
message may arrive twice or never, so each is idempotent by its id; after a reconnect the market
repeats every grant that is open and the daemon every receipt that was not acknowledged.
"""

from typing import Annotated, Final

import msgspec

from market.domain.jobspec import Spec
from market.wire.payload import Payload
from settlement.domain.receipt import Leaf
from settlement.domain.resources import Resources
from settlement.domain.statement import Amount, Count, Digest, Identifier, TimeMs

PROTOCOL: Final = 1
HEARTBEAT_SECONDS: Final = 2.0
SILENCE_SECONDS_MAX: Final = 8.0  # then the peer is taken for gone
LOG_CHARS_MAX: Final = 64 * 1024
OUTPUTS_MAX: Final = 100_000
WINDOW_LOST: Final = "window"  # the reason of a Lost whose chunk did not end in its window

Reason = Annotated[str, msgspec.Meta(max_length=500)]


class Frame(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag=True, kw_only=True):
    """A message; its class name is its tag."""


# ── market → daemon ─────────────────────────────────────────────────────────────────────────


class Welcome(Frame, frozen=True, kw_only=True):
    """First frame: who the market is. `leases` are all that are open; others are to be closed."""

    market: str
    protocol: Count
    leases: list[Identifier]


class Grant(Frame, frozen=True, kw_only=True):
    """A lease: stage and arm, answer Ready or Refuse. `statement` is the lease's digest."""

    lease: Identifier
    statement: Digest
    order: Digest
    job: Identifier
    consumer: str
    spec: Spec
    spec_digest: Digest
    slot: Resources
    rate: Amount
    deadline_ms: TimeMs


class Work(Frame, frozen=True, kw_only=True):
    """A chunk for an active lease: run, answer Done or Lost. `window_ms` bounds its time."""

    attempt: Identifier
    lease: Identifier
    purpose: str  # work or check
    first: Count
    inputs: list[Payload]
    window_ms: Count


class Close(Frame, frozen=True, kw_only=True):
    """End a lease: kill its sandbox, prove it empty."""

    lease: Identifier
    reason: str


class Settled(Frame, frozen=True, kw_only=True):
    """The receipt is in the log (`state` accepted or checking) or refused (`rejected`)."""

    attempt: Identifier
    state: str
    reason: Reason


# ── daemon → market ─────────────────────────────────────────────────────────────────────────


class Hello(Frame, frozen=True, kw_only=True):
    """First frame: which leases and attempts this daemon still holds after a restart."""

    protocol: Count
    leases: list[Identifier]
    attempts: list[Identifier]


class Ready(Frame, frozen=True, kw_only=True):
    """The lease's sandbox is armed."""

    lease: Identifier


class Refuse(Frame, frozen=True, kw_only=True):
    """The lease cannot be served; the reason is the machine's, not the job's."""

    lease: Identifier
    reason: Reason


class Output(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One task's outcome beside its leaf: plain data by digest, and the tail of its log."""

    output: Payload
    log: Annotated[str, msgspec.Meta(max_length=LOG_CHARS_MAX)]


class Done(Frame, frozen=True, kw_only=True):
    """A chunk's receipt (envelope), the leaves under its root, and the outputs."""

    attempt: Identifier
    receipt: bytes
    leaves: Annotated[list[Leaf], msgspec.Meta(max_length=OUTPUTS_MAX)]
    outputs: Annotated[list[Output], msgspec.Meta(max_length=OUTPUTS_MAX)]


class Lost(Frame, frozen=True, kw_only=True):
    """An attempt that will bring no receipt; the machine's fault, or cancelled."""

    attempt: Identifier
    reason: Reason


class Beat(Frame, frozen=True, kw_only=True):
    """Alive. The market answers silence by closing the leases."""

    leases: Count
    running: Count


class Drain(Frame, frozen=True, kw_only=True):
    """No new leases, please: finishing and leaving."""


ToDaemon = Welcome | Grant | Work | Close | Settled
ToMarket = Hello | Ready | Refuse | Done | Lost | Beat | Drain
