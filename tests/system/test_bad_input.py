"""Every endpoint refuses what is malformed, oversized, unsigned, replayed, expired or misaddressed,
with the right code, and changes nothing.
"""

import io
import json
import time
from typing import Any

import aiohttp
import pytest

from market.api.app import ENDPOINTS
from market.http.endpoint import UNSIGNED, Access, Endpoint
from market.store.rows import Connection
from market.wire import codec, signed_request
from market.wire.payload import BLOB_BYTES_MAX
from market.wire.signed_request import Request
from settlement.domain import canonical
from settlement.domain.identity import PrivateKey
from tests.system.running import Running

pytestmark = pytest.mark.system
KEY = PrivateKey(b"\x21" * 32)
DIGEST = canonical.digest(b"nothing")
IDS = {
    "job": "00000000-0000-4000-8000-000000000000",
    "digest": DIGEST,
    "address": KEY.address,
    "path": "0/000",
    "lease": "00000000-0000-4000-8000-000000000001",
    "transfer": "00000000-0000-4000-8000-000000000002",
}
SIGNED = [endpoint for endpoint in ENDPOINTS if endpoint.access not in UNSIGNED]
WRITES = [endpoint for endpoint in ENDPOINTS if endpoint.access is Access.WRITE]


def name(endpoint: Endpoint) -> str:
    return f"{endpoint.method} {endpoint.path}"


def path_of(endpoint: Endpoint) -> str:
    return endpoint.path.replace("{path:.+}", "{path}").format(**IDS)


class Sender:
    """Sends requests signed as the test wants, without the SDK's good manners."""

    def __init__(self, session: aiohttp.ClientSession, running: Running) -> None:
        self.session, self.running = session, running
        self.authority = running.url.removeprefix("http://")
        self.count = 0

    async def send(
        self, endpoint: Endpoint, body: bytes = b"", *, now: int | None = None, authority: str | None = None,
        signed_body: bytes | None = None, key: str | None = None, strip: tuple[str, ...] = (),
        query: str = "", method: str | None = None, twice: str = "",
    ) -> tuple[int, dict[str, Any]]:  # fmt: skip
        self.count += 1
        headers = {}
        if endpoint.access is Access.WRITE:
            headers["Content-Digest"] = signed_request.content_digest(
                body if signed_body is None else signed_body
            )
            headers["Idempotency-Key"] = key or f"bad-input-{time.time_ns()}-{self.count}"
        path = path_of(endpoint)
        request = Request(
            endpoint.method,
            authority or self.authority,
            path,
            query,
            {k.lower(): v for k, v in headers.items()},
        )
        headers |= signed_request.sign(request, KEY, now=now or int(time.time()))
        for gone in strip:
            headers.pop(gone, None)
        items = list(headers.items()) + ([(twice, headers[twice])] if twice else [])
        async with self.session.request(
            method or endpoint.method, self.running.url + path + query, data=io.BytesIO(body) if body else None,
            headers=items, skip_auto_headers=["Content-Type"],
        ) as response:  # fmt: skip
            data = await response.read()
            return response.status, json.loads(data) if data else {}


async def state(running: Running) -> list[Any]:
    """What must not have changed: every row count that a write could touch."""
    tables = (
        "jobs",
        "tasks",
        "transfers",
        "statements",
        "providers",
        "leases",
        "blobs",
        "accounts",
        "requests",
    )

    async def count(connection: Connection) -> list[Any]:
        return [await connection.fetchval(f"SELECT count(*) FROM {table}") for table in tables]

    return await running.market.transact(count)


@pytest.mark.parametrize("endpoint", SIGNED, ids=name)
async def test_signatures_are_required_and_exact(api: Running, endpoint: Endpoint) -> None:
    before = await state(api)
    now = int(time.time())
    async with aiohttp.ClientSession() as session:
        sender = Sender(session, api)
        cases: list[tuple[dict[str, Any], int, str]] = [
            ({"strip": ("Signature",)}, 401, "unsigned"),
            ({"strip": ("Signature-Input",)}, 401, "unsigned"),
            ({"now": now - signed_request.WINDOW_SECONDS - 5}, 401, "stale-request"),
            ({"now": now + signed_request.SKEW_SECONDS + 60}, 401, "stale-request"),
            ({"authority": "other.example:80"}, 401, "bad-signature"),
            ({"twice": "Signature"}, 400, "malformed"),
        ]
        if endpoint.access is Access.WRITE:
            cases += [
                ({"strip": ("Idempotency-Key",)}, 401, "unsigned"),
                ({"strip": ("Content-Digest",)}, 401, "unsigned"),
                ({"key": "short"}, 401, "unsigned"),
                ({"body": b"{}", "signed_body": b"[]"}, 422, "digest-mismatch"),
            ]
        for case, status, code in cases:
            got, problem = await sender.send(endpoint, **case)
            assert (got, problem.get("code")) == (status, code), case
            assert problem["status"] == status
            assert problem["cure"]
    assert await state(api) == before


