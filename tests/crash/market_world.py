"""A market without its doors: what parties sign and send, put straight into its use cases.

Every call takes its time as an argument, so that whatever is run twice comes out the same.
"""

import asyncio
import functools
import secrets
import time
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final
from uuid import UUID

import msgspec

from market.domain.jobspec import Spec
from market.http.running import running
from market.http.settings import Settings
from market.sdk.client import now_ms
from market.service import jobs, leases, matching, payments, providers
from market.service.market import Market
from market.store import blobs
from market.store.rows import Connection, Row
from market.wire.control import Done, Work
from market.wire.jobs import Submit
from market.wire.payload import inline
from settlement.domain import charge
from settlement.domain.identity import PrivateKey
from settlement.domain.payments import Issue, Payment
from settlement.domain.receipt import Price, Receipt
from settlement.domain.resources import Resources
from settlement.domain.statement import Statement, sign
from settlement.domain.trade import Offer, Order, TopUp
from tests.system.conftest import ORIGIN
from tests.system.fake_provider import Compute, FakeProvider, honest
from tests.system.running import Running
from tests.system.trading import (
    BUDGET,
    CODE,
    CODE_DIGEST,
    FUNDS,
    MANIFEST,
    RATE,
    RATES,
    SLOT,
    bodies,
    spec,
)

ALPHA: Final = PrivateKey(bytes([101]) * 32)
BETA: Final = PrivateKey(bytes([102]) * 32)
CONSUMER: Final = PrivateKey(b"\x31" * 32)
DAY_MS: Final = 24 * 3_600_000
DEADLINE_MS: Final = 3_600_000  # after the order
LISTENING: Final = (
    "SELECT EXISTS (SELECT 1 FROM pg_stat_activity WHERE datname = current_database()"
    " AND query LIKE 'LISTEN%' AND state = 'idle')"
)
OPERATOR: Final = PrivateKey(bytes([3]) * 32)
POLL_SECONDS: Final = 0.002
RAN_MS: Final = 1_000  # what a chunk is billed
SENT_MS: Final = 2_000  # after it was handed out


@asynccontextmanager
async def opened(settings: Settings, url: str) -> AsyncIterator[Market]:
    """A server process's market, all of it connected."""
    async with running(settings.model_copy(update={"database_url": url})) as market:
        while not await market.read(_listening):  # noqa: ASYNC110 - the server knows
            await asyncio.sleep(POLL_SECONDS)
        yield market


async def _listening(connection: Connection) -> bool:
    found: bool = await connection.fetchval(LISTENING)
    return found


