"""One round of the market: lock nothing, read the book, decide purely, write each lease under guards."""

from typing import Final
from uuid import UUID

from market.domain.matching import Demand, Idle, Match, Supply, match, preemptions, refusals
from market.service import leases
from market.service.jobs import new_id
from market.service.market import Market, change, guard
from market.store import book
from market.store.bus import provider_topic
from market.store.rows import Connection, Row
from market.wire.jobs import Quote, QuotedOffer, QuoteRequest
from settlement.domain import amount, charge
from settlement.domain.errors import NoOffer
from settlement.domain.resources import slot_rate
from settlement.domain.trade import Lease
from settlement.service.engine import Item, Status

IDLE_MS_MIN: Final = 500  # a lease this long without work may have to make room

FAILED_MS: Final = (
    10_000  # so long a job asks no provider again that refused or failed a lease of it
)


async def round_(market: Market, *, now_ms: int) -> int:
    """Match the whole book once; the number of leases granted.

    A guard that no longer holds (job ended, offer replaced) drops that match; the next round decides anew.
    What finds no room may end an idle lease, whose slot the next round then finds.
    """
    found_demands = await market.read(_demands, now_ms)
    demands = [demand for _, demand in found_demands]
    if not any(demand.wanted for demand in demands):
        return 0
    supplies = [supply for _, supply in await market.read(_supplies, now_ms)]
    matches = match(demands, supplies)
    rows = {str(row["id"]): row for row, _ in found_demands}
    granted = 0
    for found in matches:
        granted += await _grant(market, found, rows[found.job], now_ms)
    if len(matches) < sum(demand.wanted for demand in demands):
        idle = await market.read(_idle, now_ms)
        for lease in preemptions(demands, supplies, matches, idle):
            await market.transact(leases.preempt, UUID(lease), now_ms)
    return granted


async def _idle(connection: Connection, now_ms: int) -> list[Idle]:
    return await book.idle_leases(connection, now_ms=now_ms, idle_ms=IDLE_MS_MIN)


async def _demands(connection: Connection, now_ms: int) -> list[tuple[Row, Demand]]:
    return await book.demands(connection, now_ms=now_ms, failed_ms=FAILED_MS)


async def _supplies(connection: Connection, now_ms: int) -> list[tuple[Row, Supply]]:
    return await book.supplies(connection, now_ms=now_ms)


async def _grant(market: Market, found: Match, row: Row, now_ms: int) -> bool:
    lease, job = new_id(), UUID(found.job)
    statement = market.sign(
        Lease(
            v=1, kind="lease", market=market.origin, lease=str(lease), offer=found.offer,
            order=row["order_digest"], job=found.job, provider=found.provider, consumer=row["consumer"],
            slot=found.slot, rate=amount.to_text(found.rate_microcredits), deadline_ms=row["deadline_ms"],
            at_ms=now_ms,
        )
    )  # fmt: skip
    changes = (
        change(
            "lease_insert", lease, job, found.provider, statement.digest, found.offer, found.slot.cpus_milli,
            found.slot.memory_mib, found.slot.gpus, found.rate_microcredits, now_ms, row["deadline_ms"],
        ),
        change("job_leased", job),
        change("event", job, now_ms, "leased", f"{lease} {found.provider} at {found.rate_microcredits}"),
        change("notify", provider_topic(found.provider)),
    )  # fmt: skip
    guards = (guard("job_open", job), guard("offer_stands", found.provider, found.offer))
    outcome = await market.ledger.submit(Item((), (statement,), guards, changes))
    return outcome.status is Status.APPLIED


async def quote(market: Market, caller: str, wanted: QuoteRequest, *, now_ms: int) -> Quote:
    """What the matcher would do now for such an order: its own predicates on the present book."""
    demand = Demand(
        job="", consumer=caller, slot=wanted.slot,
        rate_cap_microcredits=amount.from_text(wanted.rate_cap), protection=wanted.protection,
        environment=wanted.environment, wanted=wanted.slots, created_ms=now_ms,
        spread=wanted.verify != "none",
    )  # fmt: skip
    supplies = await market.read(_supplies, now_ms)
    if not supplies:
        raise NoOffer("no provider is connected")
    matches = match([demand], [supply for _, supply in supplies])
    rates = [found.rate_microcredits for found in matches]
    offers = [
        QuotedOffer(
            supply.provider, row["name"], str(slot_rate(wanted.slot, supply.rates)),
            sum(found.provider == supply.provider for found in matches), list(refusals(demand, supply)),
        )
        for row, supply in supplies
    ]  # fmt: skip
    return Quote(
        slots=len(matches), rate_least=str(min(rates, default=0)), rate_worst=str(max(rates, default=0)),
        surcharge_basis_points=0 if wanted.verify == "none" else charge.CHECK_BASIS_POINTS, offers=offers,
    )  # fmt: skip
