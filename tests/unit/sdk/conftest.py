"""One fake market per test, and a client that holds credits there."""

from collections.abc import AsyncIterator

import pytest

from market.sdk.client import MarketClient
from settlement.domain.identity import PrivateKey
from tests.unit.sdk.fake_market import FakeMarket

KEY = PrivateKey(b"\x07" * 32)


@pytest.fixture
def market() -> FakeMarket:
    return FakeMarket()


@pytest.fixture
async def url(market: FakeMarket) -> AsyncIterator[str]:
    async with market.serve() as address:
        yield address


@pytest.fixture
async def client(market: FakeMarket, url: str) -> AsyncIterator[MarketClient]:
    market.funds[KEY.address] = 100_000_000
    async with MarketClient(url, KEY) as opened:
        yield opened
