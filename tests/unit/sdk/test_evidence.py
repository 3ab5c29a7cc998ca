"""Receipt files: saved only when they hold, verified without a server, refused with any byte changed."""

import json
from pathlib import Path

import pytest

from market.cli.main import main
from market.cli.output import Exit
from market.sdk.client import MarketClient
from market.sdk.evidence import Receipt, verify_file
from market.wire.jobs import ReceiptView
from settlement.domain import checkpoint, evidence, merkle, statement
from settlement.domain.canonical import digest
from settlement.domain.errors import BadProof, BadReceipt, BadStatement, GridpactError, NotFound
from settlement.domain.identity import PrivateKey
from settlement.domain.payments import Payment
from settlement.domain.receipt import Environment, Price, Usage
from settlement.domain.receipt import Receipt as Claim
from settlement.domain.statement import Opened
from tests.unit.sdk.fake_market import FakeMarket
from tests.unit.sdk.fake_pages import MARKET

LOG = PrivateKey(b"\x31" * 32)
PROVIDER = PrivateKey(b"\x32" * 32)
JOB = "00000000-0000-4000-8000-000000000001"
ATTEMPT = "00000000-0000-4000-8000-000000000002"
SOME = digest(b"some")


def claim() -> Opened:
    receipt = Claim(
        v=1, kind="receipt", market=MARKET, lease=SOME, order=SOME, job=JOB, spec=SOME,
        attempt=ATTEMPT, purpose="work", provider=PROVIDER.address, consumer="ab" * 32, first=0,
        tasks=1, tasks_root=SOME, inputs=SOME, outputs=SOME,
        env=Environment(SOME, "test", 1), protection="S", started_ms=1, finished_ms=2, status="ok",
        usage=Usage(1, 0, 1, 0, 1), price=Price("7", 1), nonce="0" * 32,
    )  # fmt: skip
    return statement.sign(receipt, PROVIDER)


def payment() -> Opened:
    paid = Payment(
        v=1, kind="payment", market=MARKET, payer=PROVIDER.address, to="ab" * 32, amount="1",
        transfer=JOB, memo="", at_ms=1,
    )  # fmt: skip
    return statement.sign(paid, PROVIDER)


def file_of(opened: Opened) -> bytes:
    """The statement as the second of three entries of a log."""
    entries = [b"first", opened.envelope, b"third"]
    note = checkpoint.sign(MARKET, LOG, size=3, root=merkle.root(entries))
    nodes = merkle.nodes_of([merkle.leaf_hash(entry) for entry in entries])
    path = merkle.inclusion(nodes, index=1, size=3)
    return evidence.make(envelope=opened.envelope, index=1, path=path, note=note)


LOG_KEY = checkpoint.verifier_key(MARKET, LOG)


def view(**changes: str) -> ReceiptView:
    fields = {"attempt": ATTEMPT, "receipt": claim().digest, "provider": PROVIDER.address} | changes
    return ReceiptView(
        purpose="work", state="accepted", reason="", provider_name="alpha", first=0, tasks=1,
        wall_ms=1, cpu_ms=1, protection="S", charge="7", fee="0", surcharge="1", money="charged",
        **fields,
    )  # fmt: skip


def test_a_file_proves_its_receipt() -> None:
    proven = verify_file(file_of(claim()), LOG_KEY)
    assert proven.digest == claim().digest
    assert proven.fields()["provider"] == PROVIDER.address


def test_any_changed_byte_is_refused() -> None:
    data = file_of(claim())
    for place in range(len(data)):
        changed = data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]
        with pytest.raises(GridpactError):
            verify_file(changed, LOG_KEY)


def test_another_log_and_another_kind_are_refused() -> None:
    other = checkpoint.verifier_key(MARKET, PROVIDER)
    with pytest.raises(GridpactError):
        verify_file(file_of(claim()), other)
    with pytest.raises(BadStatement, match="payment"):
        verify_file(file_of(payment()), LOG_KEY)


async def test_only_what_holds_is_saved(
    market: FakeMarket, client: MarketClient, tmp_path: Path
) -> None:
    market.log_key = LOG_KEY
    good = file_of(claim())
    market.evidence[claim().digest] = good
    receipt = Receipt(client, view())
    assert receipt.cost_microcredits == 8
    assert (await receipt.save(tmp_path / "good.json")).read_bytes() == good
    assert (await receipt.verify()).digest == claim().digest
    market.evidence[claim().digest] = good.replace(b"A", b"B", 1)
    with pytest.raises(GridpactError):
        await receipt.save(tmp_path / "bad.json")
    assert not (tmp_path / "bad.json").exists()


async def test_evidence_of_something_else_is_refused(
    market: FakeMarket, client: MarketClient
) -> None:
    market.log_key = LOG_KEY
    market.evidence[SOME] = market.evidence[claim().digest] = file_of(claim())
    with pytest.raises(BadProof, match="another receipt"):
        await Receipt(client, view(receipt=SOME)).verify()
    with pytest.raises(BadReceipt):
        await Receipt(client, view(attempt=JOB)).verify()
    with pytest.raises(NotFound):
        await Receipt(client, view(receipt="")).verify()


def test_the_command_needs_no_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GRIDPACT_HOME", str(tmp_path))
    path = tmp_path / "receipt.json"
    path.write_bytes(file_of(claim()))
    arguments = ("receipt", "verify", str(path), "--offline", "--log-key", LOG_KEY, "--json")
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert (ended.value.code or 0) == Exit.OK
    said = json.loads(capsys.readouterr().out)
    assert (said["verified"], said["receipt"]) == (True, claim().digest)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == Exit.UNVERIFIED
    captured = capsys.readouterr()
    assert captured.out == ""
    assert json.loads(captured.err)["error"].startswith("bad-")
