"""The ledger explorer over HTTP: against plain queries of the tables, page by page, and as CSV."""

import base64
import csv
import io
import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import msgspec
import pytest
import pytest_asyncio

from market.wire import explorer as wire
from settlement.domain import checkpoint, cosignature
from settlement.domain.identity import PrivateKey
from settlement.domain.statement import open_any
from tests.system.exploring import SECRET, TASKS, fetch, pages, trade
from tests.system.running import Running
from tests.system.trading import Buyer, alter, rows


@pytest_asyncio.fixture
async def traded(buyer: Buyer) -> Buyer:
    return await trade(buyer)


async def test_accounts_are_all_there_and_add_up_to_nothing(traded: Buyer) -> None:
    running = traded.running
    found = await pages(running, "/v1/ledger/accounts", "accounts")
    stored = await rows(running, "SELECT * FROM accounts ORDER BY id")
    assert [(one["owner"], int(one["balance"]), one["job"]) for one in found] == [
        (row["owner"].hex(), int(row["cr_posted"] - row["dr_posted"]), str(row["job"] or ""))
        for row in stored
    ]
    assert sum(int(one["balance"]) for one in found) == 0
    for owner in {one["owner"] for one in found}:
        own = await pages(running, f"/v1/ledger/accounts/{owner}", "accounts")
        mine = [one for one in found if one["owner"] == owner]
        assert sorted(own, key=str) == sorted(mine, key=str)
    of_market = {one["purpose"] for one in found if one["owner"] == running.market.address}
    assert {"fees", "checks", "issued"} <= of_market


async def test_transfers_of_every_account_are_the_ledgers(traded: Buyer) -> None:
    """Each transfer is met twice: once on either side, in both directions of the list."""
    running = traded.running
    stored = await rows(running, "SELECT seq, id FROM transfers ORDER BY seq")
    met: list[tuple[int, str]] = []
    for one in await pages(running, "/v1/ledger/accounts", "accounts"):
        place = {"purpose": one["purpose"], **({"job": one["job"]} if one["job"] else {})}
        path = f"/v1/ledger/accounts/{one['owner']}/transfers"
        forth = await pages(running, path, "transfers", **place, order="asc")
        assert await pages(running, path, "transfers", **place) == forth[::-1]
        met += [(row["sequence"], row["id"]) for row in forth]
    assert sorted(met) == sorted(2 * [(row["seq"], str(row["id"])) for row in stored])


async def test_receipts_tell_what_became_of_them(traded: Buyer) -> None:
    running = traded.running
    found = await pages(running, "/v1/ledger/receipts", "receipts")
    stored = await rows(
        running,
        "SELECT a.*, s.idx FROM attempts AS a JOIN statements AS s"
        " ON s.digest = decode(substr(a.receipt, 8), 'hex') ORDER BY s.idx",
    )
    assert [(one["index"], one["attempt"], one["charge"]) for one in found] == [
        (row["idx"], str(row["id"]), str(int(row["charge"]))) for row in stored
    ]
    checked = {str(row["checks"]) for row in stored if row["purpose"] == "check"}
    assert checked
    verdicts = {one["attempt"]: one["verdict"] for one in found}
    assert {verdicts[attempt] for attempt in checked} == {"agreed"}
    assert all(one["money"] == "released" for one in found if one["purpose"] == "work")
    job, provider = found[0]["job"], found[0]["provider"]
    for query, wanted in (
        ({"job": job}, found),
        ({"consumer": traded.address}, found),
        ({"consumer": provider}, []),
        ({"job": job, "consumer": provider}, []),
        ({"provider": provider}, [one for one in found if one["provider"] == provider]),
        (
            {"provider": provider, "job": job},
            [one for one in found if one["provider"] == provider],
        ),
    ):
        got = await pages(running, "/v1/ledger/receipts", "receipts", **query)
        assert sorted(got, key=str) == sorted(wanted, key=str)


