"""Receipts that are forged, repeated, late, another's, or claim too much."""

import asyncio
import secrets
from collections.abc import Callable
from typing import Any
from uuid import UUID, uuid4

import msgspec
import pytest

from market.store import control
from market.wire.control import Close, Done, Output, Work
from market.wire.payload import Payload, inline
from settlement.domain import canonical, statement
from settlement.domain.errors import Unavailable
from settlement.domain.receipt import Price, Receipt
from tests.system.fake_provider import FakeProvider
from tests.system.running import Running
from tests.system.trading import Buyer, bodies, rows, spec, until

pytestmark = pytest.mark.system
OTHER = canonical.digest(b"another")
FORGED: dict[str, Any] = {
    "market": "another.example/market",
    "lease": OTHER,
    "order": OTHER,
    "job": str(UUID(int=7)),
    "spec": OTHER,
    "attempt": str(UUID(int=8)),
    "purpose": "check",
    "provider": "0" * 63 + "1",
    "consumer": "0" * 63 + "2",
    "first": 1,
    "tasks": 2,
    "tasks_root": OTHER,
    "inputs": OTHER,
    "outputs": OTHER,
    "protection": "none",
    "finished_ms": 1,
    "status": "failed",
    "price": Price("99999999999", 1),
}


def with_env(receipt: Receipt) -> Receipt:
    return msgspec.structs.replace(receipt, env=msgspec.structs.replace(receipt.env, digest=OTHER))


def forged(field: str) -> Callable[[Receipt], Receipt]:
    return lambda receipt: msgspec.structs.replace(receipt, **{field: FORGED[field]})


def with_wall(wall_ms: int) -> Callable[[Receipt], Receipt]:
    """A time that no run of a chunk took; summed up, such would be beyond the database's numbers."""

    def forge(receipt: Receipt) -> Receipt:
        usage = msgspec.structs.replace(receipt.usage, wall_ms=wall_ms)
        return msgspec.structs.replace(receipt, usage=usage)

    return forge


FORGERIES: dict[str, Callable[[Receipt], Receipt]] = {
    **{field: forged(field) for field in FORGED},
    "env": with_env,
    "wall_ms": with_wall(2**53 - 1),
    "ledger": lambda receipt: msgspec.structs.replace(
        receipt, price=Price(receipt.price.amount, 2)
    ),
}


@pytest.mark.parametrize("field", FORGERIES)
async def test_a_forged_field_is_refused(whole: Running, buyer: Buyer, field: str) -> None:
    """Unpaid, the lease ends, the task goes to another provider."""
    async with FakeProvider(whole, 1).open() as forger:
        forger.holds = True
        job = await buyer.order(bodies(1), of=spec(verify="none"))
        work = await forger.heard(Work)
        await forger.send(forger.done(work, FORGERIES[field]))
        settled = await forger.settled(work.attempt)
        assert settled.state == "rejected"
        assert settled.reason
        await forger.heard(Close)
        async with FakeProvider(whole, 2).open() as beta:
            assert (await buyer.closed(job)).accepted == 1
            (paid,) = await buyer.receipts(job, state="accepted")
            assert paid.provider == beta.address
        assert (await buyer.lease(job, forger.address))["reason"] == "slashed"
        assert int((await forger.client.balances()).held) == 0


def other_leaf(frame: Done) -> Done:
    leaf = msgspec.structs.replace(frame.leaves[0], status="error")
    return msgspec.structs.replace(frame, leaves=[leaf])


def other_output(frame: Done) -> Done:
    return msgspec.structs.replace(frame, outputs=[Output(inline(b"another"), "")])


def torn_output(frame: Done) -> Done:
    good = frame.outputs[0].output
    return msgspec.structs.replace(
        frame, outputs=[Output(Payload(good.digest, good.size, b"torn"), "")]
    )


def blob_never_sent(frame: Done) -> Done:
    good = frame.outputs[0].output
    return msgspec.structs.replace(frame, outputs=[Output(Payload(good.digest, good.size), "")])


def no_leaves(frame: Done) -> Done:
    return msgspec.structs.replace(frame, leaves=[], outputs=[])


def torn_envelope(frame: Done) -> Done:
    return msgspec.structs.replace(frame, receipt=frame.receipt[:-9] + b"x" + frame.receipt[-8:])


@pytest.mark.parametrize(
    "forge",
    [other_leaf, other_output, torn_output, blob_never_sent, no_leaves, torn_envelope],
)
async def test_a_forged_frame_is_refused(
    whole: Running, buyer: Buyer, forge: Callable[[Done], Done]
) -> None:
    async with FakeProvider(whole, 1).open() as forger:
        forger.holds = True
        job = await buyer.order(bodies(1), of=spec(verify="none"))
        work = await forger.heard(Work)
        await forger.send(forge(forger.done(work)))
        assert (await forger.settled(work.attempt)).state == "rejected"
        await buyer.client.cancel(job)
        assert (await buyer.closed(job)).spent == "0"


async def test_a_claim_above_the_charge(whole: Running, buyer: Buyer) -> None:
    """More time than the market's own clock saw is not paid, and a lie about it ends the lease."""

    def greedy(receipt: Receipt) -> Receipt:
        usage = msgspec.structs.replace(receipt.usage, wall_ms=30_000)
        return msgspec.structs.replace(receipt, usage=usage, price=Price("3000000", 1))

    async with FakeProvider(whole, 1).open() as alpha:
        alpha.holds = True
        job = await buyer.order(bodies(1), of=spec(verify="none"))
        work = await alpha.heard(Work)
        await alpha.send(alpha.done(work, greedy))
        settled = await alpha.settled(work.attempt)
        assert settled.state == "rejected"
        assert settled.reason.startswith("bad-receipt: the claim of 3000000 is above the charge")
        await alpha.heard(Close)
        pending = "SELECT 1 FROM intervals WHERE job = $1 AND state = 'pending'"
        assert await rows(whole, pending, UUID(job))


