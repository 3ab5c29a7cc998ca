"""Bytes by digest: what jobs bring is fetched once and checked, what results need is uploaded."""

import asyncio
import logging
import os
import secrets
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from market.sdk.transport import BYTES, Transport
from market.wire.payload import BLOB_BYTES_MAX, Payload
from settlement.domain import canonical
from settlement.domain.errors import DigestMismatch, Oversized

LOG: Final = logging.getLogger(__name__)

CACHE_BYTES_MAX: Final = 2 * 1024**3
FOLDER_MODE: Final = 0o700


@dataclass
class Blobs:
    """The market's blob store behind a folder of what was used last."""

    folder: Path
    transport: Transport
    cache_bytes_max: int = CACHE_BYTES_MAX
    _turn: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def body(self, payload: Payload) -> bytes:
        """The bytes of a payload; `DigestMismatch` when they are not those of its digest."""
        data = payload.body if payload.body is not None else await self.get(payload.digest)
        if len(data) != payload.size:
            raise DigestMismatch(f"{len(data)} bytes came, {payload.size} were announced")
        if payload.body is not None and canonical.digest(data) != payload.digest:
            raise DigestMismatch
        return data

    async def get(self, digest: str) -> bytes:
        """From the folder, else from the market; checked either way."""
        path = self._path(digest)
        kept = await asyncio.to_thread(_read, path, digest)
        if kept is not None:
            return kept
        data = await self.transport.request("GET", f"/v1/blobs/{digest}")
        if len(data) > BLOB_BYTES_MAX:
            raise Oversized(f"a blob has at most {BLOB_BYTES_MAX} bytes")
        if await asyncio.to_thread(canonical.digest, data) != digest:
            raise DigestMismatch("the market sent other bytes than the digest names")
        try:
            async with self._turn:
                await asyncio.to_thread(self._keep, path, data)
        except OSError as error:
            LOG.warning("a blob is not kept: %s", error)
        return data

    async def put(self, data: bytes) -> None:
        """Upload; the market takes the same bytes twice without harm."""
        path = f"/v1/blobs/{await asyncio.to_thread(canonical.digest, data)}"
        await self.transport.request("PUT", path, data, content_type=BYTES)

    def _path(self, digest: str) -> Path:
        return self.folder / canonical.digest_bytes(digest).hex()

    def _keep(self, path: Path, data: bytes) -> None:
        if len(data) > self.cache_bytes_max:
            return
        self.folder.mkdir(parents=True, exist_ok=True, mode=FOLDER_MODE)
        self._evict(len(data))
        partial = path.with_name(f"{path.name}.{secrets.token_hex(4)}.part")
        try:
            partial.write_bytes(data)
            partial.rename(path)
        finally:
            partial.unlink(missing_ok=True)

    def _evict(self, needed_bytes: int) -> None:
        """Make room, oldest use first; what a crash left half written counts as oldest."""
        entries = [(entry.stat(), entry) for entry in self.folder.iterdir()]
        entries.sort(key=lambda pair: (pair[1].suffix != ".part", pair[0].st_mtime_ns))
        total_bytes = sum(status.st_size for status, _ in entries) + needed_bytes
        for status, entry in entries:
            if total_bytes <= self.cache_bytes_max and entry.suffix != ".part":
                return
            entry.unlink(missing_ok=True)
            total_bytes -= status.st_size


def _read(path: Path, digest: str) -> bytes | None:
    """What is there, if it is whole; eviction takes what was used longest ago."""
    try:
        data = path.read_bytes()
        os.utime(path)
    except OSError:  # not there, or not readable: it comes anew
        return None
    return data if canonical.digest(data) == digest else None
