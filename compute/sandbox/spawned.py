"""One sandbox as the spawner holds it: started blocked, put into its group, then let go."""

import json
import os
import select
import signal
import socket
import subprocess
import time
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from compute.sandbox import bubblewrap, rlimits, seccomp
from compute.sandbox.cgroup import Backend, Group, Reading
from compute.sandbox.claims import Claim, claim
from compute.sandbox.janitor import group_name
from compute.sandbox.policy import Ground, Limits
from settlement.domain.errors import NoSandbox

START_TIMEOUT_SECONDS: Final = 10.0
PIECE_BYTES: Final = 4096
COMPLAINT_BYTES_MAX: Final = 2000
EMPTY_TIMEOUT_SECONDS: Final = 2.0
INSIDE: Final = (("market.wire.plain_write", "market/wire/plain_write.py"),)
RUNNER: Final = ("runner", "compute/sandbox/runner.py")
NOTHING: Final = Reading(cpu_ns=0, memory_peak_bytes=0, oom_kills=0)


@dataclass(frozen=True)
class Workshop:
    """What every sandbox of this spawner is made with."""

    ground: Ground
    backend: Backend | None
    bundle: bytes
    modules: int
    filter: bytes
    kernel: tuple[int, ...]

    @staticmethod
    def open(ground: Ground, backend: Backend | None) -> "Workshop":
        root = Path(__file__).parent.parent.parent
        sources = [(name, (root / path).read_bytes()) for name, path in (*INSIDE, RUNNER)]
        release = os.uname().release.split("-")[0].split(".")
        return Workshop(
            ground=ground,
            backend=backend,
            bundle=rlimits.bundle(sources),
            modules=len(sources),
            filter=seccomp.build() if ground.confined else b"",
            kernel=tuple(int(part) for part in release[:2] if part.isdigit()),
        )


@dataclass(frozen=True)
class Started:
    """The processes of a sandbox: ours to wait for, and the first inside its namespaces."""

    process: "subprocess.Popen[bytes]"
    inner_pid: int


class Spawned:
    """A live sandbox. The thread that started it must outlive it: its death ends the sandbox."""

    def __init__(self, number: int, lease: str, started: Started, group: Group | None) -> None:
        self.number, self.lease, self.group = number, lease, group
        self.process, self.inner_pid = started.process, started.inner_pid
        self.claim: Claim | None = None
        self.oom_fd: int | None = None
        self.last = NOTHING
        self.ooms = 0

    @property
    def uid(self) -> int:
        return self.claim.uid if self.claim else os.geteuid()

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def read(self, *, reset_peak: bool) -> Reading:
        if self.group:
            counted = self.group.read(reset_peak=reset_peak)
            self.last = replace(counted, oom_kills=counted.oom_kills + self.ooms)
        return self.last

    def out_of_memory(self) -> None:
        """The kernel picked one process; the task as a whole has had its share."""
        self.ooms += 1
        if self.group:
            self.group.kill()

    def _wait(self) -> bool:
        """Bubblewrap ends when it has reaped its child, unless it is stuck itself."""
        for kill_first in (False, True):
            if kill_first:
                self.process.kill()
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(EMPTY_TIMEOUT_SECONDS)
                return True
        return False

    def kill(self) -> bool:
        """End everything inside; true when the kernel's word for its emptiness was had."""
        if self.group:
            with suppress(OSError):
                self.read(reset_peak=False)
            self.group.kill()
        with suppress(ProcessLookupError):
            os.kill(
                self.inner_pid, signal.SIGKILL
            )  # the first of its pid namespace: all go with it
        if self.inner_pid == self.process.pid:  # no sandbox: a session of its own is all there is
            with suppress(ProcessLookupError):
                os.killpg(self.inner_pid, signal.SIGKILL)
        empty = self._wait()
        if self.group:
            empty = self.group.remove() and empty
        if self.oom_fd is not None:
            os.close(self.oom_fd)
            self.oom_fd = None
        if empty and self.claim:
            self.claim.release()
        return empty


