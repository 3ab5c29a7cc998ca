"""The daemon as a process: asked to end, killed, started again."""

import asyncio
import signal
import sys
from asyncio.subprocess import Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from market.wire.control import Beat, Done, Drain, Hello, Lost, Ready
from tests.meta.tree import ROOT
from tests.unit.daemon import program
from tests.unit.daemon.fake_market import FakeMarket
from tests.unit.daemon.makers import grant, identifier, work

LEASE = identifier(1)
ATTEMPT = identifier(11)


@pytest.fixture
async def market() -> AsyncIterator[FakeMarket]:
    async with FakeMarket() as served:
        served.blob(b"code")
        yield served


@asynccontextmanager
async def daemon(market: FakeMarket, home: Path, hold: Path) -> AsyncIterator[Process]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", program.__name__, market.url, str(home), str(hold), cwd=ROOT
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def run_one(market: FakeMarket, home: Path) -> None:
    """A lease is armed and an attempt is in its sandbox."""
    await market.heard(Beat)
    await market.say(grant(1))
    await market.heard(Ready)
    await market.say(work(11, 1))
    await market.until(lambda: runs(home) == [ATTEMPT])


def runs(home: Path) -> list[str]:
    path = home / "runs"
    return path.read_text().split() if path.exists() else []


async def test_sigterm_drains(market: FakeMarket, tmp_path: Path) -> None:
    hold = tmp_path / "hold"
    hold.touch()
    async with daemon(market, tmp_path / "home", hold) as process:
        await run_one(market, tmp_path / "home")
        process.send_signal(signal.SIGTERM)
        await market.heard(Drain)
        assert process.returncode is None
        hold.unlink()
        assert (await market.heard(Done)).attempt == ATTEMPT
        assert await process.wait() == 0


async def test_a_second_signal_does_not_wait(market: FakeMarket, tmp_path: Path) -> None:
    hold = tmp_path / "hold"
    hold.touch()
    async with daemon(market, tmp_path / "home", hold) as process:
        await run_one(market, tmp_path / "home")
        process.send_signal(signal.SIGINT)
        await market.heard(Drain)
        process.send_signal(signal.SIGINT)
        assert (await market.heard(Lost)).attempt == ATTEMPT
        assert await process.wait() == 0


async def test_a_signal_before_the_market_is_there(market: FakeMarket, tmp_path: Path) -> None:
    market.refuses_sessions = True
    async with daemon(market, tmp_path / "home", tmp_path / "hold") as process:
        await market.until(lambda: bool(market.callers))
        process.send_signal(signal.SIGTERM)
        assert await process.wait() == 0


async def test_killed_while_running_answers_lost(market: FakeMarket, tmp_path: Path) -> None:
    home, hold = tmp_path / "home", tmp_path / "hold"
    hold.touch()
    async with daemon(market, home, hold) as process:
        await run_one(market, home)
        process.kill()
        await process.wait()
    market.leases = [LEASE]
    async with daemon(market, home, hold):
        hello = await market.heard(Hello, 2)
        assert (hello.leases, hello.attempts) == ([], [ATTEMPT])
        assert (await market.heard(Lost)).attempt == ATTEMPT
        hold.unlink()
        await market.say(work(11, 1))  # late: it was answered, so it is not run
        await market.say(grant(1))
        await market.heard(Ready, 2)
        await market.say(work(12, 1))
        await market.heard(Done)
    assert runs(home) == [ATTEMPT, identifier(12)]


async def test_killed_after_signing_repeats_the_receipt(market: FakeMarket, tmp_path: Path) -> None:
    home, hold = tmp_path / "home", tmp_path / "hold"
    market.settles = False
    async with daemon(market, home, hold) as process:
        await run_one(market, home)
        first = await market.heard(Done)
        process.kill()
        await process.wait()
    market.settles = True
    async with daemon(market, home, hold) as process:
        assert await market.heard(Done, 2) == first
        process.send_signal(signal.SIGTERM)
        assert await process.wait() == 0
    async with daemon(market, home, hold):
        assert (await market.heard(Hello, 3)).attempts == []
    assert runs(home) == [ATTEMPT]


async def test_one_daemon_for_one_home(market: FakeMarket, tmp_path: Path) -> None:
    async with daemon(market, tmp_path / "home", tmp_path / "hold"):
        await market.heard(Beat)
        async with daemon(market, tmp_path / "home", tmp_path / "hold") as second:
            assert await second.wait() != 0
