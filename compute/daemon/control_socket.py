"""The owner's door to a running daemon: a Unix socket in its home, one JSON object a line.

Whoever may open the home (mode 0700) may speak; the socket itself has mode 0600, and a caller of
another user than the daemon's or root is not heard. Paths are reached through a descriptor of the
folder, since a socket's address has room for 107 bytes only.
"""

import asyncio
import os
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final, cast

from compute.daemon.console import Answer, Drain, Refused, Request
from market.wire import codec
from settlement.domain.errors import GridpactError, MisConfigured, NotFound, Unreachable

SOCKET_FILE: Final = "control.sock"
SOCKET_MODE: Final = 0o600
LINE_BYTES_MAX: Final = 64 * 1024
ANSWER_BYTES_MAX: Final = codec.BODY_BYTES_MAX  # room for all leases that one machine may hold
CALLERS_MAX: Final = 16
IDLE_SECONDS: Final = 30.0  # for a caller that says nothing
ANSWER_SECONDS: Final = 60.0
CREDENTIALS: Final = struct.Struct("3i")  # pid, uid, gid

_REQUEST: Final = cast("type[Request]", Request)  # a union of types is no type to mypy
_ANSWER: Final = cast("type[Answer]", Answer)

Answering = Callable[[Request], Awaitable[Answer]]


@asynccontextmanager
async def serving(home: Path, answering: Answering) -> AsyncIterator[None]:
    """Listen as long as the block runs. Only the holder of the home's journal may call this."""
    listener = _listen(home)
    callers: set[asyncio.StreamWriter] = set()

    async def heard(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        callers.add(writer)
        try:
            if len(callers) <= CALLERS_MAX and _trusted(writer):
                await _converse(reader, writer, answering)
        except (OSError, TimeoutError):
            pass  # the caller has gone, or says nothing
        finally:
            callers.discard(writer)
            writer.close()

    server = await asyncio.start_unix_server(heard, sock=listener, limit=LINE_BYTES_MAX)
    try:
        async with server:
            yield
            for writer in callers:  # whoever waits for the end sees it now
                writer.close()
    finally:
        (home / SOCKET_FILE).unlink(missing_ok=True)


async def _converse(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, answering: Answering
) -> None:
    patience_seconds: float | None = IDLE_SECONDS
    while True:
        try:
            async with asyncio.timeout(patience_seconds):
                line = await reader.readline()
        except ValueError:
            line = b"\n"  # longer than the limit: refused like any other that cannot be read
        if not line:
            return
        try:
            request = codec.decode(line, _REQUEST)
        except GridpactError as error:
            writer.write(_line(Refused(code=error.code, detail=error.detail)))
            await writer.drain()
            return
        writer.write(_line(await answering(request)))
        await writer.drain()
        if isinstance(request, Drain):
            patience_seconds = None  # the caller may wait for the end


def _listen(home: Path) -> socket.socket:
    path = home / SOCKET_FILE
    path.unlink(missing_ok=True)  # of a daemon that was killed
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    folder = os.open(home, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    before = os.umask(0o777 & ~SOCKET_MODE)
    try:
        listener.bind(f"/proc/self/fd/{folder}/{SOCKET_FILE}")
    except OSError as error:
        listener.close()
        raise MisConfigured(f"{path}: {error.strerror}") from None
    finally:
        os.umask(before)
        os.close(folder)
    listener.setblocking(False)  # noqa: FBT003 - the socket's own signature
    return listener


def _trusted(writer: asyncio.StreamWriter) -> bool:
    """The daemon's own user, or root."""
    channel = writer.get_extra_info("socket")
    data = channel.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, CREDENTIALS.size)
    _, uid, _ = CREDENTIALS.unpack(data)
    return uid in {0, os.geteuid()}


def _line(answer: Answer) -> bytes:
    return codec.encode(answer) + b"\n"


# ── the owner's side ────────────────────────────────────────────────────────────────────────


def ask(home: Path, request: Request, *, until_gone: bool = False) -> Answer:
    """One question to the daemon of a home; with `until_gone` wait until it has ended as well."""
    try:
        with _connect(home) as channel:
            channel.settimeout(ANSWER_SECONDS)
            channel.sendall(codec.encode(request) + b"\n")
            answer = codec.decode(_read_line(channel), _ANSWER)
            if until_gone and not isinstance(answer, Refused):
                _wait_gone(channel)
    except OSError as error:
        raise Unreachable(f"the daemon in {home} does not answer: {error}") from None
    if isinstance(answer, Refused):
        raise GridpactError.from_code(answer.code, answer.detail)
    return answer


def _connect(home: Path) -> socket.socket:
    channel = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        folder = os.open(home, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            channel.connect(f"/proc/self/fd/{folder}/{SOCKET_FILE}")
        finally:
            os.close(folder)
    except (FileNotFoundError, ConnectionRefusedError):
        channel.close()
        raise NotFound(
            f"no daemon runs in {home}: start it with `gridpact provider join`"
        ) from None
    except OSError:
        channel.close()
        raise
    return channel


def _read_line(channel: socket.socket) -> bytes:
    data = b""
    while not data.endswith(b"\n"):
        more = channel.recv(LINE_BYTES_MAX)
        if not more or len(data) > ANSWER_BYTES_MAX:
            raise Unreachable("the daemon has ended before it answered")
        data += more
    return data


def _wait_gone(channel: socket.socket) -> None:
    """The daemon's last act is to close its door."""
    channel.settimeout(None)
    with suppress(ConnectionResetError):
        while channel.recv(LINE_BYTES_MAX):
            pass
