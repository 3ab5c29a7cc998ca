"""Withdrawals: reserved, then paid out or refused by the operator, or free again in time."""

import asyncio
import time
from typing import Any
from uuid import UUID, uuid4

import pytest

from market.service import withdrawals
from market.wire.money import WithdrawalQuery
from settlement.domain.errors import (
    BadSignature,
    BadStatement,
    Forbidden,
    InsufficientFunds,
    LedgerRefused,
    LimitExceeded,
    Malformed,
    NotFound,
    Stale,
    StaleRequest,
    WrongMarket,
)
from settlement.domain.identity import PrivateKey
from settlement.domain.payments import EXPIRED_MAX, WITHDRAWAL_SECONDS, Expiry
from settlement.store.ledger import EXPIRIES_MAX
from tests.system.money import (
    ALICE,
    BOB,
    OPERATOR,
    TRANSFER,
    available,
    count,
    decision,
    send_decision,
    send_wish,
    tried,
    wish,
)
from tests.system.running import Running
from tests.system.trading import logged, rows, until

pytestmark = pytest.mark.system
WEEK_NS = WITHDRAWAL_SECONDS * 1_000_000_000


async def issued(running: Running) -> int:
    """What is in the market's hands: all that was issued and did not leave."""
    found = await rows(
        running, "SELECT dr_posted - cr_posted AS out FROM accounts WHERE purpose = 7"
    )
    return int(found[0]["out"])


async def test_paid_out(api: Running) -> None:
    """The party asks, the operator pays: the tokens are gone, and both see it."""
    async with api.client(ALICE) as alice, api.client(OPERATOR) as operator:
        await alice.faucet(100)
        asked = await alice.withdraw(60, "DE00 1234")
        assert (asked.state, asked.amount, asked.destination) == ("waiting", "60", "DE00 1234")
        assert asked.expires_ms - asked.asked_ms >= WITHDRAWAL_SECONDS * 1_000 - 1
        assert (await available(api, ALICE), await issued(api)) == (40, 100)
        balances = await alice.balances()
        assert (balances.available, balances.reserved) == ("100", "60")
        with pytest.raises(InsufficientFunds):
            await alice.pay(BOB.address, 41)
        assert await operator.withdrawals(everybody=True, waiting=True) == [asked]
        done = await operator.decide_withdrawal(asked.transfer, paid=True, memo="sent")
        assert (done.state, done.memo) == ("paid", "sent")
        assert await alice.withdrawals() == [done] == await operator.withdrawals(everybody=True)
        assert await operator.withdrawals(everybody=True, waiting=True) == []
        assert await alice.withdrawal(asked.transfer) == done
    assert (await available(api, ALICE), await issued(api)) == (40, 40)


async def test_refused(api: Running) -> None:
    async with api.client(ALICE) as alice, api.client(OPERATOR) as operator:
        await alice.faucet(100)
        asked = await alice.withdraw(60, "nowhere")
        done = await operator.decide_withdrawal(asked.transfer, paid=False, memo="no such place")
        assert (done.state, done.memo) == ("refused", "no such place")
        await alice.pay(BOB.address, 100)
    assert (await available(api, ALICE), await issued(api)) == (0, 100)


async def test_a_wish_sent_again_and_again_reserves_once(api: Running) -> None:
    async with api.client(ALICE) as alice, asyncio.TaskGroup() as tasks:
        await alice.faucet(100)
        envelope = wish(api, 60)
        sent = [tasks.create_task(send_wish(alice, envelope)) for _ in range(4)]
    assert len({task.result().statement for task in sent}) == 1
    assert await available(api, ALICE) == 40
    async with api.client(ALICE) as alice:
        with pytest.raises(LedgerRefused):  # the id is taken
            await send_wish(alice, wish(api, 30))
        assert len(await alice.withdrawals()) == 1


async def test_more_than_there_is(api: Running) -> None:
    async with api.client(ALICE) as alice, asyncio.TaskGroup() as tasks:
        await alice.faucet(100)
        wishes = [wish(api, 60, transfer=str(uuid4())) for _ in range(3)]
        sent = [tasks.create_task(tried(send_wish(alice, envelope))) for envelope in wishes]
    refused = [task.result() for task in sent if isinstance(task.result(), InsufficientFunds)]
    assert len(refused) == 2
    assert (await available(api, ALICE), await count(api, "withdraw")) == (40, 1)


async def test_the_first_decision_stands(api: Running) -> None:
    """Repeated it answers the same; another one after it changes nothing."""
    async with api.client(ALICE) as alice, api.client(OPERATOR) as operator:
        await alice.faucet(100)
        await send_wish(alice, wish(api, 60))
        paid = decision(api, "paid")
        assert await send_decision(operator, paid) == await send_decision(operator, paid)
        for other in ("refused", "paid"):
            with pytest.raises(Stale, match="paid out"):
                await send_decision(operator, decision(api, other))
    assert (await available(api, ALICE), await issued(api)) == (40, 40)
    assert await count(api, "withdrawn") == 1


