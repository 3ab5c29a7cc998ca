"""The API process: listen until told to stop, then let what runs finish."""

import asyncio
import signal

import structlog
from aiohttp import web

from market.api.app import build
from market.http.log import configure
from market.http.settings import Settings
from settlement.domain.errors import MisConfigured

SHUTDOWN_SECONDS = 5.0
_log = structlog.get_logger()


def run() -> None:
    """Serve with the settings of the environment."""
    settings = Settings()
    configure(json=settings.log_json)
    asyncio.run(serve(settings))


async def serve(settings: Settings) -> None:
    """Until SIGTERM or SIGINT."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    runner = web.AppRunner(build(settings), access_log=None, shutdown_timeout=SHUTDOWN_SECONDS)
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, settings.host, settings.port).start()
        except OSError as error:
            where = f"{settings.host}:{settings.port}"
            raise MisConfigured(
                f"GRIDPACT_PORT: cannot listen on {where}: {error.strerror}"
            ) from None
        _log.info("listening", host=settings.host, port=settings.port, market=settings.market)
        await stop.wait()
    finally:
        await runner.cleanup()
        _log.info("stopped")
