"""Exits: a state logged for whoever asks, and the one file that proves what a party owns."""

from typing import Final

from market.service import public
from market.service.market import Market
from market.store import public as store
from market.store.rows import Connection, Row
from settlement.domain import canonical, exit_proof
from settlement.domain.errors import Unavailable
from settlement.service import publish

FRESH_MS: Final = 2_000  # a state this young serves everybody who asks


async def prepare(market: Market, *, now_ms: int) -> int:
    """The size of a state that says how things stand now, or stood a moment ago."""
    newest = await market.read(store.state_file)
    if newest is not None and abs(now_ms - newest["at_ms"]) < FRESH_MS:
        size: int = newest["size"]
        return size
    await public.state(market, now_ms=now_ms, entries=1)
    newest = await market.read(store.state_file)
    if newest is None:
        raise Unavailable("no state is logged yet")
    return int(newest["size"])


async def proof(market: Market, address: str, size: int, *, final: bool) -> bytes | None:
    """The file; None while no checkpoint (no final one) covers the state's statement."""

    async def read(connection: Connection) -> Row | None:
        return await store.state_file(connection, size)

    row = await market.read(read)
    if row is None:
        raise Unavailable("the state was replaced meanwhile; ask again")
    statement = canonical.digest_text(row["statement"])
    evidence = await publish.evidence(market.database, statement, final=final)
    if evidence is None:
        return None
    return exit_proof.make(address, row["lines"].splitlines(), evidence)


async def state_lines(market: Market, size: int) -> bytes | None:
    """The lines of a state that is kept."""

    async def read(connection: Connection) -> Row | None:
        return await store.state_file(connection, size)

    row = await market.read(read)
    return None if row is None else row["lines"]
