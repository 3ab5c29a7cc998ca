"""A whole market in one process: API and worker on a real database, real HTTP on loopback."""

import asyncio
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio
from aiohttp import web

from market.api.app import build
from market.http.running import running
from market.http.settings import LEDGER_KEY, LOG_KEY, OPERATOR_KEY, Settings
from market.http.state import MARKET
from market.sdk.client import MarketClient
from market.service.market import Market
from market.worker import loops
from settlement.domain.identity import PrivateKey
from settlement.service.publish import Sealer

ORIGIN = "gridpact.test/system"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass(frozen=True)
class Running:
    """A market that runs; `market` is the API's own view of it."""

    url: str
    market: Market
    settings: Settings

    def client(self, key: PrivateKey | None = None) -> MarketClient:
        return MarketClient(self.url, key)


@pytest.fixture
def settings(database_url: str, tmp_path: Path) -> Settings:
    keys = tmp_path / "keys"
    keys.mkdir(mode=0o700)
    for number, name in enumerate((LEDGER_KEY, LOG_KEY, OPERATOR_KEY), start=1):
        path = keys / name
        path.write_text(PrivateKey(bytes([number]) * 32).to_hex())
        path.chmod(0o600)
    return Settings.model_validate(
        {
            "DATABASE_URL": database_url,
            "market": ORIGIN,
            "port": free_port(),
            "keys_folder": keys,
            "blobs_folder": tmp_path / "blobs",
            "hold_seconds": 0.2,
            "devstack": True,
            "requests_a_second": 5_000,
        }
    )


async def _work(settings: Settings) -> None:
    async with running(settings) as market, asyncio.TaskGroup() as tasks:
        tasks.create_task(loops.run(market))
        tasks.create_task(
            Sealer(market.database, settings.key(LOG_KEY), origin=settings.market).run()
        )


@pytest_asyncio.fixture
async def api(settings: Settings) -> AsyncIterator[Running]:
    """The API alone: nothing is matched."""
    app = build(settings)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    await web.TCPSite(runner, settings.host, settings.port).start()
    yield Running(f"http://{settings.host}:{settings.port}", app[MARKET], settings)
    await runner.cleanup()


@pytest_asyncio.fixture
async def whole(api: Running) -> AsyncIterator[Running]:
    """API and worker."""
    async with asyncio.TaskGroup() as tasks:
        working = tasks.create_task(_work(api.settings))
        yield api
        working.cancel()
