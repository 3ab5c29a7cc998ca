"""The words between a running daemon and its owner's commands; `control_socket.py` carries them."""

from typing import Annotated, Final, Literal

import msgspec

from settlement.domain.resources import Rates, Resources

REASON_CHARS_MAX: Final = 200

Text = Annotated[str, msgspec.Meta(max_length=REASON_CHARS_MAX)]
State = Literal["connecting", "serving", "paused", "draining"]


class Word(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag=True, kw_only=True):
    """One line; its class name is its tag."""


# ── the owner asks ──────────────────────────────────────────────────────────────────────────


class Status(Word, frozen=True, kw_only=True):
    """How is it?"""


class Drain(Word, frozen=True, kw_only=True):
    """Let what runs end, take nothing new, then end."""


class Pause(Word, frozen=True, kw_only=True):
    """Take nothing new until told otherwise; what runs goes on."""


class Yield(Word, frozen=True, kw_only=True):
    """Give the machine back at once: every sandbox ends, nothing new is taken."""


class Resume(Word, frozen=True, kw_only=True):
    """Take work again."""


class SetPrice(Word, frozen=True, kw_only=True):
    """New rates for what is leased from now on; None leaves one as it is."""

    cpu: Annotated[int, msgspec.Meta(ge=0, le=10**12)] | None = None
    gib: Annotated[int, msgspec.Meta(ge=0, le=10**12)] | None = None
    gpu: Annotated[int, msgspec.Meta(ge=0, le=10**12)] | None = None


Request = Status | Drain | Pause | Yield | Resume | SetPrice


# ── the daemon answers ──────────────────────────────────────────────────────────────────────


class LeaseLine(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One lease on this machine."""

    lease: str
    job: str
    phase: str
    slot: Resources
    rate: str  # micro-credits per second, as it was agreed
    chunks: int  # in its sandbox and waiting for it
    deadline_ms: int


class Snapshot(Word, frozen=True, kw_only=True):
    """How it is just now. Earnings are this daemon's own claims that the market took, fee not off."""

    name: str
    address: str
    market: str
    pid: int
    state: State
    reason: str
    connected: bool
    protection: str
    capacity: Resources
    taken: Resources
    rates: Rates
    leases: list[LeaseLine]
    running: int
    unacknowledged: int
    chunks: int
    tasks: int
    lost: int
    rejected: int
    earned_today: str
    earned: str
    since_ms: int


class Ok(Word, frozen=True, kw_only=True):
    """It is done. `ended` leases were closed by it; `empty` says that nothing of them runs any more."""

    said: str
    ended: int = 0
    empty: bool = True


class Refused(Word, frozen=True, kw_only=True):
    """It is not done; the code is one of the error catalogue."""

    code: str
    detail: str


Answer = Snapshot | Ok | Refused
