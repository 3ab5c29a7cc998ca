"""Providers that lie, claim too much, vanish, come back, refuse or stay silent."""

from uuid import UUID

import aiohttp
import pytest

from market.api.control import PROTOCOL_ERROR
from market.service import reconcile
from market.wire import codec
from market.wire.control import Close, Drain, Grant, Lost, Welcome, Work
from settlement.domain.verdict import Conclusion, Verdict
from tests.system.fake_provider import FakeProvider, honest, lying
from tests.system.running import Running
from tests.system.trading import BUDGET, Buyer, alter, bodies, logged, rows, spec, until

pytestmark = pytest.mark.system
SOON_MS = 100  # a grace that a test can wait for


async def verdicts(running: Running) -> list[Verdict]:
    return [one for one in await logged(running) if isinstance(one, Verdict)]


def expected(inputs: list[bytes]) -> dict[int, bytes]:
    return {index: honest(body) for index, body in enumerate(inputs)}


async def test_a_checker_that_differs(whole: Running, buyer: Buyer) -> None:
    """Neither is paid, both are barred from the job, a third provider runs it."""
    inputs = bodies(1)  # of two, one could have run the second meanwhile, unchecked and paid
    async with (
        FakeProvider(whole, 1).open() as right,
        FakeProvider(whole, 2, lying).open() as wrong,
    ):
        job = await buyer.order(inputs)
        await buyer.happened(job, "check-differed")
        barred = {right.address, wrong.address}
        live = "SELECT 1 FROM leases WHERE job = $1 AND state <> 'closed'"
        await until(lambda: _empty(whole, live, UUID(job)))
        first = (await verdicts(whole))[0]
        assert first.conclusion is Conclusion.DIFFERED
        assert set(first.providers) == barred
        assert first.differing == 1
        assert (await buyer.client.job(job)).spent == "0"
        for one in (right, wrong):
            await one.heard(Close)
            assert int((await one.client.balances()).held) == 0
        async with FakeProvider(whole, 3).open() as third:
            view = await buyer.closed(job)
            assert (view.reason, view.accepted) == ("done", 1)
            assert await buyer.outputs(job) == expected(inputs)
            paid = await buyer.receipts(job, state="accepted")
            assert {receipt.provider for receipt in paid} == {third.address}


async def _empty(running: Running, sql: str, *parameters: object) -> bool:
    return not await rows(running, sql, *parameters)


async def test_nobody_left_to_trust_until_the_deadline(whole: Running, buyer: Buyer) -> None:
    """Both barred and no third provider: the job ends at its deadline, all is refunded."""
    async with (
        FakeProvider(whole, 1).open(),
        FakeProvider(whole, 2, lying).open(),
    ):
        job = await buyer.order(bodies(1))
        await buyer.happened(job, "check-differed")
        await alter(whole, "UPDATE jobs SET deadline_ms = 1 WHERE id = $1", UUID(job))
        view = await buyer.closed(job)
        assert (view.reason, view.spent, view.refunded) == ("deadline", "0", str(BUDGET))


