"""The async client against a market that verifies each signature: retries, blobs, batches, pins."""

import asyncio
from pathlib import Path

import pytest

from market.sdk import transport as transports
from market.sdk import wallet
from market.sdk.client import MarketClient, batches
from market.sdk.transport import Transport
from market.wire.jobs import APPEND_TASKS_MAX
from market.wire.payload import INLINE_BYTES_MAX, inline
from settlement.domain.errors import (
    DigestMismatch,
    InsufficientFunds,
    Malformed,
    MarketChanged,
    NotFound,
    Refused,
    Unavailable,
    Unreachable,
    Unsigned,
)
from settlement.domain.identity import PrivateKey
from tests.unit.sdk.fake_market import FakeMarket, unavailable

OTHER = PrivateKey(b"\x08" * 32)


@pytest.fixture(autouse=True)
def _hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transports, "BACKOFF_FIRST_SECONDS", 0.001)


async def test_a_lost_answer_is_repeated_under_the_same_key(
    market: FakeMarket, client: MarketClient
) -> None:
    await client.market()
    market.troubles += ["lose the answer", "cut", *unavailable(2)]
    await client.pay(OTHER.address, 5)
    assert market.funds[OTHER.address] == 5
    keys = {key for method, path, key in market.seen if path == "/v1/payments"}
    tries = [path for _, path, _ in market.seen if path == "/v1/payments"]
    assert len(tries) == 5
    assert len(keys) == 1


async def test_two_writes_have_two_keys(market: FakeMarket, client: MarketClient) -> None:
    await client.pay(OTHER.address, 5)
    await client.pay(OTHER.address, 5)
    assert market.funds[OTHER.address] == 10
    assert len({key for _, path, key in market.seen if path == "/v1/payments"}) == 2


async def test_trouble_without_end_is_told(market: FakeMarket, client: MarketClient) -> None:
    market.troubles += unavailable(transports.ATTEMPTS_MAX)
    with pytest.raises(Unavailable, match="busy"):
        await client.balances()
    # The HTTP library itself repeats a read once when a kept connection turns out to be dead.
    market.troubles += ["cut"] * (2 * transports.ATTEMPTS_MAX)
    with pytest.raises(Unreachable, match="did not answer"):
        await client.balances()
    market.troubles[:] = [Refused("no")]
    with pytest.raises(Refused, match="no"):
        await client.balances()
    assert not market.troubles


async def test_nobody_there() -> None:
    async with Transport("http://127.0.0.1:1", OTHER, attempts_max=2) as transport:
        with pytest.raises(Unreachable):
            await transport.request("GET", "/v1/market", signed=False)


async def test_the_servers_class_is_raised(client: MarketClient) -> None:
    with pytest.raises(InsufficientFunds, match="are there"):
        await client.pay(OTHER.address, 10**12)
    with pytest.raises(NotFound):
        await client.job("00000000-0000-4000-8000-000000000000")


async def test_without_a_key_only_open_reads(url: str) -> None:
    async with MarketClient(url) as client:
        assert (await client.offers())[0].name == "alpha"
        with pytest.raises(Unsigned):
            await client.balances()


@pytest.mark.parametrize(
    "url", ["ftp://x", "127.0.0.1:8410", "http://", "http://h/path", "http://h?x=1"]
)
def test_addresses_are_checked(url: str) -> None:
    with pytest.raises(Malformed):
        Transport(url)


async def test_blobs_are_checked_on_the_way_back(market: FakeMarket, client: MarketClient) -> None:
    digest = await client.put_blob(b"content")
    assert await client.get_blob(digest) == b"content"
    market.blobs[digest] = b"other"
    with pytest.raises(DigestMismatch):
        await client.get_blob(digest)


async def test_large_payloads_are_uploaded_once(market: FakeMarket, client: MarketClient) -> None:
    large = b"x" * (INLINE_BYTES_MAX + 1)
    payloads = await client.payloads([b"small", large, large])
    assert [payload.body is None for payload in payloads] == [False, True, True]
    assert list(market.blobs.values()) == [large]
    assert [method for method, _, _ in market.seen] == ["PUT"]
    assert await client.content(payloads[1]) == large


def test_batches_hold_both_limits() -> None:
    small = [inline(b"x")] * (2 * APPEND_TASKS_MAX + 1)
    assert [len(part) for part in batches(small)] == [APPEND_TASKS_MAX, APPEND_TASKS_MAX, 1]
    heavy = [inline(b"x" * INLINE_BYTES_MAX)] * 100
    parts = batches(heavy)
    assert sum(map(len, parts)) == 100
    assert all(sum(len(p.body or b"") for p in part) * 4 / 3 < 1_000_000 for part in parts)
    assert batches([]) == [[]]


async def test_the_market_is_pinned_at_first_use(
    market: FakeMarket, url: str, tmp_path: Path
) -> None:
    for _ in range(2):
        async with MarketClient(url, OTHER, home=tmp_path) as client:
            await client.market()
    assert wallet.load_profile(tmp_path).pins[url].log_key == market.log_key
    market.log_key = "gridpact.test/fake+11111111+other"
    async with MarketClient(url, OTHER, home=tmp_path) as client:
        with pytest.raises(MarketChanged, match="log_key: pinned"):
            await client.market()
    assert wallet.unpin(tmp_path, url)
    async with MarketClient(url, OTHER, home=tmp_path) as client:
        await client.market()


async def test_concurrent_pins_lose_nothing(tmp_path: Path) -> None:
    async def pin(number: int) -> None:
        fake = FakeMarket()
        async with fake.serve() as url, MarketClient(url, OTHER, home=tmp_path) as client:
            await client.market()

    async with asyncio.TaskGroup() as group:
        for number in range(8):
            group.create_task(pin(number))
    assert len(wallet.load_profile(tmp_path).pins) == 8
