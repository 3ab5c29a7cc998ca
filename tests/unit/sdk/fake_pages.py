"""The pages of the fake market that anybody may read."""

import msgspec
from aiohttp import web

from market.sdk.packing import client_manifest
from market.wire import jobs, trade
from settlement.domain.errors import NotFound
from settlement.domain.identity import PrivateKey
from settlement.domain.resources import Rates, Resources

MARKET = "gridpact.test/fake"
PROVIDER = PrivateKey(b"\x21" * 32).address


class Pages:
    """What a test may change: who the market says it is, what it offers, its evidence."""

    def __init__(self) -> None:
        self.funds: dict[str, int] = {}
        self.log_key = "gridpact.test/fake+00000000+fake"
        self.environments = [jobs.EnvironmentView("sha256:" + "e" * 64, client_manifest(), 2)]
        self.evidence: dict[str, bytes] = {}

    async def market(self, _: web.Request) -> web.Response:
        return as_json(
            trade.MarketView(
                market=MARKET, version="0.1.0", log_key=self.log_key, ledger_key="ab" * 32,
                operator="cd" * 32, devstack=True, fee_basis_points=500,
                check_basis_points=1_000, hold_ms=1_000,
            )
        )  # fmt: skip

    async def ready(self, _: web.Request) -> web.Response:
        return as_json(trade.Health("ok", {"database": "ok"}))

    async def offers(self, _: web.Request) -> web.Response:
        room = Resources(2_000, 4_096, 0)
        offer = trade.OfferView(
            provider=PROVIDER, name="alpha", digest="sha256:" + "0f" * 32, capacity=room,
            free=room, rates=Rates(200, 20, 0), hourly="792000", protection="S",
            environments=[view.digest for view in self.environments], reputation=0.9, checks=3,
            connected=True, expires_ms=4_000_000_000_000,
        )  # fmt: skip
        return as_json(trade.Offers([offer]))

    async def providers(self, _: web.Request) -> web.Response:
        view = trade.ProviderView(
            address=PROVIDER, name="alpha", connected=True, draining=False, agreed=3, differed=0,
            reputation=0.9, receipts=4, chunks=4, seconds=1.5, earned="1234567", leases=1,
            protection="S",
        )  # fmt: skip
        return as_json(trade.Providers([view]))

    async def list_environments(self, _: web.Request) -> web.Response:
        return as_json(self.environments)

    async def ledger(self, _: web.Request) -> web.Response:
        total = sum(self.funds.values())
        return as_json(
            trade.LedgerView(
                totals={"available": str(total), "issued": str(-total)}, sum="0", accounts=2,
                transfers=1, statements=1, checkpoint_size=1,
            )
        )  # fmt: skip

    async def checkpoint(self, _: web.Request) -> web.Response:
        return web.Response(text=f"{MARKET}\n1\nAAAA\n")

    async def receipt_evidence(self, request: web.Request) -> web.Response:
        digest = request.match_info["digest"]
        if digest not in self.evidence:
            raise NotFound(f"no receipt {digest}")
        return web.Response(body=self.evidence[digest])


def as_json(value: object, status: int = 200) -> web.Response:
    return web.Response(
        body=msgspec.json.encode(value), status=status, content_type="application/json"
    )
