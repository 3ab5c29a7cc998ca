"""The provider group as people and programs see it, against a market's edge."""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from market.wire.explorer import LedgerTransfer, LoggedReceipt
from settlement.domain import canonical
from tests.meta.tree import ROOT
from tests.unit.daemon.fake_market import FakeMarket, key
from tests.unit.daemon.makers import CONSUMER, identifier

DAY_NS = 24 * 3_600 * 10**9
TODAY_NS = 1_800_000_000 * 10**9


@pytest.fixture
async def market() -> AsyncIterator[FakeMarket]:
    async with FakeMarket() as served:
        yield served


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    path = tmp_path / "key"
    path.touch(mode=0o600)
    path.write_text(key().to_hex())
    return path


def charge(number: int, amount: int, at_ns: int) -> LedgerTransfer:
    return LedgerTransfer(
        sequence=number, id=identifier(number), debit=f"{CONSUMER}/budget/{identifier(900)}",
        credit=f"{key().address}/held", amount=str(amount), reason="charge", flags=[], pending_id="",
        timeout_seconds=0, cause=canonical.digest(b""), at_ns=str(at_ns),
    )  # fmt: skip


def release(number: int, amount: int) -> LedgerTransfer:
    return LedgerTransfer(
        sequence=number, id=identifier(number), debit=f"{key().address}/held",
        credit=f"{key().address}/available", amount=str(amount), reason="release", flags=[],
        pending_id="", timeout_seconds=0, cause=canonical.digest(b""), at_ns=str(TODAY_NS - DAY_NS),
    )  # fmt: skip


def receipt(number: int, gross: int, money: str) -> LoggedReceipt:
    return LoggedReceipt(
        index=number, digest=canonical.digest(b"%d" % number), provider=key().address,
        consumer=CONSUMER, job=identifier(900), attempt=identifier(number), purpose="work", first=0,
        tasks=1, wall_ms=5, cpu_ms=1, protection="S", state="accepted", reason="", charge=str(gross),
        fee="10", surcharge="0", money=money, verdict="", check="",
    )  # fmt: skip


async def gridpact(home: Path, *arguments: str) -> tuple[int, str, str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "market.cli.main", *arguments,
        cwd=ROOT, env={**os.environ, "GRIDPACT_HOME": str(home), "COLUMNS": "200"},
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, err = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


async def test_providers_as_a_table_and_as_json(market: FakeMarket, tmp_path: Path) -> None:
    code, out, err = await gridpact(tmp_path, "--url", market.url, "provider", "ls")
    assert (code, err) == (0, "")
    assert "alpha" in out
    assert "1.250000" in out
    code, out, _ = await gridpact(tmp_path, "--url", market.url, "provider", "ls", "--json")
    assert code == 0
    assert [found["name"] for found in json.loads(out)] == ["alpha"]


async def test_status_and_earnings_of_ones_own_key(
    market: FakeMarket, tmp_path: Path, key_file: Path
) -> None:
    whose = ("--url", market.url, "--key", str(key_file), "provider")
    market.held = [charge(1, 300, TODAY_NS), charge(2, 100, TODAY_NS - DAY_NS), release(3, 60)]
    market.logged = [receipt(1, 310, "charged"), receipt(2, 110, "released")]
    code, out, err = await gridpact(tmp_path, *whose, "status", "--json")
    assert (code, err) == (0, "")
    seen = json.loads(out)
    assert (seen["address"], seen["daemon"], seen["earned_today"]) == (key().address, None, "400")
    code, out, err = await gridpact(tmp_path, *whose, "earnings")
    assert (code, err) == (0, "")
    assert "0.250000" in out
    code, out, _ = await gridpact(tmp_path, *whose, "earnings", "--json")
    found = json.loads(out)
    assert [(day["earned"], day["released"], day["chunks"]) for day in found["days"]] == [
        ("100", "60", 1), ("300", "0", 1),
    ]  # fmt: skip
    assert [(job["earned"], job["released"], job["wall_ms"]) for job in found["jobs"]] == [
        ("400", "100", 10)
    ]


async def test_a_wrong_setting_is_a_sentence(tmp_path: Path) -> None:
    code, out, err = await gridpact(
        tmp_path, "provider", "run", "--url", "http://127.0.0.1:1", "--executor", "cloud"
    )
    assert (code, out) == (2, "")
    assert "GRIDPACT_PROVIDER_EXECUTOR" in err
    assert "Traceback" not in err


async def test_a_missing_key_is_a_sentence(market: FakeMarket, tmp_path: Path) -> None:
    code, _, err = await gridpact(
        tmp_path, "provider", "run", "--url", market.url, "--home", str(tmp_path / "alpha"),
        "--key", str(tmp_path / "none"),
    )  # fmt: skip
    assert code == 2
    assert "bad-key" in err
