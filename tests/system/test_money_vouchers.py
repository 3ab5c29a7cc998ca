"""Vouchers: time of a running lease is paid as the consumer signs for it, each millisecond once."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID, uuid4

import msgspec
import pytest

from market.sdk.client import MarketClient
from market.service import reconcile
from market.wire import money
from market.wire.control import Work
from settlement.domain import charge
from settlement.domain.errors import (
    BadSignature,
    BadStatement,
    BudgetExceeded,
    Forbidden,
    JobEnded,
    LimitExceeded,
    NotFound,
    Refused,
    StaleRequest,
    WrongMarket,
)
from settlement.domain.receipt import Receipt
from settlement.domain.settled import Charged, Voucher
from tests.system.fake_provider import FakeProvider
from tests.system.money import ALICE, post, tried, voucher
from tests.system.running import Running
from tests.system.trading import BUDGET, RATE, Buyer, alter, bodies, logged, row, spec, until

pytestmark = pytest.mark.system
UNCHECKED = spec(verify="none")
WINDOW = charge.cap(window_ms=35_000, rate_microcredits=RATE, checked=False)
MS = RATE // 1_000  # what a millisecond costs


@asynccontextmanager
async def leased(
    whole: Running, buyer: Buyer, *, budget: int = BUDGET
) -> AsyncIterator[tuple[FakeProvider, money.LeaseView, Work]]:
    """A lease whose provider is at work on a long task."""
    async with FakeProvider(whole, 1).open() as alpha:
        alpha.holds = True
        job = await buyer.order(bodies(1), slots=1, budget=budget, of=UNCHECKED)
        work = await alpha.heard(Work)
        (lease,) = await buyer.client.leases(job)
        yield alpha, lease, work


async def lasted(
    client: MarketClient, lease: money.LeaseView, milliseconds: int
) -> money.LeaseView:
    """The lease once it is that old."""

    async def old() -> money.LeaseView | None:
        view = await client.lease(lease.id)
        return view if view.lasted_ms >= milliseconds else None

    found = await until(old)
    assert found is not None
    return found


async def send(
    client: MarketClient, lease: money.LeaseView, envelope: bytes, *, named: str = ""
) -> money.LeaseView:
    path = f"/v1/leases/{named or lease.statement}/vouchers"
    data = await post(client, path, money.VoucherPost(envelope))
    return msgspec.json.decode(data, type=money.LeaseView)


def key(buyer: Buyer) -> Any:  # noqa: ANN401 - a client's key, which it has
    return buyer.client.key


async def vouched(whole: Running) -> list[Charged]:
    return [
        one for one in await logged(whole) if isinstance(one, Charged) and one.role == "voucher"
    ]


async def test_each_voucher_pays_what_it_adds(whole: Running, buyer: Buyer) -> None:
    """The consumer signs, either party hands in; the last voucher is worth all of them."""
    async with leased(whole, buyer) as (alpha, lease, _):
        await lasted(buyer.client, lease, 200)
        first = await buyer.client.vouch(lease, 50)
        assert (first.status, first.vouched_ms, first.vouched) == ("applied", 50, str(50 * MS))
        more = voucher(whole, lease, 120, key(buyer))
        second = await send(alpha.client, lease, more, named=lease.id)
        assert (second.vouched_ms, second.vouched) == (120, str(120 * MS))
        told = await vouched(whole)
        assert [one.wall_ms for one in told] == [50, 70]
        gross = [50 * MS, 70 * MS]
        fees = [charge.split(one, checked=False).fee_microcredits for one in gross]
        assert [(int(one.gross), int(one.fee)) for one in told] == list(
            zip(gross, fees, strict=True)
        )
        assert (await buyer.kinds(lease.job)).count("vouched") == 2
        view = await buyer.client.job(lease.job)
        assert int(view.spent) == 120 * MS
        await buyer.client.cancel(lease.job)
        view = await buyer.closed(lease.job)
        assert (int(view.spent), int(view.refunded)) == (120 * MS, BUDGET - 120 * MS)

        async def released() -> bool:
            return int((await alpha.client.balances()).available) == sum(gross) - sum(fees)

        await until(released)


async def test_old_repeated_and_overtaken_vouchers_change_nothing(
    whole: Running, buyer: Buyer
) -> None:
    async with leased(whole, buyer) as (alpha, lease, _):
        await lasted(buyer.client, lease, 200)
        signed = [voucher(whole, lease, wall_ms, key(buyer)) for wall_ms in (100, 40, 70, 100)]
        answers = [await send(alpha.client, lease, envelope) for envelope in signed]
        assert [answer.status for answer in answers] == ["applied"] + ["duplicate"] * 3
        assert {answer.vouched_ms for answer in answers} == {100}
        old = voucher(whole, lease, 100, key(buyer), at_ms=1_000_000)
        assert (await send(alpha.client, lease, old)).status == "duplicate"
        assert len(await vouched(whole)) == 1
        await buyer.client.cancel(lease.job)
        assert (await buyer.closed(lease.job)).spent == str(100 * MS)


async def test_many_at_once_are_paid_as_one_would_be(whole: Running, buyer: Buyer) -> None:
    async with leased(whole, buyer) as (alpha, lease, _):
        await lasted(buyer.client, lease, 300)
        signed = [
            voucher(whole, lease, wall_ms, key(buyer)) for wall_ms in (60, 120, 120, 180, 240)
        ]
        clients = [alpha.client, buyer.client]
        async with asyncio.TaskGroup() as tasks:
            for number, envelope in enumerate(signed):
                tasks.create_task(tried(send(clients[number % 2], lease, envelope)))
        assert (await send(alpha.client, lease, signed[-1])).vouched_ms == 240
        assert sum(one.wall_ms for one in await vouched(whole)) == 240
        await buyer.client.cancel(lease.job)
        assert (await buyer.closed(lease.job)).spent == str(240 * MS)


async def test_no_more_than_the_lease_lasted(whole: Running, buyer: Buyer) -> None:
    """By the market's clock, whatever the consumer signs."""
    async with leased(whole, buyer) as (alpha, lease, _):
        with pytest.raises(LimitExceeded, match="of the lease are not paid"):
            await send(alpha.client, lease, voucher(whole, lease, 10_000_000, key(buyer)))
        assert await vouched(whole) == []
        await buyer.client.cancel(lease.job)


