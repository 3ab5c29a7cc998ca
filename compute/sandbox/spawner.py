"""The small privileged process that makes and ends sandboxes; it holds no key and has no network.

One thread does everything: sandboxes die with the thread that started them. It ends, and everything
with it, when its parent's end of standard input closes.
"""

import errno
import os
import selectors
import signal
import socket
import struct
import sys
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, assert_never

import msgspec

from compute.sandbox import cgroup_probe, janitor, messages, spawned
from compute.sandbox.cgroup import Reading
from compute.sandbox.messages import (
    Answer,
    End,
    Ended,
    Enumerate,
    Kill,
    Listed,
    Live,
    Meter,
    Metered,
    Refusal,
    Request,
    Setting,
    Spawn,
    Spawned,
)
from compute.sandbox.policy import Ground, Limits, within_bounds
from settlement.domain.errors import (
    Failed,
    Forbidden,
    GridpactError,
    LimitExceeded,
    Malformed,
    NotFound,
)

BACKLOG: Final = 64
CONNECTIONS_MAX: Final = 256
SEND_TIMEOUT_SECONDS: Final = 2.0
CREDENTIALS: Final = struct.Struct("3i")
SETTING_BYTES_MAX: Final = 65_536


@dataclass
class Client:
    """One connection; what it started ends with it."""

    connection: socket.socket
    is_owner: bool
    numbers: set[int] = field(default_factory=set)


class Spawner:
    """All live sandboxes, and the rules of who may ask for what."""

    def __init__(self, workshop: spawned.Workshop) -> None:
        self.workshop = workshop
        self.live: dict[int, spawned.Spawned] = {}
        self.count = 0
        self.selector = selectors.DefaultSelector()

    def answer(self, client: Client, request: Request) -> tuple[Answer, tuple[int, ...]]:
        """The answer and the descriptors that ride on it."""
        match request:
            case Spawn():
                return self._spawn(client, request)
            case Meter():
                sandbox = self._own(client, request.sandbox)
                return _metered(
                    request.id, sandbox, sandbox.read(reset_peak=request.reset_peak)
                ), ()
            case Kill():
                sandbox = self._own(client, request.sandbox)
                empty = self._end(sandbox)
                client.numbers.discard(sandbox.number)
                return _metered(request.id, sandbox, sandbox.last, empty=empty), ()
            case End():
                if not client.is_owner:
                    raise Forbidden("only the daemon ends leases")
                doomed = [s for s in self.live.values() if s.lease == request.lease]
                proofs = [self._end(sandbox) for sandbox in doomed]
                return Ended(request.id, len(proofs), all(proofs)), ()
            case Enumerate():
                live = [Live(s.number, s.lease, s.inner_pid, s.uid) for s in self.live.values()]
                return Listed(request.id, tuple(live)), ()
            case _:
                assert_never(request)

    def leave(self, client: Client) -> None:
        """A connection ended: so do its sandboxes."""
        for number in client.numbers & self.live.keys():
            self._end(self.live[number])

    def end_all(self) -> None:
        """Everything, at the spawner's own end."""
        for sandbox in list(self.live.values()):
            self._end(sandbox)

    def _spawn(self, client: Client, request: Spawn) -> tuple[Answer, tuple[int, ...]]:
        limits = Limits(
            memory_mib=request.memory_mib,
            cpus_milli=request.cpus_milli,
            processes_max=request.processes_max,
            scratch_mib=request.scratch_mib,
        )
        if not within_bounds(limits):
            raise Malformed(f"limits out of bounds: {limits}")
        if len(self.live) >= messages.SANDBOXES_MAX:
            raise LimitExceeded(f"{messages.SANDBOXES_MAX} sandboxes are live")
        self.count += 1
        sandbox, *descriptors = spawned.spawn(self.workshop, self.count, request.lease, limits)
        self.live[sandbox.number] = sandbox
        if sandbox.oom_fd is not None:
            self.selector.register(sandbox.oom_fd, selectors.EVENT_READ, sandbox)
        client.numbers.add(sandbox.number)
        return Spawned(request.id, sandbox.number), tuple(descriptors)

    def _own(self, client: Client, number: int) -> spawned.Spawned:
        if number not in self.live or number not in client.numbers:
            raise NotFound(f"no live sandbox {number} of this connection")
        return self.live[number]

    def _end(self, sandbox: spawned.Spawned) -> bool:
        if sandbox.oom_fd is not None:
            self.selector.unregister(sandbox.oom_fd)
        empty = sandbox.kill()
        if empty:  # one that will not empty stays listed: the alarm
            self.live.pop(sandbox.number, None)
        return empty


