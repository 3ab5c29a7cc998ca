"""The market's side of a provider's control channel: one session, its outbox and its inbox.

Desired state stands in PostgreSQL; a session only carries it. What a session has sent is remembered
here and nowhere else, so a new session starts by telling everything again.
"""

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final, assert_never
from uuid import UUID

import structlog
from aiohttp import WSMsgType, web

from market.http import auth
from market.http.state import CLOSING, MARKET, METRICS, Closing, Metrics
from market.service import leases, providers, receipts
from market.service.market import Market
from market.store import control
from market.store.bus import provider_topic, wait
from market.store.rows import Connection
from market.wire import codec
from market.wire.codec import FRAME_BYTES_MAX
from market.wire.control import (
    HEARTBEAT_SECONDS,
    PROTOCOL,
    SILENCE_SECONDS_MAX,
    Beat,
    Close,
    Done,
    Drain,
    Hello,
    Lost,
    Ready,
    Refuse,
    Settled,
    ToDaemon,
    ToMarket,
    Welcome,
)  # fmt: skip
from settlement.domain.errors import GridpactError, Malformed, Unavailable

POLL_SECONDS: Final = 1.0  # a wake-up that was lost costs this much
PROTOCOL_ERROR: Final = 4000
TAKEN_OVER: Final = 4001
_log = structlog.get_logger()


class _Ended(Exception):
    """The session is over; the task group ends with it."""


class Session:
    """One provider's channel. Frames are handled in order; sending is one writer at a time."""

    def __init__(
        self, market: Market, metrics: Metrics, provider: str, socket: web.WebSocketResponse
    ) -> None:
        self.market, self.metrics, self.provider, self.socket = market, metrics, provider, socket
        self.id = uuid.uuid4()
        self.known: set[UUID] = set()  # leases that this session was told of
        self.ready = asyncio.Event()  # something may be to send
        self._writing = asyncio.Lock()

    async def run(self, closing: Closing) -> None:
        """From Hello to the end of the socket."""
        hello = await self._receive()
        if not isinstance(hello, Hello) or hello.protocol != PROTOCOL:
            raise Malformed(f"the first frame must be Hello of protocol {PROTOCOL}")
        open_leases = await providers.connect(
            self.market, self.provider, self.id, now_ms=self.market.clock.ms()
        )
        attempts = frozenset(UUID(attempt) for attempt in hello.attempts)
        await providers.resumed(self.market, self.provider, attempts, now_ms=self.market.clock.ms())
        await self.send(
            Welcome(
                market=self.market.origin,
                protocol=PROTOCOL,
                leases=[str(lease) for lease in open_leases],
            )
        )
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._outbox(closing))
                tasks.create_task(self._inbox())
        except BaseExceptionGroup as group:
            _, unexpected = group.split((_Ended, ConnectionError, GridpactError))
            if unexpected is not None:
                raise unexpected from None
            refused = group.subgroup(GridpactError)
            if refused is not None:
                raise refused.exceptions[0] from None

    async def send(self, frame: ToDaemon) -> None:
        async with self._writing:
            await self.socket.send_bytes(codec.pack(frame))

    async def _receive(self) -> ToMarket:
        try:
            message = await self.socket.receive(timeout=SILENCE_SECONDS_MAX)
        except TimeoutError:
            raise _Ended from None
        if message.type is not WSMsgType.BINARY:
            raise _Ended
        frame: ToMarket = codec.unpack(message.data, ToMarket)  # type: ignore[arg-type]
        return frame

    async def _inbox(self) -> None:
        while True:
            await self._handle(await self._receive())

    async def _handle(self, frame: ToMarket) -> None:
        market, provider, now = self.market, self.provider, self.market.clock.ms()
        match frame:
            case Beat():
                await self._beat(now)
            case Ready(lease=lease):
                await leases.started(market, provider, UUID(lease), now_ms=now)
            case Refuse(lease=lease, reason=reason):
                await leases.refused(market, provider, UUID(lease), reason, now_ms=now)
            case Done():
                await self._done(frame, now)
            case Lost(attempt=attempt, reason=reason):
                await leases.lost(market, provider, UUID(attempt), reason, now_ms=now)
                await self.send(Settled(attempt=attempt, state="lost", reason=reason))
            case Drain():
                await market.transact(control.drain, provider, self.id)
            case Hello():
                raise Malformed("Hello stands first and once")
            case _:
                assert_never(frame)
        self.ready.set()

    async def _beat(self, now: int) -> None:
        async def seen(connection: Connection) -> bool:
            return await control.seen(connection, self.provider, self.id, now_ms=now)

        if not await self.market.transact(seen):
            await self.socket.close(
                code=TAKEN_OVER, message=b"a newer session of this key has taken over"
            )
            raise _Ended

    async def _done(self, frame: Done, now: int) -> None:
        try:
            settled = await receipts.receive(self.market, self.provider, frame, now_ms=now)
        except GridpactError as error:  # nothing was decided: the daemon sends the receipt again
            _log.warning(
                "receipt not settled", attempt=frame.attempt, code=error.code, detail=error.detail
            )
            return
        self.metrics.receipts.labels(settled.state).inc()
        await self.send(settled)

    async def _outbox(self, closing: Closing) -> None:
        async with self.market.bus.listen(provider_topic(self.provider)) as woken:
            self.ready = woken
            while not closing.flag:
                await self._tell()
                await wait(woken, POLL_SECONDS)
        raise _Ended

    async def _tell(self) -> None:
        """Send what the daemon does not know yet: ends, grants, and work for idle leases."""
        outbox = await leases.outbox(
            self.market, self.provider, session=self.id, known=frozenset(self.known)
        )
        for lease, reason in outbox.closed:
            self.known.discard(lease)
            await self.send(Close(lease=str(lease), reason=reason))
        for grant in outbox.grants:
            self.known.add(UUID(grant.lease))
            await self.send(grant)
        for lease in outbox.idle:
            work = await leases.claim(self.market, lease, now_ms=self.market.clock.ms())
            if work is not None:
                await self.send(work)


@asynccontextmanager
async def _counted(metrics: Metrics) -> AsyncIterator[None]:
    metrics.sessions.inc()
    try:
        yield
    finally:
        metrics.sessions.dec()


async def serve(request: web.Request) -> web.StreamResponse:
    """`GET /v1/control`: the hand-shake is signed like a read; then frames."""
    caller = auth.authenticate(request)
    closing = request.app[CLOSING]
    if closing.flag:
        raise Unavailable("the server is closing")
    socket = web.WebSocketResponse(
        max_msg_size=FRAME_BYTES_MAX, heartbeat=HEARTBEAT_SECONDS * 2, compress=False
    )
    await socket.prepare(request)
    session = Session(request.app[MARKET], request.app[METRICS], caller.address, socket)
    try:
        async with _counted(request.app[METRICS]):
            await session.run(closing)
    except GridpactError as error:
        await socket.close(
            code=PROTOCOL_ERROR, message=f"{error.code}: {error.detail}"[:120].encode()
        )
    except (_Ended, ConnectionError):
        _log.info("session ended", provider=caller.address)
    finally:
        await _leave(session)
        await socket.close()
    return socket


async def _leave(session: Session) -> None:
    async def gone(connection: Connection) -> None:
        await control.disconnect(
            connection, session.provider, session.id, now_ms=session.market.clock.ms()
        )

    try:
        await session.market.transact(gone)
    except GridpactError as error:  # the database is away: silence will tell as much
        _log.warning("a session's end is not noted", provider=session.provider, code=error.code)
