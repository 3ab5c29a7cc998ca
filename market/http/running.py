"""A server process's market: one pool, one ledger engine, one listening connection."""

import asyncio
import contextlib
import dataclasses
import gc
from collections.abc import AsyncIterator
from typing import Any, Final

from market.http.settings import LEDGER_KEY, Settings
from market.service import withdrawals
from market.service.clock import SteadyClock
from market.service.market import Market
from market.service.public import live_by_charter
from market.store import ledger as books
from market.store import public
from market.store.bus import Bus
from market.store.items import STATEMENTS
from settlement.service.engine import Ledger
from settlement.service.freshness import AGE_MS_MAX, Freshness
from settlement.service.opening import Opener
from settlement.store.database import Database, driver

# Batches make thousands of small objects that live for one commit; looking for cycles among them
# every 700 costs a fifth of the ledger's time.
COLLECTOR: Final = (20_000, 20, 100)


@contextlib.asynccontextmanager
async def running(settings: Settings, *, chartered: bool = True) -> AsyncIterator[Market]:
    """Everything opens on entry and ends on exit, in order.

    A log begins with its charter, unless one is about to be taken over.
    """
    database = Database(settings.database_url)
    operator_key = settings.operator_key()
    try:
        clock = SteadyClock(await database.look(_ledger_ns))
        expired = withdrawals.expirer(settings.key(LEDGER_KEY), settings.market, clock.ms)
        async with (
            Ledger(database, statements=STATEMENTS, clock=clock.ns, expired=expired) as ledger,
            Opener(settings.market) as opener,
            contextlib.AsyncExitStack() as ends,
            asyncio.TaskGroup() as tasks,
        ):
            gc.set_threshold(*COLLECTOR)
            bus = Bus(database.connect)
            listening = tasks.create_task(bus.run())
            market = Market(
                database=database,
                ledger=ledger,
                bus=bus,
                opener=opener,
                origin=settings.market,
                key=settings.key(LEDGER_KEY),
                operator=settings.operator or (operator_key.address if operator_key else ""),
                hold_ms=int(settings.hold_seconds * 1_000),
                devstack=settings.devstack,
                clock=clock,
            )
            if chartered:
                terms = await database.connect()
                ends.push_async_callback(terms.close, timeout=1)
                await live_by_charter(market, terms, settings.log_key(), now_ms=clock.ms)
            grace_from_ms, grace_until_ms = await market.read(public.grace)
            if chartered:
                ledger.freshness = Freshness(AGE_MS_MAX, grace_from_ms, grace_until_ms)
            yield dataclasses.replace(
                market, grace_from_ms=grace_from_ms, grace_until_ms=grace_until_ms
            )
            listening.cancel()
    finally:
        await database.close()


async def _ledger_ns(transaction: Any) -> int:  # noqa: ANN401 - the driver's own type
    return await books.time_ns(await driver(transaction))
