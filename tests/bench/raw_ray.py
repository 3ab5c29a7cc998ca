"""The reference of calls and maps: a Ray of its own in a process of its own, driven line by line.

Started as a program it is that process: it answers each JSON line on its input with one on its
output. The tasks are the plainest that Ray knows, and warm.
"""

import contextlib
import json
import logging
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import IO, Any, Final, Protocol

from tests.bench.work import double

WARM_UP_TASKS: Final = 200
OBJECT_STORE_BYTES: Final = 100_000_000


class Task(Protocol):
    """A remote function of Ray."""

    def remote(self, number: int, /) -> object: ...


class RawRay:
    """The other end of that process."""

    def __init__(self, asked: IO[str], said: IO[str]) -> None:
        self._asked, self._said = asked, said

    def calls(self, count: int) -> list[float]:
        """The seconds of so many calls one after another."""
        seconds: list[float] = self._ask(work="calls", count=count)
        return seconds

    def map(self, count: int) -> float:
        """The seconds of so many tasks, each its own, results in order."""
        seconds: float = self._ask(work="map", count=count)
        return seconds

    def _ask(self, *, work: str, count: int) -> Any:  # noqa: ANN401 - whatever that work measures
        self._asked.write(json.dumps({"work": work, "count": count}) + "\n")
        self._asked.flush()
        return json.loads(self._said.readline())


@contextlib.contextmanager
def raw_ray(cpus: int) -> Iterator[RawRay]:
    """A started Ray with so many workers, ended at the end."""
    with subprocess.Popen(
        [sys.executable, "-m", "tests.bench.raw_ray", str(cpus)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "RAY_USAGE_STATS_ENABLED": "0"},
        cwd=Path(__file__).resolve().parents[2],
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        ray = RawRay(process.stdin, process.stdout)
        ray.calls(1)
        yield ray
        process.stdin.close()


def serve(cpus: int, said: IO[str]) -> None:
    """Answer until the input ends."""
    import ray

    with tempfile.TemporaryDirectory(prefix="gp-") as folder:
        ray.init(
            address="local",
            num_cpus=cpus,
            include_dashboard=False,
            object_store_memory=OBJECT_STORE_BYTES,
            log_to_driver=False,
            logging_level=logging.ERROR,
            _node_ip_address="127.0.0.1",  # loopback only
            _temp_dir=f"{folder}/ray",
        )
        try:
            task = ray.remote(num_cpus=1)(double)
            ray.get([task.remote(number) for number in range(WARM_UP_TASKS)])
            for line in sys.stdin:
                asked = json.loads(line)
                work = {"calls": _calls, "map": _map}[asked["work"]]
                said.write(json.dumps(work(ray, task, asked["count"])) + "\n")
                said.flush()
        finally:
            ray.shutdown()


def _calls(ray: ModuleType, task: Task, count: int) -> list[float]:
    seconds = []
    for number in range(count):
        began = time.perf_counter()
        assert ray.get(task.remote(number)) == 2 * number
        seconds.append(time.perf_counter() - began)
    return seconds


def _map(ray: ModuleType, task: Task, count: int) -> float:
    began = time.perf_counter()
    results = ray.get([task.remote(number) for number in range(count)])
    seconds = time.perf_counter() - began
    assert results == [2 * number for number in range(count)]
    return seconds


def main() -> None:
    """Ray and its children may print on standard output; the answers keep it for themselves."""
    said = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    serve(int(sys.argv[1]), said)


if __name__ == "__main__":
    main()