@dataclass
class World:
    """The market at one moment, and what its parties hold of it."""

    market: Market
    settings: Settings
    now: int = field(default_factory=now_ms)
    sessions: dict[str, UUID] = field(default_factory=dict)  # of providers, by address

    # ── what parties sign

    def issue(self, amount: int, *, purpose: str = "available") -> bytes:
        return self.signed(
            Issue(
                v=1, kind="issue", market=ORIGIN, operator=OPERATOR.address, to=CONSUMER.address,
                purpose=purpose, amount=str(amount), transfer=str(uuid.uuid4()), memo="", at_ms=self.now,
            ),
            OPERATOR,
        )  # fmt: skip

    def payment(self, amount: int) -> bytes:
        return self.signed(
            Payment(
                v=1, kind="payment", market=ORIGIN, payer=CONSUMER.address, to=ALPHA.address,
                amount=str(amount), transfer=str(uuid.uuid4()), memo="", at_ms=self.now,
            ),
            CONSUMER,
        )  # fmt: skip

    def offer(self, key: PrivateKey, *, later_ms: int = 0) -> bytes:
        at_ms = self.now + later_ms
        terms = Offer(
            v=1, kind="offer", market=ORIGIN, provider=key.address, name="made", rates=RATES,
            capacity=Resources(SLOT.cpus_milli, SLOT.memory_mib, 0), environments=[MANIFEST],
            protection="S", expires_ms=self.now + DAY_MS, at_ms=at_ms, nonce=secrets.token_hex(16),
        )  # fmt: skip
        return self.signed(terms, key)

    def submission(self, of: Spec, tasks: int, *, slots: int) -> tuple[UUID, Submit]:
        job = uuid.uuid4()
        order = Order(
            v=1, kind="order", market=ORIGIN, consumer=CONSUMER.address, job=str(job), spec=of.digest(),
            tasks=tasks, slots=slots, rate_cap=str(RATE), budget=str(BUDGET), transfer=str(uuid.uuid4()),
            deadline_ms=self.now + DEADLINE_MS, at_ms=self.now,
        )  # fmt: skip
        envelope = self.signed(order, CONSUMER)
        return job, Submit(envelope, of, [inline(body) for body in bodies(tasks)], sealed=True)

    def top_up(self, job: UUID, amount: int) -> bytes:
        return self.signed(
            TopUp(
                v=1, kind="topup", market=ORIGIN, consumer=CONSUMER.address, job=str(job),
                amount=str(amount), transfer=str(uuid.uuid4()), at_ms=self.now,
            ),
            CONSUMER,
        )  # fmt: skip

    @staticmethod
    def signed(statement: Statement, key: PrivateKey) -> bytes:
        return sign(statement, key).envelope

    # ── what goes before a story

    async def open_for_business(self, *keys: PrivateKey) -> None:
        """Providers with sessions, a funded consumer with its code uploaded, something for checks."""
        for purpose in ("available", "checks"):
            envelope = self.issue(FUNDS, purpose=purpose)
            await payments.issue(self.market, OPERATOR.address, envelope, now_ms=self.now)
        for key in keys:
            await providers.put_offer(self.market, key.address, self.offer(key), now_ms=self.now)
            session = self.sessions[key.address] = uuid.uuid4()
            await providers.connect(self.market, key.address, session, now_ms=self.now)
        keep = functools.partial(blobs.keep, size=len(CODE), now_ms=self.now)
        await self.market.transact(keep, CODE_DIGEST, CONSUMER.address)

    async def order(self, tasks: int = 1, *, slots: int = 1, verify: str = "none") -> UUID:
        job, body = self.submission(spec(verify=verify), tasks, slots=slots)
        await jobs.submit(self.market, CONSUMER.address, body, now_ms=self.now)
        return job

    async def grant(self) -> None:
        """Every order gets its leases, and every lease is armed."""
        await matching.round_(self.market, now_ms=self.now)
        for row in await self._leases():
            await leases.started(self.market, row["provider"], row["id"], now_ms=self.now)

    async def claim(self, key: PrivateKey) -> Work:
        (row,) = [row for row in await self._leases() if row["provider"] == key.address]
        work = await leases.claim(self.market, row["id"], now_ms=self.now)
        assert work is not None
        return work

    async def receipt(
        self,
        key: PrivateKey,
        work: Work,
        compute: Compute = honest,
        *,
        forge: Callable[[Receipt], Receipt] = lambda claim: claim,
    ) -> Done:
        """A frame that claims `RAN_MS`, which is what will be paid; `forge` bends it before it is signed."""
        url = f"http://{self.settings.host}:{self.settings.port}"
        provider = FakeProvider(Running(url, self.market, self.settings), 1, compute, key=key)
        outbox = await leases.outbox(
            self.market, key.address, session=self.sessions[key.address], known=frozenset()
        )
        provider.grants = {grant.lease: grant for grant in outbox.grants}
        provider.taken[work.attempt] = time.monotonic()

        def metered(claim: Receipt) -> Receipt:
            rate = int(provider.grants[work.lease].rate)
            price = charge.gross(wall_ms=RAN_MS, rate_microcredits=rate)
            return forge(
                msgspec.structs.replace(
                    claim,
                    started_ms=self.now,
                    finished_ms=self.now + RAN_MS,
                    usage=msgspec.structs.replace(claim.usage, wall_ms=RAN_MS),
                    price=Price(str(price), 1),
                )
            )

        return provider.done(work, metered)

    async def _leases(self) -> list[Row]:
        return await self.market.read(_live_leases)


async def _live_leases(connection: Connection) -> list[Row]:
    rows: list[Row] = await connection.fetch(
        "SELECT id, provider FROM leases WHERE state <> 'closed'"
    )
    return rows