async def test_a_provider_vanishes_within_a_chunk(
    whole: Running, buyer: Buyer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it had in hand runs elsewhere; what was accepted of it stays paid."""
    monkeypatch.setattr(reconcile, "GONE_MS", SOON_MS)
    inputs = bodies(12)
    async with (
        FakeProvider(whole, 1).open() as alpha,
        FakeProvider(whole, 2).open() as beta,
    ):
        job = await buyer.order(inputs, sealed=False)
        await until(lambda: _accepted(buyer, job, 12))
        alpha.holds = True
        more = bodies(8)
        await buyer.client.append(job, 12, await buyer.client.payloads(more), sealed=True)
        held = (await _next_work(alpha, job)).attempt
        await alpha.drop()
        view = await buyer.closed(job)
        assert (view.reason, view.accepted) == ("done", 20)
        assert await buyer.outputs(job) == expected(inputs + more)
        (lost,) = await buyer.receipts(job, state="lost")
        assert (lost.attempt, lost.provider, lost.charge) == (held, alpha.address, "0")
        assert (await buyer.lease(job, alpha.address))["reason"] == "provider-gone"
        paid = await buyer.receipts(job, state="accepted", purpose="work")
        assert {receipt.provider for receipt in paid} == {alpha.address, beta.address}
        assert sum(receipt.tasks for receipt in paid) == 20


async def _accepted(buyer: Buyer, job: str, tasks: int) -> bool:
    return (await buyer.client.job(job)).accepted == tasks


async def _next_work(provider: FakeProvider, job: str) -> Work:
    """Work that was held and not answered."""

    async def there() -> bool:
        return bool(_unanswered(provider))

    await until(there)
    return _unanswered(provider)[0]


def _unanswered(provider: FakeProvider) -> list[Work]:
    return [work for work in provider.all(Work) if work.attempt not in provider.answered]


async def test_a_provider_reconnects_within_the_grace(whole: Running, buyer: Buyer) -> None:
    """It keeps its lease and its attempt, and is paid once."""
    async with FakeProvider(whole, 1).open() as alpha:
        alpha.holds = True
        job = await buyer.order(bodies(1))
        work = await alpha.heard(Work)
        await alpha.drop()
        await alpha.connect(work.attempt)
        await alpha.heard(Grant, 2)  # each session is told anew
        await alpha.answer(work)
        assert (await alpha.settled(work.attempt)).state == "accepted"
        await buyer.closed(job)
        (receipt,) = await buyer.receipts(job)
        assert receipt.attempt == work.attempt
        assert {grant.lease for grant in alpha.all(Grant)} == {work.lease}


async def test_a_daemon_restarts_without_its_attempts(whole: Running, buyer: Buyer) -> None:
    """The attempt is lost, the lease stays, the task is handed out again."""
    async with FakeProvider(whole, 1).open() as alpha:
        alpha.holds = True
        job = await buyer.order(bodies(1))
        work = await alpha.heard(Work)
        await alpha.drop()
        alpha.holds = False
        await alpha.connect()
        view = await buyer.closed(job)
        assert view.accepted == 1
        states = {receipt.attempt: receipt.state for receipt in await buyer.receipts(job)}
        assert states.pop(work.attempt) == "lost"
        assert list(states.values()) == ["accepted"]
        assert {work.lease for work in alpha.all(Work)} == {work.lease}


async def test_the_newest_session_is_the_provider(whole: Running, buyer: Buyer) -> None:
    """A session that was left behind half open gets no work."""
    old = FakeProvider(whole, 1)
    async with old.open(), FakeProvider(whole, 1, key=old.key).open() as new:
        job = await buyer.order(bodies(3))
        assert (await buyer.closed(job)).accepted == 3
        assert new.all(Work)
        assert not old.all(Work)


async def test_a_provider_gives_an_attempt_up(whole: Running, buyer: Buyer) -> None:
    async with FakeProvider(whole, 1).open() as alpha:
        alpha.holds = True
        job = await buyer.order(bodies(1))
        work = await alpha.heard(Work)
        alpha.holds = False
        await alpha.send(Lost(attempt=work.attempt, reason="the machine went down"))
        assert (await alpha.settled(work.attempt)).state == "lost"
        assert (await buyer.closed(job)).accepted == 1
        await alpha.send(Lost(attempt=work.attempt, reason="twice"))
        assert (await alpha.settled(work.attempt, 2)).state == "lost"


async def test_a_provider_that_refuses_does_not_get_the_job_again_at_once(
    whole: Running, buyer: Buyer
) -> None:
    """The cheapest one always refuses: the job goes to the next, and the log is not flooded."""
    async with FakeProvider(whole, 1).open() as alpha:
        alpha.refuses = True
        job = await buyer.order(bodies(2), of=spec(verify="none"))
        await buyer.happened(job, "lease-closed")
        async with FakeProvider(whole, 2).open() as beta:
            assert (await buyer.closed(job)).accepted == 2
            assert beta.all(Work)
            assert len(alpha.all(Grant)) == 1


async def test_a_provider_never_arms(
    whole: Running, buyer: Buyer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A grant that nobody takes up ends; the job goes elsewhere."""
    monkeypatch.setattr(reconcile, "ARM_MS", SOON_MS)
    async with FakeProvider(whole, 1).open() as alpha:
        alpha.arms = False
        job = await buyer.order(bodies(2), slots=1, of=spec(verify="none"))
        await alpha.heard(Close)
        async with FakeProvider(whole, 2).open() as beta:
            assert (await buyer.closed(job)).accepted == 2
            assert beta.all(Work)


async def test_a_provider_never_answers(whole: Running, buyer: Buyer) -> None:
    """A chunk that is overdue, without a word, ends the lease."""
    async with FakeProvider(whole, 1).open() as alpha:
        alpha.holds = True
        job = await buyer.order(bodies(2), slots=1, of=spec(verify="none"))
        await alpha.heard(Work)
        await alter(whole, "UPDATE attempts SET handed_ms = 1")
        await alpha.heard(Close)
        async with FakeProvider(whole, 2).open() as beta:
            assert (await buyer.closed(job)).accepted == 2
            assert beta.all(Work)


async def test_a_draining_provider_gets_nothing_new(whole: Running, buyer: Buyer) -> None:
    async with FakeProvider(whole, 1).open() as alpha, FakeProvider(whole, 2).open() as beta:
        await alpha.send(Drain())
        await until(lambda: _draining(buyer, alpha.address))
        job = await buyer.order(bodies(4), of=spec(verify="none"))
        assert (await buyer.closed(job)).accepted == 4
        assert beta.all(Work)
        assert not alpha.all(Grant)


async def _draining(buyer: Buyer, address: str) -> bool:
    views = {view.address: view for view in await buyer.client.providers()}
    return views[address].draining


@pytest.mark.parametrize("bytes_sent", [b"", b"\xc1", b"\x80", codec.pack({"type": "Work"})])
async def test_what_is_no_frame_ends_the_session(whole: Running, bytes_sent: bytes) -> None:
    """With a reason; the next session is taken."""
    async with FakeProvider(whole, 1).open() as alpha:
        assert alpha._socket is not None
        await alpha._socket.send_bytes(bytes_sent)
        socket = alpha._socket
        await until(lambda: _closed(socket))
        assert socket.close_code == PROTOCOL_ERROR
        await alpha.drop()
        await alpha.connect()
        assert len(alpha.all(Welcome)) == 2


async def _closed(socket: aiohttp.ClientWebSocketResponse) -> bool:
    return socket.closed


async def test_all_slots_of_a_barred_provider_end_together(whole: Running, buyer: Buyer) -> None:
    """A lie on one slot bars the provider: what its other slots of the job have in hand goes back."""
    inputs = bodies(8)
    async with (
        FakeProvider(whole, 1, lying, slots=3).open() as liar,
        FakeProvider(whole, 2).open() as checker,
    ):
        liar.holds = checker.holds = True
        job = await buyer.order(inputs, slots=4)
        await until(lambda: _live(whole, job, liar.address, 3))
        in_hand = [await liar.heard(Work, number) for number in (1, 2, 3)]
        own = await checker.heard(Work)
        await liar.answer(in_hand[0])
        assert (await liar.settled(in_hand[0].attempt)).state == "checking"
        checker.holds = False
        await checker.answer(own)  # what it gets next is the check
        await buyer.happened(job, "check-differed")
        await until(lambda: _live(whole, job, liar.address, 0))
        await until(lambda: _live(whole, job, checker.address, 0))
        await liar.answer(in_hand[1])
        assert (await liar.settled(in_hand[1].attempt)).state == "lost"
        async with FakeProvider(whole, 3).open():
            assert (await buyer.closed(job)).accepted == 8
            assert await buyer.outputs(job) == expected(inputs)


async def _live(running: Running, job: str, provider: str, count: int) -> bool:
    sql = "SELECT 1 FROM leases WHERE job = $1 AND provider = $2 AND state <> 'closed'"
    return len(await rows(running, sql, UUID(job), provider)) == count
