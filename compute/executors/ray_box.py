"""The box around a provider's Ray: own user, net, pid and ipc namespaces, one door each way.

Inside, Ray finds default ports free and no way to a real interface; its first process takes
everything along when it ends. The door out is the spawner's socket, the door in is the channel.
"""

import asyncio
import json
import os
import secrets
import signal
import socket
import subprocess
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from compute.executors.ground import SOCKET_NAME, Ground
from compute.sandbox.bubblewrap import system_binds
from compute.sandbox.policy import HARDWARE_VARIABLES
from compute.sandbox.staging import StagedRay, python_minor
from settlement.domain.errors import NoRay, SlotLost
from settlement.domain.resources import Resources

STAGE_INSIDE: Final = "/ray"
CODE_INSIDE: Final = "/code"
HOME_INSIDE: Final = "/tmp"  # noqa: S108 - the box's own, made new for it
TOKEN_INSIDE: Final = "/run/token"  # noqa: S105 - where it stands, not what it is
DOOR_INSIDE: Final = "/run/spawner"
LOG_NAME: Final = "bridge.log"
TOKEN_BYTES: Final = 32
LOG_TAIL_BYTES: Final = 1500
ETC: Final = ("/etc/hosts", "/etc/ld.so.cache", "/etc/nsswitch.conf")
INFO_BYTES: Final = 4096
STOP_TIMEOUT_SECONDS: Final = 10.0
PROGRAM: Final = "from compute.executors.ray_cluster import main; main()"


@dataclass
class RayBox:
    """A started box."""

    process: asyncio.subprocess.Process
    first: int  # a pidfd of its first process, by whose death all others die
    channel: socket.socket
    log: Path

    @staticmethod
    async def start(
        ground: Ground, stage: StagedRay, capacity: Resources, uid: int | None
    ) -> "RayBox":
        """Start it; the bridge inside says ready on the channel."""
        if ground.bwrap is None:
            raise NoRay("Ray is started in a box of bubblewrap, which is missing here")
        log = ground.folder / LOG_NAME
        process: asyncio.subprocess.Process | None = None
        saying: asyncio.Future[int] | None = None
        with ExitStack() as stack:
            ours, theirs = socket.socketpair()
            stack.enter_context(theirs)
            token = os.memfd_create("token")
            stack.callback(os.close, token)
            os.write(token, secrets.token_hex(TOKEN_BYTES).encode())
            os.lseek(token, 0, os.SEEK_SET)
            info_read, info_write = os.pipe()
            stack.callback(os.close, info_read)
            closing = stack.enter_context(ExitStack())
            closing.callback(os.close, info_write)
            output = stack.enter_context(log.open("wb"))
            arguments = bridge_arguments(ground.protection, theirs.fileno(), capacity)
            try:
                process = await asyncio.create_subprocess_exec(
                    *command(ground, stage, token, info_write), *arguments,
                    stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                    pass_fds=(token, info_write, theirs.fileno()), env={}, cwd="/", umask=0o077,
                    start_new_session=True,
                    user=uid, group=uid, extra_groups=None if uid is None else [],
                )  # fmt: skip
                closing.close()
                loop = asyncio.get_running_loop()
                saying = loop.run_in_executor(None, _first_pid, info_read)
                first = os.pidfd_open(await asyncio.shield(saying))
            except BaseException as error:  # a start that is cancelled leaves nothing either
                ours.close()
                if process is not None:
                    await _undo(process, saying)
                if not isinstance(error, (OSError, ValueError)):
                    raise
                raise NoRay(f"the box did not start: {error}: {_tail(log)}") from None
        return RayBox(process, first, ours, log)

    def complaint(self) -> str:
        """The end of what the processes inside wrote."""
        return _tail(self.log)

    async def stop(self) -> None:
        """Kill the first process inside and wait: it is gone when all others are."""
        loop, gone = asyncio.get_running_loop(), asyncio.Event()
        loop.add_reader(self.first, gone.set)
        try:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self.first, signal.SIGKILL)
            async with asyncio.timeout(STOP_TIMEOUT_SECONDS):
                await gone.wait()
                await self.process.wait()
        except TimeoutError:
            raise SlotLost("the box around Ray does not end") from None
        finally:
            loop.remove_reader(self.first)
            os.close(self.first)


async def _undo(process: asyncio.subprocess.Process, saying: "asyncio.Future[int] | None") -> None:
    """End a box half made: until it is set up, its first process does not die with bubblewrap."""
    if saying is not None:
        with suppress(OSError, ValueError):
            os.kill(await saying, signal.SIGKILL)
    with suppress(ProcessLookupError):
        process.kill()
    await process.wait()


def _tail(log: Path) -> str:
    try:
        return log.read_bytes()[-LOG_TAIL_BYTES:].decode(errors="replace").strip()
    except OSError:
        return "no log"


def _first_pid(info_fd: int) -> int:
    """Blocks until bubblewrap has said it, or ended."""
    said = b""
    while b"}" not in said and (piece := os.read(info_fd, INFO_BYTES)):
        said += piece
    return int(json.loads(said)["child-pid"])


def command(ground: Ground, stage: StagedRay, token_fd: int, info_fd: int) -> list[str]:
    """Bubblewrap and the interpreter; nothing of the host but its libraries and our staged folder."""
    variables = [part for pair in environment().items() for part in ("--setenv", *pair)]
    etc = [part for path in ETC for part in ("--ro-bind-try", path, path)]
    return [
        str(ground.bwrap), "--unshare-user", "--unshare-pid", "--unshare-net", "--unshare-ipc",
        "--unshare-uts", "--unshare-cgroup-try", "--die-with-parent", "--new-session", "--clearenv",
        "--hostname", "ray",
        *system_binds(), *etc,
        "--ro-bind", str(stage.home), STAGE_INSIDE, "--ro-bind", str(stage.code), CODE_INSIDE,
        "--proc", "/proc", "--dev", "/dev", "--tmpfs", HOME_INSIDE, "--chdir", HOME_INSIDE,
        "--ro-bind", str(ground.folder), DOOR_INSIDE,
        "--info-fd", str(info_fd), "--perms", "0600", "--file", str(token_fd), TOKEN_INSIDE,
        *variables,
        f"{STAGE_INSIDE}/bin/python{python_minor()}", "-B", "-c", PROGRAM,
    ]  # fmt: skip


def bridge_arguments(protection: str, channel_fd: int, capacity: Resources) -> list[str]:
    """What the bridge is told on its command line."""
    figures = (channel_fd, capacity.cpus_milli, capacity.memory_mib, capacity.gpus)
    return [f"{DOOR_INSIDE}/{SOCKET_NAME}", protection, *map(str, figures)]


def environment() -> dict[str, str]:
    """Set before the import of ray, which does not see what comes later."""
    hardware = {name: os.environ[name] for name in HARDWARE_VARIABLES if name in os.environ}
    return {
        **hardware,
        "HOME": HOME_INSIDE,
        "LANG": "C.UTF-8",
        "LD_LIBRARY_PATH": f"{STAGE_INSIDE}/lib",
        "PATH": "/usr/bin:/bin",
        "PYTHONPATH": f"{CODE_INSIDE}:{STAGE_INSIDE}/site",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": TOKEN_INSIDE,
        "RAY_DEDUP_LOGS": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_memory_monitor_refresh_ms": "0",
        "USER": "ray",
    }
