"""The blocking facade end to end against a fake market that really runs the pickled code."""

import asyncio
import time
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import pytest

from market.sdk import blocking as gp
from market.sdk import blocking_jobs, wallet
from market.sdk import client as clients
from settlement.domain.errors import (
    BudgetExceeded,
    EnvironmentMismatch,
    InsufficientFunds,
    JobEnded,
    MisConfigured,
    NoOffer,
    NotFound,
    TaskFailed,
    UnsafeResult,
)
from tests.unit.sdk.fake_market import CHARGE, FakeMarket, other_python
from tests.unit.sdk.served import served

OFFSET = 10


def shifted(number: int) -> int:
    """Uses another name of this module, which no provider has."""
    return number + OFFSET


@gp.function(cpu=1, memory_mib=256, max_price="1.00", budget="2", task_timeout=10)
def square(number: int) -> int:
    """The square."""
    return number * number


@gp.function
def through_modules(number: int) -> int:
    return shifted(square.local(number)) if number < 0 else shifted(number)


@gp.function
def nested(number: int) -> int:
    return square(number) + 1


@gp.function(budget="1")
def fails(number: int) -> int:
    if number == 3:
        raise ValueError("three is bad")
    if number == 4:
        raise MemoryError
    if number == 5:
        return object()  # type: ignore[return-value]
    return number


class Odd(Exception):
    """Not a built-in class."""


@gp.function
def raises_odd() -> None:
    raise Odd("strange")


@gp.function
def large(size: int) -> bytes:
    print("made", size)
    return b"x" * size


@pytest.fixture
def market() -> FakeMarket:
    return FakeMarket()


@pytest.fixture
def funds(market: FakeMarket, tmp_path: Path) -> Iterator[str]:
    """The address of a key with 100 credits."""
    key = wallet.create_key(tmp_path / "wallet.key")
    market.funds[key.address] = 100_000_000
    with served(market) as url:
        gp.configure(url=url, key=tmp_path / "wallet.key", home=tmp_path)
        yield key.address
        gp.close()
        gp.configure()


@pytest.mark.usefixtures("funds")
def test_call_here_and_there(market: FakeMarket) -> None:
    assert square(3) == square.local(3) == 9
    assert not market.jobs
    assert square.remote(3) == 9
    assert square.__name__ == "square"
    assert square.__doc__ == "The square."


@pytest.mark.usefixtures("funds")
def test_calls_share_one_warm_job_that_is_sealed_at_the_end(market: FakeMarket, funds: str) -> None:
    calls = [square.spawn(number) for number in range(20)]
    assert [call.get(timeout=30) for call in calls] == [n * n for n in range(20)]
    assert all(call.done() for call in calls)
    assert [job.sealed for job in market.jobs.values()] == [False]
    assert market.funds[funds] == 98_000_000
    assert calls[3].cost == Decimal("0.001")
    assert calls[3].receipt.view.first == 3
    square.close()
    assert [job.sealed for job in market.jobs.values()] == [True]
    assert market.funds[funds] == 100_000_000 - 20 * CHARGE


@pytest.mark.usefixtures("funds")
def test_an_ended_session_is_replaced(market: FakeMarket) -> None:
    assert square.remote(2) == 4
    [first] = market.jobs.values()
    first.sealed = True
    market._close(first, "idle")
    assert square.remote(5) == 25
    assert len(market.jobs) == 2


def test_closing_seals(market: FakeMarket, funds: str) -> None:
    square.remote(2)
    gp.close()
    [job] = market.jobs.values()
    assert (job.sealed, job.state) == (True, "closed")
    assert market.funds[funds] == 100_000_000 - CHARGE
    assert square.remote(3) == 9  # a new connection, a new session


@pytest.mark.usefixtures("funds")
def test_a_map_is_one_sealed_job(market: FakeMarket) -> None:
    job = square.map(range(50))
    assert job.total == 50
    assert list(job) == [n * n for n in range(50)]
    assert job.results == {n: n * n for n in range(50)}
    [known] = market.jobs.values()
    assert known.sealed
    assert known.order.tasks == 50
    assert job.job_id == known.order.job
    assert job.cost == Decimal(50 * CHARGE) / 1_000_000
    assert len(job.receipts()) == 50
    job.wait()
    assert job.view.state == "closed"


