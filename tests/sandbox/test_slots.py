"""Slots on real sandboxes: outcomes, order, repeatability, metering, and the end of everything."""

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import cloudpickle
import numpy as np
import pytest

from compute.executors import ground
from compute.executors.executor import Chunk, SlotLost, SlotSpec, Task
from compute.executors.local import LocalExecutor
from compute.executors.probe import probe
from compute.sandbox.cgroup import PARENT
from compute.sandbox.staging import environment_manifest, manifest_digest
from market.wire import plain
from settlement.domain.errors import EnvironmentMismatch, MisConfigured
from tests.sandbox.leases import MIXED, alive, chunk, function, lease, values, wait_gone

pytestmark = [pytest.mark.sandbox, pytest.mark.asyncio(loop_scope="session")]

DRAW = """
def task(late):
    import random
    if not late:
        import numpy
    drawn = random.random()
    import numpy as np
    return drawn, np.random.rand(3)
"""
BURN = """
def task(seconds, forked):
    import os, time
    def burn():
        while time.process_time() < seconds: pass
    if forked and os.fork() == 0:
        burn()
        os._exit(0)
    if forked:
        os.wait()
    else:
        burn()
"""


async def test_each_task_has_its_own_outcome_and_log(executor: LocalExecutor) -> None:
    calls = (
        ("echo", (1, {2})),
        ("raise", "x"),
        ("die",),
        ("echo", 2),
        ("sleep", 60),
        ("strange",),
        ("sleep", 0),
    )
    async with lease(executor, MIXED) as opened:
        outcome = await executor.run(opened, chunk(*calls, timeout_ms=1000))
    found = [(task.index, task.status) for task in outcome.tasks]
    expected = ["ok", "error", "died", "ok", "timeout", "unsafe_result", "ok"]
    assert found == list(enumerate(expected))
    assert plain.decode(outcome.tasks[0].output) == (1, {2})
    error = plain.decode(outcome.tasks[1].output)
    assert isinstance(error, KeyError)
    assert "Traceback" in error.__notes__[0]
    assert "object is not plain data" in str(plain.decode(outcome.tasks[5].output))
    assert [task.log for task in outcome.tasks] == [f"says {call[0]}\n".encode() for call in calls]
    assert outcome.protection == executor.protection


async def test_a_function_that_does_not_load_fails_each_task(executor: LocalExecutor) -> None:
    spec = SlotSpec("unloadable", executor.environment.digest, 1000, 256)
    await executor.open(spec, cloudpickle.dumps(None)[:-1])
    outcome = await executor.run("unloadable", chunk((1,), (2,)))
    await executor.close("unloadable")
    assert [task.status for task in outcome.tasks] == ["error", "error"]
    assert isinstance(plain.decode(outcome.tasks[0].output), EOFError | Exception)


async def test_an_empty_chunk_is_nothing(executor: LocalExecutor) -> None:
    async with lease(executor, MIXED) as opened:
        assert (await executor.run(opened, chunk())).tasks == ()


async def test_random_numbers_follow_from_seed_and_index(executor: LocalExecutor) -> None:
    async with lease(executor, DRAW) as opened:
        first = values(await executor.run(opened, chunk((True,), (False,), (True,))))
        again = values(await executor.run(opened, chunk((False,), (False,), (False,))))
        tail = Chunk("b", (Task(2, cloudpickle.dumps(((True,), {}))),), 9000, 9000, seed=7)
        alone = values(await executor.run(opened, tail))
        other = Chunk("c", (Task(2, cloudpickle.dumps(((True,), {}))),), 9000, 9000, seed=8)
        different = values(await executor.run(opened, other))
    assert plain.encode(first) == plain.encode(again)
    assert plain.encode(first[2]) == plain.encode(alone[0])
    assert plain.encode(first[0]) != plain.encode(first[1])
    assert plain.encode(alone) != plain.encode(different)


async def test_the_environment_trains_a_model(executor: LocalExecutor) -> None:
    source = """
    def task():
        import numpy as np
        from sklearn.datasets import load_digits
        from sklearn.naive_bayes import GaussianNB
        digits = load_digits()
        model = GaussianNB().fit(digits.data[::2], digits.target[::2])
        return np.float64(model.score(digits.data[1::2], digits.target[1::2]))
    """
    async with lease(executor, source, memory_mib=512) as opened:
        (score,) = values(await executor.run(opened, chunk(())))
    assert isinstance(score, np.float64)
    assert score > 0.7


async def test_concurrent_chunks_of_a_lease_answer_each_their_own(executor: LocalExecutor) -> None:
    async with lease(executor, MIXED) as opened, asyncio.TaskGroup() as group:
        runs = [
            group.create_task(executor.run(opened, chunk(*(("echo", (n, i)) for i in range(20)))))
            for n in range(5)
        ]
    for number, run in enumerate(runs):
        assert values(run.result()) == [(number, i) for i in range(20)]


