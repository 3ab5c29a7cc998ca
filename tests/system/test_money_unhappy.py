"""Payment paths that go wrong: settled twice, for another's lease, with clocks that lie, repeated."""

import asyncio
import itertools
import time
from collections.abc import Callable
from types import SimpleNamespace
from uuid import uuid4

import msgspec
import pytest

from market.sdk.client import now_ms
from market.service import clock, receipts
from market.wire import codec, trade
from market.wire.control import Close, Work
from market.wire.jobs import TopUpRequest
from settlement.domain import charge, statement
from settlement.domain.errors import (
    BadSignature,
    Forbidden,
    InsufficientFunds,
    JobEnded,
    LedgerRefused,
    StaleRequest,
)
from settlement.domain.receipt import Receipt
from settlement.domain.settled import Charged
from settlement.domain.statement import Opened
from settlement.domain.trade import Offer, TopUp
from tests.system.conftest import serving, working
from tests.system.fake_provider import FakeProvider
from tests.system.money import ALICE, BOB, TRANSFER, post, signed, tried
from tests.system.running import Running, free_port
from tests.system.trading import BUDGET, FUNDS, RATE, Buyer, bodies, logged, rows, spec, until

pytestmark = pytest.mark.system
UNCHECKED = spec(verify="none")
HOUR_MS = 3_600_000
WINDOW = charge.cap(window_ms=35_000, rate_microcredits=RATE, checked=False)


async def test_double_settlement(whole: Running, buyer: Buyer) -> None:
    """Two processes of the market settle one receipt at the same time: one charge, one result."""
    other = whole.settings.model_copy(update={"port": free_port()})
    async with serving(other) as second, FakeProvider(whole, 1).open() as alpha:
        alpha.holds = True
        job = await buyer.order(bodies(1), slots=1, of=UNCHECKED)
        frame = alpha.done(await alpha.heard(Work))
        now = whole.market.clock.ms()
        async with asyncio.TaskGroup() as tasks:
            sent = [
                tasks.create_task(
                    receipts.receive(running.market, alpha.address, frame, now_ms=now)
                )
                for running in (whole, second, whole, second)
            ]
        assert {task.result().state for task in sent} == {"accepted"}
        view = await buyer.closed(job)
        assert view.accepted == 1
        assert len([one for one in await logged(whole) if isinstance(one, Charged)]) == 1
        (paid,) = await buyer.receipts(job, state="accepted")
        assert int(view.spent) == int(paid.charge)


async def test_a_receipt_for_anothers_lease(whole: Running, buyer: Buyer) -> None:
    """Two providers at work in one job; one signs its own work for the other's lease."""
    async with FakeProvider(whole, 1).open() as alpha, FakeProvider(whole, 2).open() as beta:
        alpha.holds = beta.holds = True
        job = await buyer.order(bodies(4), slots=2, of=UNCHECKED)
        mine, theirs = await alpha.heard(Work), await beta.heard(Work)
        other = beta.grants[theirs.lease].statement
        await alpha.send(
            alpha.done(mine, lambda claim: msgspec.structs.replace(claim, lease=other))
        )
        settled = await alpha.settled(mine.attempt)
        assert settled.reason == "bad-receipt: the receipt's lease is not what was handed out"
        assert (await alpha.heard(Close)).lease == mine.lease
        beta.holds = False
        await beta.answer(theirs)
        view = await buyer.closed(job)
        paid = await buyer.receipts(job, state="accepted")
        assert {one.provider for one in paid} == {beta.address}
        assert int(view.spent) == sum(int(one.charge) for one in paid)
        assert int((await alpha.client.balances()).held) == 0


def shifted(milliseconds: int) -> Callable[[Receipt], Receipt]:
    return lambda claim: msgspec.structs.replace(
        claim, started_ms=claim.started_ms + milliseconds, finished_ms=claim.finished_ms + milliseconds
    )  # fmt: skip


