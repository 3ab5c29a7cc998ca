"""Payments between parties, the operator's issue, the development faucet."""

from typing import Final
from uuid import UUID

from market.service.market import Market, check_fresh
from market.wire.trade import Moved
from settlement.domain import amount
from settlement.domain.errors import BadStatement, Forbidden
from settlement.domain.identity import PrivateKey
from settlement.domain.moves import moves
from settlement.domain.payments import Issue, Payment, Payout
from settlement.domain.statement import Opened, open_envelope, sign
from settlement.service.engine import Item

FAUCET_MAX: Final = 1_000_000_000  # micro-credits a call; a development stack only


async def pay(market: Market, caller: str, envelope: bytes, *, now_ms: int) -> Moved:
    """The payer's available tokens to another party; once, however often it is sent."""
    payment, opened = open_envelope(envelope, Payment, market=market.origin)
    if payment.payer != caller:
        raise Forbidden("the payment is another party's")
    if payment.to == payment.payer:
        raise BadStatement("payer and payee are the same")
    check_fresh(payment.at_ms, now_ms, what="statement", market=market)
    return await _submit(market, opened)


async def pay_many(market: Market, caller: str, envelope: bytes, *, now_ms: int) -> Moved:
    """The payer's available tokens to many parties: all of them, or none."""
    payout, opened = open_envelope(envelope, Payout, market=market.origin)
    if payout.payer != caller:
        raise Forbidden("the payout is another party's")
    if any(payee.to == payout.payer for payee in payout.payees):
        raise BadStatement("payer and payee are the same")
    check_fresh(payout.at_ms, now_ms, what="payout", market=market)
    return await _submit(market, opened)


async def issue(market: Market, caller: str, envelope: bytes, *, now_ms: int) -> Moved:
    """New tokens, by the operator's signature alone."""
    statement, opened = open_envelope(envelope, Issue, market=market.origin)
    if not market.operator or statement.operator != market.operator or caller != market.operator:
        raise Forbidden("only the operator issues tokens")
    check_fresh(statement.at_ms, now_ms, what="statement", market=market)
    return await _submit(market, opened)


async def faucet(
    market: Market,
    operator: PrivateKey | None,
    caller: str,
    wanted: str,
    *,
    transfer_id: UUID,
    now_ms: int,
) -> Moved:
    """Tokens for the asking, signed by the operator's key that a development stack holds."""
    if not market.devstack or operator is None:
        raise Forbidden("this market has no faucet")
    if amount.from_text(wanted) > FAUCET_MAX:
        raise Forbidden(
            f"the faucet gives at most {amount.format_credits(FAUCET_MAX)} credits a call"
        )
    statement = Issue(
        v=1, kind="issue", market=market.origin, operator=operator.address, to=caller, purpose="available",
        amount=wanted, transfer=str(transfer_id), memo="faucet", at_ms=now_ms,
    )  # fmt: skip
    return await _submit(market, sign(statement, operator))


async def _submit(market: Market, opened: Opened) -> Moved:
    outcome = await market.ledger.submit(Item(moves(opened, market.address), (opened,)))
    outcome.raise_for_refusal()
    return Moved(opened.digest, outcome.positions[0], outcome.status.value)
