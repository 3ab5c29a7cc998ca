"""A daemon as a process of its own, for the tests that kill it: python program.py URL HOME HOLD.

A chunk runs for as long as the file HOLD exists; runs are written to HOME/runs.
"""

import asyncio
import logging
import sys
from pathlib import Path

from compute.daemon.main import serve
from compute.daemon.settings import load
from compute.executors.executor import Chunk
from tests.unit.daemon.fake_executor import FakeExecutor

POLL_SECONDS = 0.02


def main(url: str, home: Path, hold: Path) -> None:
    logging.basicConfig(level=logging.INFO, stream=sys.stderr)

    async def gate(chunk: Chunk) -> None:
        with (home / "runs").open("a") as file:
            file.write(f"{chunk.attempt}\n")
        while hold.exists():  # noqa: ASYNC110 - the test is another process
            await asyncio.sleep(POLL_SECONDS)

    settings = load(url=url, home=home, cpus=2, memory_mib=2_048, gib_rate=0, drain_seconds=60)
    asyncio.run(serve(settings, FakeExecutor(gate)))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
