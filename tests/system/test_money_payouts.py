"""Payouts: many are paid by one statement, all of them or none, once."""

import asyncio
from typing import Any
from uuid import uuid4

import pytest

from market.sdk.client import now_ms
from settlement.domain.errors import (
    BadSignature,
    BadStatement,
    Forbidden,
    InsufficientFunds,
    LedgerRefused,
    LimitExceeded,
    StaleRequest,
    WrongMarket,
)
from settlement.domain.identity import PrivateKey
from settlement.domain.payments import PAYEES_MAX, Payee
from tests.system.money import (
    ALICE,
    BOB,
    CAROL,
    TRANSFER,
    available,
    count,
    payout,
    send_payout,
    tried,
)
from tests.system.running import Running

pytestmark = pytest.mark.system
BOTH = ((BOB.address, 30), (CAROL.address, 12))


async def test_all_are_paid_at_once(api: Running) -> None:
    async with api.client(ALICE) as client:
        await client.faucet(100)
        moved = await client.pay_many(BOTH, memo="wages")
        assert moved.status == "applied"
    assert [await available(api, key) for key in (ALICE, BOB, CAROL)] == [58, 30, 12]
    assert await count(api, "payout") == 1


async def test_the_most_payees_fit_into_one_statement(api: Running) -> None:
    keys = [PrivateKey(number.to_bytes(32)) for number in range(1, PAYEES_MAX + 1)]
    async with api.client(ALICE) as client:
        await client.faucet(PAYEES_MAX)
        await client.pay_many([(key.address, 1) for key in keys])
        with pytest.raises(LimitExceeded):
            await client.pay_many([(BOB.address, 1)] * (PAYEES_MAX + 1))
    assert await available(api, ALICE) == 0
    assert [await available(api, key) for key in (keys[0], keys[-1])] == [1, 1]


async def test_one_that_is_not_covered_takes_all_with_it(api: Running) -> None:
    async with api.client(ALICE) as client:
        await client.faucet(41)
        envelope = payout(api, *BOTH)
        with pytest.raises(InsufficientFunds):
            await send_payout(client, envelope)
        assert [await available(api, key) for key in (ALICE, BOB, CAROL)] == [41, 0, 0]
        await client.faucet(1)
        with pytest.raises(LedgerRefused):  # refused stays refused: its ids are burnt
            await send_payout(client, envelope)
        assert await count(api, "payout") == 0
        await send_payout(client, payout(api, *BOTH))
    assert [await available(api, key) for key in (ALICE, BOB, CAROL)] == [0, 30, 12]


async def test_a_repeat_pays_nobody_again(api: Running) -> None:
    async with api.client(ALICE) as client, asyncio.TaskGroup() as tasks:
        await client.faucet(100)
        envelope = payout(api, *BOTH)
        sent = [tasks.create_task(send_payout(client, envelope)) for _ in range(4)]
    answers = [task.result() for task in sent]
    assert sorted(answer.status for answer in answers) == ["applied"] + ["duplicate"] * 3
    assert len({(answer.statement, answer.index) for answer in answers}) == 1
    assert [await available(api, key) for key in (ALICE, BOB, CAROL)] == [58, 30, 12]


async def test_two_at_once_that_are_not_both_covered(api: Running) -> None:
    """Either of them, whole."""
    async with api.client(ALICE) as client:
        await client.faucet(50)
        async with asyncio.TaskGroup() as tasks:
            sent = [
                tasks.create_task(tried(send_payout(client, payout(api, *BOTH)))) for _ in range(2)
            ]
    assert sum(isinstance(task.result(), InsufficientFunds) for task in sent) == 1
    assert [await available(api, key) for key in (ALICE, BOB, CAROL)] == [8, 30, 12]


@pytest.mark.parametrize(
    ("changes", "signer", "refusal"),
    [
        ({"market": "other.example/market"}, ALICE, WrongMarket),
        ({"at_ms": 1_000_000}, ALICE, StaleRequest),
        ({"at_ms": now_ms() + 3_600_000}, ALICE, StaleRequest),
        ({"payer": BOB.address}, ALICE, BadSignature),
        ({"payer": BOB.address}, BOB, Forbidden),
        ({"payees": [Payee(ALICE.address, "1", TRANSFER)]}, ALICE, BadStatement),
        ({"payees": []}, ALICE, BadStatement),
        ({"payees": [Payee(BOB.address, "-1", TRANSFER)]}, ALICE, BadStatement),
        ({"payees": [Payee(BOB.address, "1", TRANSFER)] * 2}, ALICE, LedgerRefused),
        ({"payees": [Payee("b" * 63, "1", str(uuid4()))]}, ALICE, BadStatement),
    ],
)  # fmt: skip
async def test_what_must_not_move_does_not(
    api: Running, changes: dict[str, Any], signer: PrivateKey, refusal: type[Exception]
) -> None:
    async with api.client(ALICE) as client:
        await client.faucet(100)
        with pytest.raises(refusal):
            await send_payout(client, payout(api, *BOTH, key=signer, **changes))
    assert [await available(api, key) for key in (ALICE, BOB)] == [100, 0]
    assert await count(api, "payout") == 0
