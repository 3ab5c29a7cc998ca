"""Slots behind a real Ray: one Ray for the file, two slots, and what happens when parts die."""

import asyncio
import os
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from compute.executors import ray_box
from compute.executors.executor import SlotLost, SlotSpec
from compute.executors.ray_bridge import RayExecutor
from market.sdk import archive
from market.wire import plain, programs
from settlement.domain.errors import EnvironmentMismatch
from settlement.domain.resources import Resources
from tests.sandbox import modules
from tests.sandbox.leases import chunk, function, inputs, lease, lease_of, values, wait_gone

pytestmark = [pytest.mark.ray, pytest.mark.asyncio(loop_scope="module")]

SOURCE = """
def task(kind, value=None):
    import os, time
    print('says', kind)
    if kind == 'echo': return value
    if kind == 'die': os._exit(0)
    if kind == 'sleep': time.sleep(value)
    if kind == 'raise': raise KeyError(value)
    if kind == 'look': return sorted(os.listdir('/')), sorted(k for k in os.environ if 'RAY' in k)
"""
POLL_SECONDS = 0.02
LISTEN = "0A"  # the state of a listening socket in /proc/net/tcp
LOOPBACK = {"0100007F", "00000000000000000000000001000000", "0000000000000000FFFF00000100007F"}


