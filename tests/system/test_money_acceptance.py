"""Acceptance: the consumer takes a receipt as it is, and nobody waits for its check."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

import msgspec
import pytest

from market.sdk.client import MarketClient
from market.sdk.evidence import Receipt as OwnReceipt
from market.wire import money
from market.wire.control import Work
from market.wire.jobs import ReceiptView
from settlement.domain.errors import (
    BadSignature,
    BadStatement,
    NotFound,
    Stale,
    StaleRequest,
    WrongMarket,
)
from settlement.domain.settled import Acceptance, Charged
from settlement.domain.verdict import Conclusion, Verdict
from tests.system.fake_provider import FakeProvider, lying
from tests.system.money import ALICE, OPERATOR, acceptance, post, tried
from tests.system.running import Running
from tests.system.trading import CREDIT, Buyer, bodies, logged, spec, until

pytestmark = pytest.mark.system
OTHER = "sha256:" + "ab" * 32


@asynccontextmanager
async def waiting(whole: Running, buyer: Buyer) -> AsyncIterator[tuple[str, ReceiptView]]:
    """A job whose one receipt waits for a check that another provider could run but has no room for."""
    async with FakeProvider(whole, 1).open(), FakeProvider(whole, 2, slots=0).open():
        job = await buyer.order(bodies(1))
        await buyer.happened(job, "checking")
        (receipt,) = await buyer.receipts(job, state="checking")
        yield job, receipt


async def send(client: MarketClient, digest: str, envelope: bytes) -> money.Accepted:
    path = f"/v1/receipts/{digest}/acceptance"
    data = await post(client, path, money.AcceptancePost(envelope))
    return msgspec.json.decode(data, type=money.Accepted)


async def test_accepted_it_is_settled_at_once(whole: Running, buyer: Buyer) -> None:
    async with waiting(whole, buyer) as (job, receipt):
        assert (await buyer.client.receipt_state(receipt.receipt)).state == "checking"
        done = await OwnReceipt(buyer.client, receipt).accept()
        assert (done.state, done.charge, done.surcharge) == (
            "accepted", receipt.charge, receipt.surcharge,
        )  # fmt: skip
        view = await buyer.closed(job)
        assert (view.reason, view.accepted) == ("done", 1)
        assert int(view.spent) == int(done.charge) + int(done.surcharge) > 0
    kinds = [one for one in await logged(whole) if isinstance(one, Acceptance | Verdict | Charged)]
    said, verdict, charged = kinds
    assert isinstance(said, Acceptance)
    assert isinstance(verdict, Verdict)
    assert isinstance(charged, Charged)
    assert said.receipt == verdict.receipt == charged.receipt == receipt.receipt
    assert verdict.conclusion is Conclusion.UNCHECKED
    assert verdict.reason == "its consumer accepted it"


async def test_a_settled_receipt_answers_the_same_for_ever(whole: Running, buyer: Buyer) -> None:
    """Repeated, signed anew, after the job has closed, and for a receipt that a rule settled alone."""
    async with waiting(whole, buyer) as (job, receipt):
        envelope = acceptance(whole, _key(buyer), job=job, receipt=receipt.receipt)
        async with asyncio.TaskGroup() as tasks:
            sent = [
                tasks.create_task(send(buyer.client, receipt.receipt, envelope)) for _ in range(4)
            ]
        first = sent[0].result()
        assert all(task.result() == first for task in sent)
        await buyer.closed(job)
        assert await send(buyer.client, receipt.receipt, envelope) == first
        assert await buyer.client.accept_receipt(receipt.receipt) == first
    assert len([one for one in await logged(whole) if isinstance(one, Acceptance)]) == 1
    async with FakeProvider(whole, 3).open():
        job = await buyer.order(bodies(1), of=spec(verify="none"))
        await buyer.closed(job)
        (alone,) = await buyer.receipts(job, state="accepted")
        answers = [await buyer.client.accept_receipt(alone.receipt) for _ in range(2)]
        assert answers[0] == answers[1]
    assert len([one for one in await logged(whole) if isinstance(one, Acceptance)]) == 1


def _key(buyer: Buyer) -> Any:  # noqa: ANN401 - a client's key, which it has
    return buyer.client.key


@pytest.mark.parametrize(
    ("changes", "refusal"),
    [
        ({"market": "other.example/market"}, WrongMarket),
        ({"consumer": ALICE.address}, BadSignature),
        ({"job": str(uuid4())}, BadStatement),
        ({"receipt": OTHER}, BadStatement),
        ({"at_ms": 1_000_000}, StaleRequest),
    ],
)
async def test_what_accepts_nothing(
    whole: Running, buyer: Buyer, changes: dict[str, Any], refusal: type[Exception]
) -> None:
    async with waiting(whole, buyer) as (job, receipt):
        fields = {"job": job, "receipt": receipt.receipt, **changes}
        with pytest.raises(refusal):
            await send(buyer.client, receipt.receipt, acceptance(whole, _key(buyer), **fields))
        own = acceptance(whole, _key(buyer), job=job, receipt=receipt.receipt)
        with pytest.raises(NotFound):
            await send(buyer.client, OTHER, own)
        async with whole.client(ALICE) as stranger:
            with pytest.raises(NotFound):
                await send(stranger, receipt.receipt, own)
            with pytest.raises(NotFound):
                await stranger.receipt_state(receipt.receipt)
        assert await buyer.receipts(job, state="checking") == [receipt]
        await buyer.client.cancel(job)


async def test_the_check_and_the_acceptance_come_together(whole: Running, buyer: Buyer) -> None:
    """Whichever is first decides; the receipt is charged once, and the checker has its wage."""
    async with whole.client(OPERATOR) as operator:
        await operator.issue(ALICE.address, CREDIT, purpose="checks")
    async with FakeProvider(whole, 1).open() as alpha, FakeProvider(whole, 2).open() as beta:
        alpha.holds = beta.holds = True
        job = await buyer.order(bodies(1), slots=2)
        worker, work = await _work(alpha, beta, "work")
        await worker.answer(work)
        checker, check = await _work(alpha, beta, "check")
        (receipt,) = await buyer.receipts(job, state="checking")
        async with asyncio.TaskGroup() as tasks:
            accepted = tasks.create_task(buyer.client.accept_receipt(receipt.receipt))
            tasks.create_task(checker.answer(check))
        assert accepted.result().state == "accepted"
        assert (await checker.settled(check.attempt)).state == "accepted"
        view = await buyer.closed(job)
        assert int(view.spent) == int(receipt.charge) + int(receipt.surcharge)
        charged = [one for one in await logged(whole) if isinstance(one, Charged)]
        assert [one.receipt for one in charged].count(receipt.receipt) == 1

        async def paid() -> bool:
            return len([one for one in await logged(whole) if isinstance(one, Charged)]) == 2

        await until(paid)


async def _work(alpha: FakeProvider, beta: FakeProvider, purpose: str) -> tuple[FakeProvider, Work]:
    async def there() -> list[tuple[FakeProvider, Work]]:
        return [
            (one, work)
            for one in (alpha, beta)
            for work in one.all(Work)
            if work.purpose == purpose
        ]

    return (await until(there))[0]


async def test_a_receipt_that_was_refused_is_not_accepted(whole: Running, buyer: Buyer) -> None:
    async with FakeProvider(whole, 1, lying).open(), FakeProvider(whole, 2).open():
        job = await buyer.order(bodies(1), slots=2)
        await buyer.happened(job, "check-differed")
        for receipt in await buyer.receipts(job, state="rejected"):
            if receipt.purpose == "check":
                with pytest.raises(BadStatement):
                    await buyer.client.accept_receipt(receipt.receipt)
            else:
                with pytest.raises(Stale, match="a check differed"):
                    await buyer.client.accept_receipt(receipt.receipt)
        assert isinstance(await tried(buyer.client.accept_receipt(OTHER)), NotFound)
        await buyer.client.cancel(job)
        assert (await buyer.closed(job)).spent == "0"
