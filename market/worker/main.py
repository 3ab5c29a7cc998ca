"""The worker process: whoever holds the advisory lock runs the loops, others stand by."""

import asyncio
import contextlib
import signal
from typing import Final

import structlog

from market.http import witnesses
from market.http.log import configure
from market.http.running import running
from market.http.settings import LOG_KEY, Settings
from market.service.market import Market
from market.store.rows import Connection
from market.worker import loops
from market.worker.mark import FileMark
from settlement.service.publish import Sealer

LOCK: Final = 0x6772_6964  # "grid"
STANDBY_SECONDS: Final = 1.0
_log = structlog.get_logger()


def run() -> None:
    """Work with the settings of the environment."""
    settings = Settings()
    configure(json=settings.log_json)
    asyncio.run(work(settings))


async def work(settings: Settings) -> None:
    """Until SIGTERM or SIGINT; between rounds everything stands in the database."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with asyncio.TaskGroup() as tasks:
        working = tasks.create_task(_single(settings))
        await stop.wait()
        working.cancel()
    _log.info("stopped")


async def _single(settings: Settings) -> None:
    """Run while this process holds the lock; losing the lock's connection ends and starts anew."""
    async with running(settings) as market:
        while True:
            async with contextlib.AsyncExitStack() as stack:
                try:
                    connection = await market.database.connect()
                except OSError:
                    await asyncio.sleep(STANDBY_SECONDS)
                    continue
                stack.push_async_callback(_close, connection)
                if not await connection.fetchval("SELECT pg_try_advisory_lock($1)", LOCK):
                    await asyncio.sleep(STANDBY_SECONDS)
                    continue
                _log.info("working", market=settings.market)
                await _until_lost(market, settings, connection)
                _log.warning("the lock's connection is lost; standing by")


async def _until_lost(market: Market, settings: Settings, connection: Connection) -> None:
    lost = asyncio.Event()
    connection.add_termination_listener(lambda *_: lost.set())
    async with asyncio.TaskGroup() as tasks:
        mark = FileMark(settings.keys_folder)
        sealer = Sealer(market.database, settings.key(LOG_KEY), origin=settings.market, mark=mark)
        seen = await witnesses.largest_seen(settings.witness_list(), settings.log_key())
        if seen is not None:
            sealer.expect(seen)
        running_tasks = [
            tasks.create_task(loops.run(market, state_seconds=settings.state_seconds)),
            tasks.create_task(sealer.run()),
        ]
        await lost.wait()
        for task in running_tasks:
            task.cancel()


async def _close(connection: Connection) -> None:
    with contextlib.suppress(OSError):
        await connection.close(timeout=1)
