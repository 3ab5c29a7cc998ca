"""The composition: one process that watches logs, talks to its peers and serves; or mirrors one log."""

import asyncio
import fcntl
import hashlib
import logging
import signal
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from aiohttp import web

from settlement.domain import checkpoint
from settlement.domain.errors import (
    BadCheckpoint,
    BadLog,
    GridpactError,
    Malformed,
    MisConfigured,
    Unavailable,
    Unreachable,
)  # fmt: skip
from settlement.domain.identity import PrivateKey
from settlement.validator.cosigner import Signer
from settlement.validator.gossip import Gossip
from settlement.validator.mirror import Mirror, static_app
from settlement.validator.routes import Overview, Routes
from settlement.validator.source import HttpSource, http_address, new_session
from settlement.validator.watch import Watch

INTERVAL_SECONDS: Final = 1.0
SHUTDOWN_SECONDS: Final = 5.0
PORT_MAX: Final = 65_535
LOCK_FILE: Final = ".lock"
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Market:
    """A market's address and its log's verifier key."""

    url: str
    log_key: str


@dataclass(frozen=True, slots=True)
class Plan:
    """What a validator is to do."""

    markets: tuple[Market, ...]
    name: str
    key: PrivateKey
    folder: Path
    listen: tuple[str, int] | None = None
    peers: tuple[str, ...] = ()
    interval_seconds: float = INTERVAL_SECONDS


def parse_listen(text: str) -> tuple[str, int]:
    """`HOST:PORT`; an IPv6 host stands in brackets."""
    host, separator, port = text.rpartition(":")
    if not separator or not host or not port.isdecimal() or int(port) > PORT_MAX:
        raise Malformed(f"{text!r} is not HOST:PORT")
    return host.strip("[]"), int(port)


@contextmanager
def only_one(folder: Path) -> Iterator[None]:
    """Two processes on one folder could cosign two roots of one size."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / LOCK_FILE).open("w")
    except OSError as error:
        raise MisConfigured(f"{folder}: {error.strerror}") from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise MisConfigured(f"another process works in {folder}") from None
        yield


@asynccontextmanager
async def serving(app: web.Application, listen: tuple[str, int] | None) -> AsyncIterator[None]:
    """The application at its address, while the block runs; nothing without one."""
    if listen is None:
        yield
        return
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=SHUTDOWN_SECONDS)
    await runner.setup()
    try:
        await web.TCPSite(runner, *listen).start()
    except OSError as error:
        await runner.cleanup()
        raise Unavailable(f"{listen[0]}:{listen[1]}: {error.strerror}") from None
    try:
        yield
    finally:
        await runner.cleanup()


class Validator:
    """All logs of one validator."""

    def __init__(self, plan: Plan, gossip: Gossip, watches: dict[str, tuple[Watch, str]]) -> None:
        self._plan, self.gossip, self._watches = plan, gossip, watches
        self.routes = Routes({name: watch for name, (watch, _) in watches.items()}, gossip.notes)

    @property
    def watches(self) -> list[Watch]:
        return [watch for watch, _ in self._watches.values()]

    async def round(self) -> None:
        """One look at every log and every peer."""
        for watch, url in self._watches.values():
            await self._round(watch, url)

    async def run(self) -> None:
        """For ever."""
        async with asyncio.TaskGroup() as group:
            for watch, url in self._watches.values():
                group.create_task(self._run(watch, url))

    async def _run(self, watch: Watch, url: str) -> None:
        while True:
            await self._round(watch, url)
            await watch.wait(self._plan.interval_seconds)

    async def _round(self, watch: Watch, url: str) -> None:
        if not watch.refused:
            await self.gossip.ask(watch, url)
        await watch.round()
        await self.gossip.listen(watch)
        if not watch.refused:
            await self.gossip.tell(watch, url)


def folder_of(folder: Path, log_key: str) -> Path:
    """Where one log's files are in a validator's folder: by its name, which outlives its keys."""
    origin = checkpoint.parse_verifier_key(log_key).name
    return folder / hashlib.sha256(origin.encode()).hexdigest()[:16]


@asynccontextmanager
async def opened(plan: Plan) -> AsyncIterator[Validator]:
    """A validator that serves; what it knows is saved at the end."""
    signer = Signer(plan.name, plan.key)
    with only_one(plan.folder):
        async with new_session() as session:
            watches: dict[str, tuple[Watch, str]] = {}
            for market in plan.markets:
                url, folder = http_address(market.url), folder_of(plan.folder, market.log_key)
                watch = Watch(folder, HttpSource(session, url), market.log_key, signer)
                if watch.origin in watches:
                    raise MisConfigured(f"the log {watch.origin} is named twice")
                watch.load()
                watches[watch.origin] = watch, url
            if not watches:
                raise MisConfigured("name at least one market and its log's key")
            validator = Validator(plan, Gossip(session, list(plan.peers)), watches)
            async with serving(validator.routes.app(), plan.listen):
                try:
                    yield validator
                finally:
                    for watch in validator.watches:
                        watch.save()


async def validate(plan: Plan, *, once: bool = False) -> Overview:
    """Run until a signal, or for one round; how all logs stand at the end."""
    async with opened(plan) as validator:
        if once:
            await validator.round()
        else:
            await until_signal(validator.run())
        return validator.routes.overview()


async def until_signal(work: Coroutine[None, None, None]) -> None:
    """Work until it fails, or until the process is asked to end."""
    asked = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, asked.set)
    try:
        async with asyncio.TaskGroup() as group:
            working = group.create_task(work)
            group.create_task(_cancel_when(asked, working))
    except ExceptionGroup as errors:
        raise _first(errors) from None
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)


def _first(error: Exception) -> Exception:
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    return error


async def _cancel_when(asked: asyncio.Event, working: "asyncio.Task[None]") -> None:
    await asked.wait()
    working.cancel()


async def mirror(
    folder: Path,
    url: str,
    log_key: str,
    *,
    listen: tuple[str, int] | None,
    once: bool,
    interval_seconds: float = INTERVAL_SECONDS,
) -> int:
    """Follow until a signal, or once; the mirrored size. `SplitView` ends it."""
    checkpoint.parse_verifier_key(log_key)
    with only_one(folder):
        async with new_session() as session:
            copy = Mirror(folder, HttpSource(session, url), log_key)
            copy.load()
            async with serving(static_app(folder), listen):
                if once:
                    await copy.step()
                else:
                    await until_signal(_mirror(copy, interval_seconds))
            return copy.copy.size


async def _mirror(copy: Mirror, interval_seconds: float) -> None:
    """What is wrong with a file or with the connection may pass; a split does not."""
    last = ""
    while True:
        try:
            await copy.step()
            last = ""
        except (Unreachable, BadLog, BadCheckpoint) as error:
            last = _say_once(last, error)
        await asyncio.sleep(interval_seconds)


def _say_once(last: str, error: GridpactError) -> str:
    if error.detail != last:
        _log.warning("%s", error.detail)
    return error.detail