def spawn(workshop: Workshop, number: int, lease: str, limits: Limits) -> tuple[Spawned, int, int]:
    """A sandbox and the two descriptors that lead to it: the channel and what it prints."""
    with ExitStack() as stack:
        ours, theirs = socket.socketpair()
        stack.enter_context(theirs)
        log_read, log_write = os.pipe()
        stack.callback(os.close, log_write)
        undo = stack.enter_context(ExitStack())  # what must not stay if any step below fails
        undo.callback(ours.close)
        undo.callback(os.close, log_read)
        held = claim() if os.geteuid() == 0 else None
        if held:
            undo.callback(held.release)
        group = workshop.backend.make(group_name(str(number))) if workshop.backend else None
        if group:
            undo.callback(group.remove)
            group.limit(limits)
        start = _confined if workshop.ground.confined else _plain
        sandbox = start(
            workshop, limits, group, _Ends(number, lease, theirs, log_read, log_write, held)
        )
        sandbox.claim = held
        sandbox.oom_fd = group.watch() if group else None
        ours.sendall(workshop.bundle)
        undo.pop_all()
        return sandbox, ours.detach(), log_read


@dataclass(frozen=True)
class _Ends:
    """What one start needs beside the policy."""

    number: int
    lease: str
    channel: socket.socket
    log_read: int
    log_write: int
    held: Claim | None

    def popen(
        self,
        command: list[str],
        passed: tuple[int, ...],
        environment: dict[str, str],
        *,
        session: bool,
    ) -> "subprocess.Popen[bytes]":
        """Started with nothing of ours: a job can read its first process's environment."""
        uid = self.held.uid if self.held else None
        return subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=self.log_write, stderr=self.log_write,
            pass_fds=passed, env=environment, cwd="/", umask=0o077, start_new_session=session,
            user=uid, group=uid, extra_groups=None if uid is None else [],
        )  # fmt: skip


def _confined(workshop: Workshop, limits: Limits, group: Group | None, ends: _Ends) -> Spawned:
    with ExitStack() as stack:
        block_read, block_write = os.pipe()
        info_read, info_write = os.pipe()
        inner = os.memfd_create("filter")
        for descriptor in (block_read, block_write, info_read, inner):
            stack.callback(os.close, descriptor)
        with os.fdopen(info_write, "wb") as theirs:  # closed here, so that a death there is seen
            os.write(inner, workshop.filter)
            os.lseek(inner, 0, os.SEEK_SET)
            fds = bubblewrap.Descriptors(ends.channel.fileno(), block_read, theirs.fileno(), inner)
            program = _program(workshop, limits, group, fds.channel)
            command = bubblewrap.command(workshop.ground, limits, fds, program)
            process = ends.popen(command, fds.passed, {}, session=False)
        inner_pid = 0
        try:
            inner_pid = _inner_pid(info_read, ends.log_read)
            if group:
                group.add(inner_pid)  # still blocked: whatever it starts later is born inside
            os.write(block_write, b"1")
        except BaseException:
            if inner_pid:  # until it is set up, it does not die with bubblewrap
                with suppress(ProcessLookupError):
                    os.kill(inner_pid, signal.SIGKILL)
            process.kill()
            process.wait()
            raise
    return Spawned(ends.number, ends.lease, Started(process, inner_pid), group)


def _plain(workshop: Workshop, limits: Limits, group: Group | None, ends: _Ends) -> Spawned:
    """A plain child: no sandbox at all, for development only."""
    channel = ends.channel.fileno()
    program = _program(workshop, limits, group, channel)
    command = [workshop.ground.python, "-I", "-S", "-B", "-u", "-c", program]
    process = ends.popen(command, (channel,), workshop.ground.environment(), session=True)
    return Spawned(ends.number, ends.lease, Started(process, process.pid), group)


def _program(workshop: Workshop, limits: Limits, group: Group | None, channel_fd: int) -> str:
    grouped = group is not None or not workshop.ground.confined
    found = rlimits.pairs(limits, grouped=grouped, kernel=workshop.kernel)
    return rlimits.bootstrap(
        found, channel_fd=channel_fd, site=workshop.ground.site, modules=workshop.modules
    )


def _inner_pid(info_fd: int, log_fd: int) -> int:
    """The pid of the first process inside, which waits for our word."""
    said = b""
    deadline = time.monotonic() + START_TIMEOUT_SECONDS
    while b"}" not in said:
        readable, _, _ = select.select([info_fd], [], [], max(0.0, deadline - time.monotonic()))
        piece = os.read(info_fd, PIECE_BYTES) if readable else b""
        if not piece:
            break
        said += piece
    try:
        return int(json.loads(said)["child-pid"])
    except (ValueError, KeyError, TypeError):
        os.set_blocking(log_fd, False)
        try:
            complaint = os.read(log_fd, COMPLAINT_BYTES_MAX).decode(errors="replace").strip()
        except BlockingIOError:
            complaint = "no word"
        raise NoSandbox(f"bubblewrap did not start a sandbox: {complaint}") from None
