"""A provider's life by its commands, with real sandboxes: init, join, pause, yield, resume, drain."""

import asyncio
import json
import os
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import cloudpickle
import psutil
import pytest

from market.wire.control import Beat, Done, Drain, Ready, Refuse
from market.wire.payload import inline
from settlement.domain.resources import Rates
from tests.meta.tree import ROOT
from tests.unit.daemon import makers
from tests.unit.daemon.fake_market import FakeMarket
from tests.unit.daemon.makers import identifier, work

pytestmark = pytest.mark.sandbox

FLAGS = (
    "--yes",
    "--json",
    "--name",
    "alpha",
    "--cpus",
    "2",
    "--memory",
    "1GiB",
    "--executor",
    "local",
)


@pytest.fixture
async def market() -> AsyncIterator[FakeMarket]:
    async with FakeMarket() as served:
        yield served


async def gridpact(state_folder: Path, *arguments: str) -> tuple[int, str, str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "market.cli.main", "provider", *arguments,
        cwd=ROOT, env={**os.environ, "GRIDPACT_HOME": str(state_folder), "COLUMNS": "200"},
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, err = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


@asynccontextmanager
async def joined(state_folder: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "market.cli.main", "provider", "join",
        cwd=ROOT, env={**os.environ, "GRIDPACT_HOME": str(state_folder)},
    )  # fmt: skip
    try:
        yield process
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


def sleepers(process: asyncio.subprocess.Process) -> list[psutil.Process]:
    """Sandboxes below the daemon."""
    below = psutil.Process(process.pid).children(recursive=True)
    return [child for child in below if "bwrap" in child.name()]


async def test_init_keeps_what_is_there(market: FakeMarket, state_folder: Path) -> None:
    market.others = [Rates(400, 40, 0)]
    code, out, err = await gridpact(state_folder, "init", "--url", market.url, *FLAGS)
    assert code == 0, err
    first = json.loads(out)
    assert first["changed"]
    assert first["capacity"] == {"cpus_milli": 2_000, "memory_mib": 1_024, "gpus": 0}
    assert first["suggestion"]["offers"] == 1
    assert first["settings"]["gib_rate"] == 40
    assert 200 <= first["settings"]["cpu_rate"] <= 800
    assert first["hourly_microcredits"] > 0
    assert first["doctor"]["protection"] in {"S", "L"}
    codes = {check["code"]: check["state"] for check in first["doctor"]["checks"]}
    assert (codes["key"], codes["market"], codes["clock"]) == ("ok", "ok", "ok")
    home = state_folder / "provider"
    key, kept = (home / "provider.key").read_bytes(), (home / "provider.toml").read_bytes()
    assert (home / "provider.toml").stat().st_mode & 0o777 == 0o600

    market.others = [Rates(9_000, 9_000, 0)]
    code, out, err = await gridpact(state_folder, "init", "--yes", "--json")
    assert code == 0, err
    assert not json.loads(out)["changed"]
    assert (home / "provider.toml").read_bytes() == kept
    assert (home / "provider.key").read_bytes() == key

    code, out, _ = await gridpact(state_folder, "init")  # would ask, and there is nobody
    assert code != 0
    assert (home / "provider.toml").read_bytes() == kept

    code, out, err = await gridpact(state_folder, "price", "set", "--cpu", "77", "--json")
    assert (code, json.loads(out)["posted"]) == (0, False), err
    code, out, _ = await gridpact(state_folder, "install-service", "--system", "--dry-run")
    assert code == 0
    assert f"Environment=GRIDPACT_PROVIDER_HOME={home}" in out.splitlines()


async def test_commands_need_a_daemon_or_settings(state_folder: Path) -> None:
    for command in ("pause", "resume", "yield", "drain"):
        code, _, err = await gridpact(state_folder, command)
        assert (code, "not-found" in err, "join" in err) == (4, True, True)
    code, _, err = await gridpact(state_folder, "join")
    assert (code, "init" in err) == (2, True)


async def test_a_life(market: FakeMarket, state_folder: Path) -> None:
    code, _, err = await gridpact(state_folder, "init", "--url", market.url, *FLAGS)
    assert code == 0, err
    async with joined(state_folder) as daemon:
        await market.heard(Beat)
        (offer,) = market.offers
        environment = offer.environments[0]

        function = cloudpickle.dumps(time.sleep)
        wish = makers.spec(function, environment=environment.digest(), client=environment)
        market.blob(function)

        await market.say(makers.grant(1, of=wish, rate="100000"))
        await market.heard(Ready)
        await market.say(
            work(11, 1, inputs=[inline(cloudpickle.dumps(((600,), {})))])
        )  # fmt: skip
        await market.until(lambda: bool(sleepers(daemon)))
        code, out, err = await gridpact(state_folder, "status", "--json")
        assert code != 2, err
        live = json.loads(out)["daemon"]
        assert (live["state"], live["pid"], live["taken"]["cpus_milli"]) == (
            "serving",
            daemon.pid,
            1_000,
        )

        code, out, err = await gridpact(state_folder, "yield", "--json")
        assert code == 0, err
        answer = json.loads(out)
        assert (answer["ended"], answer["empty"]) == (1, True)
        assert (await market.heard(Refuse)).lease == identifier(1)  # which ends what it ran
        await market.heard(Drain)

        await market.say(makers.grant(2, of=wish, rate="100000"))
        assert (await market.heard(Refuse, 2)).lease == identifier(2)
        code, out, err = await gridpact(
            state_folder, "price", "set", "--cpu", "5", "--gib", "6", "--json"
        )
        assert code == 0, err
        assert len(market.offers) == 1  # still away
        code, _, err = await gridpact(state_folder, "resume")
        assert code == 0, err
        assert market.offers[-1].rates == Rates(5, 6, 0)

        await market.say(makers.grant(3, of=wish, rate="100000"))
        await market.heard(Ready, 2)
        await market.say(work(13, 3, inputs=[inline(cloudpickle.dumps(((0,), {})))]))
        assert (await market.heard(Done)).attempt == identifier(13)
        code, _, err = await gridpact(state_folder, "drain")
        assert code == 0, err
        assert await daemon.wait() == 0
