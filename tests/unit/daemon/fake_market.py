"""A market's edge for the tests of the daemon: real hand-shake and frames, no books behind them."""

import asyncio
import time
from collections.abc import Callable
from types import TracebackType
from typing import Final, Self, TypeVar, cast

from aiohttp import WSMsgType, web

from market.wire import codec, signed_request
from market.wire.control import (
    PROTOCOL,
    Done,
    Hello,
    Lost,
    Settled,
    ToDaemon,
    ToMarket,
    Welcome,
)
from market.wire.explorer import LedgerTransfer, LedgerTransfers, LoggedReceipt, LoggedReceipts
from market.wire.trade import (
    AccountView,
    MarketView,
    OfferPut,
    Offers,
    OfferView,
    Providers,
    ProviderView,
)
from settlement.domain import canonical, statement
from settlement.domain.errors import GridpactError
from settlement.domain.identity import PrivateKey
from settlement.domain.resources import Rates, Resources
from settlement.domain.trade import Offer
from tests.unit.daemon.makers import MARKET

PATIENCE_SECONDS: Final = 60.0  # until a test gives up; nothing is measured by it
POLL_SECONDS: Final = 0.005
_TO_MARKET: Final = cast("type[ToMarket]", ToMarket)

F = TypeVar("F")


class FakeMarket:
    """Says what a test tells it to say, keeps what it hears, acknowledges what is answered."""

    def __init__(self) -> None:
        self.blobs: dict[str, bytes] = {}
        self.offers: list[Offer] = []
        self.frames: list[ToMarket] = []
        self.callers: list[str] = []
        self.leases: list[str] = []
        self.others: list[Rates] = []
        self.held: list[LedgerTransfer] = []
        self.logged: list[LoggedReceipt] = []
        self.settles = True
        self.refuses_sessions = False
        self.refuses_offers = False
        self.port = 0
        self._socket: web.WebSocketResponse | None = None
        self._runner: web.AppRunner | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def __aenter__(self) -> Self:
        app = web.Application(client_max_size=codec.FRAME_BYTES_MAX)
        app.add_routes([
            web.get("/v1/market", self._view),
            web.put("/v1/offers", self._offer),
            web.get("/v1/blobs/{digest}", self._get_blob),
            web.put("/v1/blobs/{digest}", self._put_blob),
            web.get("/v1/control", self._control),
            web.get("/v1/providers", self._providers),
            web.get("/v1/accounts/{address}", self._account),
            web.get("/livez", self._live),
            web.get("/v1/offers", self._offers),
            web.get("/v1/ledger/accounts/{address}/transfers", self._held),
            web.get("/v1/ledger/receipts", self._receipts),
        ])  # fmt: skip
        self._runner = web.AppRunner(app, shutdown_timeout=1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.port = self._runner.addresses[0][1]
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.drop()
        if self._runner is not None:
            await self._runner.cleanup()

    # ── what tests use

    def blob(self, data: bytes) -> str:
        self.blobs[canonical.digest(data)] = data
        return canonical.digest(data)

    async def say(self, frame: ToDaemon) -> None:
        assert self._socket is not None
        await self._socket.send_bytes(codec.pack(frame))

    async def drop(self) -> None:
        """Cut the connection."""
        if self._socket is not None:
            await self._socket.close()
            self._socket = None

    async def heard(self, kind: type[F], number: int = 1) -> F:
        """The frame of a kind, the `number`th of them from the start."""

        def there() -> bool:
            return len(self.all(kind)) >= number

        await self.until(there)
        return self.all(kind)[number - 1]

    def all(self, kind: type[F]) -> list[F]:
        return [frame for frame in self.frames if isinstance(frame, kind)]

    async def until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not holds():  # noqa: ASYNC110 - what holds may change anywhere
                await asyncio.sleep(POLL_SECONDS)

    # ── the edge

    async def _view(self, request: web.Request) -> web.Response:
        key = "1" * 64
        view = MarketView(
            market=MARKET, version="0", log_key="log", ledger_key=key, operator=key, devstack=True,
            fee_basis_points=500, check_basis_points=1_000, hold_ms=0,
        )  # fmt: skip
        return web.json_response(body=codec.encode(view))

    async def _offer(self, request: web.Request) -> web.Response:
        if self.refuses_offers:
            raise web.HTTPServiceUnavailable
        body = codec.decode(await self._body(request), OfferPut)
        offer, _ = statement.open_envelope(body.offer, Offer, market=MARKET)
        self.offers.append(offer)
        return web.json_response({})

    async def _get_blob(self, request: web.Request) -> web.Response:
        self._caller(request)
        data = self.blobs.get(request.match_info["digest"])
        if data is None:
            raise web.HTTPNotFound
        return web.Response(body=data)

    async def _put_blob(self, request: web.Request) -> web.Response:
        data = await self._body(request)
        assert canonical.digest(data) == request.match_info["digest"]
        self.blob(data)
        return web.Response(status=201)

    async def _providers(self, request: web.Request) -> web.Response:
        view = ProviderView(
            address=key().address, name="alpha", connected=True, draining=False, agreed=1,
            differed=0, reputation=0.75, receipts=3, chunks=4, seconds=1.5, earned="1250000",
            leases=2, protection="S",
        )  # fmt: skip
        return web.json_response(body=codec.encode(Providers([view])))

    async def _account(self, request: web.Request) -> web.Response:
        address = self._caller(request)
        assert address == request.match_info["address"]
        view = AccountView(address, "1000000", "250000", "0", "0")
        return web.json_response(body=codec.encode(view))

    async def _live(self, request: web.Request) -> web.Response:
        return web.json_response({})

    async def _offers(self, request: web.Request) -> web.Response:
        views = [
            OfferView(
                provider=f"{number:064x}", name="other", digest=canonical.digest(b"offer"),
                capacity=Resources(1_000, 1_024, 0), free=Resources(1_000, 1_024, 0), rates=rates,
                hourly="0", protection="S", environments=[], reputation=0.5, checks=0, connected=True,
                expires_ms=1,
            )
            for number, rates in enumerate(self.others, start=1)
        ]  # fmt: skip
        return web.json_response(body=codec.encode(Offers(views)))

    async def _held(self, request: web.Request) -> web.Response:
        assert request.query["purpose"] == "held"
        return web.json_response(body=codec.encode(LedgerTransfers(self.held, "")))

    async def _receipts(self, request: web.Request) -> web.Response:
        assert request.query["provider"] == key().address
        return web.json_response(body=codec.encode(LoggedReceipts(self.logged, "")))

    async def _control(self, request: web.Request) -> web.WebSocketResponse:
        self.callers.append(self._caller(request))
        if self.refuses_sessions:
            raise web.HTTPServiceUnavailable
        socket = web.WebSocketResponse(max_msg_size=codec.FRAME_BYTES_MAX)
        await socket.prepare(request)
        async for message in socket:
            assert message.type is WSMsgType.BINARY
            await self._take(socket, codec.unpack(message.data, _TO_MARKET))
        return socket

    async def _take(self, socket: web.WebSocketResponse, frame: ToMarket) -> None:
        if isinstance(frame, Hello):
            welcome = Welcome(market=MARKET, protocol=PROTOCOL, leases=self.leases)
            await socket.send_bytes(codec.pack(welcome))
            self._socket = socket
        if isinstance(frame, Done | Lost) and self.settles:
            settled = Settled(attempt=frame.attempt, state="accepted", reason="")
            await socket.send_bytes(codec.pack(settled))
        self.frames.append(frame)

    async def _body(self, request: web.Request) -> bytes:
        body = await request.read()
        self._caller(request)
        signed_request.verify_body(self._signed(request), body)
        return body

    def _caller(self, request: web.Request) -> str:
        try:
            caller = signed_request.verify(
                self._signed(request),
                authorities=frozenset({f"127.0.0.1:{self.port}"}),
                now=int(time.time()),
            )
        except GridpactError as error:
            raise web.HTTPUnauthorized(text=str(error)) from None
        return caller.address

    def _signed(self, request: web.Request) -> signed_request.Request:
        return signed_request.Request(
            method=request.method,
            authority=request.headers["Host"],
            path=request.rel_url.raw_path,
            query=f"?{request.rel_url.raw_query_string}",
            headers={name.lower(): value for name, value in request.headers.items()},
        )


def key() -> PrivateKey:
    return PrivateKey(bytes(range(32)))