@pytest.mark.parametrize("hours", [-5, 5])
async def test_the_providers_clock_is_hours_off(whole: Running, buyer: Buyer, hours: int) -> None:
    """What it says of its times is no more than evidence: it is paid by the market's clock."""
    async with FakeProvider(whole, 1).open() as alpha:
        alpha.holds = True
        job = await buyer.order(bodies(1), slots=1, of=UNCHECKED)
        work = await alpha.heard(Work)
        await asyncio.sleep(0.02)  # what it is paid for
        await alpha.send(alpha.done(work, shifted(hours * HOUR_MS)))
        assert (await alpha.settled(work.attempt)).state == "accepted"
        view = await buyer.closed(job)
        (charged,) = [one for one in await logged(whole) if isinstance(one, Charged)]
        clock_ms = charged.received_ms - charged.handed_ms
        assert 0 < int(view.spent) == int(charged.gross)
        assert int(charged.gross) <= charge.gross(wall_ms=clock_ms, rate_microcredits=RATE)
        assert abs(charged.received_ms - now_ms()) < HOUR_MS
        offered = _offer(alpha, hours * HOUR_MS)
        with pytest.raises(StaleRequest) as refused:
            await alpha.client.transport.request("PUT", "/v1/offers", offered)
        assert "Set this machine's clock" in refused.value.cure


def _offer(provider: FakeProvider, off_ms: int) -> bytes:
    terms = Offer(
        v=1, kind="offer", market=provider.market, provider=provider.address, name="late",
        capacity=provider.capacity, rates=provider.rates, environments=list(provider.environments),
        protection="S", expires_ms=now_ms() + off_ms + HOUR_MS, at_ms=now_ms() + off_ms, nonce="ab" * 16,
    )  # fmt: skip
    return codec.encode(trade.OfferPut(statement.sign(terms, provider.key).envelope))


def set_back(monkeypatch: pytest.MonkeyPatch, milliseconds: int) -> None:
    """The machine of the market has another time from now on; its processes run on."""
    here = SimpleNamespace(
        time_ns=lambda: time.time_ns() - milliseconds * 1_000_000, monotonic_ns=time.monotonic_ns
    )
    monkeypatch.setattr(clock, "time", here)


