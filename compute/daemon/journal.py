"""What a daemon must still know after a kill -9: attempts taken over, receipts not acknowledged.

An append-only file of checked records. A torn end is cut off when the file is opened; what is
over is dropped when the file is written anew, which keeps it short.
"""

import asyncio
import fcntl
import logging
import os
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Self

import msgspec

from settlement.domain.errors import MisConfigured

LOG: Final = logging.getLogger(__name__)

HEADER_BYTES: Final = 8  # length and CRC-32 of the body, both little endian
RECORD_BYTES_MAX: Final = 100 * 1024 * 1024  # a little more than a control frame
COMPACT_BYTES: Final = 4 * 1024 * 1024  # below this nothing is gained by writing anew
SLACK: Final = 4  # written anew when the file is this many times what is still needed
PRIVATE_MODE: Final = 0o600


class Opened(msgspec.Struct, frozen=True, tag="opened", array_like=True):
    """The attempt was taken over for a lease."""

    attempt: str
    lease: str


class Signed(msgspec.Struct, frozen=True, tag="signed", array_like=True):
    """Its receipt was signed; the frame holds all that is to be sent."""

    attempt: str
    lease: str
    frame: bytes


class Over(msgspec.Struct, frozen=True, tag="over", array_like=True):
    """Its answer was acknowledged."""

    attempt: str


Record = Opened | Signed | Over

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Record)


def frame(record: Record) -> bytes:
    """A record as it stands in the file."""
    body = _encoder.encode(record)
    return len(body).to_bytes(4, "little") + zlib.crc32(body).to_bytes(4, "little") + body


def read(data: bytes) -> tuple[list[Record], int]:
    """The records up to the first that is torn or damaged, and how many bytes they take."""
    records: list[Record] = []
    position = 0
    while position + HEADER_BYTES <= len(data):
        size = int.from_bytes(data[position : position + 4], "little")
        check = int.from_bytes(data[position + 4 : position + HEADER_BYTES], "little")
        body = data[position + HEADER_BYTES : position + HEADER_BYTES + size]
        if size > RECORD_BYTES_MAX or len(body) < size or zlib.crc32(body) != check:
            break
        try:
            records.append(_decoder.decode(body))
        except msgspec.DecodeError:
            break
        position += HEADER_BYTES + size
    return records, position


@dataclass
class Journal:
    """The open file. `append` outlives the process at once, the machine only after `commit`."""

    path: Path
    descriptor: int
    live: dict[str, Opened | Signed] = field(default_factory=dict)
    size_bytes: int = 0
    _written: int = 0
    _synced: int = 0
    _lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    @classmethod
    def open(cls, path: Path) -> Self:
        """Read what is there and cut off a torn end; one daemon at a time holds the file."""
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = _open_locked(path)
        records, good_bytes = read(path.read_bytes())
        os.ftruncate(descriptor, good_bytes)
        os.lseek(descriptor, 0, os.SEEK_END)
        journal = cls(path, descriptor, size_bytes=good_bytes)
        for record in records:
            journal._take(record)
        return journal

    def append(self, record: Record) -> None:
        """Write a record through to the operating system; OSError, and nothing changed, if it is full."""
        data = frame(record)
        try:
            _write_all(self.descriptor, data)
        except OSError:  # half a record would hide all that follow it
            os.ftruncate(self.descriptor, self.size_bytes)
            os.lseek(self.descriptor, 0, os.SEEK_END)
            raise
        self._take(record)
        self.size_bytes += len(data)
        self._written += 1

    async def commit(self) -> None:
        """Return once all that was appended is on the disk; callers at one time share the wait."""
        wanted = self._written
        async with self._lock:
            if self._synced >= wanted:
                return
            covered = self._written
            await asyncio.to_thread(os.fdatasync, self.descriptor)
            self._synced = covered
            if self._wasteful():
                try:
                    self._rewrite()
                except OSError as error:
                    LOG.warning("the journal is not made shorter: %s", error)

    def close(self) -> None:
        """Let the file go; the next daemon may take it."""
        os.close(self.descriptor)
        self.descriptor = -1

    def _take(self, record: Record) -> None:
        match record:
            case Over():
                self.live.pop(record.attempt, None)
            case Opened():
                self.live.setdefault(record.attempt, record)
            case Signed():
                self.live[record.attempt] = record

    def _wasteful(self) -> bool:
        if self.size_bytes < COMPACT_BYTES:
            return False
        needed = sum(len(r.frame) if isinstance(r, Signed) else 0 for r in self.live.values())
        return self.size_bytes > SLACK * needed

    def _rewrite(self) -> None:
        """The live records alone, whole or not at all."""
        partial = self.path.with_suffix(".new")
        fresh = _open_locked(partial)
        data = b"".join(frame(record) for record in self.live.values())
        try:
            os.ftruncate(fresh, 0)
            _write_all(fresh, data)
            os.fsync(fresh)
            partial.rename(self.path)
        except OSError:
            os.close(fresh)
            partial.unlink(missing_ok=True)
            raise
        _sync_folder(self.path.parent)
        os.close(self.descriptor)
        self.descriptor, self.size_bytes = fresh, len(data)


def _open_locked(path: Path) -> int:
    """The file under an exclusive lock.

    A file that was replaced between opening and locking is not the journal any more.
    """
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, PRIVATE_MODE)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise MisConfigured(f"another daemon works in {path.parent}") from None
        if path.exists() and os.path.samestat(os.fstat(descriptor), path.stat()):
            return descriptor
        os.close(descriptor)


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
