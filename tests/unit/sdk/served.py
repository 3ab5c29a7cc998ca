"""The fake market in a thread of its own, for tests of blocking code and of child processes."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from tests.unit.sdk.fake_market import FakeMarket

START_SECONDS_MAX = 10


@contextmanager
def served(market: FakeMarket) -> Iterator[str]:
    """The market's address while it answers."""
    ready, address = threading.Event(), [""]
    loop = asyncio.new_event_loop()
    stop = asyncio.Event()

    async def serve() -> None:
        async with market.serve() as url:
            address[0] = url
            ready.set()
            await stop.wait()

    def run() -> None:
        asyncio.set_event_loop(loop)
        loop.run_until_complete(serve())
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()

    thread = threading.Thread(target=run)
    thread.start()
    assert ready.wait(START_SECONDS_MAX)
    try:
        yield address[0]
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