async def test_entries_are_the_log(traded: Buyer) -> None:
    running = traded.running
    stored = await rows(running, "SELECT * FROM statements ORDER BY idx")
    found = await pages(running, "/v1/log/entries", "entries")
    assert len(found) == len(stored)
    for one, row in zip(found, stored, strict=True):
        opened = open_any(row["envelope"], market=running.market.origin)
        assert (one["index"], one["digest"], one["signer"]) == (
            row["idx"], opened.digest, opened.signer
        )  # fmt: skip
        assert one["statement"] == msgspec.to_builtins(opened.statement)
    kinds = {one["kind"] for one in found}
    assert {"issue", "order", "lease", "receipt", "verdict", "payment"} <= kinds
    for kind in kinds:
        wanted = [one for one in found if one["kind"] == kind]
        assert await pages(running, "/v1/log/entries", "entries", kind=kind) == wanted
    own = await pages(running, "/v1/log/entries", "entries", signer=traded.address)
    assert own == [one for one in found if one["signer"] == traded.address]
    late = await pages(running, "/v1/log/entries", "entries", **{"from": len(found) - 3})
    assert late == found[-3:]
    digest = found[-1]["digest"]
    _, _, body = await fetch(running, f"/v1/log/entries/{digest}")
    assert json.loads(body) == found[-1]


async def test_checkpoints_verify(traded: Buyer) -> None:
    running = traded.running
    log_key = (await traded.client.market()).log_key
    found = await pages(running, "/v1/log/checkpoints", "checkpoints", order="asc")
    for head in found:
        signed = checkpoint.verify(head["note"], log_key)
        assert (signed.size, signed.root.hex()) == (head["size"], head["root"])
    one, key = found[0], PrivateKey(b"\6" * 32)
    text = one["note"].partition("\n\n")[0] + "\n"
    line = cosignature.sign(text, "validator.example/one", key, time_seconds=1_700_000_000)
    await alter(
        running, "INSERT INTO cosignatures (size, validator, line, at_ms) VALUES ($1, $2, $3, 1)",
        one["size"], "validator.example/one", line,
    )  # fmt: skip
    one["note"] = cosignature.add_line(one["note"], line)
    newest = await pages(running, "/v1/log/checkpoints", "checkpoints")
    assert newest[-len(found) :] == found[::-1]


async def test_nothing_private_is_shown(traded: Buyer) -> None:
    """Inputs and outputs are in the tables, and in none of the answers, as text or as base64."""
    running = traded.running
    kept = await rows(running, "SELECT count(*) FROM tasks WHERE position($1 IN body) > 0", SECRET)
    assert kept[0]["count"] == TASKS
    said = b""
    for path in PATHS:
        _, _, body = await fetch(running, path.format(party=traded.address))
        said += body
    assert len(said) > 10_000
    assert SECRET[:12] not in said
    for shift in range(3):
        assert base64.b64encode(SECRET[shift : shift + 24])[:-2] not in said


PATHS = (
    "/v1/ledger/accounts", "/v1/ledger/accounts/{party}", "/v1/ledger/accounts/{party}/transfers",
    "/v1/ledger/receipts", "/v1/log/entries", "/v1/log/checkpoints",
)  # fmt: skip
FIELDS = ("accounts", "accounts", "transfers", "receipts", "entries", "checkpoints")


async def test_csv_holds_the_same_rows(traded: Buyer) -> None:
    """Asked for by name or by header; a spreadsheet runs nothing of it."""
    running = traded.running
    for template, field in zip(PATHS, FIELDS, strict=True):
        path = template.format(party=traded.address)
        _, _, body = await fetch(running, path)
        page = json.loads(body)[field]
        status, kind, text = await fetch(running, f"{path}?format=csv&limit={len(page)}")
        assert (status, kind) == (200, "text/csv; charset=utf-8; header=present")
        table = list(csv.DictReader(io.StringIO(text.decode(), newline="")))
        assert len(table) == len(page)
        for line, row in zip(table, page, strict=True):
            assert line["cursor"]
            for name, value in row.items():
                assert line[name] == _plain(value), name
        # what `limit` left out stands behind the last row's cursor
        rest = await fetch(running, f"{path}?format=csv&limit=1&after={table[0]['cursor']}")
        assert rest[2].count(b"\r\n") == (2 if len(page) > 1 else 1) or field == "checkpoints"
        _, kind, _ = await fetch(running, path, Accept="text/csv")
        assert kind.startswith("text/csv")
        _, kind, _ = await fetch(running, path, Accept="application/json, text/csv;q=0.5")
        assert kind == "application/json"
        _, kind, _ = await fetch(running, f"{path}?format=json", Accept="text/csv")
        assert kind == "application/json"


def _plain(value: object) -> str:
    if isinstance(value, dict):
        return msgspec.json.encode(value).decode()
    return " ".join(value) if isinstance(value, list) else str(value)


