"""Several API processes and workers on one database, and a database that dies under load."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import UUID

import pytest

from market.http.settings import Settings
from market.sdk.client import MarketClient
from market.sdk.transport import Transport
from market.worker import main as worker
from settlement.domain.errors import GridpactError, Unavailable, Unknown, Unreachable
from settlement.domain.identity import PrivateKey
from settlement.store import migrate
from settlement.store.embedded import EmbeddedPostgres
from tests.system.conftest import serving, settings_for
from tests.system.fake_provider import FakeProvider
from tests.system.running import Running, free_port
from tests.system.trading import CREDIT, FUNDS, Buyer, bodies, rows, spec, until

pytestmark = pytest.mark.system
KEY = PrivateKey(b"\x31" * 32)
ENDS_WITHIN_SECONDS = 20.0
LOCK_HOLDER = "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND granted AND objid = $1"
SESSIONS = "SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND objid = $1"


async def holder(running: Running) -> int:
    """The database session of the one worker that works; 0 while there is none."""
    found = await rows(running, LOCK_HOLDER, worker.LOCK)
    assert len(found) <= 1
    return int(found[0]["pid"]) if found else 0


async def test_two_apis_and_two_workers_on_one_database(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Any API serves any party; one worker works, and another takes over when it is gone."""
    monkeypatch.setattr(worker, "STANDBY_SECONDS", 0.05)
    other = settings.model_copy(update={"port": free_port()})
    async with serving(settings) as one, serving(other) as two, asyncio.TaskGroup() as tasks:
        workers = [tasks.create_task(worker._single(each)) for each in (settings, other)]
        first = await until(lambda: holder(one))
        async with (
            FakeProvider(one, 1).open() as alpha,
            FakeProvider(two, 2).open() as beta,
            two.client(KEY) as client,
        ):
            await client.faucet(FUNDS)
            buyer = Buyer(client, two)
            job = await buyer.order(bodies(12))
            assert (await buyer.closed(job)).accepted == 12
            paid = await buyer.receipts(job, state="accepted")
            assert {receipt.provider for receipt in paid} == {alpha.address, beta.address}
            await rows(one, "SELECT pg_terminate_backend($1)", first)

            async def taken_over() -> bool:
                return await holder(one) not in {0, first}

            await until(taken_over)
            job = await buyer.order(bodies(3))
            assert (await buyer.closed(job)).accepted == 3
            workers[0].cancel()  # working or standing by, the other one is enough
            await asyncio.wait([workers[0]])
            await until(lambda: holder(one))
            job = await buyer.order(bodies(3))
            assert (await buyer.closed(job)).accepted == 3
        workers[1].cancel()


@pytest.fixture
async def own_postgres(short_folder: Path) -> AsyncIterator[tuple[str, Path]]:
    """A server that a test may kill, with the schema, and its data folder."""
    folder = short_folder / "own"
    server = EmbeddedPostgres(folder)  # durable: what was answered must be there after the kill
    async with server.running() as url:
        await migrate.upgrade(url)
        yield url, server._place.data
    assert await asyncio.to_thread(server.ended, ENDS_WITHIN_SECONDS)


def kill_postmaster(data: Path) -> None:
    os.kill(int((data / "postmaster.pid").read_text().split()[0]), signal.SIGKILL)


async def test_the_database_is_killed_under_load(
    own_postgres: tuple[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The API says 503 and recovers; nothing that was answered is lost, no job is stuck."""
    monkeypatch.setattr(worker, "STANDBY_SECONDS", 0.05)
    url, data = own_postgres
    settings = settings_for(url, tmp_path)
    async with serving(settings) as api, asyncio.TaskGroup() as tasks:
        working = tasks.create_task(worker._single(settings))
        async with FakeProvider(api, 1).open() as alpha, api.client(KEY) as client:
            await client.faucet(FUNDS)
            buyer = Buyer(client, api)
            jobs = [await buyer.order(bodies(40), budget=CREDIT * 20, of=spec(verify="none"))]
            loading = tasks.create_task(_load(buyer, jobs))
            await buyer.happened(jobs[0], "accepted", times=2)
            kill_postmaster(data)
            await until(lambda: _says_503(api.url))
            await until(lambda: _healthy(api.url))
            loading.cancel()
            await alpha.drop()
            await until(lambda: _reconnected(alpha))
            for job in jobs:
                view = await buyer.closed(job)
                assert (view.reason, view.accepted) == ("done", view.tasks)
            known = {job.id for job in (await client.list_jobs()).jobs}
            assert set(jobs) <= known
            assert len(await rows(api, "SELECT id FROM jobs WHERE id = $1", UUID(jobs[0]))) == 1
        working.cancel()


async def _load(buyer: Buyer, jobs: list[str]) -> None:
    """Orders one after the other, through whatever happens."""
    while len(jobs) < 8:
        try:
            jobs.append(await buyer.order(bodies(2), budget=CREDIT * 20, of=spec(verify="none")))
        except GridpactError as error:
            if error.code not in {"unavailable", "failed", "unknown-outcome", "unreachable"}:
                raise
        await asyncio.sleep(0.02)


async def _says_503(url: str) -> bool:
    """One attempt without the SDK's patience."""
    async with Transport(url, KEY, attempts_max=1) as transport:
        try:
            await transport.request("GET", f"/v1/accounts/{KEY.address}")
        except (Unavailable, Unknown):
            return True
    return False


async def _healthy(url: str) -> bool:
    async with MarketClient(url, KEY) as client:
        try:
            return (await client.health()).status == "ok"
        except GridpactError:
            return False


async def _reconnected(provider: FakeProvider) -> bool:
    try:
        await provider.connect()
    except Unreachable:
        return False
    return True
