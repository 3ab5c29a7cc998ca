"""Consumers who run dry, cancel, vanish, repeat themselves, or buy from themselves."""

import asyncio
from uuid import UUID, uuid4

import pytest

from market.sdk.client import MarketClient, now_ms
from market.service import reconcile
from market.wire.control import Close, Grant, Work
from market.wire.jobs import QuoteRequest, Submit
from market.wire.payload import inline
from settlement.domain import charge, statement
from settlement.domain.errors import (
    BudgetExceeded,
    DuplicateKey,
    EnvironmentMismatch,
    GridpactError,
    InsufficientFunds,
    JobEnded,
    NotFound,
    Stale,
)
from settlement.domain.identity import PrivateKey
from settlement.domain.trade import Manifest, Order
from tests.system.fake_provider import FakeProvider, honest
from tests.system.running import Running
from tests.system.trading import (
    BUDGET,
    CODE,
    FUNDS,
    MANIFEST,
    RATE,
    SLOT,
    Buyer,
    bodies,
    rows,
    spec,
    until,
)

pytestmark = pytest.mark.system
UNCHECKED = spec(verify="none")
WINDOW_MS = 35_000  # of these jobs: half a minute and a grace
WINDOW = charge.cap(window_ms=WINDOW_MS, rate_microcredits=RATE, checked=False)


async def test_the_budget_runs_dry_between_two_chunks(whole: Running, buyer: Buyer) -> None:
    """Paused, the finished chunk is paid; a top-up resumes, and the job ends done."""
    async with FakeProvider(whole, 1).open():
        job = await buyer.order(bodies(5), slots=1, budget=WINDOW, of=UNCHECKED)
        await buyer.happened(job, "paused")
        view = await buyer.client.job(job)
        assert (view.state, view.paused, view.accepted) == ("running", True, 1)
        (paid,) = await buyer.receipts(job, state="accepted")
        assert int(view.spent) == int(paid.charge) > 0
        page = await buyer.client.results(job, after=(await buyer.client.results(job)).next)
        assert page.paused
        await buyer.client.top_up(job, BUDGET)
        view = await buyer.closed(job)
        assert (view.reason, view.accepted, view.budget) == ("done", 5, str(WINDOW + BUDGET))
        assert int((await buyer.client.balances()).available) == FUNDS - int(view.spent)
        with pytest.raises(JobEnded):
            await buyer.client.top_up(job, BUDGET)


