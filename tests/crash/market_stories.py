"""The market's money flows, each as one story: what a party or a worker does, and does again."""

import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final
from uuid import UUID

from market.http.settings import Settings
from market.service import jobs, leases, matching, payments, providers, receipts, reconcile
from market.service.market import Market
from market.store.rows import Connection
from market.wire.control import Done
from settlement.domain.errors import InsufficientFunds, LedgerRefused
from settlement.domain.statement import open_any
from tests.crash.market_world import (
    ALPHA,
    BETA,
    CONSUMER,
    DEADLINE_MS,
    OPERATOR,
    SENT_MS,
    World,
    opened,
)
from tests.crash.points import Answers
from tests.system.conftest import ORIGIN, settings_for
from tests.system.fake_provider import lying
from tests.system.invariants import assert_sound
from tests.system.trading import BUDGET, FUNDS, spec

_SIDE: Final = (
    "encode({0}.owner, 'hex') || ' ' || {0}.purpose || ' ' || COALESCE({0}.job::text, '')"
)
VIEWS: Final = (
    f"SELECT {_SIDE.format('a')}, a.dr_pending, a.dr_posted, a.cr_pending, a.cr_posted FROM accounts AS a",
    (
        f"SELECT {_SIDE.format('d')}, {_SIDE.format('c')}, t.amount, t.code, count(*) FROM transfers AS t"
        " JOIN accounts AS d ON d.id = t.dr JOIN accounts AS c ON c.id = t.cr GROUP BY 1, 2, 3, 4"
    ),
    "SELECT kind, encode(signer, 'hex'), count(*) FROM statements GROUP BY 1, 2",
    "SELECT id, state, order_state, reason, budget, spent, reserved, refunded, accepted, tasks FROM jobs",
    "SELECT provider, state, reason, count(*) FROM leases GROUP BY 1, 2, 3",
    (
        "SELECT provider, purpose, state, charge, fee, surcharge, first, tasks FROM attempts"
        " WHERE state <> 'lost'"
    ),
    "SELECT provider, amount, state FROM charges",
    "SELECT job, first, tasks, state FROM intervals",
    "SELECT job, index, digest, position IS NULL FROM outputs",
    "SELECT address, agreed, differed, receipts, earned FROM providers",
)


@dataclass(frozen=True)
class Kept:
    """What the parties of a story hold when death may come."""

    settings: Settings
    now: int
    job: UUID
    body: Any  # what is sent: envelopes or a frame


Prepare = Callable[[World], Awaitable[tuple[UUID, Any]]]
Act = Callable[[Market, Kept, Answers], Awaitable[None]]


@dataclass(frozen=True)
class MarketStory:
    """`view` holds every amount, state and count that people could see."""

    name: str
    before: Prepare
    doing: Act

    async def prepare(self, url: str, folder: Path) -> Kept:
        own = folder / uuid.uuid4().hex
        own.mkdir()
        settings = settings_for(url, own)
        async with opened(settings, url) as market:
            world = World(market, settings)
            await world.open_for_business(ALPHA, BETA)
            job, body = await self.before(world)
        return Kept(settings, world.now, job, body)

    async def act(
        self, url: str, prepared: Kept, answers: Answers, ready: Callable[[], None]
    ) -> None:
        async with opened(prepared.settings, url) as market:
            ready()
            await self.doing(market, prepared, answers)

    async def view(self, url: str, prepared: Kept) -> object:
        async with opened(prepared.settings, url) as market:
            await assert_sound(market)
            return await market.transact(_view)


async def _view(connection: Connection) -> list[list[str]]:
    return [sorted(repr(tuple(row)) for row in await connection.fetch(sql)) for sql in VIEWS]


# ── money comes in and goes from hand to hand


async def _money_before(world: World) -> tuple[UUID, Any]:
    return uuid.uuid4(), (world.issue(700), world.payment(500), world.payment(FUNDS * 2))


async def _money(market: Market, kept: Kept, answers: Answers) -> None:
    issue, payment, too_much = kept.body
    moved = await payments.issue(market, OPERATOR.address, issue, now_ms=kept.now)
    answers.give("issue", str(moved.index), new=moved.status == "applied")
    moved = await payments.pay(market, CONSUMER.address, payment, now_ms=kept.now)
    answers.give("payment", str(moved.index), new=moved.status == "applied")
    try:
        await payments.pay(market, CONSUMER.address, too_much, now_ms=kept.now)
    except (InsufficientFunds, LedgerRefused):  # the second: its id has failed before
        answers.give("too much", "refused")


# ── a job is ordered, funded and matched


async def _order_before(world: World) -> tuple[UUID, Any]:
    job, body = world.submission(spec(verify="none"), 2, slots=1)
    return job, (body, world.top_up(job, BUDGET))


async def _order(market: Market, kept: Kept, answers: Answers) -> None:
    submission, top_up = kept.body
    view = await jobs.submit(market, CONSUMER.address, submission, now_ms=kept.now)
    answers.give("submit", view.id)
    view = await jobs.top_up(market, CONSUMER.address, kept.job, top_up, now_ms=kept.now)
    answers.give("top up", view.budget)