async def test_leases_do_not_share_anything(executor: LocalExecutor) -> None:
    source = """
    def task(text):
        import os
        if text: open('/tmp/note', 'w').write(text)
        return os.listdir('/tmp'), os.environ.get('HOME')
    """
    async with lease(executor, source) as first, lease(executor, source) as second:
        await executor.run(first, chunk(("secret",)))
        (seen,) = values(await executor.run(second, chunk(("",))))
        live = await executor.ground.client.live()
    assert seen == ([], "/tmp")
    if os.geteuid() == 0:
        assert len({sandbox.uid for sandbox in live}) == 2
        assert os.geteuid() not in {sandbox.uid for sandbox in live}


async def test_the_window_ends_a_chunk(executor: LocalExecutor) -> None:
    async with lease(executor, MIXED) as opened:
        calls = (("echo", 1), ("sleep", 60), ("echo", 2))
        outcome = await executor.run(opened, chunk(*calls, timeout_ms=60_000, window_ms=700))
        after = values(await executor.run(opened, chunk(("echo", 3))))
    assert [task.status for task in outcome.tasks] == ["ok", "cancelled", "cancelled"]
    assert after == [3]


async def test_cancel_stops_what_runs_and_spares_what_is_done(executor: LocalExecutor) -> None:
    async with lease(executor, MIXED) as opened, asyncio.TaskGroup() as group:
        run = group.create_task(
            executor.run(opened, chunk(("echo", 1), ("sleep", 60), ("echo", 2), timeout_ms=60_000))
        )
        await asyncio.sleep(0.3)
        await executor.cancel(opened)
    assert [task.status for task in run.result().tasks] == ["ok", "cancelled", "cancelled"]


async def test_close_ends_a_running_chunk_and_can_be_repeated(executor: LocalExecutor) -> None:
    async with lease(executor, MIXED) as opened, asyncio.TaskGroup() as group:
        run = group.create_task(outcome_of(executor, opened))
        await asyncio.sleep(0.3)
        await executor.close(opened)
        await executor.close(opened)
        assert await executor.ground.client.live() == ()
    assert run.result() == "lost"


async def outcome_of(executor: LocalExecutor, opened: str) -> str:
    try:
        await executor.run(opened, chunk(("sleep", 60), ("echo", 1)))
    except SlotLost:
        return "lost"
    return "an outcome"


@pytest.mark.parametrize("forked", [False, True])
async def test_cpu_is_metered_through_forks(executor: LocalExecutor, forked: bool) -> None:
    if executor.protection != "S":
        pytest.skip("class L has no counters")
    async with lease(executor, BURN) as opened:
        idle = await executor.run(opened, chunk((0.0, False)))
        outcome = await executor.run(opened, chunk((0.5, forked), (1.0, forked)))
    # process_time counts from the process's own start: a fork burns 1.5 s, a single process 1.0 s
    burnt_ms = 1500 if forked else 1000
    assert burnt_ms * 0.9 <= outcome.cpu_ms + idle.cpu_ms + 100
    assert outcome.cpu_ms <= burnt_ms * 1.3


async def test_memory_is_metered_by_its_peak(executor: LocalExecutor) -> None:
    if executor.protection != "S":
        pytest.skip("class L has no counters")
    source = """
    def task(mib):
        import time
        held = bytearray(mib << 20)
        for i in range(0, len(held), 4096): held[i] = 1
        time.sleep(0.5)
    """
    async with lease(executor, source) as opened:
        large = await executor.run(opened, chunk((150,)))
        small = await executor.run(opened, chunk((1,)))
    assert large.memory_mib_s >= 150 * large.wall_ms // 1000
    assert small.memory_mib_s < large.memory_mib_s


async def test_another_environment_is_refused(executor: LocalExecutor) -> None:
    with pytest.raises(EnvironmentMismatch):
        await executor.open(SlotSpec("other", "sha256:" + "0" * 64, 1000, 256), function(MIXED))
    with pytest.raises(SlotLost):
        await executor.run("other", chunk(("echo", 1)))


async def test_limits_out_of_bounds_are_refused(executor: LocalExecutor) -> None:
    with pytest.raises(SlotLost, match="out of bounds"):
        await executor.open(SlotSpec("tiny", executor.environment.digest, 1000, 1), function(MIXED))
    assert await executor.ground.client.live() == ()


async def test_the_environments_digest_is_its_manifests(executor: LocalExecutor) -> None:
    manifest = environment_manifest()
    assert executor.environment.manifest == manifest
    assert executor.environment.digest == manifest_digest(manifest)
    assert executor.environment.equivalence.startswith("cpython-3.11/linux-")


