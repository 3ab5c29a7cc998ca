"""Real providers for the system tests: the daemon as a process of its own."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from tests.meta.tree import ROOT
from tests.system.running import Running

STOPS_WITHIN_SECONDS: Final = 30.0


@asynccontextmanager
async def daemon(market: Running, home: Path, name: str) -> AsyncIterator[None]:
    """A real provider with local slots; ended by a drain."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "market.cli.main", "provider", "run", "--name", name,
        "--url", market.url, "--home", str(home / name), "--cpus", "2",
        "--memory-mib", "2048", "--executor", "local",
        cwd=ROOT, env={**os.environ, "GRIDPACT_HOME": str(home)},
    )  # fmt: skip
    try:
        yield
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(STOPS_WITHIN_SECONDS):
            assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
