"""The one fixed form of what is said to the spawner: one datagram each, decoded strictly."""

from typing import Annotated, Final

import msgspec
from msgspec import Meta, Struct

MESSAGE_BYTES_MAX: Final = 65_536
DESCRIPTORS: Final = 2  # a new sandbox's channel and log
LEASE_CHARS_MAX: Final = 200
SANDBOXES_MAX: Final = 512

Lease = Annotated[str, Meta(min_length=1, max_length=LEASE_CHARS_MAX)]
Number = Annotated[int, Meta(ge=0, le=2**53 - 1)]


class Spawn(Struct, frozen=True, forbid_unknown_fields=True, tag="spawn"):
    """Make a sandbox; its two descriptors ride on the answer."""

    id: Number
    lease: Lease
    memory_mib: Number
    cpus_milli: Number
    processes_max: Number
    scratch_mib: Number


class Meter(Struct, frozen=True, forbid_unknown_fields=True, tag="meter"):
    """Read a sandbox's group."""

    id: Number
    sandbox: Number
    reset_peak: bool


class Kill(Struct, frozen=True, forbid_unknown_fields=True, tag="kill"):
    """Read the group a last time, kill, and prove it empty."""

    id: Number
    sandbox: Number


class End(Struct, frozen=True, forbid_unknown_fields=True, tag="end"):
    """Kill every sandbox of a lease, whoever asked for it; the daemon alone may."""

    id: Number
    lease: Lease


class Enumerate(Struct, frozen=True, forbid_unknown_fields=True, tag="list"):
    """Name the live sandboxes."""

    id: Number


class Spawned(Struct, frozen=True, forbid_unknown_fields=True, tag="spawned"):
    id: Number
    sandbox: Number


class Metered(Struct, frozen=True, forbid_unknown_fields=True, tag="metered"):
    """The counters; without a group `grouped` is false and all are zero."""

    id: Number
    cpu_ns: Number
    memory_peak_bytes: Number
    oom_kills: Number
    grouped: bool
    alive: bool
    empty: bool


class Ended(Struct, frozen=True, forbid_unknown_fields=True, tag="ended"):
    """How many sandboxes were killed, and whether all are proven empty."""

    id: Number
    killed: Number
    empty: bool


class Live(Struct, frozen=True, forbid_unknown_fields=True):
    """One live sandbox."""

    sandbox: Number
    lease: Lease
    pid: Number
    uid: Number


class Listed(Struct, frozen=True, forbid_unknown_fields=True, tag="listed"):
    id: Number
    live: tuple[Live, ...]


class Refusal(Struct, frozen=True, forbid_unknown_fields=True, tag="refused"):
    """Why not; the code is one of the error tree."""

    id: Number
    code: str
    detail: str


Request = Spawn | Meter | Kill | End | Enumerate
Answer = Spawned | Metered | Ended | Listed | Refusal


class Setting(Struct, frozen=True, forbid_unknown_fields=True):
    """What the spawner is told at its start, as one line; nothing of it comes from clients."""

    socket: str
    bwrap: str | None
    python_home: str
    python_name: str
    hardware: dict[str, str]
    guest_uid: int | None
    groups: bool


class Ready(Struct, frozen=True, forbid_unknown_fields=True):
    """What the spawner says once, when it listens."""

    protection: str
    backend: str
    reasons: tuple[str, ...]
    swept: tuple[str, ...]


_requests: Final[msgspec.msgpack.Decoder[Request]] = msgspec.msgpack.Decoder(Request)
_answers: Final[msgspec.msgpack.Decoder[Answer]] = msgspec.msgpack.Decoder(Answer)


def encode(message: Request | Answer) -> bytes:
    """A message's bytes."""
    return msgspec.msgpack.encode(message)


def decode_request(data: bytes) -> Request:
    """A request, or msgspec's error."""
    return _requests.decode(data)


def decode_answer(data: bytes) -> Answer:
    """An answer, or msgspec's error."""
    return _answers.decode(data)
