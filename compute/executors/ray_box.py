"""The box around a provider's Ray: own user, net, pid and ipc namespaces, one door each way.

Inside, Ray finds default ports free and no way to a real interface; its first process takes
everything along when it ends. The door out is the spawner's socket, the door in is the channel.
"""

import asyncio
import os
import secrets
import socket
import subprocess
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from compute.executors.ground import SOCKET_NAME, Ground
from compute.sandbox.bubblewrap import system_binds
from compute.sandbox.policy import HARDWARE_VARIABLES
from compute.sandbox.staging import StagedRay, python_minor
from market.domain.resources import Resources
from settlement.domain.errors import NoRay

STAGE_INSIDE: Final = "/ray"
CODE_INSIDE: Final = "/code"
HOME_INSIDE: Final = "/tmp"  # noqa: S108 - the box's own, made new for it
TOKEN_INSIDE: Final = "/run/token"  # noqa: S105 - where it stands, not what it is
DOOR_INSIDE: Final = "/run/spawner"
LOG_NAME: Final = "bridge.log"
TOKEN_BYTES: Final = 32
LOG_TAIL_BYTES: Final = 1500
ETC: Final = ("/etc/hosts", "/etc/ld.so.cache", "/etc/nsswitch.conf")
STOP_TIMEOUT_SECONDS: Final = 10.0
PROGRAM: Final = "from compute.executors.ray_cluster import main; main()"


@dataclass
class RayBox:
    """A started box."""

    process: asyncio.subprocess.Process
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
        with ExitStack() as stack:
            ours, theirs = socket.socketpair()
            stack.enter_context(theirs)
            token = os.memfd_create("token")
            stack.callback(os.close, token)
            os.write(token, secrets.token_hex(TOKEN_BYTES).encode())
            os.lseek(token, 0, os.SEEK_SET)
            output = stack.enter_context(log.open("wb"))
            arguments = bridge_arguments(ground.protection, theirs.fileno(), capacity)
            try:
                process = await asyncio.create_subprocess_exec(
                    *command(ground, stage, token), *arguments,
                    stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                    pass_fds=(token, theirs.fileno()), env={}, cwd="/", umask=0o077,
                    start_new_session=True,
                    user=uid, group=uid, extra_groups=None if uid is None else [],
                )  # fmt: skip
            except BaseException:
                ours.close()
                raise
        return RayBox(process, ours, log)

    def complaint(self) -> str:
        """The end of what the processes inside wrote."""
        try:
            return self.log.read_bytes()[-LOG_TAIL_BYTES:].decode(errors="replace").strip()
        except OSError:
            return "no log"

    async def stop(self) -> None:
        """Kill the outer process: the box's first one, and with it all, go by its death."""
        if self.process.returncode is None:
            self.process.kill()
        async with asyncio.timeout(STOP_TIMEOUT_SECONDS):
            await self.process.wait()


def command(ground: Ground, stage: StagedRay, token_fd: int) -> list[str]:
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
        "--perms", "0600", "--file", str(token_fd), TOKEN_INSIDE,
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
