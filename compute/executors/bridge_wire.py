"""What the daemon and its Ray bridge say to each other: length-prefixed msgpack, shapes fixed."""

from typing import Final, Literal

import msgspec
from msgspec import Struct

from compute.executors.executor import Chunk, ChunkOutcome, SlotSpec

LENGTH_BYTES: Final = 8
FRAME_BYTES_MAX: Final = 1 << 30
READY_ID: Final = 0


class Open(Struct, frozen=True, tag="open"):
    id: int
    slot: SlotSpec
    function: bytes


class Run(Struct, frozen=True, tag="run"):
    id: int
    lease: str
    chunk: Chunk


class Stop(Struct, frozen=True, tag="stop"):
    """Cancel what runs, or close the lease."""

    id: int
    lease: str
    how: Literal["cancel", "close"]


class Done(Struct, frozen=True, tag="done"):
    """An answer, also the first word of a bridge whose Ray is up."""

    id: int
    outcome: ChunkOutcome | None = None


class Lost(Struct, frozen=True, tag="lost"):
    """The machine failed."""

    id: int
    detail: str


class Hello(Struct, frozen=True, tag="hello"):
    """An actor's first word on its line to the bridge."""

    id: int
    lease: str


Request = Open | Run | Stop
Reply = Done | Lost | Hello

_requests: Final[msgspec.msgpack.Decoder[Request]] = msgspec.msgpack.Decoder(Request)
_replies: Final[msgspec.msgpack.Decoder[Reply]] = msgspec.msgpack.Decoder(Reply)


def encode(message: Request | Reply) -> bytes:
    """A whole frame."""
    return framed(msgspec.msgpack.encode(message))


def framed(body: bytes) -> bytes:
    """A body with its length before it."""
    return len(body).to_bytes(LENGTH_BYTES, "little") + body


def decode_request(body: bytes) -> Request:
    """A request without its length."""
    return _requests.decode(body)


def decode_reply(body: bytes) -> Reply:
    """A reply without its length."""
    return _replies.decode(body)
