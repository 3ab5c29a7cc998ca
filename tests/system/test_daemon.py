"""The provider's command with real sandboxes, from offer to receipt to an empty machine."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import cloudpickle
import psutil
import pytest

from market.wire import plain
from market.wire.control import Beat, Done, Grant, Lost, Ready
from market.wire.payload import Payload, inline
from settlement.domain import canonical
from tests.meta.tree import ROOT
from tests.unit.daemon import makers
from tests.unit.daemon.fake_market import FakeMarket
from tests.unit.daemon.makers import identifier, work

ATTEMPT = identifier(11)
EXECUTORS = [
    pytest.param("local", marks=pytest.mark.sandbox),
    pytest.param("ray", marks=[pytest.mark.sandbox, pytest.mark.ray]),
]


@pytest.fixture
async def market() -> AsyncIterator[FakeMarket]:
    async with FakeMarket() as served:
        yield served


@asynccontextmanager
async def provider(
    market: FakeMarket, state_folder: Path, executor: str
) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "market.cli.main", "provider", "run", "--name", "alpha",
        "--url", market.url, "--home", str(state_folder / "alpha"), "--cpus", "2",
        "--memory-mib", "1024", "--executor", executor,
        cwd=ROOT, env={**os.environ, "GRIDPACT_HOME": str(state_folder)},
    )  # fmt: skip
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


def call(*arguments: object) -> Payload:
    return inline(cloudpickle.dumps((arguments, {})))


async def lease(market: FakeMarket, number: int, function: object) -> Grant:
    """A lease for a function, armed."""
    code = cloudpickle.dumps(function)
    market.blob(code)
    (manifest,) = market.offers[-1].environments
    spec = makers.spec(code, environment=manifest.digest(), slot=makers.SMALL)
    granted = makers.grant(number, of=spec)
    await market.say(granted)
    await market.heard(Ready, number)
    return granted


def gone(pids: list[int]) -> bool:
    return not any(psutil.pid_exists(pid) for pid in pids)


def family(process: asyncio.subprocess.Process) -> list[int]:
    return [child.pid for child in psutil.Process(process.pid).children(recursive=True)]


@pytest.mark.parametrize("executor", EXECUTORS)
async def test_from_offer_to_receipt_to_an_empty_machine(
    market: FakeMarket, state_folder: Path, executor: str
) -> None:
    def divide(a: int, b: int) -> float:
        print("dividing", a, b)
        return a / b

    async with provider(market, state_folder, executor) as process:
        await market.heard(Beat)
        granted = await lease(market, 1, divide)
        await market.say(work(11, 1, inputs=[call(7, 2), call(1, 0)]))
        done = await market.heard(Done)
        receipt = makers.opened(done.receipt)
        assert [leaf.status for leaf in done.leaves] == ["ok", "error"]
        bodies = [output.output.body or b"" for output in done.outputs]
        assert plain.decode(bodies[0]) == 3.5
        assert isinstance(plain.decode(bodies[1]), ZeroDivisionError)
        assert "dividing 7 2" in done.outputs[0].log
        assert receipt.protection == market.offers[-1].protection != "none"
        assert receipt.env.digest == granted.spec.environment
        assert receipt.status == "failed"
        started = family(process)
        assert started
        process.send_signal(signal.SIGTERM)
        assert await process.wait() == 0
    await market.until(lambda: gone(started))  # the kernel reaps a box a moment after its end


@pytest.mark.sandbox
async def test_killed_and_started_again(market: FakeMarket, state_folder: Path) -> None:
    def sleep(seconds: float) -> str:
        import time

        time.sleep(seconds)
        return "slept"

    async with provider(market, state_folder, "local") as process:
        await market.heard(Beat)
        granted = await lease(market, 1, sleep)
        await market.say(work(11, 1, inputs=[call(3600)]))
        await market.until(lambda: len(family(process)) > 1)
        started = family(process)
        process.kill()
        await process.wait()
        await market.until(lambda: gone(started))
    market.leases = [granted.lease]
    async with provider(market, state_folder, "local"):
        assert (await market.heard(Lost)).attempt == ATTEMPT
        await market.say(granted)
        await market.heard(Ready, 2)
        await market.say(work(12, 1, inputs=[call(0)]))
        done = await market.heard(Done)
        assert done.attempt == identifier(12)
        assert done.leaves[0].input == canonical.digest(cloudpickle.dumps(((0,), {})))
