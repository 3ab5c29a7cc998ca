"""Audit, exit proofs and finality from the command line, of a market that runs; and of one that mints."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest
from aiohttp import web

from market.api.app import build
from market.cli.output import Exit
from market.http.settings import Settings
from market.http.state import MARKET
from market.sdk import wallet
from market.service import public
from market.store import public as store
from market.store.rows import Connection
from settlement.domain import checkpoint
from settlement.domain.identity import PrivateKey
from settlement.domain.ledger import Purpose
from settlement.validator import main as validators
from tests.system.conftest import working
from tests.system.running import Running
from tests.system.test_finality import MEMBERS as SEERS
from tests.system.test_finality import cosign, name, now
from tests.system.trading import Buyer, logged, until

FUNDS: Final = 7_000_000


@dataclass(frozen=True)
class Told:
    """What a command left behind."""

    code: int
    out: str
    err: str

    def json(self) -> Any:  # noqa: ANN401 - a document
        return json.loads(self.out)


async def gridpact(home: Path, *words: object) -> Told:
    """The command line, as a process of its own."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "market.cli.main", "--home", str(home), *map(str, words),
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, err = await process.communicate()
    assert process.returncode is not None
    return Told(process.returncode, out.decode(), err.decode())


async def at_home(home: Path, running: Running, key: PrivateKey) -> None:
    """A state folder that knows the market and the key."""
    path = home / "wallet.key"
    home.mkdir(mode=0o700)
    path.write_text(key.to_hex())
    path.chmod(0o600)
    async with running.client() as client:
        wallet.set_default(home, url=running.url, key_path=path, view=await client.market())


async def test_audit_of_a_market_that_runs(buyer: Buyer, tmp_path: Path) -> None:
    home, running = tmp_path / "home", buyer.running
    await at_home(home, running, PrivateKey(b"\x31" * 32))
    moved = await buyer.client.pay("ab" * 32, 5)
    await buyer.client.statement_evidence(moved.statement)
    told = await gridpact(home, "ledger", "audit", "--save-snapshot", tmp_path / "snapshot")
    assert (told.code, "every entry is right" in told.out) == (Exit.OK, True), told
    assert "no validators are named" in told.out
    await buyer.client.statement_evidence((await buyer.client.pay("ab" * 32, 6)).statement)
    told = await gridpact(home, "--json", "ledger", "audit", "--snapshot", tmp_path / "snapshot")
    report = told.json()
    assert (told.code, report["finding"], report["first"] > moved.index) == (Exit.OK, None, True)
    assert sum(int(each) for each in report["balances"].values()) == int(report["issued"])

    log_key = wallet.load_profile(home).pins[running.url].log_key
    await validators.mirror(tmp_path / "mirror", running.url, log_key, listen=None, once=True)
    told = await gridpact(home, "--json", "ledger", "audit", "--from-dir", tmp_path / "mirror")
    assert (told.code, told.json()["finding"]) == (Exit.OK, None)
    bundle = next((tmp_path / "mirror" / "tile" / "entries").glob("000.p/*"))
    bundle.write_bytes(bundle.read_bytes().replace(b"payload", b"pbyload", 1))
    told = await gridpact(home, "--json", "ledger", "audit", "--from-dir", tmp_path / "mirror")
    assert (told.code, told.json()["finding"]["index"]) == (Exit.UNVERIFIED, 0)


async def test_an_audit_without_a_pin_says_whom_it_trusts(buyer: Buyer, tmp_path: Path) -> None:
    await buyer.client.statement_evidence((await buyer.client.pay("ab" * 32, 5)).statement)
    told = await gridpact(tmp_path, "ledger", "audit", "--from-url", buyer.running.url)
    assert (told.code, "warning: no key is pinned" in told.err) == (Exit.OK, True)
    told = await gridpact(
        tmp_path, "ledger", "audit", "--from-url", buyer.running.url, "--log-key", SEERS[0]
    )
    assert told.code in {Exit.USAGE, Exit.UNVERIFIED}
    both = ("--from-url", buyer.running.url, "--from-dir", tmp_path)
    assert (await gridpact(tmp_path, "ledger", "audit", *both)).code == Exit.USAGE


