"""A market in which things happened, and ways to read what its explorer says of them."""

import json
from typing import Any
from urllib.parse import urlencode

import aiohttp

from tests.system.fake_provider import FakeProvider, honest
from tests.system.running import Running
from tests.system.trading import Buyer, bodies, rows, spec, until

SECRET = b"nobody but the two may read this"
TASKS = 6


def telling(body: bytes) -> bytes:
    return SECRET + honest(body)


async def trade(buyer: Buyer) -> Buyer:
    """A market in which a job was done by two, who checked each other, and some payments were made."""
    make = FakeProvider
    async with (
        make(buyer.running, 1, telling).open(),
        make(buyer.running, 2, telling).open() as other,
    ):
        inputs = [SECRET + body for body in bodies(TASKS)]
        await buyer.closed(await buyer.order(inputs, of=spec(verify="spot")))
        for amount in range(1, 6):
            await buyer.client.pay(other.address, amount, memo="=1+1")

        async def released() -> bool:
            held = await rows(buyer.running, "SELECT 1 FROM charges WHERE state = 'charged'")
            return not held

        await until(released)
    return buyer


async def fetch(running: Running, path: str, **headers: str) -> tuple[int, str, bytes]:
    async with (
        aiohttp.ClientSession() as session,
        session.get(running.url + path, headers=headers) as response,
    ):
        return response.status, response.headers["Content-Type"], await response.read()


async def pages(running: Running, path: str, field: str, **query: object) -> list[dict[str, Any]]:
    """A whole list in pages of two or so."""
    found: list[dict[str, Any]] = []
    after = ""
    while True:
        asked = urlencode({**query, "limit": 2, **({"after": after} if after else {})})
        status, _, body = await fetch(running, f"{path}?{asked}")
        assert status == 200, body
        page = json.loads(body)
        assert len(page[field]) <= 2
        found += page[field]
        after = page["next"]
        if not after:
            return found
        query.pop("from", None)
