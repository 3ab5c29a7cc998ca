"""A ledger in which everything happened, for the explorer's tests, and ways to look at it."""

from typing import Any, Final, cast

from market.service import explorer
from market.service.market import Market
from market.store.bus import Bus
from market.wire import explorer as wire
from settlement.domain.identity import PrivateKey
from settlement.domain.ledger import Flag
from settlement.service.engine import Ledger
from settlement.service.opening import Opener
from settlement.store.database import Database
from tests.store.ledger_maker import MARKET, available, endow, move, party, paying

SECOND_NS: Final = 10**9
START_NS: Final = 10**18


def market_on(database: Database) -> Market:
    """A market of which only the database is used."""
    nothing: Any = None
    return Market(
        database, cast("Ledger", nothing), cast("Bus", nothing), Opener(MARKET), MARKET,
        PrivateKey(b"\2" * 32), "", 0,
    )  # fmt: skip


async def fill(database: Database) -> None:
    """Holds, posts, voids, an expiry: one step a second, each a batch of its own."""
    now = [START_NS]
    async with Ledger(database, statements={}, clock=lambda: now[0]) as ledger:
        await endow(ledger, {1: 1_000, 2: 50})
        holds = [
            move(available(1), available(2), amount, flags=Flag.PENDING, timeout_seconds=seconds)
            for amount, seconds in ((10, 0), (20, 0), (30, 2), (40, 900))
        ]
        steps = [
            *holds,
            move(available(1), available(2), 7, flags=Flag.POST, pending_id=holds[0].id),
            move(available(1), available(2), 0, flags=Flag.VOID, pending_id=holds[1].id),
            move(available(2), available(1), 5),
            move(available(1), available(3), 100),
            move(available(3), available(1), 1),
        ]
        for step in steps:
            now[0] += SECOND_NS
            await ledger.submit(paying(step))


async def shown(database: Database, owner: int, **query: Any) -> list[wire.LedgerTransfer]:
    listed = await explorer.transfers(
        market_on(database), party(owner), wire.TransferQuery(**query), after="", limit=1_000
    )
    return listed.views


def posted(transfers: list[wire.LedgerTransfer], owner: str) -> int:
    """A balance by adding up, as a person would."""
    moving = [row for row in transfers if not {"pending", "void"} & set(row.flags)]
    into = sum(int(row.amount) for row in moving if row.credit.startswith(owner))
    return into - sum(int(row.amount) for row in moving if row.debit.startswith(owner))