REFUSED = (
    ("/v1/ledger/accounts?limit=0", 400, "malformed"),
    ("/v1/ledger/accounts?limit=1001", 403, "limit-exceeded"),
    ("/v1/ledger/accounts?limit=100001&format=csv", 400, "malformed"),
    ("/v1/ledger/accounts?limit=1&limit=2", 400, "malformed"),
    ("/v1/ledger/accounts?colour=red", 400, "malformed"),
    ("/v1/ledger/accounts?format=xml", 400, "malformed"),
    ("/v1/ledger/accounts?after=!", 400, "malformed"),
    ("/v1/ledger/accounts?after=AAAA", 400, "malformed"),
    ("/v1/ledger/accounts?format=csv&after=AAAA", 400, "malformed"),
    (f"/v1/ledger/accounts?after={wire.cursor('accounts', '007')}", 400, "malformed"),
    (f"/v1/ledger/accounts?after={wire.cursor('accounts', 2**63)}", 400, "malformed"),
    (f"/v1/ledger/accounts?after={wire.cursor('entries', 1)}", 400, "malformed"),
    ("/v1/ledger/accounts/someone", 404, "not-found"),
    ("/v1/ledger/accounts/{party}/transfers?purpose=budget", 400, "malformed"),
    ("/v1/ledger/accounts/{party}/transfers?purpose=pockets", 400, "malformed"),
    ("/v1/ledger/accounts/{party}/transfers?reason=whim", 400, "malformed"),
    ("/v1/ledger/accounts/{party}/transfers?order=up", 400, "malformed"),
    ("/v1/ledger/accounts/{party}/transfers?from_ns=-1", 400, "malformed"),
    ("/v1/ledger/accounts/{party}/balance?at_seq=1&at_ns=1", 400, "malformed"),
    ("/v1/ledger/accounts/{party}/balance?at_seq=999999999", 400, "malformed"),
    ("/v1/ledger/accounts/{party}/balance?at_ns=9223372036854775807", 400, "malformed"),
    ("/v1/ledger/transfers/00000000-0000-4000-8000-000000000001", 404, "not-found"),
    ("/v1/ledger/transfers/7", 404, "not-found"),
    ("/v1/ledger/receipts?job=7", 400, "malformed"),
    ("/v1/ledger/receipts?provider=7", 400, "malformed"),
    ("/v1/log/entries?from=-1", 400, "malformed"),
    ("/v1/log/entries?from=9223372036854775808", 400, "malformed"),
    (f"/v1/log/entries?from=2&after={wire.cursor('entries', 1)}", 400, "malformed"),
    ("/v1/log/entries?kind=Receipt", 400, "malformed"),
    (f"/v1/log/entries/sha256:{'0' * 64}", 404, "not-found"),
    ("/v1/log/checkpoints?order=1", 400, "malformed"),
    (f"/v1/log/checkpoints?after={wire.cursor('checkpoints.asc', 1)}", 400, "malformed"),
)  # fmt: skip


async def test_what_is_not_in_form_is_refused(api: Running) -> None:
    """As a problem document, never as a broken table."""
    for path, status, code in REFUSED:
        got, kind, body = await fetch(api, path.format(party="ab" * 32))
        assert (path, got, kind) == (path, status, "application/problem+json")
        assert (path, json.loads(body)["code"]) == (path, code)


async def test_a_stranger_is_an_empty_list(api: Running) -> None:
    """Nobody has to be known: whoever never had an account has nothing."""
    for path in ("", "/transfers", "/balance"):
        status, _, body = await fetch(api, f"/v1/ledger/accounts/{'ab' * 32}{path}")
        assert status == 200
        answer = json.loads(body)
        assert answer.get("balance", "0") == "0"
        assert not answer.get("accounts")
        assert not answer.get("transfers")


async def test_a_broken_export_does_not_look_whole(
    traded: Buyer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection breaks where the rows do: a client that counts on the end sees an error."""
    from market.api import routes_explorer
    from market.service import explorer

    whole = explorer.rows

    async def breaking(page: Any, *, after: str, limit: int) -> AsyncIterator[Any]:  # noqa: ANN401
        async for pair in whole(page, after=after, limit=limit):
            yield pair
        raise ConnectionError("the database went away")

    monkeypatch.setattr(explorer, "rows", breaking)
    monkeypatch.setattr(routes_explorer, "PIECE_CHARS", 1)
    with pytest.raises(aiohttp.ClientPayloadError):
        await fetch(traded.running, "/v1/log/entries?format=csv")
