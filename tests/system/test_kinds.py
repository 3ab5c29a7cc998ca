"""Commands and WASM modules through a whole market: real daemons, sandboxes, checks and receipts."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Final

import pytest

from market.sdk.client import MarketClient
from market.sdk.command import Command
from market.sdk.function import MapJob, Terms
from market.sdk.results import CommandResult, WasmResult
from market.sdk.wasm import Wasm
from settlement.domain.identity import PrivateKey
from settlement.domain.verdict import Conclusion, Verdict
from tests.meta.tree import ROOT
from tests.sandbox import modules
from tests.system.machines import daemon
from tests.system.running import Running
from tests.system.trading import FUNDS, logged, until

pytestmark = [pytest.mark.system, pytest.mark.sandbox]
KEY: Final = PrivateKey(b"\x33" * 32)
TASKS: Final = 6
TERMS: Final = Terms(budget="20", slots=2, task_timeout_seconds=20.0)
SCRIPT: Final = """
import pathlib, sys
number = int(sys.argv[1])
pathlib.Path("square.txt").write_text(str(number * number))
print("squared", number)
sys.exit(number % 2)
"""


PROGRAM: Final = """
import sys
from market.sdk import blocking as gp

shout = gp.command(["tr", "a-z", "A-Z"], budget="9", task_timeout=20)
print([result.text for result in shout.map(["a", "b"])], shout.remote("c").check().text)
module = gp.wasm(sys.argv[1], budget="9", task_timeout=20)
print(module.spawn("abc").get().text, module.estimate(3).tasks)
"""


@pytest.fixture
async def client(whole: Running, state_folder: Path) -> AsyncIterator[MarketClient]:
    """A funded consumer at a market with two real providers, who check each other."""
    async with (
        daemon(whole, state_folder, "alpha"),
        daemon(whole, state_folder, "beta"),
        whole.client(KEY) as opened,
    ):
        await opened.faucet(FUNDS)

        async def connected() -> bool:
            return sum(view.connected for view in await opened.providers()) == 2

        await until(connected)
        yield opened


async def ended(job: MapJob[CommandResult] | MapJob[WasmResult]) -> list[object]:
    """All results in order; each receipt proven, and paid for."""
    outcomes = []
    while fresh := await job.take():
        outcomes += fresh
    await job.wait()
    receipts = await job.receipts()
    claims = [(await receipt.verify()).receipt for receipt in receipts]
    assert {claim.protection for claim in claims} <= {"S", "L"}
    assert {claim.spec for claim in claims} == {claims[0].spec}
    assert (await job.view()).reason == "done"
    assert await job.cost() > 0
    return [outcome.value() for outcome in sorted(outcomes, key=lambda outcome: outcome.index)]


async def agreed(whole: Running) -> bool:
    """Somebody ran a chunk again, and whenever somebody did, the bytes were the same."""
    verdicts = [one.conclusion for one in await logged(whole) if isinstance(one, Verdict)]
    return len(verdicts) > 0 and set(verdicts) == {Conclusion.AGREED}


async def test_a_command_with_its_folder(
    whole: Running, client: MarketClient, tmp_path: Path
) -> None:
    (tmp_path / "square.py").write_text(SCRIPT)
    words = ["python", "square.py", "{input}"]
    command = Command(client, words, TERMS, directory=tmp_path, collect=["*.txt"])
    results = await ended(await command.map(range(TASKS)))
    assert results == [
        CommandResult(number % 2, b"squared %d\n" % number, {"square.txt": b"%d" % number**2})
        for number in range(TASKS)
    ]
    assert await agreed(whole)


async def test_a_module_costs_the_same_fuel_at_every_provider(
    whole: Running, client: MarketClient
) -> None:
    wasm = Wasm(client, modules.module(modules.CAPITALS), TERMS, memory_mib=64)
    results = await ended(await wasm.map([b"abc"] * TASKS))
    assert all(isinstance(result, WasmResult) for result in results)
    assert set(map(str, results)) == {str(results[0])}
    assert results[0] == WasmResult(5, b"ABC", getattr(results[0], "fuel", 0), "")
    assert await agreed(whole)


def runner(
    whole: Running, state_folder: Path
) -> Callable[..., Coroutine[None, None, "subprocess.CompletedProcess[str]"]]:
    """Python in a process of its own, with the consumer's key."""
    key = state_folder / "consumer.key"
    key.write_text(KEY.to_hex())
    key.chmod(0o600)
    environment = {
        **os.environ, "GRIDPACT_HOME": str(state_folder), "GRIDPACT_URL": whole.url,
        "GRIDPACT_KEY": str(key), "PYTHONPATH": str(ROOT),
    }  # fmt: skip

    async def run(*words: str) -> "subprocess.CompletedProcess[str]":
        line = [sys.executable, *words]
        return await asyncio.to_thread(
            subprocess.run, line, capture_output=True, text=True, check=False, env=environment
        )

    return run


async def test_from_a_program(
    whole: Running, client: MarketClient, state_folder: Path, tmp_path: Path
) -> None:
    assert client.address == KEY.address
    module = tmp_path / "capitals.wasm"
    module.write_bytes(modules.module(modules.CAPITALS))
    done = await runner(whole, state_folder)("-c", PROGRAM, str(module))
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["['A', 'B'] C", "ABC 3"]


async def test_from_the_command_line(
    whole: Running, client: MarketClient, state_folder: Path, tmp_path: Path
) -> None:
    assert client.address == KEY.address
    module, out = tmp_path / "capitals.wasm", tmp_path / "out"
    module.write_bytes(modules.module(modules.CAPITALS))
    run = runner(whole, state_folder)
    cli = ("-m", "market.cli.main")
    done = await run(
        *cli, "job", "run", "--budget", "9", "--input", "some text", "--collect", "*.txt", "--output",
        str(out), "--", "sh", "-c", "echo wrote >&2; tee kept.txt; exit 7",
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (7, "some text"), done.stderr
    assert "never more than 9" in done.stderr
    assert "1 of 1" in done.stderr
    assert "wrote" in done.stderr
    assert (out / "kept.txt").read_text() == "some text"

    done = await run(*cli, "--json", "job", "run", str(module), "-i", "abc", "-i", "abc")
    assert done.returncode == 5, done.stderr
    first, second = json.loads(done.stdout)
    assert (first["stdout"], first["exit_code"]) == ("ABC", 5)
    assert first["fuel"] == second["fuel"] > 0