@pytest.mark.usefixtures("funds")
def test_many_inputs_travel_in_several_requests(
    market: FakeMarket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("market.sdk.client.BATCH_BYTES_MAX", 2_000)
    assert list(square.map(range(200))) == [n * n for n in range(200)]
    appended = [path for _, path, _ in market.seen if path.endswith("/tasks")]
    assert len(appended) > 10


@pytest.mark.usefixtures("funds")
def test_as_completed_and_starmap_and_several_iterables(market: FakeMarket) -> None:
    @gp.function
    def power(base: int, exponent: int = 2) -> int:
        return int(base**exponent)

    assert sorted(power.map([1, 2, 3], ordered=False, progress=True)) == [1, 4, 9]
    assert list(power.starmap([(2, 3), (3,)])) == [8, 9]
    assert list(power.map([2, 3], [3, 2])) == [8, 9]
    assert power.remote(2, exponent=5) == 32
    assert list(power.map([])) == []


@pytest.mark.usefixtures("funds")
def test_code_of_local_modules_travels_by_value() -> None:
    assert through_modules.remote(1) == 11
    assert nested.remote(4) == 17


@pytest.mark.usefixtures("funds")
def test_large_results_come_by_digest() -> None:
    assert large.remote(200_000) == b"x" * 200_000


@pytest.mark.usefixtures("funds")
def test_failures_are_raised_here(market: FakeMarket) -> None:
    with pytest.raises(ValueError, match="three is bad") as caught:
        fails.remote(3)
    assert any("Traceback" in note for note in caught.value.__notes__)
    with pytest.raises(TaskFailed, match="more memory than its slot has"):
        fails.remote(4)
    with pytest.raises(UnsafeResult, match="object"):
        fails.remote(5)
    with pytest.raises(Exception, match="Odd: strange"):
        raises_odd.remote()


@pytest.mark.usefixtures("funds")
def test_a_map_with_failures(market: FakeMarket) -> None:
    values = list(fails.map(range(6), return_exceptions=True))
    assert values[:3] == [0, 1, 2]
    assert [type(value) for value in values[3:]] == [ValueError, TaskFailed, UnsafeResult]
    job = fails.map(range(6))
    with pytest.raises(ValueError, match="three is bad"):
        list(job)
    assert job.results[2] == 2
    assert market.jobs[job.job_id].state == "closed"
    with fails.map([0, 1]) as early:
        next(early)
    assert early.view.state == "closed"


@pytest.mark.usefixtures("funds")
def test_a_timeout_leaves_the_call(market: FakeMarket) -> None:
    market.hold_results.clear()
    call = square.spawn(7)
    with pytest.raises(TimeoutError):
        call.get(timeout=0.05)
    assert not call.done()
    market.hold_results.set()
    deadline = time.monotonic() + 30
    while not call.done() and time.monotonic() < deadline:
        market.hold_results.set()
        _touch(market)
        time.sleep(0.01)
    assert call.get(timeout=30) == 49


def _touch(market: FakeMarket) -> None:
    """Wake the market's loop: the event above was set from another thread."""
    asyncio.run(_ask(market.authority))


async def _ask(authority: str) -> None:
    async with clients.MarketClient(f"http://{authority}") as client:
        await client.market()


@pytest.mark.usefixtures("funds")
def test_a_job_that_ends_early_tells_why(market: FakeMarket) -> None:
    market.hold_results.clear()
    job = square.map(range(3))
    known = market.jobs[job.job_id]
    known.results.clear()
    known.state, known.reason = "closed", "deadline"
    market.hold_results.set()
    _touch(market)
    with pytest.raises(JobEnded, match="deadline"):
        list(job)


@pytest.mark.usefixtures("funds")
def test_an_empty_budget_is_told_and_a_top_up_goes_on(
    market: FakeMarket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clients, "PAUSED_SECONDS_MAX", 0.0)

    @gp.function(budget="0.004")
    def cheap(number: int) -> int:
        return number

    job = cheap.map(range(6))
    with pytest.raises(BudgetExceeded, match="top-up"):
        list(job)
    assert sorted(job.results) == [0, 1, 2, 3]


def test_a_budget_over_several_jobs(market: FakeMarket, funds: str) -> None:
    with gp.budget("3"):
        assert list(square.map(range(3))) == [0, 1, 4]  # takes 2, costs little, gives back
        assert list(square.map(range(3))) == [0, 1, 4]
        assert square.remote(5) == 25
        assert list(square.map(range(3))) == [0, 1, 4]
    assert all(int(job.order.budget) <= 3_000_000 for job in market.jobs.values())
    assert all(job.state == "closed" for job in market.jobs.values())
    assert market.funds[funds] == 100_000_000 - 10 * CHARGE


@pytest.mark.usefixtures("funds")
def test_a_budget_refuses_before_anything_is_sent(market: FakeMarket) -> None:
    with gp.budget("0.001"), pytest.raises(BudgetExceeded, match="are left"):
        square.remote(5)
    with gp.budget(0.001), pytest.raises(BudgetExceeded):
        square.map(range(3))
    assert not market.jobs
    assert square.remote(5) == 25


def test_no_money(market: FakeMarket, funds: str) -> None:
    market.funds[funds] = 0
    with pytest.raises(InsufficientFunds):
        square.remote(5)
    market.funds[funds] = 5_000_000
    assert square.remote(5) == 25


@pytest.mark.usefixtures("funds")
def test_environments(market: FakeMarket) -> None:
    fitting = market.environments
    market.environments = [other_python()]
    with pytest.raises(EnvironmentMismatch, match=r"Python 3\.11 here, 3\.12"):
        square.map([1])
    market.environments = [other_python(), *fitting]
    assert list(square.map([1])) == [1]
    market.environments = []
    with pytest.raises(NoOffer):
        square.map([1])
    with pytest.raises(NotFound):
        gp.function(environment="sha256:" + "0" * 64)(shifted).estimate()


@pytest.mark.usefixtures("funds")
def test_estimate() -> None:
    estimate = square.estimate(1_000)
    assert estimate.rate_least_microcredits == 210
    assert estimate.task_worst_microcredits == 2_420  # 10 s at 220 and a tenth for checks
    assert estimate.unit == Decimal("0.792")
    assert estimate.worst_case == Decimal(2)  # the budget caps it


@pytest.mark.usefixtures("funds")
async def test_async_objects_can_be_awaited_from_another_loop() -> None:
    assert await square.aio.remote(6) == 36
    call = await square.aio.spawn(7)
    assert await call.get() == 49
    assert (await call.receipt()).view.tasks == 1


@pytest.mark.usefixtures("funds")
def test_a_blocking_call_in_the_portals_own_loop_raises() -> None:
    async def inside() -> int:
        return square.remote(3)

    square.remote(1)
    portal = blocking_jobs.HOME.portal()
    with pytest.raises(RuntimeError, match=r"\.aio"):
        portal.run(inside())


def test_without_any_market(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(wallet.URL_VARIABLE, raising=False)
    gp.configure(home=tmp_path)
    with pytest.raises(MisConfigured, match="no market is named"):
        square.remote(1)
    gp.configure()
