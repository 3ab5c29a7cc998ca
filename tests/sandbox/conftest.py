"""One local executor for the hostile suite, over a state folder that is removed at the end."""

import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from compute.executors.local import LocalExecutor
from tests.sandbox.leases import PLANTED


@pytest.fixture(scope="session")
def state_folder() -> Iterator[Path]:
    """Reachable by the slots' own users, which pytest's folders are not."""
    folder = Path(tempfile.mkdtemp(prefix="gridpact-test-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def executor(state_folder: Path) -> AsyncIterator[LocalExecutor]:
    """With a token planted in our own environment, which no job may find."""
    os.environ[PLANTED] = PLANTED
    running = LocalExecutor(state_folder)
    await running.start()
    yield running
    await running.shutdown()
    del os.environ[PLANTED]
