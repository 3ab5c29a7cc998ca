"""The one byte encoding that is hashed and signed: canonical JSON of frozen Structs.

ASCII keys sorted, no white space, no floats, no null (notes: equals RFC 8785 in this domain).
"""

import hashlib
import re
from typing import Final, TypeVar

import msgspec

from settlement.domain.errors import Malformed

DIGEST_PREFIX: Final = "sha256:"
DIGEST_PATTERN: Final = re.compile(r"sha256:[0-9a-f]{64}\Z")
INTEGER_MAX: Final = 2**53 - 1  # what every JSON reader keeps exactly

T = TypeVar("T")

_encoder = msgspec.json.Encoder(order="sorted")


def encode(value: object) -> bytes:
    """Canonical bytes of a Struct, or of lists, strings and integers."""
    return _encoder.encode(value)


def decode(data: bytes, kind: type[T]) -> T:
    """Strict decode: the value must encode back to the very same bytes.

    Re-encoding refuses duplicate keys, blanks, escapes, `-0`, `1e3` and trailing bytes at once.
    """
    try:
        value = msgspec.json.decode(data, type=kind, strict=True)
        again = _encoder.encode(value)
    except (msgspec.DecodeError, msgspec.EncodeError, UnicodeDecodeError, RecursionError) as error:
        raise Malformed(f"not canonical JSON of its kind: {error}") from None
    if again != data:
        raise Malformed("the bytes are not in canonical form")
    return value


def digest(data: bytes) -> str:
    """`sha256:` and 64 hex digits over the bytes."""
    return DIGEST_PREFIX + hashlib.sha256(data).hexdigest()


def is_digest(text: str) -> bool:
    """Whether the text has the form of a digest."""
    return DIGEST_PATTERN.match(text) is not None


def digest_bytes(text: str) -> bytes:
    """The 32 bytes behind a digest's text form."""
    if not is_digest(text):
        raise Malformed(f"{text[:80]!r} is not a digest")
    return bytes.fromhex(text[len(DIGEST_PREFIX) :])


def digest_text(data: bytes) -> str:
    """The text form of 32 digest bytes."""
    return DIGEST_PREFIX + data.hex()