async def _lease_before(world: World) -> tuple[UUID, Any]:
    return await world.order(), world.offer(ALPHA, later_ms=1)


async def _lease(market: Market, kept: Kept, answers: Answers) -> None:
    """A newer offer, a match, an armed lease, work. After a death the daemon begins without work."""
    view = await providers.put_offer(market, ALPHA.address, kept.body, now_ms=kept.now)
    answers.give("offer", view.digest)
    await matching.round_(market, now_ms=kept.now)
    answers.give("matched", "")
    for key in (ALPHA, BETA):
        await providers.resumed(market, key.address, frozenset(), now_ms=kept.now)
    for row in await market.read(_lease_ids):
        await leases.started(market, row["provider"], row["id"], now_ms=kept.now)
        work = await leases.claim(market, row["id"], now_ms=kept.now)
        assert work is not None
        answers.give("work", f"{row['id']} {work.first} {len(work.inputs)}")


async def _lease_ids(connection: Connection) -> list[Any]:
    found: list[Any] = await connection.fetch("SELECT id, provider FROM leases")
    return found


# ── receipts


async def _worked(world: World, *, verify: str, slots: int) -> tuple[UUID, Done]:
    job = await world.order(slots=slots, verify=verify)
    await world.grant()
    for key in (ALPHA, BETA):
        lease = [
            row for row in await world.market.read(_lease_ids) if row["provider"] == key.address
        ]
        if lease:
            return job, await world.receipt(key, await world.claim(key))
    raise AssertionError("nobody has a lease")


async def _accept_before(world: World) -> tuple[UUID, Done]:
    return await _worked(world, verify="none", slots=1)


async def _checking_before(world: World) -> tuple[UUID, Done]:
    return await _worked(world, verify="spot", slots=2)


async def _receive(market: Market, kept: Kept, answers: Answers) -> None:
    """The provider sends its receipt; then the worker's rounds, as after any death."""
    now = kept.now + SENT_MS
    opened_by = _signer(kept.body)
    settled = await receipts.receive(market, opened_by, kept.body, now_ms=now)
    answers.give("receipt", settled.state)
    await reconcile.jobs_round(market, now_ms=now)
    await reconcile.wages_round(market, now_ms=now)
    answers.give("rounds", "")


def _signer(frame: Done) -> str:
    return open_any(frame.receipt, market=ORIGIN).signer


async def _checked_before(world: World, *, honestly: bool) -> tuple[UUID, Done]:
    """The work's receipt waits for the check that the other provider has just run."""
    job, frame = await _checking_before(world)
    worker = _signer(frame)
    await receipts.receive(world.market, worker, frame, now_ms=world.now + SENT_MS)
    await world.grant()  # a lease for the check
    other = BETA if worker == ALPHA.address else ALPHA
    check = await world.claim(other)
    assert check.purpose == "check"
    if honestly:
        return job, await world.receipt(other, check)
    return job, await world.receipt(other, check, lying)


_agreed_before = partial(_checked_before, honestly=True)
_differed_before = partial(_checked_before, honestly=False)


# ── what the worker does by the clock


async def _unchecked(market: Market, kept: Kept, answers: Answers) -> None:
    """No check came: accepted as it stands."""
    now = kept.now + SENT_MS + reconcile.CHECK_WAIT_MS + 1
    await reconcile.checks_round(market, now_ms=now)
    await reconcile.jobs_round(market, now_ms=now)
    answers.give("rounds", "")


async def _unchecked_before(world: World) -> tuple[UUID, None]:
    job, frame = await _checking_before(world)
    await receipts.receive(world.market, _signer(frame), frame, now_ms=world.now + SENT_MS)
    return job, None


async def _release_before(world: World) -> tuple[UUID, None]:
    job, frame = await _accept_before(world)
    await receipts.receive(world.market, _signer(frame), frame, now_ms=world.now + SENT_MS)
    return job, None


async def _release(market: Market, kept: Kept, answers: Answers) -> None:
    await reconcile.releases_round(market, now_ms=kept.now + SENT_MS + market.hold_ms + 1)
    answers.give("released", "")


async def _cancel(market: Market, kept: Kept, answers: Answers) -> None:
    """In the middle of the work; the rest of the budget comes back."""
    view = await jobs.cancel(market, CONSUMER.address, kept.job, now_ms=kept.now)
    answers.give("cancel", view.state)


async def _deadline(market: Market, kept: Kept, answers: Answers) -> None:
    await reconcile.jobs_round(market, now_ms=kept.now + DEADLINE_MS + 1)
    answers.give("late", "")


STORIES: Final = (
    MarketStory("money", _money_before, _money),
    MarketStory("order", _order_before, _order),
    MarketStory("lease", _lease_before, _lease),
    MarketStory("accept", _accept_before, _receive),
    MarketStory("checking", _checking_before, _receive),
    MarketStory("agreed", _agreed_before, _receive),
    MarketStory("differed", _differed_before, _receive),
    MarketStory("unchecked", _unchecked_before, _unchecked),
    MarketStory("release", _release_before, _release),
    MarketStory("cancel", _accept_before, _cancel),
    MarketStory("deadline", _accept_before, _deadline),
)
