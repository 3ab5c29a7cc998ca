"""The loops that must be single: matcher, reconciler, settler; each by wake-up or interval."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

import structlog

from market.service import matching, public, reconcile
from market.service.market import Market
from market.store import requests
from market.store.bus import MATCH, wait
from market.store.rows import Connection
from settlement.domain.errors import GridpactError
from settlement.domain.governance import STATE_LAG_MAX

MATCH_SECONDS: Final = 0.5
RECONCILE_SECONDS: Final = 0.5
SETTLE_SECONDS: Final = 0.5
EXPIRE_SECONDS: Final = 1.0
GROWTH_SECONDS: Final = 2.0
FORGET_SECONDS: Final = 600.0
GROWTH_ENTRIES: Final = STATE_LAG_MAX // 5
_log = structlog.get_logger()


async def run(market: Market, *, state_seconds: float = 30.0) -> None:
    """All loops, until cancelled."""
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(_matching(market))
        tasks.create_task(_every(RECONCILE_SECONDS, "reconcile", lambda: _reconcile(market)))
        tasks.create_task(_every(SETTLE_SECONDS, "settle", lambda: _settle(market)))
        tasks.create_task(_every(EXPIRE_SECONDS, "expire", lambda: _expire(market)))
        tasks.create_task(_every(state_seconds, "state", lambda: _state(market)))
        tasks.create_task(_every(GROWTH_SECONDS, "growth", lambda: _growth(market)))
        tasks.create_task(_every(FORGET_SECONDS, "forget", lambda: _forget(market)))


async def _matching(market: Market) -> None:
    async with market.bus.listen(MATCH) as woken:
        while True:
            await _guarded("match", lambda: _match(market))
            await wait(woken, MATCH_SECONDS)


async def _match(market: Market) -> None:
    await matching.round_(market, now_ms=market.clock.ms())
    await reconcile.checks_round(market, now_ms=market.clock.ms())
    await reconcile.jobs_round(market, now_ms=market.clock.ms())


async def _reconcile(market: Market) -> None:
    await reconcile.leases_round(market, now_ms=market.clock.ms())


async def _settle(market: Market) -> None:
    await reconcile.wages_round(market, now_ms=market.clock.ms())
    await reconcile.releases_round(market, now_ms=market.clock.ms())


async def _expire(market: Market) -> None:
    await market.ledger.expire()


async def _state(market: Market) -> None:
    await public.state(market, now_ms=market.clock.ms())


async def _growth(market: Market) -> None:
    """A log that grows fast is stated more often: a state may lag only so many entries behind."""
    await public.state(market, now_ms=market.clock.ms(), entries=GROWTH_ENTRIES)


async def _forget(market: Market) -> None:
    async def forget(connection: Connection) -> None:
        await requests.forget(connection, now_ms=market.clock.ms())

    await market.transact(forget)


async def _every(seconds: float, name: str, work: Callable[[], Awaitable[None]]) -> None:
    while True:
        await _guarded(name, work)
        await asyncio.sleep(seconds)


async def _guarded(name: str, work: Callable[[], Awaitable[None]]) -> None:
    """A round that fails is logged and tried again: its state stands in the database."""
    try:
        await work()
    except (GridpactError, OSError) as error:
        _log.error("round failed", loop=name, error=repr(error))
    except Exception:  # noqa: BLE001 - one bad round must not end the loop
        _log.exception("round failed", loop=name)
