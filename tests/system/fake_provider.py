"""A scripted provider behind the real protocol: signed offers, frames and receipts, told what to do."""

import asyncio
import contextlib
import secrets
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final, TypeVar, cast

import aiohttp
import msgspec
from aiohttp import WSMsgType

from market.sdk.client import now_ms
from market.wire import codec, control, trade
from market.wire.control import Done, Grant, Output, Settled, ToDaemon, ToMarket, Work
from market.wire.payload import inline
from settlement.domain import canonical, charge, statement
from settlement.domain.identity import PrivateKey
from settlement.domain.receipt import (
    Environment,
    Leaf,
    Price,
    Receipt,
    Usage,
    inputs_digest,
    outputs_digest,
    tasks_root,
)
from settlement.domain.resources import Rates, Resources
from settlement.domain.trade import Manifest, Offer
from tests.system.running import Running
from tests.system.trading import MANIFEST, RATES, SLOT, until

BEAT_SECONDS: Final = 1.0
OFFER_MS: Final = 3_600_000
SEED: Final = 11
WORK_SECONDS: Final = 0.02  # what a chunk takes, so that it costs something
Compute = Callable[[bytes], bytes]
_TO_DAEMON: Final = cast("type[ToDaemon]", ToDaemon)

F = TypeVar("F")


def honest(body: bytes) -> bytes:
    """The work of the tests that need no special one."""
    return body[::-1]


def lying(body: bytes) -> bytes:
    return b"made up"