async def test_two_decisions_at_once(api: Running) -> None:
    async with api.client(ALICE) as alice, api.client(OPERATOR) as operator:
        await alice.faucet(100)
        await send_wish(alice, wish(api, 60))
        async with asyncio.TaskGroup() as tasks:
            both = [
                tasks.create_task(tried(send_decision(operator, decision(api, outcome))))
                for outcome in ("paid", "refused")
            ]
        stale = [task.result() for task in both if isinstance(task.result(), Stale)]
        assert len(stale) == 1
        (view,) = await alice.withdrawals()
    left = {"paid": 40, "refused": 100}[view.state]
    assert await available(api, ALICE) == left == await issued(api)


@pytest.mark.parametrize(
    ("changes", "signer", "refusal"),
    [
        ({"market": "other.example/market"}, ALICE, WrongMarket),
        ({"at_ms": 1_000_000}, ALICE, StaleRequest),
        ({"party": BOB.address}, ALICE, BadSignature),
        ({"party": BOB.address}, BOB, Forbidden),
        ({"amount": "0"}, ALICE, BadStatement),
        ({"destination": "  "}, ALICE, BadStatement),
        ({"destination": "x" * 201}, ALICE, BadStatement),
        ({"amount": "101"}, ALICE, InsufficientFunds),
    ],
)
async def test_a_wish_that_is_refused(
    api: Running, changes: dict[str, Any], signer: PrivateKey, refusal: type[Exception]
) -> None:
    async with api.client(ALICE) as alice:
        await alice.faucet(100)
        fields = {"amount": "60", **changes}
        envelope = wish(api, 0, key=signer, **fields)
        with pytest.raises(refusal):
            await send_wish(alice, envelope)
        assert await alice.withdrawals() == []
    assert (await available(api, ALICE), await count(api, "withdraw")) == (100, 0)


@pytest.mark.parametrize(
    ("changes", "signer", "refusal"),
    [
        ({"market": "other.example/market"}, OPERATOR, WrongMarket),
        ({"at_ms": 1_000_000}, OPERATOR, StaleRequest),
        ({"operator": ALICE.address}, ALICE, Forbidden),
        ({}, ALICE, BadSignature),
        ({"party": BOB.address}, OPERATOR, BadStatement),
        ({"withdrawal": str(uuid4())}, OPERATOR, BadStatement),
        ({"transfer": TRANSFER}, OPERATOR, LedgerRefused),
    ],
)
async def test_a_decision_that_is_refused(
    api: Running, changes: dict[str, Any], signer: PrivateKey, refusal: type[Exception]
) -> None:
    async with api.client(ALICE) as alice, api.client(OPERATOR) as operator:
        await alice.faucet(100)
        await send_wish(alice, wish(api, 60))
        with pytest.raises(refusal):
            await send_decision(operator, decision(api, "paid", key=signer, **changes))
        with pytest.raises(Forbidden):  # the operator's word, brought by another
            await send_decision(alice, decision(api, "paid"))
        with pytest.raises(NotFound):
            await send_decision(operator, decision(api, "paid"), str(uuid4()))
        (view,) = await alice.withdrawals()
        assert view.state == "waiting"
    assert await count(api, "withdrawn") == 0


async def test_withdrawals_are_private(api: Running) -> None:
    async with api.client(ALICE) as alice, api.client(BOB) as bob:
        await alice.faucet(100)
        asked = await alice.withdraw(1, "here")
        with pytest.raises(NotFound):
            await bob.withdrawal(asked.transfer)
        with pytest.raises(Forbidden):
            await bob.withdrawals(everybody=True)
        assert await bob.withdrawals() == []
        with pytest.raises(Malformed):
            await alice.transport.request("GET", "/v1/withdrawals", query={"after": "x.y"})


