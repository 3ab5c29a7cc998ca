"""The provider group as people and programs see it, against a market's edge."""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.meta.tree import ROOT
from tests.unit.daemon.fake_market import FakeMarket, key


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
    code, out, err = await gridpact(tmp_path, *whose, "status", "--json")
    assert (code, err) == (0, "")
    assert json.loads(out)["address"] == key().address
    code, out, err = await gridpact(tmp_path, *whose, "earnings")
    assert (code, err) == (0, "")
    assert "0.250000" in out
    assert "release" in out


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
