"""Idempotency: a write with a key is answered once; a repeat gets the first answer again."""

import hashlib

from aiohttp import web

from market.service.market import Market
from market.store import requests as store
from market.store.rows import Connection, Row
from market.wire.signed_request import Caller
from settlement.domain.errors import DuplicateKey


def fingerprint(request: web.Request, body: bytes) -> str:
    """What makes two requests the same: method, path with query, body."""
    head = f"{request.method} {request.raw_path}\n".encode()
    return hashlib.sha256(head + hashlib.sha256(body).digest()).hexdigest()


async def answered(market: Market, caller: Caller, digest: str) -> tuple[int, bytes] | None:
    """The first answer, if this key was used; `DuplicateKey` when it was used for something else."""

    async def look(connection: Connection) -> Row:
        return await store.find(connection, caller.address, caller.idempotency_key)

    row = await market.read(look)
    if row is None:
        return None
    if row["digest"] != digest:
        raise DuplicateKey
    return row["status"], row["body"]


async def remember(
    market: Market, caller: Caller, digest: str, *, status: int, body: bytes, now_ms: int
) -> None:
    """Keep the answer. Two at once: both did the same work under the same ids; one answer stays."""

    async def keep(connection: Connection) -> None:
        await store.keep(
            connection,
            caller.address,
            caller.idempotency_key,
            digest,
            status=status,
            body=body,
            now_ms=now_ms,
        )

    await market.read(keep)
