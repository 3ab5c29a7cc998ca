"""Tokens enter by the operator's signature alone, and move by their owner's; once, or not at all."""

import pytest

from market.sdk.client import now_ms
from market.store import ledger
from market.wire import codec
from market.wire.trade import IssuePost, Pay
from settlement.domain.errors import (
    BadSignature,
    BadStatement,
    Forbidden,
    InsufficientFunds,
    LedgerRefused,
    StaleRequest,
    WrongMarket,
)  # fmt: skip
from settlement.domain.identity import PrivateKey
from settlement.domain.ledger import Purpose
from settlement.domain.payments import Issue, Payment
from settlement.domain.statement import sign
from tests.system.running import Running

OPERATOR = PrivateKey(bytes([3]) * 32)  # the fixture's own
ALICE, BOB = PrivateKey(b"\x41" * 32), PrivateKey(b"\x42" * 32)
TRANSFER = "00000000-0000-4000-8000-00000000000a"
NOW = 1_000_000


async def available(api: Running, key: PrivateKey) -> int:
    async with api.client(key) as client:
        return int((await client.balances()).available)


def payment(api: Running, **changes: object) -> Payment:
    fields: dict[str, object] = {
        "v": 1, "kind": "payment", "market": api.settings.market, "payer": ALICE.address, "to": BOB.address,
        "amount": "30", "transfer": TRANSFER, "memo": "", "at_ms": now_ms(),
    }  # fmt: skip
    return Payment(**{**fields, **changes})  # type: ignore[arg-type]


async def test_only_the_operator_issues(api: Running) -> None:
    async with api.client(OPERATOR) as client:
        moved = await client.issue(ALICE.address, 100)
        assert moved.status == "applied"
        await client.issue(ALICE.address, 7, purpose="checks")
    assert await available(api, ALICE) == 100
    checks = await api.market.read(ledger.balance, api.market.address, Purpose.CHECKS)
    assert checks == 7
    async with api.client(ALICE) as client:
        with pytest.raises(Forbidden):
            await client.issue(ALICE.address, 100)
        stolen = Issue(
            v=1, kind="issue", market=api.settings.market, operator=OPERATOR.address, to=ALICE.address,
            purpose="available", amount="5", transfer=TRANSFER, memo="", at_ms=now_ms(),
        )  # fmt: skip
        body = codec.encode(IssuePost(sign(stolen, ALICE).envelope))
        with pytest.raises(BadSignature):
            await client.transport.request("POST", "/v1/issues", body)
    assert await available(api, ALICE) == 100


async def test_a_payment_moves_once_however_often_it_comes(api: Running) -> None:
    async with api.client(ALICE) as client:
        await client.faucet(100)
        body = codec.encode(Pay(sign(payment(api), ALICE).envelope))
        answers = [await client.transport.request("POST", "/v1/payments", body) for _ in range(3)]
    assert len(set(answers)) == 2  # applied, then twice the same duplicate
    assert (await available(api, ALICE), await available(api, BOB)) == (70, 30)
    async with api.client(ALICE) as client:
        other = codec.encode(Pay(sign(payment(api, amount="31"), ALICE).envelope))
        with pytest.raises(LedgerRefused):  # the same transfer id with another amount
            await client.transport.request("POST", "/v1/payments", other)
    assert (await available(api, ALICE), await available(api, BOB)) == (70, 30)


@pytest.mark.parametrize(
    ("changes", "signer", "refusal"),
    [
        ({"amount": "101"}, ALICE, InsufficientFunds),
        ({"to": ALICE.address}, ALICE, BadStatement),
        ({"market": "other.example/market"}, ALICE, WrongMarket),
        ({"at_ms": NOW}, ALICE, StaleRequest),
        ({"payer": BOB.address, "to": ALICE.address}, ALICE, BadSignature),
        ({"payer": BOB.address, "to": ALICE.address}, BOB, Forbidden),
        ({"amount": "007"}, ALICE, BadStatement),
    ],
)
async def test_what_must_not_move_does_not(
    api: Running, changes: dict[str, object], signer: PrivateKey, refusal: type[Exception]
) -> None:
    async with api.client(ALICE) as client:
        await client.faucet(100)
        body = codec.encode(Pay(sign(payment(api, **changes), signer).envelope))
        with pytest.raises(refusal):
            await client.transport.request("POST", "/v1/payments", body)
    assert (await available(api, ALICE), await available(api, BOB)) == (100, 0)
