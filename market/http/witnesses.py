"""Asks others for the largest head they saw of this log, before the log's key signs anything new."""

from typing import Final

import aiohttp
from yarl import URL

from settlement.domain import checkpoint
from settlement.domain.checkpoint import NOTE_BYTES_MAX, Checkpoint
from settlement.domain.errors import BadCheckpoint

TIMEOUT_SECONDS: Final = 5.0
OK: Final = 200


async def largest_seen(addresses: list[str], log_key: str) -> Checkpoint | None:
    """Over all that answer; none if nobody knows the log. Only what the log's key signed counts."""
    origin = checkpoint.parse_verifier_key(log_key).name
    found: list[Checkpoint] = []
    timeout = aiohttp.ClientTimeout(total=TIMEOUT_SECONDS)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        for address in addresses:
            note = await _note(session, f"{address.rstrip('/')}/checkpoint/{origin}")
            if note is None:
                continue
            try:
                found.append(checkpoint.verify(note, log_key))
            except BadCheckpoint:
                continue  # a liar can't stop the market, only a head that the market signed can
    return max(found, key=lambda head: head.size, default=None)


async def _note(session: aiohttp.ClientSession, url: str) -> str | None:
    try:
        async with session.get(URL(url, encoded=True)) as response:
            data = await response.content.read(NOTE_BYTES_MAX + 1)
            return data.decode() if response.status == OK else None
    except (aiohttp.ClientError, TimeoutError, UnicodeDecodeError, ValueError):
        return None
