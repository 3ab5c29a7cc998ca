"""Checks that nobody can make, that never come, that are spoilt, that nobody can pay yet."""

import msgspec
import pytest

from market.service import reconcile
from market.wire.control import Work
from settlement.domain import canonical
from settlement.domain.receipt import Receipt
from settlement.domain.verdict import Conclusion, Verdict
from tests.system.fake_provider import FakeProvider
from tests.system.running import Running
from tests.system.trading import Buyer, bodies, logged, rows, until

pytestmark = pytest.mark.system


async def verdicts(running: Running) -> list[Verdict]:
    return [one for one in await logged(running) if isinstance(one, Verdict)]


async def test_nobody_can_check(whole: Running, buyer: Buyer) -> None:
    """Accepted at once, with a verdict that says so."""
    async with FakeProvider(whole, 1).open():
        job = await buyer.order(bodies(3))
        assert (await buyer.closed(job)).accepted == 3
        (verdict,) = await verdicts(whole)
        assert verdict.conclusion is Conclusion.UNCHECKED
        assert verdict.reason == "no second provider is there"
        assert verdict.checks == []


async def test_no_check_comes_in_time(
    whole: Running, buyer: Buyer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second provider is there but has no room."""
    async with FakeProvider(whole, 1).open(), FakeProvider(whole, 2, slots=0).open():
        job = await buyer.order(bodies(1))
        await buyer.happened(job, "checking")
        monkeypatch.setattr(reconcile, "CHECK_WAIT_MS", 50)
        assert (await buyer.closed(job)).accepted == 1
        (verdict,) = await verdicts(whole)
        assert verdict.conclusion is Conclusion.UNCHECKED
        assert verdict.reason.startswith("no check came within")


async def _pair(alpha: FakeProvider, beta: FakeProvider) -> tuple[FakeProvider, Work]:
    """Whichever provider holds a check, and that check."""

    async def there() -> bool:
        return any(_checks(one) for one in (alpha, beta))

    await until(there)
    one = alpha if _checks(alpha) else beta
    return one, _checks(one)[-1]


def _checks(provider: FakeProvider) -> list[Work]:
    return [work for work in provider.all(Work) if work.purpose == "check"]


async def test_a_checker_vanishes_within_its_check(
    whole: Running, buyer: Buyer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another provider checks instead."""
    monkeypatch.setattr(reconcile, "GONE_MS", 100)
    async with FakeProvider(whole, 1).open() as alpha, FakeProvider(whole, 2).open() as beta:
        worker = await _ordered(buyer, alpha, beta)
        await worker.answer(worker.all(Work)[0])
        checker, check = await _pair(alpha, beta)
        assert checker is not worker
        async with FakeProvider(whole, 3).open() as third:
            await checker.drop()
            (job,) = (await buyer.client.list_jobs()).jobs
            assert (await buyer.closed(job.id)).accepted == 1
            (lost,) = await buyer.receipts(job.id, state="lost")
            assert lost.attempt == check.attempt
            (verdict,) = await verdicts(whole)
            assert verdict.providers == [worker.address, third.address]


async def _either(alpha: FakeProvider, beta: FakeProvider) -> FakeProvider:
    """Both hold; whoever got the work."""
    alpha.holds = beta.holds = True
    await until(lambda: _worked(alpha, beta))
    return alpha if alpha.all(Work) else beta


def other_inputs(receipt: Receipt) -> Receipt:
    return msgspec.structs.replace(receipt, inputs=canonical.digest(b"another"))


async def test_a_check_with_a_bad_receipt_is_done_again_by_another(
    whole: Running, buyer: Buyer
) -> None:
    """A saboteur's check decides nothing: it is barred, and a third provider checks."""
    async with FakeProvider(whole, 1).open() as alpha, FakeProvider(whole, 2).open() as beta:
        worker = await _ordered(buyer, alpha, beta)
        saboteur = beta if worker is alpha else alpha
        await worker.answer(worker.all(Work)[0])
        _, check = await _pair(alpha, beta)
        async with FakeProvider(whole, 3).open() as third:
            await saboteur.send(saboteur.done(check, other_inputs))
            assert (await saboteur.settled(check.attempt)).state == "rejected"
            (job,) = (await buyer.client.list_jobs()).jobs
            assert (await buyer.closed(job.id)).accepted == 1
            (verdict,) = await verdicts(whole)
            assert verdict.conclusion is Conclusion.AGREED
            assert verdict.providers == [worker.address, third.address]


async def _worked(*providers: FakeProvider) -> bool:
    return any(one.all(Work) for one in providers)


async def _ordered(buyer: Buyer, alpha: FakeProvider, beta: FakeProvider) -> FakeProvider:
    """Order one task from two who hold; the one who got it."""
    alpha.holds = beta.holds = True
    await buyer.order(bodies(1), slots=1)
    return await _either(alpha, beta)


async def test_an_empty_checks_account_pays_the_wage_later_once(
    whole: Running, buyer: Buyer
) -> None:
    """The first surcharge does not cover the check; what comes later does."""
    async with FakeProvider(whole, 1).open() as alpha, FakeProvider(whole, 2).open() as beta:
        worker = await _ordered(buyer, alpha, beta)
        checker = beta if worker is alpha else alpha
        await worker.answer(worker.all(Work)[0])
        _, check = await _pair(alpha, beta)
        await checker.answer(check)
        (first,) = (await buyer.client.list_jobs()).jobs
        await buyer.closed(first.id)
        assert int((await checker.client.balances()).available) == 0
        owed = "SELECT 1 FROM attempts AS a WHERE purpose = 'check' AND state = 'accepted' AND NOT EXISTS"
        owed += " (SELECT 1 FROM charges WHERE attempt = a.id)"
        assert len(await rows(whole, owed)) == 1
        alpha.holds = beta.holds = False
        rate = 100 * 100_000
        rich = FakeProvider(whole, 3, rates=msgspec.structs.replace(alpha.rates, cpu=rate))
        async with rich.open():
            await alpha.drop()
            await beta.drop()
            job = await buyer.order(bodies(30), slots=1, rate_cap=rate, budget=800_000_000)
            await buyer.closed(job)
            await until(lambda: _paid(whole, owed))
        wages = "SELECT count(*) AS n FROM transfers WHERE code = 8"
        assert [entry["n"] for entry in await rows(whole, wages)] == [1]


async def _paid(running: Running, owed: str) -> bool:
    return not await rows(running, owed)
