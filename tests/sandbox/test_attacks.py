"""The hostile suite: contained in the sandbox, shown to be real without it, nothing left behind."""

import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from compute.executors.local import LocalExecutor
from compute.sandbox.policy import LOG_BYTES_MAX
from market.wire import plain
from settlement.domain.errors import UnsafeResult
from tests.sandbox.attacks import ATTACKS, TASK, Aims
from tests.sandbox.leases import chunk, lease

pytestmark = pytest.mark.sandbox


@pytest.fixture
def aims() -> Iterator[Aims]:
    """World readable on purpose: only the sandbox may stand between."""
    with (
        tempfile.NamedTemporaryFile("w") as secret,
        socket.socket() as listener,
        socket.socket(socket.AF_UNIX) as abstract,
    ):
        secret.write("a provider's private key")
        secret.flush()
        Path(secret.name).chmod(0o644)
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        name = f"gridpact-test-{os.getpid()}"
        abstract.bind(f"\0{name}")
        abstract.listen()
        clone = str(Path(__file__).parent.parent.parent)
        yield Aims(secret.name, listener.getsockname()[1], name, clone)


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.asyncio(loop_scope="session")
async def test_as_root_the_whole_suite_is_held_by_groups(executor: LocalExecutor) -> None:
    """Where it can run it must run: nothing here skips on a machine with rights to groups."""
    if os.geteuid() == 0 and os.access("/sys/fs/cgroup/pids", os.W_OK):
        assert executor.protection == "S"
    assert executor.protection in {"S", "L"}


@pytest.mark.asyncio(loop_scope="session")
@pytest.mark.parametrize("name", list(ATTACKS))
async def test_attack_is_contained(executor: LocalExecutor, aims: Aims, name: str) -> None:
    attack = ATTACKS[name]
    if attack.grouped and executor.protection != "S":
        pytest.skip("class L promises nothing here")
    before = descriptors()
    async with lease(executor, TASK, memory_mib=attack.memory_mib) as opened:
        outcome = await executor.run(
            opened, chunk((attack.program(aims),), timeout_ms=attack.timeout_ms)
        )
    (task,) = outcome.tasks
    try:
        answer = str(plain.decode(task.output)) if task.output else ""
    except UnsafeResult as refusal:
        answer = refusal.detail
    assert not attack.wrong(task.status, answer)
    assert len(task.log) <= LOG_BYTES_MAX
    assert descriptors() == before
    assert await executor.ground.client.live() == ()


@pytest.mark.parametrize("name", [name for name, attack in ATTACKS.items() if attack.control])
def test_attack_reaches_its_aim_without_the_sandbox(aims: Aims, name: str) -> None:
    program = ATTACKS[name].program(aims) + "\nprint(RESULT)"
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", program], capture_output=True, text=True, check=False
    )
    assert "REACHED" in done.stdout
