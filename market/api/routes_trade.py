"""Routes of offers, providers, accounts and payments."""

from typing import Final

from market.api.about import VERSION
from market.http.endpoint import Access, Call, Endpoint
from market.service import payments, providers
from market.service.market import derived_id
from market.store import ledger as store
from market.store import money
from market.store.rows import Connection, Row
from market.wire.jobs import EnvironmentView
from market.wire.trade import (
    AccountView,
    Faucet,
    Follow,
    IssuePost,
    LedgerView,
    MarketView,
    Moved,
    OfferPut,
    Offers,
    OfferView,
    Pay,
    Providers,
    Transfers,
    TransferView,
)  # fmt: skip
from settlement.domain import canonical, charge, identity
from settlement.domain.errors import Forbidden
from settlement.domain.ledger import Purpose, Reason


async def show_market(call: Call) -> MarketView:
    """Who this market is: what a client pins on first use."""
    market = call.market
    return MarketView(
        market=market.origin, version=VERSION, log_key=call.edge.log_key, ledger_key=market.address,
        operator=market.operator, devstack=market.devstack, fee_basis_points=charge.FEE_BASIS_POINTS,
        check_basis_points=charge.CHECK_BASIS_POINTS, hold_ms=market.hold_ms,
    )  # fmt: skip


async def list_offers(call: Call) -> Offers:
    """Live offers, cheapest first."""
    return Offers(await providers.offers(call.market, now_ms=call.now_ms))


async def put_offer(call: Call, body: OfferPut) -> OfferView:
    """A provider's signed offer; it replaces the one before."""
    return await providers.put_offer(call.market, call.address, body.offer, now_ms=call.now_ms)


async def list_providers(call: Call) -> Providers:
    """Providers, what they did, and what verdicts say of them."""
    return Providers(await providers.providers(call.market))


async def list_environments(call: Call) -> list[EnvironmentView]:
    """Known environments, most offered first."""
    return await providers.environments(call.market)


async def show_account(call: Call, address: str) -> AccountView:
    """The caller's own balances."""
    _own(call, address)
    balances = await call.market.transact(store.balances, address)
    reserved = await call.market.read(money.reserved, address)
    return AccountView(
        address, str(balances[Purpose.AVAILABLE]), str(balances[Purpose.HELD]), str(balances[Purpose.STAKE]),
        str(balances[Purpose.BUDGET]), str(reserved),
    )  # fmt: skip


async def list_transfers(call: Call, address: str, query: Follow) -> Transfers:
    """The caller's own transfers, in the ledger's order."""
    _own(call, address)

    async def read(connection: Connection) -> list[Row]:
        return await store.transfers(connection, address, after=query.after, limit=query.limit)

    rows = await call.market.transact(read)
    views = [_transfer(row) for row in rows]
    return Transfers(views, views[-1].sequence if views else query.after)


def _transfer(row: Row) -> TransferView:
    return TransferView(
        sequence=row["seq"], id=str(row["id"]), debit=_account(row, "dr"), credit=_account(row, "cr"),
        amount=str(int(row["amount"])), reason=Reason(row["code"]).name.lower(),
        cause=canonical.digest_text(row["cause"]), ts_ns=str(row["ts"]),
    )  # fmt: skip


def _account(row: Row, side: str) -> str:
    job = f"/{row[side + '_job']}" if row[side + "_job"] is not None else ""
    return f"{row[side + '_owner'].hex()}/{Purpose(row[side + '_purpose']).name.lower()}{job}"


def _own(call: Call, address: str) -> None:
    if not identity.is_address(address) or address != call.address:
        raise Forbidden("an account is read by its own key")


async def post_payment(call: Call, body: Pay) -> Moved:
    """Tokens to another party."""
    return await payments.pay(call.market, call.address, body.payment, now_ms=call.now_ms)


async def post_issue(call: Call, body: IssuePost) -> Moved:
    """New tokens, by the operator's signature."""
    return await payments.issue(call.market, call.address, body.issue, now_ms=call.now_ms)


async def post_faucet(call: Call, body: Faucet) -> Moved:
    """Tokens for the asking; development stacks only."""
    transfer = derived_id("faucet", call.address, call.caller.idempotency_key)
    return await payments.faucet(
        call.market,
        call.edge.operator_key,
        call.address,
        body.amount,
        transfer_id=transfer,
        now_ms=call.now_ms,
    )


async def show_ledger(call: Call) -> LedgerView:
    """Totals by purpose; the sum over all accounts is 0."""
    totals = await call.market.transact(store.totals)
    return LedgerView(
        totals={purpose.name.lower(): str(value) for purpose, value in totals.by_purpose.items()},
        sum=str(totals.sum), accounts=totals.accounts, transfers=totals.transfers,
        statements=totals.statements, checkpoint_size=totals.checkpoint_size,
    )  # fmt: skip


ENDPOINTS: Final = (
    Endpoint("GET", "/v1/market", show_market),
    Endpoint("GET", "/v1/offers", list_offers),
    Endpoint("PUT", "/v1/offers", put_offer, Access.WRITE),
    Endpoint("GET", "/v1/providers", list_providers),
    Endpoint("GET", "/v1/environments", list_environments),
    Endpoint("GET", "/v1/accounts/{address}", show_account, Access.READ),
    Endpoint("GET", "/v1/accounts/{address}/transfers", list_transfers, Access.READ),
    Endpoint("POST", "/v1/payments", post_payment, Access.WRITE),
    Endpoint("POST", "/v1/issues", post_issue, Access.WRITE),
    Endpoint("POST", "/v1/faucet", post_faucet, Access.WRITE),
    Endpoint("GET", "/v1/ledger", show_ledger),
)