class FakeProvider:
    """Runs what comes, unless `holds` (keep it for the test), `refuses` or not `arms`."""

    def __init__(
        self, running: Running, number: int, compute: Compute = honest, *, slots: int = 1,
        rates: Rates = RATES, environments: tuple[Manifest, ...] = (MANIFEST,), protection: str = "S",
        key: PrivateKey | None = None,
    ) -> None:  # fmt: skip
        self.key = key or PrivateKey(bytes([100 + number]) * 32)
        self.client = running.client(self.key)
        self.market = running.market.origin
        self.compute, self.rates, self.environments = compute, rates, environments
        self.name, self.protection = f"fake-{number}", protection
        self.capacity = Resources(SLOT.cpus_milli * slots, SLOT.memory_mib * slots, 0)
        self.holds = self.refuses = False
        self.arms = True
        self.frames: list[ToDaemon] = []
        self.grants: dict[str, Grant] = {}
        self.taken: dict[str, float] = {}  # when the work of an attempt came, monotonic seconds
        self.answered: set[str] = set()
        self._socket: aiohttp.ClientWebSocketResponse | None = None
        self._tasks: asyncio.TaskGroup | None = None
        self._reading: asyncio.Task[None] | None = None

    @property
    def address(self) -> str:
        return self.key.address

    # ── the session

    @asynccontextmanager
    async def open(self) -> AsyncIterator["FakeProvider"]:
        """Offer and connect; everything ends with the block."""
        async with self.client, asyncio.TaskGroup() as tasks:
            self._tasks = tasks
            await self.offer()
            await self.connect()
            yield self
            await self.drop()

    async def offer(self) -> trade.OfferView:
        terms = Offer(
            v=1, kind="offer", market=self.market, provider=self.address, name=self.name,
            capacity=self.capacity, rates=self.rates, environments=list(self.environments),
            protection=self.protection, expires_ms=now_ms() + OFFER_MS, at_ms=now_ms(),
            nonce=secrets.token_hex(16),
        )  # fmt: skip
        body = codec.encode(trade.OfferPut(statement.sign(terms, self.key).envelope))
        data = await self.client.transport.request("PUT", "/v1/offers", body)
        return msgspec.json.decode(data, type=trade.OfferView)

    async def connect(self, *attempts: str) -> None:
        """A new session that says it still holds these attempts."""
        assert self._tasks is not None
        socket = await self.client.transport.websocket(
            "/v1/control", bytes_max=codec.FRAME_BYTES_MAX
        )
        self._socket = socket
        hello = control.Hello(protocol=control.PROTOCOL, leases=[], attempts=list(attempts))
        await self.send(hello)
        welcomes = len(self.all(control.Welcome))
        self._reading = self._tasks.create_task(self._read(socket))
        await self.heard(control.Welcome, welcomes + 1)

    async def drop(self) -> None:
        """The connection is gone, without a word."""
        socket, self._socket = self._socket, None
        if socket is not None:
            await socket.close()
        if self._reading is not None:
            await self._reading

    async def send(self, frame: ToMarket) -> None:
        """Nothing is sent while there is no connection."""
        if self._socket is not None:
            with contextlib.suppress(ConnectionError):
                await self._socket.send_bytes(codec.pack(frame))

    async def _read(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        while True:
            try:
                message = await socket.receive(timeout=BEAT_SECONDS)
            except TimeoutError:
                await self.send(control.Beat(leases=len(self.grants), running=0))
                continue
            if message.type is not WSMsgType.BINARY:
                return
            await self._take(codec.unpack(message.data, _TO_DAEMON))

    async def _take(self, frame: ToDaemon) -> None:
        if isinstance(frame, Grant):
            self.grants[frame.lease] = frame
            if self.refuses:
                await self.send(control.Refuse(lease=frame.lease, reason="no room after all"))
            elif self.arms:
                await self.send(control.Ready(lease=frame.lease))
        elif isinstance(frame, Work):
            self.taken[frame.attempt] = time.monotonic()
        self.frames.append(frame)
        if isinstance(frame, Work) and not self.holds:
            await self.answer(frame)

    # ── what tests wait for

    def all(self, kind: type[F]) -> list[F]:
        return [frame for frame in self.frames if isinstance(frame, kind)]

    async def heard(self, kind: type[F], number: int = 1) -> F:
        """The frame of a kind, the `number`th of them from the start."""

        async def there() -> bool:
            return len(self.all(kind)) >= number

        await until(there)
        return self.all(kind)[number - 1]

    async def settled(self, attempt: str, number: int = 1) -> Settled:
        """The market's `number`th answer about an attempt."""

        def answers() -> list[Settled]:
            return [frame for frame in self.all(Settled) if frame.attempt == attempt]

        async def there() -> bool:
            return len(answers()) >= number

        await until(there)
        return answers()[number - 1]

    # ── what it says of its work

    async def answer(self, work: Work) -> Done:
        """Run the work and send its receipt."""
        took = time.monotonic() - self.taken[work.attempt]
        await asyncio.sleep(max(0.0, WORK_SECONDS - took))
        frame = self.done(work)
        self.answered.add(work.attempt)
        await self.send(frame)
        return frame

    def facts(self, work: Work) -> tuple[list[Leaf], list[Output]]:
        """Leaves and outputs of the work."""
        results = [self.compute(payload.body or b"") for payload in work.inputs]
        leaves = [
            Leaf(work.first + offset, payload.digest, canonical.digest(result), "ok")
            for offset, (payload, result) in enumerate(zip(work.inputs, results, strict=True))
        ]
        return leaves, [Output(inline(result), "") for result in results]

    def receipt(self, work: Work, leaves: list[Leaf]) -> Receipt:
        """What an honest provider claims."""
        grant = self.grants[work.lease]
        wall_ms = int((time.monotonic() - self.taken[work.attempt]) * 1_000)
        claimed = charge.gross(wall_ms=wall_ms, rate_microcredits=int(grant.rate))
        return Receipt(
            v=1, kind="receipt", market=self.market, lease=grant.statement, order=grant.order,
            job=grant.job, spec=grant.spec_digest, attempt=work.attempt, purpose=work.purpose,
            provider=self.address, consumer=grant.consumer, first=work.first, tasks=len(leaves),
            tasks_root=tasks_root(leaves), inputs=inputs_digest(leaves), outputs=outputs_digest(leaves),
            env=Environment(grant.spec.environment, "fake", SEED), protection=self.protection,
            started_ms=now_ms() - wall_ms, finished_ms=now_ms(), status="ok",
            usage=Usage(1, 0, 1, 0, wall_ms), price=Price(str(claimed), 1), nonce=secrets.token_hex(16),
        )  # fmt: skip

    def done(
        self, work: Work, forge: Callable[[Receipt], Receipt] | None = None, *,
        signer: PrivateKey | None = None,
    ) -> Done:  # fmt: skip
        """The frame for some work; `forge` changes the receipt before it is signed."""
        leaves, outputs = self.facts(work)
        claim = self.receipt(work, leaves)
        claim = forge(claim) if forge is not None else claim
        envelope = statement.sign(claim, signer or self.key).envelope
        return Done(attempt=work.attempt, receipt=envelope, leaves=leaves, outputs=outputs)