async def test_a_receipt_signed_by_another_key(whole: Running, buyer: Buyer) -> None:
    async with FakeProvider(whole, 1).open() as alpha, FakeProvider(whole, 2).open() as beta:
        alpha.holds = beta.holds = True
        job = await buyer.order(bodies(1), slots=1, of=spec(verify="none"))
        await until(lambda: _worked(alpha, beta))
        mine, other = (alpha, beta) if alpha.all(Work) else (beta, alpha)
        work = mine.all(Work)[0]
        await mine.send(mine.done(work, signer=other.key))
        assert "bad-signature" in (await mine.settled(work.attempt)).reason
        await buyer.client.cancel(job)


async def _worked(*providers: FakeProvider) -> bool:
    return any(one.all(Work) for one in providers)


async def test_a_receipt_for_anothers_attempt(whole: Running, buyer: Buyer) -> None:
    """It changes nothing for the one who has the attempt."""
    async with FakeProvider(whole, 1).open() as alpha, FakeProvider(whole, 2).open() as beta:
        alpha.holds = True
        beta.refuses = True
        job = await buyer.order(bodies(1), of=spec(verify="none"))
        work = await alpha.heard(Work)
        beta.grants |= alpha.grants
        beta.taken |= alpha.taken
        await beta.send(beta.done(work))
        assert (await beta.settled(work.attempt)).reason == "no such attempt of yours"
        unknown = msgspec.structs.replace(work, attempt=str(uuid4()))
        beta.taken[unknown.attempt] = 0.0
        await beta.send(beta.done(unknown))
        assert (await beta.settled(unknown.attempt)).state == "rejected"
        await alpha.answer(work)
        await buyer.closed(job)
        (paid,) = await buyer.receipts(job, state="accepted")
        assert paid.provider == alpha.address


async def test_a_receipt_repeated_is_charged_once(whole: Running, buyer: Buyer) -> None:
    """The same bytes again, and another valid envelope for the same attempt."""
    async with FakeProvider(whole, 1).open() as alpha:
        alpha.holds = True
        job = await buyer.order(bodies(1))
        work = await alpha.heard(Work)
        first = await alpha.answer(work)
        await alpha.send(first)
        again = alpha.done(
            work, lambda claim: msgspec.structs.replace(claim, nonce=secrets.token_hex(16))
        )
        assert again.receipt != first.receipt
        await alpha.send(again)
        answers = [(await alpha.settled(work.attempt, number)).state for number in (1, 2, 3)]
        assert answers == ["accepted"] * 3
        view = await buyer.closed(job)
        (receipt,) = await buyer.receipts(job)
        opened = statement.open_any(first.receipt, market=whole.market.origin)
        assert receipt.receipt == opened.digest
        assert int(view.spent) == int(receipt.charge) + int(receipt.surcharge) > 0
        assert len(await rows(whole, "SELECT 1 FROM transfers WHERE code = 5")) == 1


async def test_a_receipt_after_the_leases_end(whole: Running, buyer: Buyer) -> None:
    """The job was cancelled: what comes late is neither taken nor paid."""
    async with FakeProvider(whole, 1).open() as alpha:
        alpha.holds = True
        job = await buyer.order(bodies(1))
        work = await alpha.heard(Work)
        await buyer.client.cancel(job)
        await alpha.heard(Close)
        await alpha.answer(work)
        assert (await alpha.settled(work.attempt)).state == "lost"
        view = await buyer.closed(job)
        assert (view.reason, view.spent) == ("cancelled", "0")


async def test_the_answer_to_a_receipt_is_lost(whole: Running, buyer: Buyer) -> None:
    """The connection dies between Done and Settled: the repeated Done settles once."""
    async with FakeProvider(whole, 1).open() as alpha:
        alpha.holds = True
        job = await buyer.order(bodies(1))
        work = await alpha.heard(Work)
        frame = await alpha.answer(work)
        await alpha.drop()
        await alpha.connect(work.attempt)
        await alpha.send(frame)
        assert (await alpha.settled(work.attempt)).state == "accepted"
        assert (await buyer.closed(job)).accepted == 1
        assert len(await buyer.receipts(job)) == 1


async def test_a_failure_of_the_market_is_no_fault_of_the_provider(
    whole: Running, buyer: Buyer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The database goes away while a receipt is verified: nothing is decided, the repeat is taken."""

    async def away(*_: object, **__: object) -> None:
        raise Unavailable

    async with FakeProvider(whole, 1).open() as alpha:
        alpha.holds = True
        job = await buyer.order(bodies(1))
        work = await alpha.heard(Work)
        with monkeypatch.context() as broken:
            broken.setattr(control, "other_providers", away)
            await alpha.answer(work)
            await asyncio.sleep(0.1)  # nothing may come
        assert not alpha.all(Close)
        await alpha.answer(work)
        assert (await alpha.settled(work.attempt)).state == "accepted"
        assert (await buyer.closed(job)).accepted == 1


def test_the_forgeries_cover_every_field_that_the_market_can_know() -> None:
    known = {
        "v",
        "kind",
        "nonce",
        "started_ms",
        "usage",
    }  # evidence, or not for the provider to choose
    assert set(Receipt.__struct_fields__) == (set(FORGED) | {"env"} | known)
