"""The commands of money against a whole market: what they print, and what then stands in the ledger."""

import asyncio
import json
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import pytest

from market.wire.control import Work
from settlement.domain.identity import PrivateKey
from tests.system.fake_provider import FakeProvider
from tests.system.money import ALICE, BOB, CAROL, OPERATOR, available
from tests.system.running import Running
from tests.system.trading import CREDIT, FUNDS, RATE, Buyer, bodies, spec

pytestmark = pytest.mark.system
OK: Final = 0
USAGE: Final = 2
REFUSED: Final = 3


class Party:
    """Somebody at a shell."""

    def __init__(self, running: Running, folder: Path, key: PrivateKey) -> None:
        self.folder = folder / key.address[:8]
        self.folder.mkdir(exist_ok=True)
        path = self.folder / "own.key"
        path.write_text(key.to_hex())
        path.chmod(0o600)
        self.options = ["--url", running.url, "--key", str(path), "--home", str(self.folder)]

    async def run(self, *words: str, code: int = OK, plain: bool = False) -> Any:  # noqa: ANN401 - any JSON
        command = [sys.executable, "-m", "market.cli.main", *self.options, *words]
        command += [] if plain else ["--json"]
        ended = await asyncio.to_thread(
            subprocess.run, command, capture_output=True, text=True, check=False
        )
        assert ended.returncode == code, ended.stderr
        if plain:
            return ended.stdout
        return json.loads(ended.stdout if code == OK else ended.stderr)


async def test_payouts_and_withdrawals(api: Running, tmp_path: Path) -> None:
    alice, operator = Party(api, tmp_path, ALICE), Party(api, tmp_path, OPERATOR)
    async with api.client(ALICE) as client:
        await client.faucet(10 * CREDIT)
    wages = tmp_path / "wages.csv"
    wages.write_text(f"address,credits\n{BOB.address},1.5\n\n{CAROL.address}, 2\n")
    assert (await alice.run("wallet", "pay-many", str(wages)))["status"] == "applied"
    assert [await available(api, key) for key in (BOB, CAROL)] == [1_500_000, 2 * CREDIT]
    for wrong in (
        "",
        "address,credits\n",
        "nobody,1\n",
        f"{BOB.address}\n",
        f"{BOB.address},1,2\n",
    ):
        wages.write_text(wrong)
        assert (await alice.run("wallet", "pay-many", str(wages), code=USAGE))[
            "error"
        ] == "malformed"
    asked = await alice.run("wallet", "withdraw", "4", "--to", "DE00 1234")
    assert (asked["state"], asked["amount"]) == ("waiting", str(4 * CREDIT))
    assert await operator.run("server", "withdrawals") == [asked]
    assert (await alice.run("server", "withdrawals", code=REFUSED))["error"] == "forbidden"
    named = ("server", "withdrawal", asked["transfer"])
    assert await operator.run(*named) == asked
    done = await operator.run(*named, "--paid", "--memo", "sent")
    assert (done["state"], done["memo"]) == ("paid", "sent")
    assert (await operator.run(*named, "--refuse", code=REFUSED))["error"] == "stale"
    assert await operator.run("server", "withdrawals") == []
    assert await operator.run("server", "withdrawals", "--all") == [done]
    assert await alice.run("wallet", "withdrawals") == [done]
    assert "DE00 1234" in await alice.run("wallet", "withdrawals", plain=True)
    assert await available(api, ALICE) == 2_500_000


async def test_a_voucher_travels_as_a_file(whole: Running, buyer: Buyer, tmp_path: Path) -> None:
    assert buyer.client.key is not None
    consumer = Party(whole, tmp_path, buyer.client.key)
    async with FakeProvider(whole, 1).open() as alpha:
        provider = Party(whole, tmp_path, alpha.key)
        alpha.holds = True
        job = await buyer.order(bodies(1), slots=1, of=spec(verify="none"))
        work = await alpha.heard(Work)
        (lease,) = await consumer.run("job", "leases", job)
        voucher = str(tmp_path / "voucher.json")
        signed = await consumer.run(
            "job", "vouch", lease["id"], "--seconds", "0.25", "--output", voucher, "--quiet"
        )
        assert signed["vouched_ms"] == 0
        paid = await provider.run("provider", "voucher", voucher)
        assert (paid["vouched_ms"], paid["status"]) == (250, "applied")
        assert paid["vouched"] == str(250 * RATE // 1_000)
        assert (await provider.run("provider", "voucher", voucher))["status"] == "duplicate"
        stranger = Party(whole, tmp_path, ALICE)
        await stranger.run("provider", "voucher", voucher, code=4)
        more = await consumer.run("job", "vouch", lease["id"])
        assert more["vouched_ms"] > 250
        alpha.holds = False
        await alpha.answer(work)
        await buyer.closed(job)
        assert "vouchers s" in await consumer.run("job", "leases", job, plain=True)


async def test_accepting_a_receipt(whole: Running, buyer: Buyer, tmp_path: Path) -> None:
    assert buyer.client.key is not None
    consumer = Party(whole, tmp_path, buyer.client.key)
    async with FakeProvider(whole, 1).open(), FakeProvider(whole, 2, slots=0).open():
        job = await buyer.order(bodies(1))
        await buyer.happened(job, "checking")
        (receipt,) = await buyer.receipts(job, state="checking")
        first = await consumer.run("receipt", "accept", receipt.receipt)
        assert (first["state"], first["charge"]) == ("accepted", receipt.charge)
        assert await consumer.run("receipt", "accept", receipt.receipt) == first
        view = await buyer.closed(job)
        assert FUNDS - int(view.spent) == int((await buyer.client.balances()).available)
