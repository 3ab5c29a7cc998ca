"""What anybody may read: the service's own routes, and a document of all routes that validators accept."""

import json
import re

import aiohttp
from openapi_spec_validator import OpenAPIV31SpecValidator

from market.api.app import ENDPOINTS
from market.http.endpoint import UNSIGNED
from settlement.domain import checkpoint
from settlement.store import migrate
from tests.system.running import Running
from tests.system.trading import Buyer, until


async def fetch(session: aiohttp.ClientSession, running: Running, path: str) -> tuple[int, bytes]:
    async with session.get(running.url + path) as response:
        return response.status, await response.read()


async def test_the_document_is_valid_and_whole(api: Running) -> None:
    async with aiohttp.ClientSession() as session:
        status, body = await fetch(session, api, "/openapi.json")
    assert status == 200
    document = json.loads(body)
    OpenAPIV31SpecValidator(document).validate()
    documented = {
        (method.upper(), path): operation
        for path, operations in document["paths"].items()
        for method, operation in operations.items()
    }
    served = {
        (endpoint.method, re.sub(r"\{(\w+):[^}]*\}", r"{\1}", endpoint.path)): endpoint
        for endpoint in ENDPOINTS
    }
    assert documented.keys() == served.keys()
    for key, endpoint in served.items():
        assert ("security" in documented[key]) == (endpoint.access not in UNSIGNED)
        assert documented[key]["summary"]


async def test_the_service_says_how_it_is(api: Running) -> None:
    async with aiohttp.ClientSession() as session:
        assert (await fetch(session, api, "/livez"))[0] == 200
        status, body = await fetch(session, api, "/readyz")
        assert (status, json.loads(body)["checks"]["schema"]) == (200, migrate.head())
        status, body = await fetch(session, api, "/version")
        assert json.loads(body)["name"] == "gridpact"
        status, body = await fetch(session, api, "/metrics")
        assert b'gridpact_requests_total{method="GET",route="/readyz",status="200"}' in body


async def test_not_ready_on_another_schema(api: Running) -> None:
    async def forget(connection: object) -> None:
        await connection.execute("UPDATE alembic_version SET version_num = '0001'")  # type: ignore[attr-defined]

    await api.market.transact(forget)
    async with aiohttp.ClientSession() as session:
        status, body = await fetch(session, api, "/readyz")
    assert (status, json.loads(body)["code"]) == (503, "unavailable")


async def test_the_log_is_public(whole: Running, buyer: Buyer) -> None:
    async with aiohttp.ClientSession() as session:
        view = json.loads((await fetch(session, whole, "/v1/market"))[1])

        async def sealed() -> bool:
            status, body = await fetch(session, whole, "/checkpoint")
            return status == 200 and checkpoint.verify(body.decode(), view["log_key"]).size > 0

        await until(sealed)
        for path in ("/tile/0/000.p/1", "/tile/entries/000.p/1"):
            status, body = await fetch(session, whole, path)
            assert status == 200
            assert body
        for path in ("/tile/0/000.p/99", "/tile/9/000", "/tile/x"):
            assert (await fetch(session, whole, path))[0] == 404