@pytest.fixture(scope="module")
def state_folder() -> Iterator[Path]:
    """Reachable by the other users that take part."""
    folder = Path(tempfile.mkdtemp(prefix="gridpact-test-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def executor(state_folder: Path) -> AsyncIterator[RayExecutor]:
    """The one Ray of this run, restarted by the tests that kill it."""
    running = RayExecutor(state_folder, capacity=Resources(2000, 4000, 0))
    await running.start()
    yield running
    await running.shutdown()


def processes(executor: RayExecutor) -> dict[int, str]:
    """The names of all processes in the box, by pid: its namespace tells them from all others."""
    assert executor._box is not None
    own = Path("/proc/self/ns/pid").readlink()
    found, inside = {}, {executor._box.process.pid}
    for place in sorted(Path("/proc").glob("[0-9]*"), key=lambda place: int(place.name)):
        try:
            parent = int((place / "stat").read_text().rpartition(")")[2].split()[1])
            apart = (place / "ns/pid").readlink() != own
            name = (place / "comm").read_text().strip()
        except OSError:
            continue
        if apart and parent in inside:
            inside.add(int(place.name))
            found[int(place.name)] = name
    return found


def listening(pid: int) -> set[tuple[str, str]]:
    """(address, port) of every listening TCP socket of a process's network namespace, in hex."""
    found = set()
    for kind in ("tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{kind}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == LISTEN:
                address, _, port = fields[1].partition(":")
                found.add((address, port))
    return found


async def test_a_start_that_is_cancelled_leaves_nothing(
    state_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, inside, running = ray_box._first_pid, list[int](), asyncio.get_running_loop()
    said = asyncio.Event()

    def first_pid(info_fd: int) -> int:
        inside.append(real(info_fd))
        running.call_soon_threadsafe(said.set)
        return inside[0]

    monkeypatch.setattr(ray_box, "_first_pid", first_pid)
    unused = RayExecutor(state_folder, capacity=Resources(1000, 1000, 0))
    async with asyncio.TaskGroup() as group:
        starting = group.create_task(unused.start())
        await said.wait()
        starting.cancel()
    assert starting.cancelled()
    await unused.shutdown()
    await asyncio.to_thread(wait_gone, inside[0])


async def test_two_slots_map_at_the_same_time(executor: RayExecutor) -> None:
    async with lease(executor, SOURCE) as first, lease(executor, SOURCE) as second:
        async with asyncio.TaskGroup() as group:
            runs = [
                group.create_task(
                    executor.run(name, chunk(*(("echo", (name, i)) for i in range(30))))
                )
                for name in (first, second)
            ]
        live = await executor.ground.client.live()
    for name, run in zip((first, second), runs, strict=True):
        assert values(run.result()) == [(name, i) for i in range(30)]
        assert run.result().protection == executor.protection
    assert {sandbox.lease for sandbox in live} == {first, second}
    assert await executor.ground.client.live() == ()


async def test_user_code_sees_nothing_of_ray(executor: RayExecutor) -> None:
    async with lease(executor, SOURCE) as opened:
        (seen,) = values(await executor.run(opened, chunk(("look",))))
    assert isinstance(seen, tuple)
    folders, variables = seen
    assert variables == []
    assert not {"ray", "code", "run"} & set(folders)


async def test_outcomes_are_those_of_the_sandbox(executor: RayExecutor) -> None:
    async with lease(executor, SOURCE) as opened:
        calls = (("echo", 1), ("die",), ("raise", "x"), ("sleep", 60), ("echo", 2))
        outcome = await executor.run(opened, chunk(*calls, timeout_ms=1000))
    assert [task.status for task in outcome.tasks] == ["ok", "died", "error", "timeout", "ok"]
    assert isinstance(plain.decode(outcome.tasks[2].output), KeyError)
    assert outcome.tasks[0].log == b"says echo\n"


async def test_with_the_spawner_its_leases_end_and_the_next_starts_another(
    executor: RayExecutor,
) -> None:
    spec = SlotSpec("orphaned", executor.environment.digest, 1000, 256)
    await executor.open(spec, function(SOURCE))
    before = executor.ground.process.pid
    os.kill(before, signal.SIGKILL)
    while executor.ground.alive:  # noqa: ASYNC110 - it ends as another process does
        await asyncio.sleep(POLL_SECONDS)
    with pytest.raises(SlotLost):
        await executor.run("orphaned", chunk(("echo", 1)))
    await executor.close("orphaned")
    async with lease(executor, SOURCE) as opened:
        assert values(await executor.run(opened, chunk(("echo", 1)))) == [1]
    assert executor.ground.process.pid != before


async def test_cancel_reaches_the_sandbox(executor: RayExecutor) -> None:
    async with lease(executor, SOURCE) as opened, asyncio.TaskGroup() as group:
        calls = (("echo", 1), ("sleep", 60))
        run = group.create_task(executor.run(opened, chunk(*calls, timeout_ms=60_000)))
        await asyncio.sleep(0.5)
        await executor.cancel(opened)
    assert [task.status for task in run.result().tasks] == ["ok", "cancelled"]


async def test_a_sandbox_killed_from_outside_costs_one_task(executor: RayExecutor) -> None:
    async with lease(executor, SOURCE) as opened, asyncio.TaskGroup() as group:
        calls = (("sleep", 60), ("echo", 1))
        run = group.create_task(executor.run(opened, chunk(*calls, timeout_ms=60_000)))
        await asyncio.sleep(0.5)
        (live,) = await executor.ground.client.live()
        os.kill(live.pid, signal.SIGKILL)
    assert [task.status for task in run.result().tasks] == ["died", "ok"]


async def test_a_killed_actor_loses_its_own_slot_only(executor: RayExecutor) -> None:
    async with lease(executor, SOURCE) as other:
        before = processes(executor)
        spec = SlotSpec("actor-dies", executor.environment.digest, 1000, 256)
        await executor.open(spec, function(SOURCE))
        live = await executor.ground.client.live()
        (inner,) = [sandbox.pid for sandbox in live if sandbox.lease == spec.lease]
        async with asyncio.TaskGroup() as group:
            run = group.create_task(lost(executor, spec.lease))
            await asyncio.sleep(0.5)
            actors = [pid for pid, name in processes(executor).items() if "SlotActor" in name]
            os.kill(max(set(actors) - set(held_by(executor, before))), signal.SIGKILL)
        assert "ended" in run.result()
        await executor.close(spec.lease)
        assert {sandbox.lease for sandbox in await executor.ground.client.live()} == {other}
        assert not Path(f"/proc/{inner}").exists()
        assert executor.ready
        assert values(await executor.run(other, chunk(("echo", 1)))) == [1]


def held_by(executor: RayExecutor, before: dict[int, str]) -> list[int]:
    """The actors that were there before and still are."""
    now = processes(executor)
    return [pid for pid, name in before.items() if "SlotActor" in name and pid in now]


async def lost(executor: RayExecutor, opened: str) -> str:
    with pytest.raises(SlotLost) as told:
        await executor.run(opened, chunk(("sleep", 60), timeout_ms=60_000))
    return told.value.detail


async def test_every_port_is_on_loopback_and_in_the_box(executor: RayExecutor) -> None:
    inside = processes(executor)
    assert {"gcs_server", "raylet"} <= set(inside.values())
    own = Path("/proc/self/ns/net").readlink()
    assert {Path(f"/proc/{pid}/ns/net").readlink() for pid in inside} - {own}
    gcs = next(pid for pid, name in inside.items() if name == "gcs_server")
    ports = listening(gcs)
    assert f"{6379:04X}" in {port for _, port in ports}
    assert f"{6379:04X}" not in {port for _, port in listening(os.getpid())}
    interfaces = Path(f"/proc/{gcs}/net/dev").read_text().splitlines()[2:]
    assert [line.split(":")[0].strip() for line in interfaces] == ["lo"]
    if os.geteuid() == 0:
        assert os.geteuid() not in {Path(f"/proc/{pid}").stat().st_uid for pid in inside}


async def test_a_slot_without_room_or_environment_is_refused(executor: RayExecutor) -> None:
    with pytest.raises(EnvironmentMismatch):
        await executor.open(SlotSpec("other", "sha256:" + "0" * 64, 1000, 256), function(SOURCE))
    with pytest.raises(SlotLost, match="no slot"):
        await executor.run("never-opened", chunk(("echo", 1)))


@pytest.mark.parametrize("victim", ["box", "raylet", "gcs_server"])
async def test_a_dead_ray_loses_its_slots_and_is_started_anew(
    executor: RayExecutor, victim: str
) -> None:
    spec = SlotSpec(f"doomed-{victim}", executor.environment.digest, 1000, 256)
    await executor.open(spec, function(SOURCE))
    assert executor._box is not None
    before = processes(executor)
    pids = {name: pid for pid, name in before.items()} | {"box": executor._box.process.pid}

    async with asyncio.TaskGroup() as group:
        run = group.create_task(lost(executor, spec.lease))
        await asyncio.sleep(0.5)
        os.kill(pids[victim], signal.SIGKILL)
    assert run.result()
    await restarted(executor, pids["box"])
    await executor.close(spec.lease)
    assert await executor.ground.client.live() == ()
    assert not before.keys() & processes(executor).keys()
    async with lease(executor, SOURCE) as opened:
        assert values(await executor.run(opened, chunk(("echo", 1)))) == [1]


async def restarted(executor: RayExecutor, old_pid: int) -> None:
    """Under supervision, until another box is ready."""

    async def until_ready() -> None:
        while executor._box is None or executor._box.process.pid == old_pid or not executor.ready:  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.05)

    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        watch = group.create_task(executor.supervise())
        await until_ready()
        watch.cancel()


async def test_two_providers_live_side_by_side(executor: RayExecutor, state_folder: Path) -> None:
    other = RayExecutor(state_folder, capacity=Resources(1000, 1000, 0))
    await other.start()
    async with lease(executor, SOURCE) as ours, lease(other, SOURCE) as theirs:
        assert values(await executor.run(ours, chunk(("echo", 1)))) == [1]
        assert values(await other.run(theirs, chunk(("echo", 2)))) == [2]
    inside = processes(other)
    assert inside
    await other.shutdown()
    assert not [pid for pid in inside if Path(f"/proc/{pid}").exists()]
    async with lease(executor, SOURCE) as again:
        assert values(await executor.run(again, chunk(("echo", 3)))) == [3]


async def test_commands_and_modules_run_behind_ray_too(executor: RayExecutor) -> None:
    command = programs.CommandCode(
        arguments=["tr", "a-z", "A-Z"], archive=archive.pack(None), collect=[]
    )
    async with lease_of(executor, "command", programs.encode(command)) as opened:
        outcome = await executor.run(opened, inputs(b"abc"))
    assert values(outcome) == [{"exit_code": 0, "files": {}, "stdout": b"ABC"}]
    wasm = programs.WasmCode(
        module=modules.module(modules.CAPITALS), arguments=[], fuel_max=10**9, memory_mib=64
    )
    async with lease_of(executor, "wasm", programs.encode(wasm)) as opened:
        first, second = values(await executor.run(opened, inputs(b"abc", b"abc")))
    assert first == second
    assert isinstance(first, dict)
    assert (first["stdout"], first["exit_code"], first["trap"]) == (b"ABC", 5, "")
