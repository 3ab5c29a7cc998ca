"""Bytes that travel inline when small and by digest when large."""

from typing import Annotated, Final

import msgspec

from settlement.domain import canonical
from settlement.domain.errors import DigestMismatch, Malformed
from settlement.domain.statement import Digest

INLINE_BYTES_MAX: Final = 64 * 1024
BLOB_BYTES_MAX: Final = 64 * 1024 * 1024


class Payload(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Content by digest; `body` (base64 in JSON) is there when it is at most 64 KiB."""

    digest: Digest
    size: Annotated[int, msgspec.Meta(ge=0, le=BLOB_BYTES_MAX)]
    body: bytes | None = None

    def check(self) -> None:
        """An inline body must be what digest and size say; a missing one must be a blob.

        Small bytes may be a blob too: many of them together can be too much for one frame.
        """
        if self.body is None:
            return
        if len(self.body) > INLINE_BYTES_MAX:
            raise Malformed(f"inline bytes are at most {INLINE_BYTES_MAX}; larger ones are blobs")
        if len(self.body) != self.size or canonical.digest(self.body) != self.digest:
            raise DigestMismatch


def inline(body: bytes) -> Payload:
    """The payload of some bytes: with the body when small, else only its digest."""
    kept = body if len(body) <= INLINE_BYTES_MAX else None
    return Payload(canonical.digest(body), len(body), kept)
