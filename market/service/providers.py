"""Providers: their offers, sessions and standing."""

from typing import Any, Final
from uuid import UUID

from market.service import leases
from market.service.market import Market, change, check_fresh, guard
from market.store import book, control
from market.store import jobs as job_store
from market.store.bus import MATCH
from market.store.rows import Connection, Row
from market.wire.jobs import EnvironmentView
from market.wire.trade import OfferView, ProviderView
from settlement.domain import canonical
from settlement.domain.errors import Forbidden, LimitExceeded, NotFound, Stale
from settlement.domain.reputation import Standing
from settlement.domain.resources import Resources, slot_rate
from settlement.domain.statement import open_envelope
from settlement.domain.trade import Offer
from settlement.service.engine import Item, Status

OFFER_MS_MAX: Final = 24 * 3_600_000
HOUR_SECONDS: Final = 3_600
UNIT: Final = Resources(1_000, 1_024, 0)


async def put_offer(market: Market, caller: str, envelope: bytes, *, now_ms: int) -> OfferView:
    """A newer offer replaces the provider's one; it is a statement in the log."""
    offer, opened = open_envelope(envelope, Offer, market=market.origin)
    if offer.provider != caller:
        raise Forbidden("the offer is another party's")
    check_fresh(offer.at_ms, now_ms, what="offer")
    if not now_ms < offer.expires_ms <= now_ms + OFFER_MS_MAX:
        raise LimitExceeded("an offer stands at most a day")
    digests = [manifest.digest() for manifest in offer.environments]
    kept = [
        change("environment_keep", digest, canonical.encode(manifest))
        for digest, manifest in zip(digests, offer.environments, strict=True)
    ]
    changes = (
        change(
            "offer_put", caller, offer.name, opened.digest, offer.at_ms, offer.expires_ms,
            canonical.encode(offer),
        ),
        *kept,
        change("offer_environments", caller, digests),
        change("notify", MATCH),
    )  # fmt: skip
    item = Item((), (opened,), (guard("offer_newer", caller, offer.at_ms),), changes)
    outcome = await market.ledger.submit(item)
    if outcome.status is Status.STALE:
        raise Stale("a newer offer of this provider stands")
    for view in await offers(market, now_ms=now_ms):
        if view.provider == caller:
            return view
    raise NotFound("the offer has expired")


async def offers(market: Market, *, now_ms: int) -> list[OfferView]:
    """Every live offer, cheapest first, also of providers that are not connected now."""
    rows = await market.transact(_all_supplies, now_ms)
    views = [_offer_view(row, supply) for row, supply in rows]
    return sorted(views, key=lambda view: (int(view.hourly), -view.reputation, view.provider))


async def _all_supplies(connection: Connection, now_ms: int) -> Row:
    return await book.supplies(connection, now_ms=now_ms, absent=True)


def _offer_view(row: Row, supply: Any) -> OfferView:
    taken = Resources(row["cpus_milli"], row["memory_mib"], row["gpus"])
    standing = Standing(row["agreed"], row["differed"])
    return OfferView(
        provider=supply.provider, name=row["name"], digest=supply.offer, capacity=supply.free.plus(taken),
        free=supply.free, rates=supply.rates,
        hourly=str(slot_rate(UNIT, supply.rates) * HOUR_SECONDS), protection=supply.protection,
        environments=sorted(supply.environments), reputation=float(standing.mean),
        checks=standing.agreed + standing.differed, connected=row["connected"],
        expires_ms=row["offer_expires_ms"],
    )  # fmt: skip


async def providers(market: Market) -> list[ProviderView]:
    """Every provider with what it did and what verdicts say of it."""
    return [_provider_view(row) for row in await market.transact(book.providers)]


def _provider_view(row: Row) -> ProviderView:
    standing = Standing(row["agreed"], row["differed"])
    return ProviderView(
        address=row["address"], name=row["name"], connected=row["connected"], draining=row["draining"],
        agreed=row["agreed"], differed=row["differed"], reputation=float(standing.mean),
        receipts=row["receipts"], chunks=row["chunks"], seconds=row["wall_ms"] / 1_000,
        earned=str(int(row["earned"])), leases=row["leases"],
        protection=canonical.decode(row["terms"], Offer).protection,
    )  # fmt: skip


async def environments(market: Market) -> list[EnvironmentView]:
    """Known environments, most offered first."""
    counts = await market.transact(_environment_counts)
    views = [
        EnvironmentView(manifest.digest(), manifest, counts.get(manifest.digest(), 0))
        for manifest in await market.transact(job_store.environments)
    ]
    return sorted(views, key=lambda view: (-view.providers, view.digest))


async def _environment_counts(connection: Connection) -> dict[str, int]:
    rows = await connection.fetch(
        "SELECT e.digest, count(*) FROM offer_environments AS e JOIN providers AS p ON p.address = e.provider"
        " WHERE p.connected GROUP BY e.digest"
    )
    return {row["digest"]: row["count"] for row in rows}


async def connect(market: Market, provider: str, session: UUID, *, now_ms: int) -> list[UUID]:
    """A session opens: open leases of the provider; a key without an offer is told so."""

    async def inside(connection: Connection) -> list[UUID]:
        if not await control.connect(connection, provider, session, now_ms=now_ms):
            raise NotFound("post an offer before you connect")
        return await control.open_leases(connection, provider)

    return await market.transact(inside)


async def resumed(market: Market, provider: str, attempts: frozenset[UUID], *, now_ms: int) -> None:
    """After Hello: attempts that the daemon no longer holds are lost."""
    for attempt in await market.transact(control.open_attempts, provider):
        if attempt not in attempts:
            await leases.lost(market, provider, attempt, "the daemon started anew", now_ms=now_ms)