async def test_a_party_has_so_many_waiting_at_most(
    api: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(withdrawals, "WAITING_MAX", 2)
    async with api.client(ALICE) as alice, api.client(OPERATOR) as operator:
        await alice.faucet(100)
        first = await alice.withdraw(1, "here")
        await alice.withdraw(1, "there")
        with pytest.raises(LimitExceeded):
            await alice.withdraw(1, "everywhere")
        await operator.decide_withdrawal(first.transfer, paid=True)
        await alice.withdraw(1, "everywhere")


async def test_lists_go_on_where_a_page_ended(
    api: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("market.sdk.money.PAGE_MAX", 2)
    async with api.client(ALICE) as alice, api.client(OPERATOR) as operator:
        await alice.faucet(100)
        asked = [(await alice.withdraw(amount, "here")).transfer for amount in range(1, 6)]
        for reader, everybody in ((alice, False), (operator, True)):
            found = await reader.withdrawals(everybody=everybody)
            assert sorted(view.transfer for view in found) == sorted(asked)


def pass_time(running: Running, monkeypatch: pytest.MonkeyPatch, nanoseconds: int) -> None:
    """From now on it is so much later at the market."""
    monkeypatch.setattr(running.market.clock, "_wall", lambda: time.time_ns() + nanoseconds)


async def test_nobody_decides_in_time(monkeypatch: pytest.MonkeyPatch, api: Running) -> None:
    """The week is over: they are free again, one statement tells, and no decision comes through."""
    async with api.client(ALICE) as alice, api.client(OPERATOR) as operator:
        await alice.faucet(100)
        asked = [await alice.withdraw(amount, "here") for amount in (30, 20)]
        decided = await alice.withdraw(10, "there")
        await operator.decide_withdrawal(decided.transfer, paid=True)
    assert await available(api, ALICE) == 40
    market = api.market
    pass_time(api, monkeypatch, WEEK_NS - 60_000_000_000)
    assert await market.ledger.expire() == 0
    pass_time(api, monkeypatch, WEEK_NS + 60_000_000_000)
    assert await market.ledger.expire() == 2
    assert await market.ledger.expire() == 0
    query = WithdrawalQuery(whose="all")
    page = await withdrawals.page(market, OPERATOR.address, query)
    assert {view.transfer: view.state for view in page.withdrawals} == {
        asked[0].transfer: "expired", asked[1].transfer: "expired", decided.transfer: "paid",
    }  # fmt: skip
    query = WithdrawalQuery(whose="all", state="waiting")
    assert (await withdrawals.page(market, OPERATOR.address, query)).withdrawals == []
    assert await available(api, ALICE) == 90
    now_ms = market.clock.ms()
    for one in asked:
        late = decision(api, "paid", withdrawal=one.transfer, at_ms=now_ms)
        with pytest.raises(Stale, match="not decided in time"):
            await withdrawals.decide(
                market, OPERATOR.address, UUID(one.transfer), late, now_ms=now_ms
            )
    (told,) = [one for one in await logged(api) if isinstance(one, Expiry)]
    assert sorted(told.transfers) == sorted(one.transfer for one in asked)


async def test_a_decision_at_the_very_end(monkeypatch: pytest.MonkeyPatch, api: Running) -> None:
    """It comes when the time is over and nothing has expired yet: first that, then it is refused."""
    async with api.client(ALICE) as alice:
        await alice.faucet(100)
        asked = await alice.withdraw(60, "here")
    pass_time(api, monkeypatch, WEEK_NS + 1_000_000_000)
    now_ms = api.market.clock.ms()
    late = decision(api, "paid", withdrawal=asked.transfer, at_ms=now_ms)
    with pytest.raises(Stale, match="not decided in time"):
        await withdrawals.decide(
            api.market, OPERATOR.address, UUID(asked.transfer), late, now_ms=now_ms
        )
    assert await available(api, ALICE) == 100
    assert (await count(api, "expiry"), await count(api, "withdrawn")) == (1, 0)


async def test_the_worker_lets_them_expire(monkeypatch: pytest.MonkeyPatch, whole: Running) -> None:
    """Without any traffic: its loop asks each second whether something is due."""
    monkeypatch.setattr("settlement.domain.moves.WITHDRAWAL_SECONDS", 1)
    monkeypatch.setattr("settlement.domain.replay_rules.WITHDRAWAL_SECONDS", 1)
    async with whole.client(ALICE) as alice:
        await alice.faucet(100)
        asked = await alice.withdraw(60, "here")

        async def expired() -> bool:
            return (await alice.withdrawal(asked.transfer)).state == "expired"

        await until(expired)
    assert await available(whole, ALICE) == 100
    assert await count(whole, "expiry") == 1


async def test_more_run_out_than_one_statement_can_tell(
    monkeypatch: pytest.MonkeyPatch, api: Running
) -> None:
    assert EXPIRIES_MAX <= EXPIRED_MAX
    monkeypatch.setattr("settlement.store.ledger.EXPIRIES_MAX", 2)
    async with api.client(ALICE) as alice:
        await alice.faucet(100)
        for _ in range(5):
            await alice.withdraw(1, "here")
    pass_time(api, monkeypatch, 2 * WEEK_NS)
    assert await api.market.ledger.expire() == 5
    assert (await available(api, ALICE), await count(api, "expiry")) == (100, 3)


async def test_what_is_reserved_is_a_pending_transfer(api: Running) -> None:
    async with api.client(ALICE) as alice:
        await alice.faucet(100)
        asked = await alice.withdraw(60, "here")
    (row,) = await rows(
        api, "SELECT t.code, p.status FROM transfers AS t JOIN pending AS p ON p.id = t.id WHERE t.id = $1",
        UUID(asked.transfer),
    )  # fmt: skip
    assert (row["code"], row["status"]) == (13, 1)
