"""A server process's market: one pool, one ledger engine, one listening connection."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator

from market.http.settings import LEDGER_KEY, Settings
from market.service.market import Market
from market.service.public import ensure_charter
from market.store.bus import Bus
from market.store.items import STATEMENTS
from settlement.service.engine import Ledger
from settlement.store.database import Database


@contextlib.asynccontextmanager
async def running(settings: Settings) -> AsyncIterator[Market]:
    """Everything opens on entry and ends on exit, in order."""
    database = Database(settings.database_url)
    operator_key = settings.operator_key()
    try:
        async with Ledger(database, statements=STATEMENTS) as ledger, asyncio.TaskGroup() as tasks:
            bus = Bus(database.connect)
            listening = tasks.create_task(bus.run())
            market = Market(
                database=database,
                ledger=ledger,
                bus=bus,
                origin=settings.market,
                key=settings.key(LEDGER_KEY),
                operator=settings.operator or (operator_key.address if operator_key else ""),
                hold_ms=int(settings.hold_seconds * 1_000),
                devstack=settings.devstack,
            )
            await ensure_charter(market, settings.log_key(), now_ms=time.time_ns() // 1_000_000)
            yield market
            listening.cancel()
    finally:
        await database.close()
