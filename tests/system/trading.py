"""What the system tests buy and sell with: prices, jobs, and waiting for a condition."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar
from uuid import UUID

from market.domain.jobspec import Spec
from market.sdk.client import MarketClient
from market.store.rows import Connection, Row
from market.wire.jobs import JobView, ReceiptView
from market.wire.payload import inline
from settlement.domain import canonical
from settlement.domain.resources import Rates, Resources
from settlement.domain.statement import Statement, open_any
from settlement.domain.trade import Manifest
from tests.system.running import Running

CODE: Final = b"what the job runs"
CODE_DIGEST: Final = canonical.digest(CODE)
CREDIT: Final = 1_000_000  # micro-credits
BUDGET: Final = 200 * CREDIT
FUNDS: Final = 900 * CREDIT
MANIFEST: Final = Manifest({"numpy": "2.4.0"}, "3.11")
PATIENCE_SECONDS: Final = 60.0  # until a test gives up; nothing is measured by it
POLL_SECONDS: Final = 0.01
RATE: Final = 100_000  # micro-credits per second of one slot
RATES: Final = Rates(RATE, 0, 0)
SLOT: Final = Resources(1_000, 512, 0)

T = TypeVar("T")


async def until(read: Callable[[], Awaitable[T]]) -> T:
    """The first answer that is true."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not (found := await read()):  # noqa: ASYNC110 - what holds may change anywhere
            await asyncio.sleep(POLL_SECONDS)
    return found


def spec(**changes: object) -> Spec:
    fields: dict[str, object] = {
        "name": "test", "kind": "function", "function": CODE_DIGEST, "environment": MANIFEST.digest(), "client": MANIFEST,
        "slot": SLOT, "task_timeout_ms": 10_000, "protection": "L", "verify": "spot", "seed": 7,
    }  # fmt: skip
    return Spec(**{**fields, **changes})  # type: ignore[arg-type]


def bodies(count: int) -> list[bytes]:
    return [b"input %d" % number for number in range(count)]


@dataclass(frozen=True)
class Buyer:
    """A funded consumer."""

    client: MarketClient
    running: Running

    @property
    def address(self) -> str:
        return self.client.address

    async def order(
        self, inputs: Sequence[bytes], *, slots: int = 2, budget: int = BUDGET, rate_cap: int = RATE,
        of: Spec | None = None, **terms: Any,  # noqa: ANN401 - more of the client's terms
    ) -> str:  # fmt: skip
        """A job's id."""
        view = await self.client.submit(
            of or spec(), [inline(body) for body in inputs], function=CODE, slots=slots,
            rate_cap_microcredits=rate_cap, budget_microcredits=budget, **terms,
        )  # fmt: skip
        return view.id

    async def closed(self, job: str) -> JobView:
        """The job once it has ended and its rest is back."""

        async def read() -> JobView | None:
            view = await self.client.job(job)
            return view if view.state == "closed" else None

        return await until_there(read)

    async def outputs(self, job: str) -> dict[int, bytes]:
        """Delivered results by task; no task may come twice."""
        found: dict[int, bytes] = {}
        for result in (await self.client.results(job)).results:
            assert result.index not in found
            found[result.index] = await self.client.content(result.output)
        return found

    async def receipts(self, job: str, **wanted: object) -> list[ReceiptView]:
        """Attempts of the job whose fields are as wanted."""
        return [
            view
            for view in await self.client.receipts(job)
            if all(getattr(view, name) == value for name, value in wanted.items())
        ]

    async def kinds(self, job: str) -> list[str]:
        """The job's history in words."""
        return [event.kind for event in (await self.client.events(job)).events]

    async def happened(self, job: str, kind: str, *, times: int = 1) -> None:
        """Wait until the history says so."""

        async def read() -> bool:
            return (await self.kinds(job)).count(kind) >= times

        await until(read)

    async def lease(self, job: str, provider: str) -> Row:
        """The newest lease of a provider in the job."""
        return await row(
            self.running,
            "SELECT * FROM leases WHERE job = $1 AND provider = $2 ORDER BY granted_ms DESC, id LIMIT 1",
            UUID(job),
            provider,
        )


async def until_there(read: Callable[[], Awaitable[T | None]]) -> T:
    """The first answer that is not None."""
    box: list[T] = []

    async def there() -> bool:
        found = await read()
        if found is not None:
            box.append(found)
        return found is not None

    await until(there)
    return box[0]


async def rows(running: Running, sql: str, *parameters: object) -> list[Row]:
    """What a query finds in the market's database."""

    async def read(connection: Connection) -> list[Row]:
        found: list[Row] = await connection.fetch(sql, *parameters)
        return found

    return await running.market.transact(read)


async def row(running: Running, sql: str, *parameters: object) -> Row:
    """The one row."""
    (found,) = await rows(running, sql, *parameters)
    return found


async def alter(running: Running, sql: str, *parameters: object) -> None:
    """Turn a clock back, or whatever else a test cannot wait for."""

    async def write(connection: Connection) -> None:
        await connection.execute(sql, *parameters)

    await running.market.transact(write)


async def logged(running: Running) -> list[Statement]:
    """The log, opened again."""
    found = await rows(running, "SELECT envelope FROM statements ORDER BY idx")
    origin = running.market.origin
    return [open_any(entry["envelope"], market=origin).statement for entry in found]
