"""What every use case stands on: the database, the ledger engine, the market's key and its rules."""

import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar
from uuid import UUID

from market.service.clock import SteadyClock
from market.store.bus import Bus
from settlement.domain.errors import StaleRequest
from settlement.domain.identity import PrivateKey
from settlement.domain.statement import Opened, Statement, sign
from settlement.service.engine import Change, Guard, Ledger
from settlement.service.freshness import AGE_MS_MAX
from settlement.service.opening import Opener
from settlement.store.database import Database, driver

NAMESPACE: Final = UUID(
    "6f0c1a52-6f5e-5d0b-9d55-0f7a3a1c9e11"
)  # of ids that follow from their cause

STATEMENT_AGE_MS_MAX: Final = 300_000

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Market:
    """One market as a process sees it. Whoever awaits the ledger holds no transaction open."""

    database: Database
    ledger: Ledger
    bus: Bus
    opener: Opener
    origin: str
    key: PrivateKey  # the ledger key: signs leases, verdicts, releases, closes
    operator: str
    hold_ms: int
    devstack: bool = False
    clock: SteadyClock = field(default_factory=SteadyClock)
    grace_from_ms: int = 0  # after a takeover: statements since then …
    grace_until_ms: int = 0  # … are fresh until then

    @property
    def address(self) -> str:
        """The party that `fees`, `checks` and `issued` belong to."""
        return self.key.address

    def sign(self, statement: Statement) -> Opened:
        return sign(statement, self.key)

    async def transact(self, work: Callable[..., Awaitable[T]], *arguments: Any) -> T:
        """Run `work(connection, *arguments)` in one transaction, retried whole on serialization."""
        return await self.database.run(_driven, work, arguments)

    async def read(self, work: Callable[..., Awaitable[T]], *arguments: Any) -> T:
        """As `transact`, without a transaction: for what takes no lock and writes at most once."""
        return await self.database.look(_driven, work, arguments)


async def _driven(
    transaction: Any, work: Callable[..., Awaitable[T]], arguments: tuple[Any, ...]
) -> T:
    return await work(await driver(transaction), *arguments)


def check_fresh(at_ms: int, now_ms: int, *, what: str, market: Market | None = None) -> None:
    """A statement is accepted near its own time only; later it would be an old promise.

    After a takeover, what the old market took but never made final is accepted for a time.
    """
    if (
        market is not None
        and now_ms
        <= market.grace_until_ms - AGE_MS_MAX  # what is logged a little later is still in time
        and market.grace_from_ms <= at_ms <= now_ms
    ):
        return
    if abs(now_ms - at_ms) > STATEMENT_AGE_MS_MAX:
        raise StaleRequest(f"the {what}'s time is not within five minutes of the market's clock")


def guard(name: str, *parameters: object) -> Guard:
    return Guard(f"guard:{name}", parameters)


def change(name: str, *parameters: object) -> Change:
    return Change(f"change:{name}", parameters)


def derived_id(*parts: object) -> UUID:
    """An id that follows from its cause: a repeat makes the same transfer, never a second one."""
    return uuid.uuid5(NAMESPACE, "/".join(str(part) for part in parts))
