"""Routes of payouts, withdrawals, acceptances, leases and vouchers."""

from typing import Final
from uuid import UUID

from market.http.endpoint import Access, Call, Endpoint
from market.service import acceptance, payments, vouchers, withdrawals
from market.wire.money import (
    AcceptancePost,
    Accepted,
    DecisionPost,
    Leases,
    LeaseView,
    PayMany,
    VoucherPost,
    WithdrawalQuery,
    Withdrawals,
    WithdrawalView,
    WithdrawPost,
)
from market.wire.trade import Moved


async def post_payout(call: Call, body: PayMany) -> Moved:
    """Tokens to many parties: all of them, or none."""
    return await payments.pay_many(call.market, call.address, body.payout, now_ms=call.now_ms)


async def post_withdrawal(call: Call, body: WithdrawPost) -> WithdrawalView:
    """Reserve tokens that are to leave the market."""
    return await withdrawals.ask(call.market, call.address, body.withdraw, now_ms=call.now_ms)


async def list_withdrawals(call: Call, query: WithdrawalQuery) -> Withdrawals:
    """The caller's withdrawals, or everybody's for the operator; oldest first."""
    return await withdrawals.page(call.market, call.address, query)


async def show_withdrawal(call: Call, transfer: UUID) -> WithdrawalView:
    """One withdrawal of the caller's, or any for the operator."""
    return await withdrawals.view(call.market, call.address, transfer)


async def post_decision(call: Call, transfer: UUID, body: DecisionPost) -> WithdrawalView:
    """The operator's signed word: paid out, or refused."""
    return await withdrawals.decide(
        call.market, call.address, transfer, body.decision, now_ms=call.now_ms
    )


async def post_acceptance(call: Call, digest: str, body: AcceptancePost) -> Accepted:
    """The consumer takes a receipt as it is; it is settled without waiting for a check."""
    return await acceptance.accept(
        call.market, call.address, digest, body.acceptance, now_ms=call.now_ms
    )


async def show_acceptance(call: Call, digest: str) -> Accepted:
    """How a receipt of the caller's stands."""
    return await acceptance.view(call.market, call.address, digest)


async def list_leases(call: Call, job: UUID) -> Leases:
    """All leases of a job of the caller's, with the time that is paid of each."""
    return await vouchers.of_job(call.market, call.address, job, now_ms=call.now_ms)


async def show_lease(call: Call, lease: UUID) -> LeaseView:
    """One lease, for its consumer and its provider."""
    return await vouchers.view(call.market, call.address, lease, now_ms=call.now_ms)


async def post_voucher(call: Call, lease: str, body: VoucherPost) -> LeaseView:
    """Pay what a consumer's voucher says beyond those before; `lease` is its id or its digest."""
    return await vouchers.hand_in(
        call.market, call.address, lease, body.voucher, now_ms=call.now_ms
    )


ENDPOINTS: Final = (
    Endpoint("POST", "/v1/payouts", post_payout, Access.WRITE),
    Endpoint("POST", "/v1/withdrawals", post_withdrawal, Access.WRITE),
    Endpoint("GET", "/v1/withdrawals", list_withdrawals, Access.READ),
    Endpoint("GET", "/v1/withdrawals/{transfer}", show_withdrawal, Access.READ),
    Endpoint("POST", "/v1/withdrawals/{transfer}/decision", post_decision, Access.WRITE),
    Endpoint("POST", "/v1/receipts/{digest}/acceptance", post_acceptance, Access.WRITE),
    Endpoint("GET", "/v1/receipts/{digest}/acceptance", show_acceptance, Access.READ),
    Endpoint("GET", "/v1/jobs/{job}/leases", list_leases, Access.READ),
    Endpoint("GET", "/v1/leases/{lease}", show_lease, Access.READ),
    Endpoint("POST", "/v1/leases/{lease}/vouchers", post_voucher, Access.WRITE),
)
