"""The README's Python example, as it stands there, against a market with a real daemon and sandbox."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest

from settlement.domain.identity import PrivateKey
from tests.meta.documents import sdk_example
from tests.meta.tree import ROOT
from tests.system.machines import daemon
from tests.system.running import Running
from tests.system.trading import FUNDS, logged, until

pytestmark = [pytest.mark.system, pytest.mark.sandbox]
KEY = PrivateKey(b"\x33" * 32)


def run_example(folder: Path, market: Running) -> "subprocess.CompletedProcess[str]":
    """The example as a program of its own, with the consumer's key."""
    program, key = folder / "example.py", folder / "consumer.key"
    program.write_text(sdk_example())
    key.write_text(KEY.to_hex())
    key.chmod(0o600)
    return subprocess.run(
        [sys.executable, str(program)],
        capture_output=True, text=True, check=False, cwd=ROOT,
        env={
            **os.environ, "GRIDPACT_HOME": str(folder), "GRIDPACT_URL": market.url,
            "GRIDPACT_KEY": str(key), "PYTHONPATH": str(ROOT),
        },
    )  # fmt: skip


async def test_the_example_of_the_readme(whole: Running, state_folder: Path) -> None:
    async with daemon(whole, state_folder, "alpha"), whole.client(KEY) as client:
        await client.faucet(FUNDS)

        async def connected() -> bool:
            return any(view.connected for view in await client.providers())

        await until(connected)
        done = await asyncio.to_thread(run_example, state_folder, whole)
        assert done.returncode == 0, done.stderr
        assert done.stdout.split() == ["49", str(sum(x * x for x in range(100)))]

        # the session of the single call and the map are closed, and all was paid for once
        async def closed() -> bool:
            return all(job.state == "closed" for job in (await client.list_jobs()).jobs)

        await until(closed)
        jobs = (await client.list_jobs()).jobs
        assert sorted(job.accepted for job in jobs) == [1, 100]
        spent = sum(int(job.spent) for job in jobs)
        assert int((await client.balances()).available) == FUNDS - spent
        receipts = [one for one in await logged(whole) if one.kind == "receipt"]
        views = [view for job in jobs for view in await client.receipts(job.id)]
        assert len(receipts) == len(views)
        assert {view.protection for view in views} <= {"S", "L"}
