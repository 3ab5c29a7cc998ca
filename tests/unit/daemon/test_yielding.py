"""When the daemon gives way to its owner's work, and that it does not mistake its own for it."""

import asyncio
import subprocess
import sys
import time

import psutil
import pytest

from compute.daemon.yielding import BUSY_SAMPLES, CALM_SAMPLES, ForeignLoad, Judge, watch

SPIN_SECONDS = 0.3


def verdicts(judge: Judge, *loads: float) -> list[str | None]:
    return [judge.sample(load) for load in loads]


def test_one_burst_is_nobody_at_work() -> None:
    judge = Judge(2.0)
    assert set(verdicts(judge, *[2.0, 0.0] * 10)) == {None}


def test_yields_once_and_comes_back_after_a_calm_time() -> None:
    judge = Judge(2.0)
    busy = verdicts(judge, *[2.0] * (BUSY_SAMPLES + 3))
    assert busy.index("yield") == BUSY_SAMPLES - 1
    assert busy.count("yield") == 1
    assert verdicts(judge, *[0.9] * (CALM_SAMPLES - 1), 1.0) == [None] * CALM_SAMPLES
    calm = verdicts(judge, *[0.9] * CALM_SAMPLES)
    assert calm == [None] * (CALM_SAMPLES - 1) + ["resume"]
    assert verdicts(judge, *[2.0] * BUSY_SAMPLES)[-1] == "yield"


def test_own_work_is_not_foreign(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine's clock is set to what this process and its child burn: nothing is left over."""
    with subprocess.Popen(
        [sys.executable, "-c", "while True: pass"], stdout=subprocess.DEVNULL
    ) as child:
        try:
            busy = psutil.Process(child.pid)
            load = ForeignLoad()
            monkeypatch.setattr("compute.daemon.yielding._busy_seconds", lambda: 0.0)
            assert load.read() == 0.0
            before = sum(busy.cpu_times()[:2])
            while sum(busy.cpu_times()[:2]) - before < SPIN_SECONDS:
                time.sleep(0.01)
            monkeypatch.setattr(
                "compute.daemon.yielding._busy_seconds",
                lambda: sum(busy.cpu_times()[:2]) - before,
            )
            assert load.read() == 0.0
        finally:
            child.kill()


def test_others_work_is_foreign(monkeypatch: pytest.MonkeyPatch) -> None:
    load = ForeignLoad()
    monkeypatch.setattr("compute.daemon.yielding._busy_seconds", lambda: 0.0)
    load.read()
    monkeypatch.setattr("compute.daemon.yielding._busy_seconds", lambda: 1_000.0)
    assert load.read() > 1.0


async def test_the_watch_calls_both_ways() -> None:
    loads = iter([3.0] * BUSY_SAMPLES + [0.0] * CALM_SAMPLES)
    called: list[str] = []
    over = asyncio.Event()

    async def give_way() -> None:
        called.append("yield")

    async def come_back() -> None:
        called.append("resume")
        over.set()

    async with asyncio.TaskGroup() as group:
        watching = group.create_task(
            watch(
                Judge(2.0), give_way=give_way, come_back=come_back,
                foreign_cpus=lambda: next(loads, 0.0), pause_seconds=0,
            )
        )  # fmt: skip
        await over.wait()
        watching.cancel()
    assert called == ["yield", "resume"]
