"""Ed25519 keys: a key is an account. The only importer of nacl.

The address of a party is its first public key, 64 lower-case hex digits (DESIGN.md 3; RFC 8032).
"""

import re
from typing import Final, Self

from nacl.bindings import crypto_sign_open
from nacl.exceptions import BadSignatureError
from nacl.signing import SigningKey

from settlement.domain.errors import BadKey

SEED_BYTES: Final = 32
SIGNATURE_BYTES: Final = 64
ADDRESS_PATTERN: Final = re.compile(r"[0-9a-f]{64}\Z")


class PrivateKey:
    """A party's secret. Its repr shows the address only, so that no log can leak it."""

    __slots__ = ("_signing", "address", "public")

    def __init__(self, seed: bytes) -> None:
        if len(seed) != SEED_BYTES:
            raise BadKey(f"a private key has {SEED_BYTES} bytes, not {len(seed)}")
        self._signing = SigningKey(seed)
        self.public: bytes = bytes(self._signing.verify_key)
        self.address: str = self.public.hex()

    @classmethod
    def from_hex(cls, text: str) -> Self:
        """From the 64 hex digits of a key file."""
        try:
            return cls(bytes.fromhex(text.strip()))
        except ValueError:
            raise BadKey("the key file does not hold 64 hex digits") from None

    def to_hex(self) -> str:
        """The secret itself, for a file with mode 0600 and nothing else."""
        return bytes(self._signing).hex()

    def sign(self, message: bytes) -> bytes:
        """64 bytes over the message as given; callers bring the context (`statement.pae`)."""
        return bytes(self._signing.sign(message).signature)

    def __repr__(self) -> str:
        return f"PrivateKey({self.address[:8]}…)"


def is_address(text: str) -> bool:
    """Whether the text has the form of an address; nothing is said about the curve."""
    return ADDRESS_PATTERN.match(text) is not None


def verify(address: str, message: bytes, signature: bytes) -> bool:
    """Whether the signature holds; any malformed key or signature is simply False."""
    if not is_address(address) or len(signature) != SIGNATURE_BYTES:
        return False
    try:  # without the key and message objects around it, which cost half as much as the curve
        crypto_sign_open(signature + message, bytes.fromhex(address))
    except (BadSignatureError, ValueError):
        return False
    return True
