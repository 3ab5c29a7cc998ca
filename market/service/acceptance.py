"""Acceptance: the consumer takes a receipt as it is, so that nobody waits for a check of it."""

from market.domain.attempt import AttemptState, Purpose
from market.service import settle
from market.service.jobs import finish
from market.service.market import Market, check_fresh
from market.store import money as store
from market.store.rows import Row
from market.wire.money import Accepted
from settlement.domain.errors import BadStatement, NotFound, Stale
from settlement.domain.settled import Acceptance
from settlement.domain.statement import open_envelope
from settlement.service.engine import Status


async def accept(
    market: Market, caller: str, digest: str, envelope: bytes, *, now_ms: int
) -> Accepted:
    """Settle a receipt that waits for its check; one that is settled is answered as it stands."""
    said, opened = open_envelope(envelope, Acceptance, market=market.origin)
    row = await market.read(store.attempt_of, digest)
    if row is None or row["consumer"] != caller:
        raise NotFound("no such receipt of yours")
    if said.consumer != caller or said.job != str(row["job"]) or said.receipt != digest:
        raise BadStatement("the acceptance is another party's, or about another receipt")
    if row["purpose"] != Purpose.WORK:
        raise BadStatement("a check is the market's to take")
    if row["state"] == AttemptState.CHECKING:
        check_fresh(said.at_ms, now_ms, what="acceptance", market=market)
        item = settle.settle_accepted(market, row, opened, now_ms=now_ms)
        outcome = await market.ledger.submit(item)
        if outcome.status is not Status.STALE:
            outcome.raise_for_refusal()
            await finish(market, row["job"], now_ms=now_ms)
        row = await market.read(store.attempt_of, digest)
    if row["state"] != AttemptState.ACCEPTED:
        raise Stale(f"the receipt is {row['state']}: {row['reason']}")
    return _view(row)


async def view(market: Market, caller: str, digest: str) -> Accepted:
    """How a receipt of the caller's stands."""
    row = await market.read(store.attempt_of, digest)
    if row is None or row["consumer"] != caller:
        raise NotFound("no such receipt of yours")
    return _view(row)


def _view(row: Row) -> Accepted:
    return Accepted(
        receipt=row["receipt"], attempt=str(row["id"]), job=str(row["job"]), state=row["state"],
        charge=str(int(row["charge"])), fee=str(int(row["fee"])), surcharge=str(int(row["surcharge"])),
    )  # fmt: skip
