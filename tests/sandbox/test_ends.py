"""What must hold when something ends: leases, starts, restarts, and what does not fit."""

import asyncio
import os
from pathlib import Path

import pytest

from compute.executors import ground, slot
from compute.executors.executor import SlotLost, SlotSpec
from compute.executors.local import LocalExecutor
from compute.sandbox import channel, staging
from compute.sandbox.messages import Ended, Setting
from compute.sandbox.policy import Limits
from compute.sandbox.spawner_client import Opened, SpawnerProcess
from settlement.domain.errors import MisConfigured, NoSandbox
from tests.sandbox.leases import MIXED, alive, chunk, function, lease

pytestmark = [pytest.mark.sandbox, pytest.mark.asyncio(loop_scope="session")]


async def test_a_restart_does_not_fall_back_to_a_weaker_class(state_folder: Path) -> None:
    with pytest.raises(NoSandbox, match="class S was held before, now only L"):
        await ground.lay(state_folder, groups=False, least="S")


async def test_a_start_that_is_cancelled_leaves_nothing(
    state_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, started = SpawnerProcess.start, asyncio.Event()
    pids = []

    async def start(setting: Setting) -> SpawnerProcess:
        process = await real(setting)
        pids.append(process.pid)
        started.set()
        return process

    monkeypatch.setattr(SpawnerProcess, "start", start)
    async with asyncio.TaskGroup() as group:
        starting = group.create_task(LocalExecutor(state_folder).start())
        await started.wait()
        starting.cancel()
    assert starting.cancelled()
    assert len(pids) == 1
    assert not alive(pids[0])


async def test_a_lease_is_known_until_it_is_proven_empty(
    executor: LocalExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = SlotSpec("stuck", executor.environment.digest, 1000, 256)
    await executor.open(spec, function(MIXED))

    async def stuck(_: str) -> Ended:
        return Ended(0, 1, empty=False)

    with monkeypatch.context() as patched:
        patched.setattr(executor.ground.client, "end", stuck)
        for _ in range(2):
            with pytest.raises(SlotLost, match="not proven empty"):
                await executor.close("stuck")
    await executor.close("stuck")
    assert await executor.ground.client.live() == ()


async def test_a_sandbox_that_was_on_its_way_ends_with_its_lease(
    executor: LocalExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    await executor.open(SlotSpec("late", executor.environment.digest, 1000, 256), function(MIXED))
    real = executor.ground.client.spawn

    async def spawn(lease: str, limits: Limits) -> Opened:
        opened = await real(lease, limits)
        await executor.close(lease)
        return opened

    monkeypatch.setattr(executor.ground.client, "spawn", spawn)
    with pytest.raises(SlotLost):
        await executor.run("late", chunk(("die",), ("sleep", 60), timeout_ms=60_000))
    assert await executor.ground.client.live() == ()


async def test_answers_beyond_what_is_held_at_a_time_are_asked_for_again(
    executor: LocalExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slot, "OUTPUT_BYTES_MAX", 150_000)
    async with lease(executor, MIXED) as opened:
        outcome = await executor.run(opened, chunk(*[("echo", bytes(100_000))] * 4))
        alone = await executor.run(opened, chunk(("echo", bytes(200_000))))
    assert [task.status for task in outcome.tasks] == ["ok", "ok", "cancelled", "cancelled"]
    assert [task.status for task in alone.tasks] == ["ok"]


async def test_logs_of_many_tasks_are_short(
    executor: LocalExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(channel, "LOGS_BYTES_MAX", 20)
    async with lease(executor, MIXED) as opened:
        outcome = await executor.run(opened, chunk(*[("echo", 1)] * 4))
    assert [task.log for task in outcome.tasks] == [b"says "] * 4


async def test_a_folder_is_made_for_all_to_pass_whatever_the_umask_is(
    state_folder: Path,
) -> None:
    before = os.umask(0o077)
    try:
        staging.make_passable(state_folder / "new" / "below")
    finally:
        os.umask(before)
    mode = 0o755 if os.geteuid() == 0 else 0o700
    for folder in (state_folder / "new", state_folder / "new" / "below"):
        assert folder.stat().st_mode & 0o777 == mode


async def test_a_folder_that_anybody_may_exchange_is_refused(state_folder: Path) -> None:
    shared = state_folder / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    with pytest.raises(MisConfigured, match="written by anybody"):
        staging.check_reachable(shared / "state")


async def test_what_a_killed_daemon_staged_in_part_is_removed(state_folder: Path) -> None:
    source = state_folder / "source"
    source.write_text("text")
    torn = state_folder / "staged" / "0123.torn"
    torn.mkdir(parents=True)
    found = staging.stage(state_folder / "staged", [staging.Entry(source, "a", 4, 0o644)])
    assert (found / "a").read_text() == "text"
    assert not torn.exists()
