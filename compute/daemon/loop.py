"""The event loop around the agent: one session with the market after another, commands carried out.

Everything the agent decides happens in `happen`, which never waits; what takes time runs in tasks
of one group and comes back as an event.
"""

import asyncio
import logging
import random
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Final, cast

import aiohttp

from compute.daemon.journal import Journal, Opened, Over
from compute.daemon.offering import Offering
from compute.daemon.slots import Slots, now_ms
from compute.daemon.tally import Tally
from compute.domain.agent import step
from compute.domain.holding import (
    Agent,
    Arm,
    Command,
    Disconnected,
    Empty,
    Event,
    Forget,
    Leave,
    Open,
    Run,
    Send,
    Tick,
)
from market.sdk.transport import Transport
from market.wire import codec
from market.wire.control import (
    HEARTBEAT_SECONDS,
    PROTOCOL,
    SILENCE_SECONDS_MAX,
    Beat,
    ToDaemon,
    ToMarket,
    Welcome,
)
from settlement.domain.errors import GridpactError, Malformed, Unreachable, WrongMarket

LOG: Final = logging.getLogger(__name__)

CONTROL_PATH: Final = "/v1/control"
OUTBOX_MAX: Final = 4_096  # frames; a market that is so far behind is taken for gone
RECONNECT_FIRST_SECONDS: Final = 0.2
RECONNECT_SECONDS_MAX: Final = 5.0
STEADY_SECONDS: Final = 10.0  # two daemons with one key throw each other out faster than this
HURRY_SECONDS: Final = 5.0  # to kill and prove empty what did not end by itself
FLUSH_SECONDS: Final = 2.0  # for the last words on their way out
OFFER_RETRY_SECONDS: Final = 60.0

_TO_DAEMON: Final = cast("type[ToDaemon]", ToDaemon)  # a union of types is no type to mypy


