"""What anybody may ask a market, and the life of a connection to it; `client.py` adds the rest."""

import asyncio
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, TypeVar

import msgspec

from market.sdk import wallet
from market.sdk.transport import REQUEST_TIMEOUT_SECONDS, Transport
from market.wire import jobs, trade
from settlement.domain.errors import Malformed, Unsigned
from settlement.domain.identity import PrivateKey

MILLISECONDS: Final = 1_000

T = TypeVar("T")


def now_ms() -> int:
    """This machine's clock, as statements carry it."""
    return time.time_ns() // 1_000_000


def read(data: bytes, kind: type[T]) -> T:
    """An answer of the market. Large pages come here, so duplicates are not searched for."""
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Malformed(f"the market's answer is not what this version knows: {error}") from None


class MarketReader:
    """A connection to one market; use it inside `async with`.

    With `home`, the market's keys are pinned in that state folder at first use and checked later.
    """

    def __init__(
        self, url: str, key: PrivateKey | None = None, *, home: Path | None = None
    ) -> None:
        self.transport = Transport(url, key)
        self.key = key
        self._home = home
        self._view: trade.MarketView | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._group: asyncio.TaskGroup | None = None
        self._background: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        await self.transport.__aenter__()
        self._group = await asyncio.TaskGroup().__aenter__()
        self._loop = asyncio.get_running_loop()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for task in self._background:
            task.cancel()
        group, self._group = self._group, None
        try:
            if group is not None:
                await group.__aexit__(None, None, None)
        finally:
            await self.transport.__aexit__(kind, error, trace)

    @property
    def url(self) -> str:
        return self.transport.origin

    @property
    def home(self) -> Path | None:
        """The state folder with the pins, if there is one."""
        return self._home

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The loop that this client's connections belong to."""
        if self._loop is None:
            raise Unsigned("the client is not open: use it inside `async with`")
        return self._loop

    @property
    def address(self) -> str:
        """The party that this client speaks for."""
        if self.key is None:
            raise Unsigned("this needs a key, and none was given")
        return self.key.address

    def start(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run something beside the caller until it ends or the client closes."""
        if self._group is None:
            raise Unsigned("the client is not open: use it inside `async with`")
        task = self._group.create_task(work())
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    # ── what anybody may read ───────────────────────────────────────────────────────────────

    async def market(self) -> trade.MarketView:
        """Who this market is, checked against the pin."""
        if self._view is None:
            data = await self.transport.request("GET", "/v1/market", signed=False)
            view = read(data, trade.MarketView)
            if self._home is not None:
                wallet.pin(self._home, self.url, view)
            self._view = view
        return self._view

    async def offers(self) -> list[trade.OfferView]:
        data = await self.transport.request("GET", "/v1/offers", signed=False)
        return read(data, trade.Offers).offers

    async def providers(self) -> list[trade.ProviderView]:
        data = await self.transport.request("GET", "/v1/providers", signed=False)
        return read(data, trade.Providers).providers

    async def environments(self) -> list[jobs.EnvironmentView]:
        data = await self.transport.request("GET", "/v1/environments", signed=False)
        return read(data, list[jobs.EnvironmentView])

    async def ledger(self) -> trade.LedgerView:
        data = await self.transport.request("GET", "/v1/ledger", signed=False)
        return read(data, trade.LedgerView)

    async def checkpoint(self) -> str:
        """The log's newest signed tree head."""
        data = await self.transport.request("GET", "/checkpoint", signed=False)
        return data.decode()

    async def health(self) -> trade.Health:
        return read(await self.transport.request("GET", "/readyz", signed=False), trade.Health)

    async def version(self) -> trade.Version:
        return read(await self.transport.request("GET", "/version", signed=False), trade.Version)

    async def evidence(self, digest: str, *, wait_ms: int = 10_000, final: bool = False) -> bytes:
        """A receipt's file: statement, inclusion proof, checkpoint; waits until it is sealed.

        `final`: until a quorum of the validators cosigned a checkpoint that covers it.
        """
        return await self._evidence("receipts", digest, wait_ms, final=final)

    async def statement_evidence(
        self, digest: str, *, wait_ms: int = 10_000, final: bool = False
    ) -> bytes:
        """The same for any statement of the log."""
        return await self._evidence("statements", digest, wait_ms, final=final)

    async def _evidence(self, kind: str, digest: str, wait_ms: int, *, final: bool) -> bytes:
        query: dict[str, str | int] = {"wait_ms": wait_ms} | ({"final": "true"} if final else {})
        return await self.transport.request(
            "GET",
            f"/v1/{kind}/{digest}/evidence",
            query=query,
            signed=False,
            timeout_seconds=REQUEST_TIMEOUT_SECONDS + wait_ms / MILLISECONDS,
        )