@pytest.mark.parametrize(
    ("changes", "signer", "refusal"),
    [
        ({"market": "other.example/market"}, None, WrongMarket),
        ({"at_ms": 1_000_000}, None, StaleRequest),
        ({}, ALICE, BadSignature),
        ({"consumer": ALICE.address}, ALICE, BadStatement),
        ({"provider": ALICE.address}, None, BadStatement),
        ({"job": str(uuid4())}, None, NotFound),
        ({"lease": "sha256:" + "ab" * 32}, None, NotFound),
    ],
)
async def test_a_forged_voucher(
    whole: Running, buyer: Buyer, changes: dict[str, Any], signer: Any, refusal: type[Refused]  # noqa: ANN401
) -> None:  # fmt: skip
    async with leased(whole, buyer) as (alpha, lease, _):
        await lasted(buyer.client, lease, 20)
        envelope = voucher(whole, lease, 10, signer or key(buyer), **changes)
        for client in (alpha.client, buyer.client):
            assert isinstance(await tried(send(client, lease, envelope)), refusal)
        good = voucher(whole, lease, 10, key(buyer))
        with pytest.raises(BadStatement, match="another lease"):
            await send(alpha.client, lease, good, named=str(uuid4()))
        async with whole.client(ALICE) as stranger:
            for attempt in (send(stranger, lease, good), stranger.lease(lease.id)):
                with pytest.raises(NotFound):
                    await attempt
            with pytest.raises(NotFound):
                await stranger.leases(lease.job)
        assert await vouched(whole) == []
        await buyer.client.cancel(lease.job)


