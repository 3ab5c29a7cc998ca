"""Signatures of many entries at once, on the other processors: checking them is most of an audit's work.

Other processes and not threads: a check is so short that threads would wait for the interpreter.
"""

import asyncio
import base64
import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from types import TracebackType
from typing import Final, Self

import msgspec

from settlement.domain import identity
from settlement.domain.errors import Unavailable
from settlement.domain.statement import Envelope, pae

PART: Final = 256  # entries that are handed over together
WORKERS_MAX: Final = 16
_DECODER: Final = msgspec.json.Decoder(Envelope)


class Signatures:
    """Use it inside `with`. Processes are started for the first entries, not before."""

    def __init__(self, workers: int | None = None) -> None:
        count = workers if workers is not None else (os.cpu_count() or 1) - 1
        self._workers = max(1, min(count, WORKERS_MAX))
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def check(self, entries: Sequence[bytes]) -> "list[asyncio.Future[int | None]]":
        """Begin to check them; each answer is the first of its part that is not signed."""
        if self._pool is None:
            self._pool = ProcessPoolExecutor(self._workers, mp_context=get_context("spawn"))
        loop = asyncio.get_running_loop()
        return [
            loop.run_in_executor(self._pool, first_unsigned, entries[at : at + PART])
            for at in range(0, len(entries), PART)
        ]


async def first_of(parts: "Sequence[asyncio.Future[int | None]]") -> int | None:
    """Which of all entries is the first that is not signed; None if all are."""
    try:
        found = [await part for part in parts]
    except BrokenProcessPool:
        raise Unavailable("a process that checks signatures ended by itself") from None
    return next((at * PART + bad for at, bad in enumerate(found) if bad is not None), None)


def first_unsigned(entries: Sequence[bytes]) -> int | None:
    """The first whose one signature does not hold over the bytes that it carries."""
    return next((at for at, entry in enumerate(entries) if not is_signed(entry)), None)


def is_signed(entry: bytes) -> bool:
    """Only the signature; form and content are the replay's to check, over the same bytes."""
    try:
        envelope = _DECODER.decode(entry)
        (signature,) = envelope.signatures
        signed = pae(envelope.payload_type, base64.b64decode(envelope.payload, validate=True))
        raw = base64.b64decode(signature.sig, validate=True)
    except (msgspec.DecodeError, ValueError, RecursionError):
        return False
    return identity.verify(signature.keyid, signed, raw)
