"""Limits that a process sets on itself, and the first lines that run in a sandbox, which set them.

From outside it would need a right that the spawner may lack; they are read back before anything
else enters.
"""

import resource
from collections.abc import Iterable
from typing import Final

from compute.sandbox.policy import CHANNEL_FD, MEBIBYTE, Limits

NPROC_PER_NAMESPACE: Final = (
    5,
    14,
)  # since this kernel, processes outside the namespace do not count

BOOTSTRAP: Final = """\
import os, resource, socket, sys, types
for kind, value in {pairs!r}:
    resource.setrlimit(kind, (value, value))
    assert resource.getrlimit(kind) == (value, value)
if {channel} != {fd}:
    os.dup2({channel}, {fd}, inheritable=False)
    os.close({channel})
os.set_inheritable({fd}, False)
channel = socket.socket(fileno=os.dup({fd}))
def read(count):
    data = b""
    while len(data) < count:
        piece = channel.recv(count - len(data))
        if not piece:
            os._exit(0)
        data += piece
    return data
sys.path.insert(0, {site!r})
for _ in range({modules}):
    name = read(int.from_bytes(read(8), "little")).decode()
    source = read(int.from_bytes(read(8), "little"))
    module = sys.modules[name] = types.ModuleType(name)
    exec(compile(source, "<" + name + ">", "exec"), vars(module))
channel.close()
module.main({fd})
"""


def pairs(limits: Limits, *, grouped: bool, kernel: tuple[int, ...]) -> list[tuple[int, int]]:
    """What the program sets on itself; without a control group also its memory and processes."""
    found = [
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_MEMLOCK, 0),
        (resource.RLIMIT_MSGQUEUE, 0),
        (resource.RLIMIT_NOFILE, limits.open_files_max),
        (resource.RLIMIT_FSIZE, limits.scratch_mib * MEBIBYTE),
    ]
    if not grouped:
        found.append((resource.RLIMIT_DATA, limits.memory_mib * MEBIBYTE))
        if kernel >= NPROC_PER_NAMESPACE:
            found.append((resource.RLIMIT_NPROC, limits.processes_max))
    return found


def bootstrap(
    limit_pairs: Iterable[tuple[int, int]], *, channel_fd: int, site: str, modules: int
) -> str:
    """The program of `python -c`: limits, the channel's place, then our code from the channel."""
    return BOOTSTRAP.format(
        pairs=list(limit_pairs), channel=channel_fd, fd=CHANNEL_FD, site=site, modules=modules
    )


def bundle(sources: Iterable[tuple[str, bytes]]) -> bytes:
    """Our own code as the first bytes on the channel, so that no path of this machine shows."""
    data = b""
    for name, source in sources:
        for part in (name.encode(), source):
            data += len(part).to_bytes(8, "little") + part
    return data