async def test_the_probe_says_what_holds(state_folder: Path) -> None:
    found = await asyncio.to_thread(probe, state_folder)
    assert found.cls in {"S", "L"}
    assert found.reasons or found.cls == "S"


async def test_without_a_sandbox_nothing_runs_unless_asked(
    state_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRIDPACT_BWRAP", str(tmp_path / "missing"))
    with pytest.raises(MisConfigured, match="missing"):
        await LocalExecutor(state_folder).start()
    monkeypatch.delenv("GRIDPACT_BWRAP")
    unsafe = LocalExecutor(state_folder, insecure=True)
    await unsafe.start()
    assert unsafe.protection == "none"
    async with lease(unsafe, MIXED) as opened:
        outcome = await unsafe.run(opened, chunk(("echo", 5), ("die",), ("echo", 6)))
    await unsafe.shutdown()
    assert [task.status for task in outcome.tasks] == ["ok", "died", "ok"]
    assert outcome.protection == "none"


async def test_without_groups_class_l_runs_and_says_so(state_folder: Path) -> None:
    reduced = LocalExecutor(state_folder, groups=False)
    await reduced.start()
    assert reduced.protection == "L"
    async with lease(reduced, MIXED) as opened:
        outcome = await reduced.run(
            opened, chunk(("fill", 2048), ("echo", 6), ("die",), ("echo", 7))
        )
        pids = [live.pid for live in await reduced.ground.client.live()]
    assert [task.status for task in outcome.tasks] == ["error", "ok", "died", "ok"]
    assert (outcome.cpu_ms, outcome.memory_mib_s) == (0, 0)
    await reduced.shutdown()
    assert not [pid for pid in pids if alive(pid)]


async def test_a_killed_spawner_is_noticed_swept_and_started_anew(state_folder: Path) -> None:
    running = LocalExecutor(state_folder)
    await running.start()
    async with asyncio.TaskGroup() as group:
        spec = SlotSpec("doomed", running.environment.digest, 1000, 256)
        await running.open(spec, function(MIXED))
        (live,) = await running.ground.client.live()
        run = group.create_task(outcome_of(running, "doomed"))
        await asyncio.sleep(0.2)
        os.kill(running.ground.process.pid, signal.SIGKILL)
    assert run.result() == "lost"
    await asyncio.to_thread(wait_gone, live.pid)
    assert not running.ready
    await running.close("doomed")
    await running.open(SlotSpec("next", running.environment.digest, 1000, 256), function(MIXED))
    if running.protection == "S":
        assert len(running.ground.process.ready.swept) == 1
    assert values(await running.run("next", chunk(("echo", 1)))) == [1]
    await running.shutdown()


PARENT_PROGRAM = """
import asyncio, sys
from pathlib import Path
from compute.executors.executor import SlotSpec
from compute.executors.local import LocalExecutor
from tests.sandbox.leases import chunk, function

SOURCE = '''
def task():
    import os, time
    for _ in range(2):
        if os.fork() == 0: os.setsid(); time.sleep(600)
    time.sleep(600)
'''

async def main():
    running = LocalExecutor(Path(sys.argv[1]))
    await running.start()
    await running.open(SlotSpec('orphan', running.environment.digest, 1000, 256), function(SOURCE))
    live = await running.ground.client.live()
    print(running.ground.process.pid, live[0].pid, running.ground.folder, flush=True)
    await running.run('orphan', chunk((), timeout_ms=600_000, window_ms=600_000))

asyncio.run(main())
"""


async def test_kill_minus_9_of_the_daemon_leaves_nothing(state_folder: Path) -> None:
    parent = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PARENT_PROGRAM, str(state_folder),
        stdout=subprocess.PIPE, cwd=Path(__file__).parent.parent.parent,
    )  # fmt: skip
    assert parent.stdout is not None
    line = await parent.stdout.readline()
    spawner_pid, inner_pid, folder = line.decode().split()
    parent.kill()
    await parent.wait()
    for pid in (int(spawner_pid), int(inner_pid)):
        await asyncio.to_thread(wait_gone, pid)
    groups = Path("/sys/fs/cgroup").glob(f"*/{PARENT}/{spawner_pid}-*")
    assert list(groups) == []
    assert not list(Path(folder).glob("*.sock"))


async def test_socket_paths_stay_short(tmp_path: Path) -> None:
    deep = tmp_path / ("x" * 120)
    deep.mkdir()
    folder = ground.socket_folder(deep)
    try:
        assert len(os.fsencode(folder / ground.SOCKET_NAME)) < ground.SOCKET_PATH_BYTES_MAX
    finally:
        folder.rmdir()
