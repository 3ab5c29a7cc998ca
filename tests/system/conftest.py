"""A whole market in one process: API and worker on a real database, real HTTP on loopback.

After every test the books are checked: whatever it did, the invariants hold.
"""

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import pytest_asyncio
from aiohttp import web

from market.api.app import build
from market.http.running import running
from market.http.settings import LEDGER_KEY, LOG_KEY, OPERATOR_KEY, Settings
from market.http.state import MARKET
from market.worker import loops
from settlement.domain.identity import PrivateKey
from settlement.service.publish import Sealer
from tests.system.invariants import assert_sound
from tests.system.running import Running, free_port
from tests.system.trading import FUNDS, Buyer

ORIGIN = "gridpact.test/system"


def settings_for(database_url: str, folder: Path) -> Settings:
    """A market's settings, with fresh keys in the folder."""
    keys = folder / "keys"
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
            "blobs_folder": folder / "blobs",
            "hold_seconds": 0.2,
            "devstack": True,
            "requests_a_second": 5_000,
        }
    )


@asynccontextmanager
async def serving(settings: Settings) -> AsyncIterator[Running]:
    """One API process's inside; the books are checked at its end."""
    app = build(settings)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    await web.TCPSite(runner, settings.host, settings.port).start()
    try:
        yield Running(f"http://{settings.host}:{settings.port}", app[MARKET], settings)
        await assert_sound(app[MARKET])
    finally:
        await runner.cleanup()


async def _work(settings: Settings) -> None:
    async with running(settings) as market, asyncio.TaskGroup() as tasks:
        tasks.create_task(loops.run(market))
        tasks.create_task(
            Sealer(market.database, settings.key(LOG_KEY), origin=settings.market).run()
        )


@asynccontextmanager
async def working(settings: Settings) -> AsyncIterator[None]:
    """One worker's inside."""
    async with asyncio.TaskGroup() as tasks:
        work = tasks.create_task(_work(settings))
        yield
        work.cancel()


@pytest.fixture
def state_folder() -> Iterator[Path]:
    """Reachable by the slots' own users, which pytest's folders are not."""
    folder = Path(tempfile.mkdtemp(prefix="gridpact-test-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def settings(database_url: str, tmp_path: Path) -> Settings:
    return settings_for(database_url, tmp_path)


@pytest_asyncio.fixture
async def api(settings: Settings) -> AsyncIterator[Running]:
    """The API alone: nothing is matched."""
    async with serving(settings) as served:
        yield served


@pytest_asyncio.fixture
async def whole(api: Running) -> AsyncIterator[Running]:
    """API and worker."""
    async with working(api.settings):
        yield api


@pytest_asyncio.fixture
async def buyer(whole: Running) -> AsyncIterator[Buyer]:
    """A funded consumer of the whole market."""
    async with whole.client(PrivateKey(b"\x31" * 32)) as client:
        await client.faucet(FUNDS)
        yield Buyer(client, whole)
