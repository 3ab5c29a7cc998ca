"""Exits: a state logged for whoever asks, and the one file that proves what a party owns."""

from typing import Final

from market.service import public
from market.service.market import Market
from market.store import public as store
from market.store.rows import Row
from settlement.domain import canonical, exit_proof
from settlement.domain.errors import Unavailable
from settlement.service import publish

FRESH_MS: Final = 2_000  # a state this young serves everybody who asks


async def prepare(market: Market, *, now_ms: int) -> Row:
    """A state that says how things stand now, or stood a moment ago: its size and statement."""
    newest = await market.read(store.newest_state)
    if newest is None or abs(now_ms - newest["at_ms"]) >= FRESH_MS:
        await public.state(market, now_ms=now_ms, entries=1)
        newest = await market.read(store.newest_state)
    if newest is None:
        raise Unavailable("no state is logged yet")
    return newest


async def proof(market: Market, address: str, at: Row, *, final: bool) -> bytes | None:
    """The file; None while no checkpoint (no final one) covers the state's statement."""
    statement = canonical.digest_text(at["statement"])
    evidence = await publish.evidence(market.database, statement, final=final)
    if evidence is None:
        return (
            None  # before the lines are read: there may be many, and this is asked again and again
        )
    lines = await state_lines(market, at["size"])
    if lines is None:
        raise Unavailable("the state was replaced meanwhile; ask again")
    return exit_proof.make(address, lines.splitlines(), evidence)


async def state_lines(market: Market, size: int) -> bytes | None:
    """The lines of a state that is kept."""
    return await market.read(store.state_lines, size)
