"""The ledger explorer as programs and people use it: SDK, blocking facade, command line."""

import asyncio
import csv
import io
import json
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from market.cli.main import main
from market.sdk import blocking, wallet
from market.sdk.explorer import (
    Listing,
    accounts_of,
    checkpoints,
    entries_from,
    receipts_of,
    transfers_of,
)
from tests.system.exploring import trade
from tests.system.trading import Buyer


@pytest_asyncio.fixture
async def traded(buyer: Buyer) -> Buyer:
    return await trade(buyer)


def everything(party: str) -> list[Listing[Any]]:
    return [
        accounts_of(), accounts_of(party), transfers_of(party), receipts_of(consumer=party),
        entries_from(), entries_from(2, kind="payment"), checkpoints(order="asc"),
    ]  # fmt: skip


async def test_the_sdk_follows_and_exports(traded: Buyer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small pages and large ones give the same rows, in JSON and in CSV."""
    from market.sdk import explorer as sdk

    async with traded.running.client() as stranger:
        for listing in everything(traded.address)[:-1]:
            whole = await stranger.explorer.rows(listing)
            assert whole
            assert all(isinstance(row, listing.kind) for row in whole)
            assert await stranger.explorer.rows(listing, limit=3) == whole[:3]
            for size in (2, 10_000):
                monkeypatch.setattr(sdk, "CSV_ROWS", size)
                pieces: list[bytes] = []
                await stranger.explorer.export(listing, pieces.append)
                table = list(csv.DictReader(io.StringIO(b"".join(pieces).decode(), newline="")))
                assert len(table) == len(whole)
        some = (await stranger.explorer.rows(transfers_of(traded.address), limit=1))[0]
        assert (await stranger.explorer.transfer(some.id)).transfer == some
        before = await stranger.explorer.balance(traded.address, at_seq=some.sequence - 1)
        after = await stranger.explorer.balance(traded.address, at_seq=some.sequence)
        assert int(before.balance) - int(after.balance) == int(some.amount)


Run = Callable[..., Coroutine[Any, Any, str]]


@pytest.fixture
def run(traded: Buyer, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """A command of the group `ledger`, as a person types it; what it prints."""
    home = tmp_path / "home"

    async def typed(*words: str) -> str:
        url = traded.running.url
        wanted = ["ledger", *words, "--home", str(home), "--url", url]
        with pytest.raises(SystemExit) as ended:
            await asyncio.to_thread(main, wanted)
        said = capsys.readouterr()
        assert ended.value.code == 0, said.err
        return said.out

    return typed


async def test_the_command_line_shows_all_of_it(run: Run, traded: Buyer, tmp_path: Path) -> None:
    party = traded.address
    accounts = json.loads(await run("accounts", party, "--json"))
    assert {one["purpose"] for one in accounts} == {"available", "budget"}
    assert "available" in await run("accounts", party)
    transfers = json.loads(await run("transfers", party, "--json", "--reason", "payment"))
    assert [int(one["amount"]) for one in transfers] == [5, 4, 3, 2, 1]
    assert "payment" in await run("transfers", party, "--oldest", "--until", "2100-01-01")
    detail = json.loads(await run("transfer", transfers[0]["id"], "--json"))
    assert detail["cause_kind"] == "payment"
    assert transfers[0]["id"] in await run("transfer", transfers[0]["id"])
    point = str(transfers[0]["sequence"] - 1)
    past = json.loads(await run("accounts", party, "--at", point, "--json"))
    now = {one["purpose"]: int(one["balance"]) for one in accounts}
    assert {one["purpose"]: int(one["balance"]) for one in past} == {
        **now, "available": now["available"] + 5
    }  # fmt: skip
    assert "payment" in await run("entries", "--kind", "payment")
    entry = json.loads(await run("entries", "--kind", "payment", "--limit", "1", "--json"))[0]
    assert json.loads(await run("entry", entry["digest"])) == entry
    assert "agreed" in await run("receipts", "--consumer", party)
    assert "Checkpoints" in await run("checkpoints")
    for words in (
        ("accounts", party),
        ("transfers", party),
        ("receipts",),
        ("entries",),
        ("checkpoints",),
    ):
        path = tmp_path / f"{words[0]}.csv"
        await run(*words, "--csv", str(path))
        table = list(csv.DictReader(io.StringIO(path.read_bytes().decode(), newline="")))
        assert len(table) > 1 or words[0] == "checkpoints"


async def test_the_blocking_facade_waits(traded: Buyer, tmp_path: Path) -> None:
    def wait() -> tuple[int, str]:
        wallet.create_key(tmp_path / wallet.KEY_FILE)
        blocking.configure(url=traded.running.url, home=tmp_path)
        try:
            explorer = blocking.explorer()
            payments = explorer.rows(transfers_of(traded.address, reason="payment"))
            detail = explorer.transfer(payments[0].id)
            assert explorer.entry(detail.transfer.cause).index == detail.cause_index
            pieces: list[bytes] = []
            explorer.export(accounts_of(), pieces.append)
            assert b"available" in b"".join(pieces)
            return len(payments), explorer.balance(traded.address).balance
        finally:
            blocking.close()

    count, balance = await asyncio.to_thread(wait)
    assert count == 5
    assert balance == (await traded.client.balances()).available
