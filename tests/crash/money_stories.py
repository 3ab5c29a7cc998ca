"""The stories of money beside the trade: payout, withdrawal, acceptance, voucher."""

import uuid
from typing import Any, Final
from uuid import UUID

from market.service import acceptance, payments, receipts, reconcile, vouchers, withdrawals
from market.service.market import Market
from settlement.domain.payments import Payee, Payout, Withdraw, Withdrawn
from settlement.domain.settled import Acceptance, Voucher
from settlement.domain.statement import open_any
from tests.crash.market_stories import Kept, MarketStory, _checking_before, _signer, _worked
from tests.crash.market_world import ALPHA, BETA, CONSUMER, OPERATOR, SENT_MS, World
from tests.crash.points import Answers
from tests.system.conftest import ORIGIN

VOUCHED_MS: Final = 700


async def _out_before(world: World) -> tuple[UUID, Any]:
    asked = [str(uuid.uuid4()) for _ in range(2)]
    payout = Payout(
        v=1, kind="payout", market=ORIGIN, payer=CONSUMER.address, memo="", at_ms=world.now,
        payees=[Payee(key.address, "300", str(uuid.uuid4())) for key in (ALPHA, BETA)],
    )  # fmt: skip
    wishes = [
        Withdraw(
            v=1, kind="withdraw", market=ORIGIN, party=CONSUMER.address, amount="500",
            transfer=transfer, destination="elsewhere", at_ms=world.now,
        )
        for transfer in asked
    ]  # fmt: skip
    words = [
        Withdrawn(
            v=1, kind="withdrawn", market=ORIGIN, operator=OPERATOR.address, party=CONSUMER.address,
            withdrawal=transfer, transfer=str(uuid.uuid4()), outcome=outcome, memo="", at_ms=world.now,
        )
        for transfer, outcome in zip(asked, ("paid", "refused"), strict=True)
    ]  # fmt: skip
    signed = [world.signed(one, CONSUMER) for one in (payout, *wishes)]
    return uuid.uuid4(), (asked, signed, [world.signed(word, OPERATOR) for word in words])


async def _out(market: Market, kept: Kept, answers: Answers) -> None:
    asked, (payout, *wishes), words = kept.body
    moved = await payments.pay_many(market, CONSUMER.address, payout, now_ms=kept.now)
    answers.give("payout", str(moved.index), new=moved.status == "applied")
    for wish in wishes:
        view = await withdrawals.ask(market, CONSUMER.address, wish, now_ms=kept.now)
        answers.give(f"asked {view.transfer}", view.statement)
    for transfer, word in zip(asked, words, strict=True):
        view = await withdrawals.decide(
            market, OPERATOR.address, UUID(transfer), word, now_ms=kept.now
        )
        answers.give(f"decided {transfer}", view.state)


async def _accepting_before(world: World) -> tuple[UUID, Any]:
    job, frame = await _checking_before(world)
    await receipts.receive(world.market, _signer(frame), frame, now_ms=world.now + SENT_MS)
    digest = open_any(frame.receipt, market=ORIGIN).digest
    said = Acceptance(
        v=1, kind="acceptance", market=ORIGIN, consumer=CONSUMER.address, job=str(job), receipt=digest,
        at_ms=world.now,
    )  # fmt: skip
    return job, (digest, world.signed(said, CONSUMER))


async def _accepting(market: Market, kept: Kept, answers: Answers) -> None:
    digest, envelope = kept.body
    now = kept.now + SENT_MS
    done = await acceptance.accept(market, CONSUMER.address, digest, envelope, now_ms=now)
    answers.give("accepted", f"{done.state} {done.charge} {done.surcharge}")
    await reconcile.jobs_round(market, now_ms=now)
    answers.give("rounds", "")


async def _vouching_before(world: World) -> tuple[UUID, Any]:
    job, frame = await _worked(world, verify="none", slots=1)
    receipt: Any = open_any(frame.receipt, market=ORIGIN).statement
    said = [
        Voucher(
            v=1, kind="voucher", market=ORIGIN, consumer=CONSUMER.address, provider=receipt.provider,
            job=str(job), lease=receipt.lease, wall_ms=wall_ms, at_ms=world.now,
        )
        for wall_ms in (VOUCHED_MS // 2, VOUCHED_MS)
    ]  # fmt: skip
    return job, (receipt.lease, [world.signed(one, CONSUMER) for one in said], frame)


async def _vouching(market: Market, kept: Kept, answers: Answers) -> None:
    """Two vouchers of a running task, then its receipt, which gets the rest."""
    lease, envelopes, frame = kept.body
    now = kept.now + SENT_MS
    for number, envelope in enumerate(envelopes):
        view = await vouchers.hand_in(market, CONSUMER.address, lease, envelope, now_ms=now)
        answers.give(f"voucher {number}", "paid", new=view.status == "applied")
    settled = await receipts.receive(market, _signer(frame), frame, now_ms=now)
    answers.give("receipt", settled.state)
    await reconcile.jobs_round(market, now_ms=now)
    answers.give("rounds", "")


VOUCHING: Final = MarketStory("vouching", _vouching_before, _vouching)
STORIES: Final = (
    MarketStory("out", _out_before, _out),
    MarketStory("accepting", _accepting_before, _accepting),
    VOUCHING,
)
