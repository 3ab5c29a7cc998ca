"""A loop in a thread of its own, with one open client: how blocking code reaches the async heart."""

import asyncio
import threading
from collections.abc import Callable, Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, TypeVar

from market.sdk import wallet
from market.sdk.client import MarketClient
from market.sdk.folders import state_folder
from settlement.domain.errors import GridpactError, Unreachable

START_SECONDS_MAX: Final = 30.0
CLOSE_SECONDS_MAX: Final = 10.0

T = TypeVar("T")
Closer = Callable[[], Coroutine[Any, Any, None]]


class Portal:
    """Runs coroutines for other threads. A blocking call from its own loop would wait for itself."""

    def __init__(self, make_client: Callable[[], MarketClient]) -> None:
        self._make_client = make_client
        self._closers: list[Closer] = []
        self._ready = threading.Event()
        self._failure: BaseException | None = None
        self._client: MarketClient | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._thread = threading.Thread(target=self._run, name="gridpact-portal", daemon=True)

    @property
    def client(self) -> MarketClient:
        if self._client is None:
            raise Unreachable("the connection to the market is closed")
        return self._client

    @property
    def alive(self) -> bool:
        """False after `close`, and in a forked child, which has no such thread."""
        return self._thread.is_alive()

    def open(self) -> None:
        """Start the thread; returns when calls can be made."""
        self._thread.start()
        self._ready.wait(START_SECONDS_MAX)
        if self._failure is not None:
            raise self._failure
        if self._client is None:
            raise Unreachable("the connection to the market did not open")

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Wait for a coroutine that runs in the portal; Ctrl-C cancels it."""
        if threading.current_thread() is self._thread:
            work.close()
            raise RuntimeError("a blocking call inside the portal's own loop: use `.aio` there")
        if self._loop is None or not self.alive:
            work.close()
            raise Unreachable("the connection to the market is closed")
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def at_close(self, closer: Closer) -> None:
        """What to await before the client closes."""
        self._closers.append(closer)

    def close(self) -> None:
        """Seal what is open, close the client, end the thread. May be called twice."""
        if self._loop is None or self._stop is None or not self.alive:
            return
        with suppress(RuntimeError):  # the loop ended meanwhile
            self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(CLOSE_SECONDS_MAX)

    def _run(self) -> None:
        try:
            asyncio.run(self._main())
        except BaseException as error:  # noqa: BLE001 - told to the thread that waits
            self._failure = error
        finally:
            self._client = None
            self._ready.set()

    async def _main(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        async with self._make_client() as client:
            self._client = client
            self._ready.set()
            await self._stop.wait()
            # An unsealed session costs nobody anything: the market seals idle ones itself.
            with suppress(GridpactError, TimeoutError):
                async with asyncio.timeout(CLOSE_SECONDS_MAX / 2), asyncio.TaskGroup() as group:
                    for closer in self._closers:
                        group.create_task(_quietly(closer))


async def _quietly(closer: Closer) -> None:
    with suppress(GridpactError):
        await closer()


class Home:
    """Which market and key this program means, and the portal to it, opened when first needed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._portal: Portal | None = None
        self._url: str | None = None
        self._key: str | None = None
        self._folder: Path | None = None

    def configure(
        self, *, url: str | None, key: str | Path | None, home: str | Path | None
    ) -> None:
        self.close()
        self._url = url
        self._key = str(key) if key is not None else None
        self._folder = Path(home) if home is not None else None

    def portal(self) -> Portal:
        with self._lock:
            if self._portal is None or not self._portal.alive:
                portal = Portal(self._make_client)
                portal.open()
                self._portal = portal
            return self._portal

    def close(self) -> None:
        with self._lock:
            portal, self._portal = self._portal, None
        if portal is not None:
            portal.close()

    def _make_client(self) -> MarketClient:
        folder = self._folder or state_folder()
        choice = wallet.choose(folder, url=self._url, key_path=self._key)
        return MarketClient(choice.url, wallet.load_key(choice.key_path), home=choice.home)
