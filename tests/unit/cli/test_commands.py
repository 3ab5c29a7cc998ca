"""The command line against the fake market: tables, the JSON contract, exit codes, errors with a cure."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from market.cli import main as cli
from market.cli.main import GROUPS, main
from market.cli.output import Exit, exit_code
from market.sdk import wallet
from settlement.domain.errors import GridpactError
from tests.unit.sdk.fake_market import CHARGE, FakeMarket
from tests.unit.sdk.fake_pages import PROVIDER
from tests.unit.sdk.served import served

PROGRAM = """
from market.sdk import blocking as gp

@gp.function(cpu=1, memory_mib=256, budget="1")
def square(number):
    print("squaring", number)
    return number * number

def tuples(number):
    if number == 2:
        raise ValueError("two")
    return (number, {1, 2})
"""

Run = Callable[..., Any]


@pytest.fixture
def market() -> FakeMarket:
    return FakeMarket()


@pytest.fixture
def run(
    market: FakeMarket,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Run]:
    """Run a command in a state folder with a funded key; its exit code is checked."""
    monkeypatch.setenv("GRIDPACT_HOME", str(tmp_path))
    monkeypatch.delenv(wallet.URL_VARIABLE, raising=False)
    monkeypatch.delenv(wallet.KEY_VARIABLE, raising=False)
    monkeypatch.setenv("COLUMNS", "200")
    key = wallet.create_key(tmp_path / wallet.KEY_FILE)
    market.funds[key.address] = 5_000_000
    with served(market) as url:
        wallet.set_default(tmp_path, url=url, key_path=tmp_path / wallet.KEY_FILE)

        def invoke(*arguments: str, code: int = Exit.OK) -> Any:  # noqa: ANN401 - text or JSON
            with pytest.raises(SystemExit) as ended:
                main(arguments)
            captured = capsys.readouterr()
            assert (ended.value.code or 0) == code, captured
            if "--json" in arguments:
                return json.loads(captured.out or captured.err)
            return captured.out + captured.err

        yield invoke


def test_help_names_every_group(run: Run) -> None:
    text = run("--help")
    for group in GROUPS:
        assert f" {group} " in text
    assert run("--version").startswith("gridpact ")


@pytest.mark.parametrize("group", GROUPS)
def test_every_command_has_help(run: Run, group: str) -> None:
    command = cli._command(GROUPS[group])
    assert run(group, "--help")
    for name, child in getattr(command, "commands", {}).items():
        assert child.help, f"{group} {name} has no help"
        assert "--json" in run(group, name, "--help")


def test_usage_errors(run: Run) -> None:
    run("nonsense", code=Exit.USAGE)
    run("offers", "ls", "--sort", "colour", code=Exit.USAGE)
    run("job", "show", code=Exit.USAGE)
    run("wallet", "pay", "someone", "1", code=Exit.USAGE)
    run("wallet", "pay", "ab" * 32, "0.0000001", code=Exit.USAGE)
    run("--url", "nowhere", "offers", "ls", code=Exit.USAGE)


def test_offers(run: Run) -> None:
    [offer] = run("offers", "ls", "--json")
    assert offer["name"] == "alpha"
    assert offer["rates"] == {"cpu": 200, "gib": 20, "gpu": 0}
    assert "0.792000" in run("offers", "ls")
    assert run("offers", "show", "alpha", "--json") == offer
    assert run("offers", "show", PROVIDER[:8], "--json") == offer
    run("offers", "show", "nobody", code=Exit.NOT_FOUND)
    [provider] = run("offers", "providers", "--json")
    assert provider["earned"] == "1234567"
    assert "1.234567" in run("offers", "providers")


def test_globals_stand_before_or_after(run: Run) -> None:
    assert run("--json", "ledger", "show") == run("ledger", "show", "--json")


def test_wallet(run: Run, market: FakeMarket, tmp_path: Path) -> None:
    address = wallet.load_key(tmp_path / wallet.KEY_FILE).address
    assert run("wallet", "balance", "--json") == {
        "address": address,
        "available": "5000000",
        "held": "0",
        "stake": "0",
        "budgets": "0",
        "reserved": "0",
    }
    assert "5.000000" in run("wallet", "balance")
    other = "ab" * 32
    paid = run("wallet", "pay", other, "1.5", "--memo", "thanks", "--json")
    assert paid["status"] == "applied"
    assert market.funds == {address: 3_500_000, other: 1_500_000}
    refused = run("wallet", "pay", other, "100", "--json", code=Exit.REFUSED)
    assert refused["error"] == "insufficient-funds"
    assert refused["cure"]
    assert market.funds[other] == 1_500_000
    run("wallet", "faucet", "2")
    assert market.funds[address] == 5_500_000
    assert run("wallet", "history", "--json")["transfers"][0]["reason"] == "issue"
    assert run("wallet", "show", "--json")["address"] == address


def test_wallet_new(run: Run, tmp_path: Path) -> None:
    made = run("wallet", "new", str(tmp_path / "second.key"), "--json")
    assert wallet.load_key(Path(made["file"])).address == made["address"]
    run("wallet", "new", code=Exit.USAGE)  # the default key is there and stays
    (tmp_path / wallet.KEY_FILE).chmod(0o644)
    assert "others may read it" in run("wallet", "balance", code=Exit.USAGE)


def test_a_market_that_changed_is_refused(run: Run, market: FakeMarket, tmp_path: Path) -> None:
    run("wallet", "balance")
    market.log_key = "gridpact.test/fake+22222222+changed"
    refused = run("wallet", "balance", "--json", code=Exit.UNVERIFIED)
    assert refused["error"] == "market-changed"
    run("wallet", "unpin", wallet.load_profile(tmp_path).url)
    run("wallet", "balance")
    run("wallet", "unpin", "http://other:1", code=Exit.NOT_FOUND)


@pytest.fixture
def program(tmp_path: Path) -> Path:
    path = tmp_path / "program_of_a_test.py"
    path.write_text(PROGRAM)
    return path


def test_job_run(run: Run, market: FakeMarket, program: Path, tmp_path: Path) -> None:
    inputs = tmp_path / "inputs.jsonl"
    inputs.write_text("4\n\n5\n")
    target = f"{program}:square"
    rows = run("job", "run", target, "-i", "3", "--inputs", str(inputs), "--json")
    assert [(row["index"], row["status"], row["value"]) for row in rows] == [
        (0, "ok", 9),
        (1, "ok", 16),
        (2, "ok", 25),
    ]
    assert rows[0]["log"] == "squaring 3\n"
    [job] = market.jobs.values()
    assert job.spec.slot.memory_mib == 256
    assert job.budget == 1_000_000
    run("job", "run", target, code=Exit.USAGE)
    run("job", "run", target, "-i", "{", code=Exit.USAGE)
    run("job", "run", f"{program}:nothing", "-i", "1", code=Exit.NOT_FOUND)
    run("job", "run", "no/such/file.py:f", "-i", "1", code=Exit.NOT_FOUND)


def test_job_with_failures_and_rich_values(run: Run, program: Path) -> None:
    rows = run("job", "run", f"{program}:tuples", "-i", "1", "-i", "2", "--json", code=Exit.REMOTE)
    assert rows[0]["value"] == "(1, {1, 2})"
    assert (rows[1]["status"], rows[1]["value"]) == ("error", "ValueError: two")


def test_job_views(run: Run, market: FakeMarket, program: Path) -> None:
    detached = run("job", "run", f"{program}:square", "-i", "3", "--detach", "--json")
    job = detached["job"]
    view = run("job", "show", job, "--json")
    assert (view["id"], view["state"], view["spent"]) == (job, "closed", str(CHARGE))
    assert "1 of 1 accepted" in run("job", "show", job)
    assert run("job", "ls", "--json")["jobs"] == [view]
    assert run("job", "results", job, "--json")[0]["value"] == 9
    assert run("receipt", "ls", job, "--json") == run("job", "receipts", job, "--json")
    assert run("job", "cancel", job, "--json")["reason"] == "done"
    assert run("job", "top-up", job, "1", "--json")["budget"] == "2000000"
    run("job", "show", "00000000-0000-4000-8000-000000000000", code=Exit.NOT_FOUND)


def test_ledger(run: Run) -> None:
    assert run("ledger", "show", "--json")["sum"] == "0"
    assert run("ledger", "head", "--json")["size"] == "1"
    assert run("ledger", "checkpoint").startswith("gridpact.test/fake\n1\n")


def test_doctor(run: Run) -> None:
    assert run("server", "doctor", "--json") == {"status": "ok", "checks": {"database": "ok"}}


def test_nobody_answers(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("market.sdk.transport.BACKOFF_FIRST_SECONDS", 0.001)
    refused = run("--url", "http://127.0.0.1:1", "offers", "ls", "--json", code=Exit.REMOTE)
    assert refused["error"] == "unreachable"


def test_keygen(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GRIDPACT_KEYS_FOLDER", raising=False)
    run("server", "keygen", code=Exit.USAGE)
    made = run("server", "keygen", str(tmp_path / "keys"), "--json")
    assert sorted(made) == ["ledger", "log", "operator"]
    assert run("server", "keygen", str(tmp_path / "keys"), "--json") == made
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "keys").iterdir()} == {0o600}
    monkeypatch.delenv("DATABASE_URL", raising=False)
    run("server", "migrate", code=Exit.USAGE)


@pytest.mark.parametrize("code", sorted(GridpactError.registry))
def test_every_error_has_an_exit_code(code: str) -> None:
    error = GridpactError.from_code(code, "detail")
    assert exit_code(error) in set(Exit) - {Exit.OK}


def test_help_loads_nothing_heavy() -> None:
    script = (
        "import sys, market.cli.main as m\n"
        "try: m.main(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'aiohttp', 'pydantic', 'sqlalchemy', 'asyncpg', 'ray', 'numpy', 'nacl'}\n"
        "sys.exit(str(heavy & set(sys.modules)) if heavy & set(sys.modules) else 0)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], env=dict(os.environ), capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