@pytest.mark.parametrize("endpoint", WRITES, ids=name)
async def test_bodies_are_strict_and_bounded(api: Running, endpoint: Endpoint) -> None:
    before = await state(api)
    limit = BLOB_BYTES_MAX if endpoint.raw else codec.BODY_BYTES_MAX
    async with aiohttp.ClientSession() as session:
        sender = Sender(session, api)
        if not endpoint.raw and "body" in endpoint.parameters:
            bodies = (
                b"",
                b"{",
                b"[]",
                b"null",
                b'{"no":1}',
                b"\xff\xfe",
                b"[" * 3_000,
                b'{"a":1,"a":2}',
            )
            for body in bodies:
                status, problem = await sender.send(endpoint, body)
                assert (status, problem["code"]) == (400, "malformed"), body
        elif not endpoint.raw:
            status, problem = await sender.send(endpoint, b"{}")
            assert (status, problem["code"]) == (400, "malformed")
        if not endpoint.raw:
            status, problem = await sender.send(endpoint, b" " * (limit + 1))
            assert (status, problem["code"]) == (413, "oversized")
    assert await state(api) == before


async def test_a_blob_must_be_what_its_digest_says(api: Running) -> None:
    before = await state(api)
    (put,) = [endpoint for endpoint in WRITES if endpoint.raw]
    async with aiohttp.ClientSession() as session:
        status, problem = await Sender(session, api).send(put, b"something else")
    assert (status, problem["code"]) == (422, "digest-mismatch")
    assert await state(api) == before


async def test_a_wrongly_addressed_request_is_told_so(api: Running) -> None:
    (listing,) = [endpoint for endpoint in SIGNED if name(endpoint) == "GET /v1/jobs"]
    async with aiohttp.ClientSession() as session:
        sender = Sender(session, api)
        sender.authority = "localhost:1"
        request = Request("GET", "localhost:1", "/v1/jobs", "", {})
        headers = {**signed_request.sign(request, KEY, now=int(time.time())), "Host": "localhost:1"}
        async with session.get(api.url + path_of(listing), headers=headers) as response:
            problem = await response.json(content_type=None)
            assert (response.status, problem["code"]) == (421, "wrong-authority")


@pytest.mark.parametrize(
    "query", ["?limit=0", "?limit=x", "?limit=100000", "?more=1", "?limit=1&limit=2"]
)
async def test_queries_are_strict(api: Running, query: str) -> None:
    (listing,) = [endpoint for endpoint in SIGNED if name(endpoint) == "GET /v1/jobs"]
    async with aiohttp.ClientSession() as session:
        status, problem = await Sender(session, api).send(listing, query=query)
    assert (status, problem["code"]) == (400, "malformed")


async def test_unknown_addresses_and_methods_are_problems_too(api: Running) -> None:
    async with aiohttp.ClientSession() as session:
        async with session.get(api.url + "/v1/nothing") as response:
            assert response.status == 404
            assert (await response.json(content_type=None))["code"] == "not-found"
        async with session.delete(api.url + "/v1/offers") as response:
            assert response.status == 405
            assert response.content_type == "application/problem+json"


async def test_a_replayed_write_is_answered_once_and_done_once(api: Running) -> None:
    (faucet,) = [endpoint for endpoint in WRITES if endpoint.path == "/v1/faucet"]
    body = b'{"amount":"1000"}'
    async with aiohttp.ClientSession() as session:
        sender = Sender(session, api)
        first = await sender.send(faucet, body, key="the-same-key-1")
        again = await sender.send(faucet, body, key="the-same-key-1")
        assert first == again
        assert first[0] == 200
        status, problem = await sender.send(faucet, b'{"amount":"2000"}', key="the-same-key-1")
        assert (status, problem["code"]) == (422, "duplicate-key")
    async with api.client(KEY) as client:
        assert (await client.balances()).available == "1000"


async def test_foreign_accounts_and_jobs_are_not_shown(api: Running) -> None:
    other = PrivateKey(b"\x22" * 32)
    async with aiohttp.ClientSession() as session:
        sender = Sender(session, api)
        for endpoint in SIGNED:
            if "{address}" in endpoint.path:
                IDS["address"] = other.address
                status, problem = await sender.send(endpoint)
                IDS["address"] = KEY.address
                assert (status, problem["code"]) == (403, "forbidden")
            elif "{job}" in endpoint.path and endpoint.method == "GET":
                status, problem = await sender.send(endpoint)
                assert (status, problem["code"]) == (404, "not-found")


async def test_the_control_channel_wants_a_signature_and_an_offer(api: Running) -> None:
    async with aiohttp.ClientSession() as session:
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await session.ws_connect(api.url + "/v1/control")
        assert refused.value.status == 401