async def test_two_slots_share_a_budget_of_one_window(whole: Running, buyer: Buyer) -> None:
    """Nobody is paused while work in hand may free enough."""
    async with FakeProvider(whole, 1).open(), FakeProvider(whole, 2).open():
        job = await buyer.order(bodies(4), budget=WINDOW * 3 // 2, of=UNCHECKED)
        assert (await buyer.closed(job)).accepted == 4
        assert "paused" not in await buyer.kinds(job)


async def test_a_budget_below_one_window_is_refused(whole: Running, buyer: Buyer) -> None:
    async with FakeProvider(whole, 1).open():
        with pytest.raises(BudgetExceeded, match="one window of 35 s"):
            await buyer.order(bodies(1), budget=WINDOW - 1, of=UNCHECKED)
        with pytest.raises(InsufficientFunds):
            await buyer.order(bodies(1), budget=FUNDS + 1, of=UNCHECKED)
        assert (await buyer.client.balances()).available == str(FUNDS)
        assert (await buyer.client.list_jobs()).jobs == []


async def test_the_consumer_cancels_in_the_middle(whole: Running, buyer: Buyer) -> None:
    """What was accepted is paid, what runs is lost, the rest of the budget returns."""
    async with FakeProvider(whole, 1).open() as alpha:
        alpha.holds = True
        job = await buyer.order(bodies(4), slots=1, of=UNCHECKED)
        await alpha.answer(await alpha.heard(Work))
        second = await alpha.heard(Work, 2)
        await buyer.client.cancel(job)
        view = await buyer.closed(job)
        assert (view.reason, view.order_state, view.accepted) == ("cancelled", "closed", 1)
        assert int(view.spent) > 0
        assert int(view.refunded) == BUDGET - int(view.spent)
        assert (await alpha.heard(Close)).reason == "cancelled"
        (lost,) = await buyer.receipts(job, state="lost")
        assert lost.attempt == second.attempt
        assert (await buyer.client.cancel(job)).reason == "cancelled"  # twice does no harm


async def test_a_cancel_while_a_receipt_waits_for_its_check(whole: Running, buyer: Buyer) -> None:
    """The receipt is in: it is accepted as it stands, with a verdict that says why."""
    async with FakeProvider(whole, 1).open(), FakeProvider(whole, 2, slots=0).open():
        job = await buyer.order(bodies(2), slots=1)
        await buyer.happened(job, "checking")
        await buyer.client.cancel(job)
        view = await buyer.closed(job)
        assert (view.reason, view.accepted >= 1) == ("cancelled", True)
        assert int(view.spent) > 0


async def test_the_consumer_vanishes_with_an_open_session(
    whole: Running, buyer: Buyer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Receipts settle without it; an idle session is sealed for it, and the rest goes back."""
    async with FakeProvider(whole, 1).open() as alpha:
        job = await buyer.order(bodies(2), sealed=False)
        await buyer.happened(job, "accepted", times=2)
        assert (await buyer.client.job(job)).state == "running"
        monkeypatch.setattr(reconcile, "SESSION_IDLE_MS", 50)
        view = await buyer.closed(job)
        assert (view.reason, view.accepted, view.sealed) == ("done", 2, True)
        assert int(view.refunded) == BUDGET - int(view.spent)
        await alpha.heard(Close)
        with pytest.raises(JobEnded):
            await buyer.client.append(job, 2, [inline(b"too late")])


async def test_an_idle_lease_ends_and_the_session_goes_on(
    whole: Running, buyer: Buyer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with FakeProvider(whole, 1).open() as alpha:
        job = await buyer.order(bodies(1), sealed=False)
        await buyer.happened(job, "accepted")
        with monkeypatch.context() as soon:
            soon.setattr(reconcile, "IDLE_MS", 50)
            assert (await alpha.heard(Close)).reason == "idle"
        await buyer.client.append(job, 1, [inline(b"more")], sealed=True)
        assert (await buyer.closed(job)).accepted == 2
        assert len(alpha.all(Grant)) == 2


async def test_the_deadline(whole: Running, buyer: Buyer) -> None:
    async with FakeProvider(whole, 1).open() as alpha:
        alpha.holds = True
        job = await buyer.order(bodies(2), deadline_seconds=0.7)
        view = await buyer.closed(job)
        assert (view.reason, view.spent, view.refunded) == ("deadline", "0", str(BUDGET))
        assert (await alpha.heard(Close)).reason == "deadline"
        assert await buyer.receipts(job, state="accepted") == []


async def test_appends_repeated_with_a_gap_and_after_the_seal(whole: Running, buyer: Buyer) -> None:
    client = buyer.client
    async with FakeProvider(whole, 1).open():
        job = await buyer.order(bodies(2), sealed=False, tasks_max=5)
        more = [inline(b"third"), inline(b"fourth")]
        for _ in range(2):
            assert (await client.append(job, 2, more)).tasks == 4
        with pytest.raises(Stale, match="with other inputs"):
            await client.append(job, 2, [inline(b"another")])
        with pytest.raises(Stale, match="next task is number 4"):
            await client.append(job, 5, [inline(b"sixth")])
        with pytest.raises(GridpactError, match="the order allows 5 tasks"):
            await client.append(job, 4, more)
        assert (await client.append(job, 4, [inline(b"fifth")], sealed=True)).sealed
        assert (await client.append(job, 4, [inline(b"fifth")], sealed=True)).tasks == 5
        assert (await client.append(job, 5, [], sealed=True)).tasks == 5
        with pytest.raises(JobEnded):
            await client.append(job, 5, [inline(b"sixth")])
        assert (await buyer.closed(job)).accepted == 5
        inputs = [*bodies(2), b"third", b"fourth", b"fifth"]
        wanted = {index: honest(body) for index, body in enumerate(inputs)}
        assert await buyer.outputs(job) == wanted


async def test_a_repeated_append_may_bring_the_seal(whole: Running, buyer: Buyer) -> None:
    """The same tasks again, now as the last ones: the seal is not lost."""
    async with FakeProvider(whole, 1).open():
        job = await buyer.order(bodies(1), sealed=False)
        more = [inline(b"second")]
        await buyer.client.append(job, 1, more)
        assert (await buyer.client.append(job, 1, more, sealed=True)).sealed
        assert (await buyer.closed(job)).accepted == 2


async def test_a_submit_is_idempotent(whole: Running, buyer: Buyer) -> None:
    """The same signed order, sent again and again at once, is one job and one budget."""
    client = buyer.client
    async with FakeProvider(whole, 1).open() as alpha:
        alpha.refuses = True
        await client.put_blob(CODE)
        body = _submit(client, whole.market.origin, str(uuid4()))
        async with asyncio.TaskGroup() as tasks:
            for _ in range(4):
                tasks.create_task(client._write("POST", "/v1/jobs", body))
        await client._write("POST", "/v1/jobs", body)
        (job,) = (await client.list_jobs()).jobs
        assert int((await client.balances()).budgets) == BUDGET
        with pytest.raises(DuplicateKey):
            await client._write("POST", "/v1/jobs", _submit(client, whole.market.origin, job.id))
        assert int((await client.balances()).available) == FUNDS - BUDGET
        await client.cancel(job.id)


def _submit(client: MarketClient, origin: str, job: str) -> Submit:
    at_ms = now_ms()
    order = Order(
        v=1, kind="order", market=origin, consumer=client.address, job=job, spec=UNCHECKED.digest(),
        tasks=1, slots=1, rate_cap=str(RATE), budget=str(BUDGET), transfer=str(uuid4()),
        deadline_ms=at_ms + 60_000, at_ms=at_ms,
    )  # fmt: skip
    assert client.key is not None
    return Submit(statement.sign(order, client.key).envelope, UNCHECKED, [inline(b"in")], True)


async def test_another_environment_is_refused_naming_both(whole: Running, buyer: Buyer) -> None:
    async with FakeProvider(whole, 1).open():
        for client, words in (
            (Manifest({"numpy": "2.4.0"}, "3.12"), ["Python 3.12 here", "3.11 in the environment"]),
            (Manifest({"numpy": "1.26.4"}, "3.11"), ["numpy 1.26.4 here", "2.4.0 in the"]),
        ):
            with pytest.raises(EnvironmentMismatch) as refused:
                await buyer.order(bodies(1), of=spec(client=client))
            assert all(word in refused.value.detail for word in words)
        nowhere = Manifest({"numpy": "9.9"}, "3.11").digest()
        with pytest.raises(EnvironmentMismatch) as refused:
            await buyer.order(bodies(1), of=spec(environment=nowhere))
        assert "you run Python 3.11, numpy 2.4.0" in refused.value.detail
        assert "offered: Python 3.11, numpy 2.4.0" in refused.value.detail
        assert (await buyer.client.list_jobs()).jobs == []


async def test_nobody_buys_from_himself(whole: Running, buyer: Buyer) -> None:
    """Neither work nor checks: the own offer does not fit, and says so."""
    async with FakeProvider(whole, 1, key=buyer.client.key).open() as own:
        wanted = QuoteRequest(SLOT, 1, str(RATE), "L", "spot", MANIFEST.digest())
        (offer,) = (await buyer.client.quote(wanted)).offers
        assert offer.refused == ["self"]
        job = await buyer.order(bodies(2))
        async with FakeProvider(whole, 2).open() as other:
            assert (await buyer.closed(job)).accepted == 2
            assert other.all(Work)
        assert not own.all(Grant)


async def test_jobs_belong_to_their_consumer(whole: Running, buyer: Buyer) -> None:
    job = await _waiting(whole, buyer)
    async with whole.client(PrivateKey(b"\x32" * 32)) as thief:
        await thief.faucet(FUNDS)
        for attempt in (
            thief.cancel(job),
            thief.append(job, 1, [inline(b"more")]),
            thief.results(job),
            thief.receipts(job),
        ):
            with pytest.raises(NotFound):
                await attempt
        with pytest.raises(JobEnded):
            await thief.top_up(job, BUDGET)
        assert (await thief.balances()).available == str(FUNDS)
    assert (await buyer.client.job(job)).state == "open"
    assert len(await rows(whole, "SELECT 1 FROM jobs WHERE id = $1", UUID(job))) == 1


async def _waiting(whole: Running, buyer: Buyer) -> str:
    """A job that no provider has, in an environment that one offered once."""
    async with FakeProvider(whole, 1).open() as alpha:
        await alpha.drop()
        await until(lambda: _nobody(buyer))
        return await buyer.order(bodies(1), sealed=False)


async def _nobody(buyer: Buyer) -> bool:
    return not any(view.connected for view in await buyer.client.providers())
