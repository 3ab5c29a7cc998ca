"""Strict decode with limits on size and depth; one refusal whatever is wrong."""

import json
import re
from typing import Final, TypeVar

import msgspec

from settlement.domain.errors import Malformed, Oversized

BODY_BYTES_MAX: Final = 1024 * 1024  # of a JSON request
FRAME_BYTES_MAX: Final = 96 * 1024 * 1024  # of a control frame, which carries a chunk's bytes
DEPTH_MAX: Final = 32

T = TypeVar("T")

_encoder = msgspec.json.Encoder()
_packer = msgspec.msgpack.Encoder()
_BRACKETS: Final = re.compile(rb'"(?:[^"\\]|\\.)*"|[\[{]|[\]}]')


def decode(data: bytes, kind: type[T], *, bytes_max: int = BODY_BYTES_MAX) -> T:
    """JSON to a Struct: unknown fields, wrong types, bounds and duplicate keys are refused."""
    if len(data) > bytes_max:
        raise Oversized(f"the body has {len(data)} bytes, the limit is {bytes_max}")
    try:
        _refuse_deep(data)
        _refuse_duplicates(data)
        return msgspec.json.decode(data, type=kind, strict=True)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Malformed(str(error)) from None


def encode(value: object) -> bytes:
    """A Struct to JSON."""
    return _encoder.encode(value)


def unpack(data: bytes, kind: type[T], *, bytes_max: int = FRAME_BYTES_MAX) -> T:
    """A control frame (msgpack) to one of its Structs."""
    if len(data) > bytes_max:
        raise Oversized(f"the frame has {len(data)} bytes, the limit is {bytes_max}")
    try:
        return msgspec.msgpack.decode(data, type=kind, strict=True)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Malformed(str(error)) from None


def pack(value: object) -> bytes:
    """A Struct to a control frame."""
    return _packer.encode(value)


def convert(strings: dict[str, str], kind: type[T]) -> T:
    """Query or path strings to a Struct."""
    try:
        return msgspec.convert(strings, kind, strict=False)
    except msgspec.ValidationError as error:
        raise Malformed(str(error)) from None


def _refuse_deep(data: bytes) -> None:
    """The decoder itself only stops at Python's recursion limit."""
    depth = 0
    for token in _BRACKETS.finditer(data):
        mark = token[0]
        if mark in b"[{":
            depth += 1
            if depth > DEPTH_MAX:
                raise Malformed(f"the body is nested deeper than {DEPTH_MAX}")
        elif mark in b"]}":
            depth -= 1


def _refuse_duplicates(data: bytes) -> None:
    """Of duplicate keys msgspec silently takes the last; two readers would see two requests."""
    try:
        json.loads(data, object_pairs_hook=_distinct)
    except ValueError as error:
        raise Malformed(f"not JSON: {error}") from None


def _distinct(pairs: list[tuple[str, object]]) -> None:
    if len({key for key, _ in pairs}) != len(pairs):
        raise Malformed("a key stands twice in one object")