class Daemon:
    """One provider at one market."""

    def __init__(
        self, agent: Agent, *, transport: Transport, offering: Offering, journal: Journal
    ) -> None:
        self.agent = agent
        self._transport = transport
        self._offering = offering
        self._journal = journal
        self._slots: Slots | None = None
        self._outbox: asyncio.Queue[ToMarket] | None = None
        self.tally = Tally(offering.provider.market)
        self._idle = asyncio.Event()
        self._moved = asyncio.Event()
        self._broken = asyncio.Event()

    async def run(
        self,
        make_slots: Callable[[asyncio.TaskGroup, Callable[[Event], None]], Slots],
        *,
        leave: asyncio.Event,
        hurry: asyncio.Event,
        drain_seconds: float,
        supervise: Callable[[], Coroutine[None, None, None]] | None = None,
    ) -> None:
        """Serve until `leave` is set, then drain; `hurry` cuts the draining short.

        `supervise` keeps alive what the slots stand on, as long as the daemon runs.
        """
        self.happen(Tick(now_ms()))
        async with asyncio.TaskGroup() as hands:
            self._slots = make_slots(hands, self.happen)
            async with asyncio.TaskGroup() as group:
                serving = [
                    group.create_task(self._stay_connected(), name="market"),
                    group.create_task(self._tick(), name="clock"),
                ]
                if supervise is not None:
                    serving.append(group.create_task(supervise(), name="supervisor"))
                await leave.wait()
                LOG.info("leaving: %d chunks run", self.agent.running)
                await self._drain(hurry, drain_seconds)
                for task in serving:
                    task.cancel()
            self._slots.stop()

    def happen(self, event: Event) -> None:
        """Let the agent decide and start what it decided; nothing here waits."""
        self.tally.take(event, self.agent.answers, now_ms())
        self.agent, commands = step(self.agent, event)
        for command in commands:
            self._do(command)
        if self.agent.draining and self.agent.idle:
            self._idle.set()
        self._moved.set()

    async def emptied(self, leases: frozenset[str], seconds: float) -> bool:
        """Wait until none of the leases is held any more; whether that came before the time."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while leases & self.agent.leases.keys():
                    self._moved.clear()
                    await self._moved.wait()
        return not leases & self.agent.leases.keys()

    def _do(self, command: Command) -> None:
        assert self._slots is not None
        match command:
            case Send():
                self._send(command.frame)
            case Arm():
                self._slots.arm(command)
            case Run():
                self._slots.run(command)
            case Empty():
                self._slots.empty(command.lease)
            case Open():
                self._note(Opened(command.attempt, command.lease))
            case Forget():
                self._note(Over(command.attempt))

    def _note(self, record: Opened | Over) -> None:
        """After a restart a missing one costs a repeated word; work that goes on costs nothing."""
        try:
            self._journal.append(record)
        except OSError as error:
            LOG.error("the journal takes nothing more: %s", error)  # noqa: TRY400 - no trace

    def _send(self, frame: ToMarket) -> None:
        if self._outbox is None:
            return
        try:
            self._outbox.put_nowait(frame)
        except asyncio.QueueFull:
            self._broken.set()  # all that counts is said again in the next session

    async def _drain(self, hurry: asyncio.Event, drain_seconds: float) -> None:
        self.happen(Leave())
        if not await self._idle_or(hurry, drain_seconds):
            LOG.warning("not everything has ended: %d chunks are killed", self.agent.running)
            self.happen(Leave(now=True))
            await self._idle_or(None, HURRY_SECONDS)
        if self._outbox is not None:
            with suppress(TimeoutError):
                async with asyncio.timeout(FLUSH_SECONDS):
                    await self._outbox.join()

    async def _idle_or(self, hurry: asyncio.Event | None, seconds: float) -> bool:
        """Wait until nothing is held; whether that came before the time or the hurry."""
        async with asyncio.TaskGroup() as group:
            waits = [group.create_task(self._idle.wait())]
            if hurry is not None:
                waits.append(group.create_task(hurry.wait()))
            await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            for wait in waits:
                wait.cancel()
        return self._idle.is_set()

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(HEARTBEAT_SECONDS)
            self.happen(Tick(now_ms()))

    async def _stay_connected(self) -> None:
        """Sessions one after another, with growing pauses while none succeeds."""
        pause_seconds = RECONNECT_FIRST_SECONDS
        while True:
            began_seconds = time.monotonic()
            try:
                await self._session()
            except (GridpactError, aiohttp.ClientError, OSError) as error:
                LOG.warning("no session with the market: %s", error)
            if time.monotonic() - began_seconds > STEADY_SECONDS:
                pause_seconds = RECONNECT_FIRST_SECONDS
            await asyncio.sleep(pause_seconds * random.uniform(0.5, 1.0))  # noqa: S311 - spreads load
            pause_seconds = min(RECONNECT_SECONDS_MAX, pause_seconds * 2)

    async def _session(self) -> None:
        """From the hand-shake to the end of the connection."""
        if self._offers():
            await self._offering.renew(now_ms())
        socket = await self._transport.websocket(
            CONTROL_PATH, bytes_max=codec.FRAME_BYTES_MAX, heartbeat_seconds=SILENCE_SECONDS_MAX / 2
        )
        try:
            await socket.send_bytes(codec.pack(self.agent.hello()))
            welcome = await self._welcome(socket)
            LOG.info("connected to %s", welcome.market)
            self._outbox, self._broken = asyncio.Queue(OUTBOX_MAX), asyncio.Event()
            self.happen(welcome)
            await self._talk(socket, self._outbox)
            LOG.warning("the market has closed the connection (%s)", socket.close_code)
        finally:
            self._outbox = None
            self.happen(Disconnected())
            await socket.close()

    async def _welcome(self, socket: aiohttp.ClientWebSocketResponse) -> Welcome:
        """The first frame, from the market that was expected."""
        try:
            frame = await self._receive(socket, SILENCE_SECONDS_MAX)
        except TimeoutError:
            raise Unreachable("the market did not say Welcome") from None
        if not isinstance(frame, Welcome):
            raise Unreachable("the market did not say Welcome first")
        if frame.protocol != PROTOCOL:
            raise Malformed(f"the market speaks protocol {frame.protocol}, this daemon {PROTOCOL}")
        if frame.market != self._offering.provider.market:
            raise WrongMarket(f"{frame.market!r} answers, not {self._offering.provider.market!r}")
        return frame

    async def _talk(
        self, socket: aiohttp.ClientWebSocketResponse, outbox: asyncio.Queue[ToMarket]
    ) -> None:
        async with asyncio.TaskGroup() as group:
            others = [
                group.create_task(self._speak(socket, outbox), name="speak"),
                group.create_task(self._beat(), name="beat"),
                group.create_task(self._renew(), name="offer"),
                group.create_task(self._break(socket), name="break"),
            ]
            while (frame := await self._receive(socket, None)) is not None:
                self.happen(frame)
            for task in others:
                task.cancel()

    async def _receive(
        self, socket: aiohttp.ClientWebSocketResponse, timeout_seconds: float | None
    ) -> ToDaemon | None:
        """The next frame that can be read; None when the connection has ended."""
        while True:
            message = await socket.receive(timeout_seconds)
            if message.type is not aiohttp.WSMsgType.BINARY:
                if message.type is aiohttp.WSMsgType.TEXT:
                    continue
                return None
            try:
                return codec.unpack(message.data, _TO_DAEMON)
            except GridpactError as error:
                LOG.warning("a frame that cannot be read: %s", error)

    async def _speak(
        self, socket: aiohttp.ClientWebSocketResponse, outbox: asyncio.Queue[ToMarket]
    ) -> None:
        while True:
            data = codec.pack(await outbox.get())
            try:
                await socket.send_bytes(data)
            except (aiohttp.ClientError, ConnectionError):
                self._broken.set()
                return
            outbox.task_done()

    async def _beat(self) -> None:
        while True:
            self._send(Beat(leases=len(self.agent.leases), running=self.agent.running))
            await asyncio.sleep(HEARTBEAT_SECONDS)

    def _offers(self) -> bool:
        """Whether the offer is to be posted; the market takes that for being there again."""
        away = self.agent.draining or bool(self.agent.paused)
        return self._offering.due(now_ms()) and not away

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(OFFER_RETRY_SECONDS)
            if not self._offers():
                continue
            try:
                await self._offering.renew(now_ms())
            except GridpactError as error:
                LOG.warning("the offer was not renewed: %s", error)

    async def _break(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        """End a connection that takes nothing any more."""
        await self._broken.wait()
        await socket.close()