def _metered(
    number: int, sandbox: spawned.Spawned, reading: Reading, *, empty: bool = False
) -> Metered:
    return Metered(
        id=number,
        cpu_ns=reading.cpu_ns,
        memory_peak_bytes=reading.memory_peak_bytes,
        oom_kills=reading.oom_kills,
        grouped=sandbox.group is not None,
        alive=sandbox.alive,
        empty=empty,
    )


class Server:
    """The socket in front of a spawner."""

    def __init__(self, spawner: Spawner, listener: socket.socket, guest_uid: int | None) -> None:
        self.spawner, self.listener, self.guest_uid = spawner, listener, guest_uid
        self.selector = spawner.selector
        self.clients: dict[int, Client] = {}

    def serve(self, lifeline: int) -> None:
        """Until the lifeline closes."""
        self.selector.register(lifeline, selectors.EVENT_READ)
        self.selector.register(self.listener, selectors.EVENT_READ)
        while True:
            for key, _ in self.selector.select():
                if key.fd == lifeline:
                    return
                if key.fd == self.listener.fileno():
                    self._accept()
                elif isinstance(key.data, spawned.Spawned):
                    _out_of_memory(key.data)
                elif key.fd in self.clients:
                    self._hear(self.clients[key.fd])

    def _accept(self) -> None:
        connection, _ = self.listener.accept()
        raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, CREDENTIALS.size)
        _, uid, _ = CREDENTIALS.unpack(raw)
        is_owner = uid == os.geteuid()
        if len(self.clients) >= CONNECTIONS_MAX or not (is_owner or uid == self.guest_uid):
            connection.close()
            return
        connection.settimeout(SEND_TIMEOUT_SECONDS)
        self.clients[connection.fileno()] = Client(connection, is_owner)
        self.selector.register(connection, selectors.EVENT_READ)

    def _hear(self, client: Client) -> None:
        try:
            data = client.connection.recv(messages.MESSAGE_BYTES_MAX)
            if data:
                self._reply(client, messages.decode_request(data))
                return
        except (OSError, msgspec.DecodeError):
            pass  # whoever does not keep to the form is hung up on
        self.selector.unregister(client.connection)
        del self.clients[client.connection.fileno()]
        client.connection.close()
        self.spawner.leave(client)

    def _reply(self, client: Client, request: Request) -> None:
        descriptors: tuple[int, ...] = ()
        try:
            answer, descriptors = self.spawner.answer(client, request)
        except GridpactError as error:
            answer = Refusal(request.id, error.code, error.detail)
        except OSError as error:
            answer = Refusal(
                request.id, Failed.code, f"{errno.errorcode.get(error.errno or 0)}: {error}"
            )
        try:
            socket.send_fds(client.connection, [messages.encode(answer)], list(descriptors))
        finally:
            for descriptor in descriptors:
                os.close(descriptor)


def _out_of_memory(sandbox: spawned.Spawned) -> None:
    if sandbox.oom_fd is not None:  # else it was ended by an event just before
        with suppress(BlockingIOError):
            os.eventfd_read(sandbox.oom_fd)
            sandbox.out_of_memory()


def listen(path: Path, *, shared: bool) -> socket.socket:
    """A listening socket; a guest of another uid may connect where one is expected."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    path.unlink(missing_ok=True)
    listener.bind(str(path))
    path.chmod(0o666 if shared else 0o600)
    listener.listen(BACKLOG)
    return listener


def main() -> None:
    """Read the setting from standard input, say ready on standard output, serve until it closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    setting = msgspec.json.decode(_line(), type=Setting)
    backend, reasons = cgroup_probe.detect() if setting.groups else (None, ["not asked for"])
    confined = setting.bwrap is not None
    if not confined:
        backend = None
    protection = ("S" if backend else "L") if confined else "none"
    swept = janitor.sweep(backend) if backend else []
    ground = Ground(
        bwrap=Path(setting.bwrap) if setting.bwrap else None,
        python_home=Path(setting.python_home),
        python_name=setting.python_name,
        protection=protection,
        hardware=setting.hardware,
    )
    spawner = Spawner(spawned.Workshop.open(ground, backend))
    listener = listen(Path(setting.socket), shared=setting.guest_uid is not None)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    ready = messages.Ready(
        protection, backend.name if backend else "none", tuple(reasons), tuple(swept)
    )
    os.write(1, msgspec.json.encode(ready) + b"\n")
    try:
        Server(spawner, listener, setting.guest_uid).serve(lifeline=0)
    finally:
        spawner.end_all()
        with suppress(OSError):
            Path(setting.socket).unlink()


def _line() -> bytes:
    """One line from standard input, byte by byte: what follows it is the lifeline's."""
    line = b""
    while not line.endswith(b"\n"):
        piece = os.read(0, 1)
        if not piece or len(line) > SETTING_BYTES_MAX:
            raise SystemExit("no setting on standard input")
        line += piece
    return line
