"""Child processes of a development stack: they end with their parent, and failures are told."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from market.cli import stack as stacks
from market.cli.children import Children
from market.cli.devstack import _only_one
from market.cli.stack import Stack, Wish
from settlement.domain.errors import MisConfigured

# Starts a child that waits for ever, tells its number, and waits for ever too.
PARENT = """
import signal, subprocess, sys, time, os
from market.cli import follow
child = subprocess.Popen(
    [sys.executable, "-c", "from market.cli.follow import follow_parent; follow_parent();"
     "import time; print('on', flush=True); time.sleep(600)"],
    env={**os.environ, follow.VARIABLE: follow.token(signal.SIGKILL)},
    stdout=subprocess.PIPE, process_group=0)
child.stdout.readline()
print(child.pid, flush=True)
time.sleep(600)
"""

# Adopts the child of a child that was killed, and counts what is left before and after the sweep.
ADOPTER = """
import os, subprocess, sys, time
from market.cli import follow
from market.cli import children
children.LEFTOVER_SECONDS_MAX = 0.2
follow.adopt_orphans()
middle = subprocess.Popen([sys.executable, "-c",
    "import subprocess, sys, time;"
    "p = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'], start_new_session=True);"
    "print(p.pid, flush=True); time.sleep(600)"], stdout=subprocess.PIPE)
grandchild = int(middle.stdout.readline())
middle.kill()
middle.wait()
assert follow.descendants() == {grandchild}, follow.descendants()
assert children.end_leftovers({grandchild}) == 0
print(children.end_leftovers(set()), follow.descendants())
"""


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"


def test_a_child_ends_with_its_killed_parent() -> None:
    parent = subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    assert alive(child)
    parent.kill()
    parent.communicate()
    deadline = time.monotonic() + 30
    while alive(child) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not alive(child)


def test_a_child_whose_parent_is_gone_does_not_start() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "from market.cli.follow import *; follow_parent(); print('on')"],
        env={**os.environ, "GRIDPACT_FOLLOW": "1:9"}, capture_output=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (-signal.SIGKILL, b"")


def test_orphans_are_adopted_and_swept() -> None:
    done = subprocess.run(
        [sys.executable, "-c", ADOPTER], capture_output=True, text=True, check=False
    )
    assert done.stdout == "1 set()\n", done.stderr


# `reap` collects every child of its process, so it runs in one of its own.
WATCHER = """
import signal, sys, time
from pathlib import Path
from market.cli.children import Children
children = Children(Path(sys.argv[1]), lambda: False)
one = children.start("one", ["no-such-command"], {})
while one.alive:
    children.look()
print(one.code, "No such command" in one.failure().detail, "code 2" in one.failure().detail)
"""


def test_a_failed_child_tells_its_last_lines(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WATCHER, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.stdout == "2 True True\n", done.stderr


def test_two_stacks_in_one_folder_are_refused(tmp_path: Path) -> None:
    with _only_one(tmp_path), pytest.raises(MisConfigured, match=str(os.getpid())):  # noqa: SIM117
        with _only_one(tmp_path):
            pass
    with _only_one(tmp_path):
        pass


def test_ports(monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    with socket.socket() as taken:
        taken.bind((stacks.HOST, 0))
        taken.listen()
        number = taken.getsockname()[1]
        with pytest.raises(MisConfigured, match="taken"):
            stacks._port(number)
        monkeypatch.setattr(stacks, "PORT", number)
        assert stacks._port(None) not in {0, number}


def test_wishes(tmp_path: Path) -> None:
    assert Wish(tmp_path).names() == ("alpha", "beta")
    for count in (0, len(stacks.NAMES) + 1):
        with pytest.raises(MisConfigured):
            Wish(tmp_path, providers=count).names()
    stack = Stack(Wish(tmp_path), print, lambda: False)
    assert isinstance(stack.children, Children)
    stack.stop()  # nothing was started, nothing is to do