async def test_an_exit_from_the_command_line(buyer: Buyer, tmp_path: Path) -> None:
    home, running, file = tmp_path / "home", buyer.running, tmp_path / "exit.json"
    await at_home(home, running, PrivateKey(b"\x31" * 32))
    told = await gridpact(home, "wallet", "exit", "-o", file)
    assert (told.code, "not final" in told.out) == (Exit.OK, True), told
    available = (await buyer.client.balances()).available
    told = await gridpact(home, "--json", "wallet", "exit-verify", file)
    assert (told.code, told.json()["available"], told.json()["final"]) == (0, int(available), False)
    assert (await gridpact(home, "wallet", "exit-verify", file, "--final")).code == Exit.UNVERIFIED

    await name(running, SEERS[:1], 1)
    assert (await gridpact(home, "wallet", "validators")).code == Exit.OK
    async with asyncio.TaskGroup() as group:
        fetching = group.create_task(gridpact(home, "wallet", "exit", "--final", "-o", file))
        while not fetching.done():
            await cosign(running, tmp_path / "seer", 0)
            await asyncio.sleep(0.05)
    assert (fetching.result().code, "not final" in fetching.result().out) == (Exit.OK, False)
    assert (await gridpact(home, "wallet", "exit-verify", file, "--final")).code == Exit.OK

    pin = wallet.load_profile(home).pins[running.url]
    rules = tmp_path / "policy"
    rules.write_text(f"log {pin.log_key}\nwitness one {SEERS[0]}\nquorum one\n")
    nowhere = tmp_path / "nowhere"  # a folder that knows no market at all
    keys = ("--policy", rules, "--ledger-key", pin.ledger_key, "--final")
    assert (await gridpact(nowhere, "wallet", "exit-verify", file, *keys)).code == Exit.OK
    rules.write_text(f"log {pin.log_key}\nwitness one {SEERS[1]}\nquorum one\n")
    assert (await gridpact(nowhere, "wallet", "exit-verify", file, *keys)).code == Exit.UNVERIFIED
    file.write_bytes(file.read_bytes().replace(b'"index":', b'"index":1', 1))
    assert (await gridpact(home, "wallet", "exit-verify", file)).code == Exit.UNVERIFIED


# ── a market that mints ─────────────────────────────────────────────────────────────────────


@asynccontextmanager
async def unsound(settings: Settings) -> AsyncIterator[Running]:
    """A whole market whose books need not be right at the end."""
    app = build(settings)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    await web.TCPSite(runner, settings.host, settings.port).start()
    try:
        async with working(settings):
            yield Running(f"http://{settings.host}:{settings.port}", app[MARKET], settings)
    finally:
        await runner.cleanup()


async def mint(running: Running, owner: str, amount: int) -> None:
    """Behind the ledger's back: no transfer, no statement, no trigger."""

    async def write(connection: Connection) -> None:
        await connection.execute("SET LOCAL session_replication_role = replica")
        done = await connection.execute(
            "UPDATE accounts SET cr_posted = cr_posted + $1 WHERE owner = $2 AND purpose = $3",
            amount, bytes.fromhex(owner), int(Purpose.AVAILABLE),
        )  # fmt: skip
        assert done == "UPDATE 1"

    await running.market.transact(write)


async def test_minting_without_a_statement(settings: Settings, tmp_path: Path) -> None:
    """The next state statement is about money that no entry made: both name it, and whose it is."""
    friend = PrivateKey(b"\x32" * 32)
    async with unsound(settings) as running:
        async with running.client(friend) as client:
            await client.faucet(FUNDS)
            await mint(running, friend.address, 999)
            for _ in range(2):  # the worker may have stated what was before
                await client.faucet(1)
            size = await public.state(running.market, now_ms=now())
            if size is None:
                _, size = await running.market.read(store.log_size)
            log_key = (await client.market()).log_key

            assert size is not None
            least = size

            async def sealed() -> bool:
                return checkpoint.head(await client.checkpoint()).size > least

            await until(sealed)
        told = await gridpact(tmp_path / "home", "--json", "ledger", "audit", "--from-url", running.url)  # fmt: skip
        finding = told.json()["finding"]
        assert told.code == Exit.UNVERIFIED
        assert (await logged(running))[finding["index"]].kind == "state"
        assert finding["rule"] == "the state is what the log leads to"
        line = f'["account","{friend.address}",1,"",1,"0","0","0","'
        there, found = [int(part.split('"')[0]) for part in finding["detail"].split(line)[1:]]
        assert found - there == 999  # whenever the worker stated it

        plan = validators.Plan(
            (validators.Market(running.url, log_key),), "one.example/1", PrivateKey(b"\x33" * 32),
            tmp_path / "validator",
        )  # fmt: skip
        async with validators.opened(plan) as validator:
            await validator.round()
            (watch,) = validator.watches
            assert watch.refused
            assert f"entry {finding['index']}: the state is what the log leads to" in watch.detail
            assert watch.cosigner.last.size == 0


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """The processes must not find another market in the environment."""
    for variable in (wallet.URL_VARIABLE, wallet.KEY_VARIABLE):
        monkeypatch.delenv(variable, raising=False)