async def test_after_the_lease_and_after_the_job(
    whole: Running, buyer: Buyer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Late for a lease that ended it is paid as far as that lasted; with the job closed, no more."""
    async with leased(whole, buyer) as (alpha, lease, _):
        await lasted(buyer.client, lease, 100)
        monkeypatch.setattr(reconcile, "GONE_MS", 50)
        await alpha.drop()
        await until(lambda: _closed(alpha, lease))
        ended = await alpha.client.lease(lease.id)
        assert ended.state == "closed"
        too_late = voucher(whole, lease, ended.lasted_ms + 1, key(buyer))
        with pytest.raises(LimitExceeded):
            await send(alpha.client, lease, too_late)
        whole_time = voucher(whole, lease, ended.lasted_ms, key(buyer))
        assert (await send(alpha.client, lease, whole_time)).at_risk_ms == 0
        await buyer.client.cancel(lease.job)
        view = await buyer.closed(lease.job)
        assert int(view.spent) == ended.lasted_ms * MS
        assert (await send(alpha.client, lease, whole_time)).status == "duplicate"
        with pytest.raises(JobEnded):
            await send(alpha.client, lease, too_late)


async def _closed(alpha: FakeProvider, lease: money.LeaseView) -> bool:
    return (await alpha.client.lease(lease.id)).state == "closed"


async def test_nothing_for_a_lease_that_ended_for_cause(whole: Running, buyer: Buyer) -> None:
    async with leased(whole, buyer) as (alpha, lease, work):
        await lasted(buyer.client, lease, 50)
        forged = alpha.done(work, lambda claim: msgspec.structs.replace(claim, tasks=2))
        await alpha.send(forged)
        assert (await alpha.settled(work.attempt)).state == "rejected"
        with pytest.raises(Forbidden, match="for cause"):
            await send(alpha.client, lease, voucher(whole, lease, 10, key(buyer)))
        await buyer.client.cancel(lease.job)
        assert (await buyer.closed(lease.job)).spent == "0"


async def test_the_budget_runs_dry(whole: Running, buyer: Buyer) -> None:
    """Nothing moves and the voucher stays good; both are told; after a top-up it is paid."""
    async with leased(whole, buyer, budget=WINDOW + 20 * MS) as (alpha, lease, work):
        await lasted(buyer.client, lease, 100)
        envelope = voucher(whole, lease, 60, key(buyer))
        for _ in range(3):
            with pytest.raises(BudgetExceeded):
                await send(alpha.client, lease, envelope)
        assert (await buyer.kinds(lease.job)).count("voucher-unpaid") == 1
        assert await vouched(whole) == []
        assert (
            await send(alpha.client, lease, voucher(whole, lease, 20, key(buyer)))
        ).vouched_ms == 20
        await buyer.client.top_up(lease.job, BUDGET)
        assert (await send(alpha.client, lease, envelope)).vouched_ms == 60
        await alpha.answer(work)
        assert (await buyer.closed(lease.job)).accepted == 1


async def test_an_idle_lease_without_budget_is_paused_until_a_top_up(
    whole: Running, buyer: Buyer
) -> None:
    async with FakeProvider(whole, 1).open() as alpha:
        job = await buyer.order(bodies(1), slots=1, budget=WINDOW, of=UNCHECKED, sealed=False)
        await buyer.happened(job, "accepted")
        (lease,) = await buyer.client.leases(job)
        left = int((await buyer.client.job(job)).budget) - int((await buyer.client.job(job)).spent)
        dear = left // MS + 1
        longer = "UPDATE leases SET granted_ms = granted_ms - $2::bigint WHERE id = $1"
        await alter(whole, longer, UUID(lease.id), dear)
        with pytest.raises(BudgetExceeded):
            await send(alpha.client, lease, voucher(whole, lease, dear, key(buyer)))
        assert (await buyer.client.job(job)).paused
        assert "paused" in await buyer.kinds(job)
        await buyer.client.top_up(job, BUDGET)
        assert not (await buyer.client.job(job)).paused
        await buyer.client.cancel(job)


async def test_a_receipt_is_not_paid_again_for_what_vouchers_paid(
    whole: Running, buyer: Buyer
) -> None:
    """The provider claims all of its time, as it must: it gets the rest."""
    async with leased(whole, buyer) as (alpha, lease, work):
        await lasted(buyer.client, lease, 300)
        before = await buyer.client.vouch(lease, 250)
        assert before.vouched == str(250 * MS)
        await alpha.answer(work)
        assert (await alpha.settled(work.attempt)).state == "accepted"
        view = await buyer.closed(lease.job)
        (receipt,) = await buyer.receipts(lease.job, state="accepted")
        paid_ms = 250 + int(receipt.charge) // MS
        ended = await buyer.client.lease(lease.id)
        assert int(receipt.charge) // MS < receipt.wall_ms <= paid_ms <= ended.lasted_ms
        assert int(view.spent) == 250 * MS + int(receipt.charge)
        claim = next(one for one in await logged(whole) if isinstance(one, Receipt))
        assert int(claim.price.amount) > int(receipt.charge)


async def test_a_voucher_does_not_take_the_time_of_a_receipt_that_waits(
    whole: Running, buyer: Buyer
) -> None:
    """Its check comes later, and then it must still be payable."""
    async with FakeProvider(whole, 1).open() as alpha, FakeProvider(whole, 2, slots=0).open():
        alpha.holds = True
        job = await buyer.order(bodies(1), slots=1)
        work = await alpha.heard(Work)
        (lease,) = await buyer.client.leases(job)
        await lasted(buyer.client, lease, 200)
        await alpha.answer(work)
        await buyer.happened(job, "checking")
        view = await buyer.client.lease(lease.id)
        assert view.receipted_ms > 0
        with pytest.raises(LimitExceeded):
            await buyer.client.vouch(lease, view.lasted_ms + 10_000)
        await buyer.client.vouch(lease, view.at_risk_ms)
        (receipt,) = await buyer.receipts(job, state="checking")
        assert (await buyer.client.accept_receipt(receipt.receipt)).state == "accepted"
        done = await buyer.closed(job)
        assert int(done.spent) == (
            view.at_risk_ms * MS + int(receipt.charge) + int(receipt.surcharge)
        )


@pytest.mark.parametrize("seed", [1, 2])
async def test_any_order_of_vouchers_and_receipts(whole: Running, buyer: Buyer, seed: int) -> None:
    """Some are lost, some come twice, some late, some together: no millisecond is paid twice."""
    chance = random.Random(seed)
    async with FakeProvider(whole, 1).open() as alpha:
        alpha.holds = True
        job = await buyer.order(bodies(4), slots=1, of=UNCHECKED)
        kept: list[bytes] = []
        (lease,) = await until(lambda: buyer.client.leases(job))
        done = number = 0
        while done < 4:
            number += 1
            work = await alpha.heard(Work, number)
            done += len(work.inputs)
            for _ in range(chance.randrange(1, 5)):
                lease = await buyer.client.lease(lease.id)
                said_ms = chance.randrange(max(1, 2 * lease.lasted_ms))
                kept.append(voucher(whole, lease, said_ms, key(buyer)))
                if chance.random() < 0.3:
                    continue  # lost, perhaps for now
                sent = chance.choices(kept, k=chance.randrange(1, 4))
                async with asyncio.TaskGroup() as tasks:
                    for envelope in sent:
                        tasks.create_task(tried(send(alpha.client, lease, envelope)))
                    if chance.random() < 0.3 and work.attempt not in alpha.answered:
                        tasks.create_task(alpha.answer(work))
            if work.attempt not in alpha.answered:
                await alpha.answer(work)
            assert (await alpha.settled(work.attempt)).state == "accepted"
        view = await buyer.closed(job)
        charged = [one for one in await logged(whole) if isinstance(one, Charged)]
        ended = await buyer.client.lease(lease.id)
        assert sum(one.billed_ms for one in charged) <= ended.lasted_ms
        assert int(view.spent) == sum(int(one.gross) for one in charged) <= BUDGET
        told = max(
            (one.wall_ms for one in await logged(whole) if isinstance(one, Voucher)), default=0
        )
        assert ended.vouched_ms == told
        stored = await row(whole, "SELECT vouched_ms FROM leases WHERE id = $1", UUID(lease.id))
        assert stored["vouched_ms"] == told
