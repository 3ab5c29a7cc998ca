"""A log worth reading: full tiles and partial ones, several signed heads, all of it served over HTTP."""

import asyncio
from dataclasses import dataclass
from typing import Final

from market.http.settings import LOG_KEY
from settlement.domain.identity import PrivateKey
from settlement.service.publish import Sealer
from tests.system.running import Running
from tests.system.trading import rows

OPERATOR: Final = PrivateKey(bytes([3]) * 32)  # the fixture's own
ENTRIES: Final = 300  # a full tile of each kind and partial ones
ROUNDS: Final = (1, 254, 1, 1, 20, 1_000)  # leaves of each sealing; the last takes what is there


@dataclass(frozen=True)
class Served:
    """Where the log is, whose key signs it, what is in it, and every head it ever had."""

    url: str
    origin: str
    vkey: str
    envelopes: list[bytes]
    notes: list[str]


async def serving_log(api: Running) -> Served:
    """Statements by many requests, sealed in several steps."""
    async with api.client(OPERATOR) as client, asyncio.TaskGroup() as group:
        limit = asyncio.Semaphore(16)

        async def issue(number: int) -> None:
            async with limit:
                await client.issue(OPERATOR.address, 1, memo=f"number {number}")

        await client.market()
        for number in range(ENTRIES):
            group.create_task(issue(number))
    key = api.settings.key(LOG_KEY)
    sealer = Sealer(api.market.database, key, origin=api.settings.market)
    for leaves in ROUNDS:
        await sealer.seal(leaves)
    async with api.client() as client:
        vkey = (await client.market()).log_key
    found = await rows(api, "SELECT envelope FROM statements ORDER BY idx")
    heads = await rows(api, "SELECT note FROM checkpoints WHERE size > 0 ORDER BY size")
    return Served(
        api.url, api.settings.market, vkey,
        [row["envelope"] for row in found], [row["note"] for row in heads],
    )  # fmt: skip