async def test_the_markets_clock_jumps_back_an_hour(
    whole: Running, buyer: Buyer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Work in hand is paid for its real time, the log's times go on, nobody has to wait an hour."""
    async with FakeProvider(whole, 1).open() as alpha:
        alpha.holds = True
        job = await buyer.order(bodies(2), slots=1, of=UNCHECKED)
        work = await alpha.heard(Work)
        set_back(monkeypatch, HOUR_MS)
        await asyncio.sleep(0.05)  # of work on both sides of the jump
        alpha.holds = False
        await alpha.answer(work)
        assert (await alpha.settled(work.attempt)).state == "accepted"
        assert (await buyer.closed(job)).accepted == 2
        for one in await buyer.receipts(job, state="accepted"):
            assert int(one.charge) == charge.gross(wall_ms=one.wall_ms, rate_microcredits=RATE) > 0
        await buyer.client.pay(BOB.address, 1)
        again = await buyer.order(bodies(1), slots=1, of=UNCHECKED)
        assert (await buyer.closed(again)).accepted == 1
    await _times_go_on(whole)
    restarted = whole.settings.model_copy(update={"port": free_port()})
    async with serving(restarted) as second, working(restarted):  # a process that begins behind
        assert second.market.clock.ms() > now_ms() - HOUR_MS // 2
        async with second.client(ALICE) as client:
            await client.faucet(FUNDS)
            await client.pay(BOB.address, 1)
        await _times_go_on(second)


async def _times_go_on(running: Running) -> None:
    """The market's own statements, in the log's order."""
    found = await rows(running, "SELECT envelope FROM statements ORDER BY idx")
    opened: list[Opened] = [
        statement.open_any(entry["envelope"], market=running.market.origin) for entry in found
    ]
    times = [
        getattr(one.statement, "at_ms", 0) for one in opened if one.signer == running.market.address
    ]
    assert times
    assert all(later >= earlier - HOUR_MS // 60 for earlier, later in itertools.pairwise(times))


async def test_a_top_up_repeated(whole: Running, buyer: Buyer) -> None:
    """The same statement again and again, and at once, is one top-up."""
    job = await _open_job(whole, buyer)
    envelope = _top_up(whole, buyer, job)
    async with asyncio.TaskGroup() as tasks:
        for _ in range(3):
            tasks.create_task(_send(buyer, job, envelope))
    await _send(buyer, job, envelope)
    assert (await buyer.client.job(job)).budget == str(BUDGET + 700)
    other = _top_up(whole, buyer, job, amount="701")
    assert isinstance(await tried(_send(buyer, job, other)), LedgerRefused)
    assert int((await buyer.client.balances()).available) == FUNDS - BUDGET - 700
    assert len([one for one in await logged(whole) if isinstance(one, TopUp)]) == 1
    await buyer.client.cancel(job)
    assert isinstance(await tried(buyer.client.top_up(job, 1)), JobEnded)
    await _send(buyer, job, envelope)  # what was done before stays done, and is said again
    assert int((await buyer.client.balances()).available) == FUNDS


async def test_a_top_up_that_is_forged_late_or_too_much(whole: Running, buyer: Buyer) -> None:
    job = await _open_job(whole, buyer)
    for envelope, refusal in (
        (_top_up(whole, buyer, job, consumer=ALICE.address), BadSignature),
        (_top_up(whole, buyer, str(uuid4())), Forbidden),
        (_top_up(whole, buyer, job, at_ms=now_ms() - HOUR_MS), StaleRequest),
        (_top_up(whole, buyer, job, at_ms=now_ms() + HOUR_MS), StaleRequest),
        (_top_up(whole, buyer, job, amount=str(FUNDS)), InsufficientFunds),
    ):
        assert isinstance(await tried(_send(buyer, job, envelope)), refusal)
    assert (await buyer.client.job(job)).budget == str(BUDGET)
    await buyer.client.cancel(job)


async def _open_job(whole: Running, buyer: Buyer) -> str:
    async with FakeProvider(whole, 1).open() as alpha:
        alpha.refuses = True
        return await buyer.order(bodies(1), slots=1, of=UNCHECKED)


def _top_up(whole: Running, buyer: Buyer, job: str, **changes: object) -> bytes:
    assert buyer.client.key is not None
    fields = {"consumer": buyer.address, "job": job, "amount": "700", "transfer": TRANSFER}
    return signed(whole, TopUp, buyer.client.key, **(fields | changes))


async def _send(buyer: Buyer, job: str, envelope: bytes) -> bytes:
    return await post(buyer.client, f"/v1/jobs/{job}/budget", TopUpRequest(envelope))


async def test_the_consumer_is_out_of_budget(whole: Running, buyer: Buyer) -> None:
    """Paused: the consumer sees it, the provider's machine gets no work; a top-up goes on."""
    async with FakeProvider(whole, 1).open() as alpha:
        job = await buyer.order(bodies(3), slots=1, budget=WINDOW, of=UNCHECKED)
        await buyer.happened(job, "paused")
        view = await buyer.client.job(job)
        assert (view.paused, view.accepted) == (True, 1)
        (lease,) = await buyer.client.leases(job)
        assert (await alpha.client.lease(lease.id)).state == "paused"
        assert len(alpha.all(Work)) == 1
        await buyer.client.top_up(job, BUDGET)
        view = await buyer.closed(job)
        assert (view.reason, view.accepted, view.paused) == ("done", 3, False)
        assert len([one for one in alpha.all(Close) if one.reason != "done"]) == 0


async def test_the_provider_vanishes_after_its_receipt(
    whole: Running, buyer: Buyer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was accepted settles without it, and waits in its account."""
    monkeypatch.setattr("market.service.reconcile.GONE_MS", 50)
    async with FakeProvider(whole, 1).open() as alpha:
        alpha.holds = True
        job = await buyer.order(bodies(2), slots=1, of=UNCHECKED)
        work = await alpha.heard(Work)
        await alpha.answer(work)
        await alpha.settled(work.attempt)
        await alpha.drop()
        (paid,) = await buyer.receipts(job, state="accepted")

        async def released() -> bool:
            found = await rows(whole, "SELECT state FROM charges WHERE receipt = $1", paid.receipt)
            return [row["state"] for row in found] == ["released"]

        await until(released)
        async with FakeProvider(whole, 2).open():
            assert (await buyer.closed(job)).accepted == 2
        earned = int(paid.charge) - int(paid.fee)
        assert int((await alpha.client.balances()).available) == earned
