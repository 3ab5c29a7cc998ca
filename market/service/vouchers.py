"""Vouchers: what a consumer signs for while a lease runs is paid at once, each millisecond once."""

from typing import Final
from uuid import UUID

from market.domain import voucher as rule
from market.domain.job import JobState
from market.domain.lease import LeaseEnd, LeaseState
from market.service import jobs
from market.service.market import Market, change, check_fresh, guard
from market.store import money as store
from market.store import work
from market.store.bus import job_topic, provider_topic
from market.store.rows import Connection, Row
from market.wire.money import Leases, LeaseView
from settlement.domain import amount, charge
from settlement.domain.errors import (
    BadStatement,
    BudgetExceeded,
    Forbidden,
    JobEnded,
    LimitExceeded,
    NotFound,
    Stale,
)
from settlement.domain.moves import moves
from settlement.domain.settled import VOUCHER, Charged, Voucher
from settlement.domain.statement import Opened, open_envelope
from settlement.service.engine import Item, Status

TRIES_MAX: Final = 5  # when other receipts or vouchers of the lease come at the same time
UNPAID: Final = "voucher-unpaid"


async def hand_in(
    market: Market, caller: str, lease: str, envelope: bytes, *, now_ms: int
) -> LeaseView:
    """Pay what a voucher says beyond those before it; an older one or a repeat changes nothing."""
    said, opened = open_envelope(envelope, Voucher, market=market.origin)
    for _ in range(TRIES_MAX):
        row = await market.read(store.lease_by_digest, UUID(said.job), said.lease)
        _check(row, said, caller, lease)
        if said.wall_ms <= row["vouched_ms"]:
            return _view(row, now_ms, status=Status.DUPLICATE.value)
        _check_open(row)
        check_fresh(said.at_ms, now_ms, what="voucher", market=market)
        price = _price(row, said, now_ms)
        if int(row["spent"]) + int(row["reserved"]) + price.paid_microcredits > int(row["budget"]):
            await market.transact(_run_dry, row, now_ms)
            raise BudgetExceeded("the job's budget does not cover this voucher; it is not used up")
        outcome = await market.ledger.submit(_item(market, row, said, opened, price, now_ms))
        if outcome.status is not Status.STALE:
            outcome.raise_for_refusal()
            row = await market.read(store.lease_by_digest, UUID(said.job), said.lease)
            return _view(row, now_ms, status=outcome.status.value)
    raise Stale("the lease's time changes too quickly")


def _check(row: Row | None, said: Voucher, caller: str, lease: str) -> None:
    if row is None or caller not in {row["consumer"], row["provider"]}:
        raise NotFound("no such lease of yours")
    if lease not in {row["statement"], str(row["id"])}:
        raise BadStatement("the voucher is for another lease")
    if (said.consumer, said.provider) != (row["consumer"], row["provider"]):
        raise BadStatement("the voucher names other parties than its lease")


def _check_open(row: Row) -> None:
    if row["reason"] == LeaseEnd.SLASHED:
        raise Forbidden("the lease was ended for cause; nothing more is paid for it")
    if row["job_state"] == JobState.CLOSED:
        raise JobEnded("the job is closed, and its budget went back")


def _price(row: Row, said: Voucher, now_ms: int) -> charge.Charge:
    payable_ms = rule.payable_ms(
        lasted_ms=_lasted_ms(row, now_ms), receipted_ms=row["receipted_ms"], vouched_ms=row["vouched_ms"],
        promised_ms=said.wall_ms,
    )  # fmt: skip
    wall_ms = said.wall_ms - row["vouched_ms"]
    if payable_ms < wall_ms:
        raise LimitExceeded(
            f"the voucher is for {wall_ms} ms more, and {payable_ms} ms of the lease are not paid"
        )
    whole = charge.gross(wall_ms=wall_ms, rate_microcredits=int(row["rate"]))
    return charge.split(whole, checked=False)


def _lasted_ms(row: Row, now_ms: int) -> int:
    until_ms: int = now_ms
    if row["state"] == LeaseState.CLOSED:
        until_ms = min(now_ms, row["closed_ms"])
    return max(0, until_ms - int(row["granted_ms"]))


def _item(
    market: Market, row: Row, said: Voucher, opened: Opened, price: charge.Charge, now_ms: int
) -> Item:
    charged = _charged(market, row, said, opened, price, now_ms)
    job, lease, provider = row["job"], row["id"], row["provider"]
    earned, paid = price.earned_microcredits, price.paid_microcredits
    wall_ms = said.wall_ms - row["vouched_ms"]
    return Item(
        moves(charged, market.address),
        (opened, charged),
        (guard("voucher_due", job, lease, row["vouched_ms"], said.wall_ms, paid, now_ms),),
        (
            change("job_vouched", job, paid, now_ms),
            change("lease_vouched", lease, said.wall_ms, paid, now_ms),
            change("provider_vouched", provider, wall_ms, earned),
            change("charge_insert", opened.digest, None, provider, earned, now_ms + market.hold_ms),
            change("event", job, now_ms, "vouched", f"{lease} {wall_ms} ms, {said.wall_ms} ms in all"),
            change("notify", job_topic(job)),
            change("notify", provider_topic(provider)),
        ),
        cause=charged.digest,
    )  # fmt: skip


def _charged(
    market: Market, row: Row, said: Voucher, opened: Opened, price: charge.Charge, now_ms: int
) -> Opened:
    """Its time is the lease's first that nobody has paid: so the same rule leads to the price."""
    wall_ms = said.wall_ms - row["vouched_ms"]
    return market.sign(
        Charged(
            v=1, kind="charged", market=market.origin, receipt=opened.digest, role=VOUCHER,
            job=said.job, provider=said.provider, consumer=said.consumer, wall_ms=wall_ms,
            handed_ms=row["granted_ms"] + row["receipted_ms"] + row["vouched_ms"], received_ms=now_ms,
            window_ms=wall_ms, rate=amount.to_text(int(row["rate"])), surcharge_basis_points=0,
            gross=amount.to_text(price.gross_microcredits), fee=amount.to_text(price.fee_microcredits),
            surcharge=amount.to_text(0), release_ms=now_ms + market.hold_ms, at_ms=now_ms,
        )
    )  # fmt: skip


async def _run_dry(connection: Connection, row: Row, now_ms: int) -> None:
    """No new work goes to this lease until a top-up; both are told, once."""
    job, lease = row["job"], row["id"]
    await work.lock_job(connection, job)
    if await store.pause(connection, job, lease):
        await work.event(connection, job, "paused", f"{lease} out of budget", now_ms=now_ms)
    elif await store.last_event(connection, job) != UNPAID:
        await work.event(connection, job, UNPAID, f"{lease} out of budget", now_ms=now_ms)
    await work.notify(connection, job_topic(job))
    await work.notify(connection, provider_topic(row["provider"]))


async def of_job(market: Market, caller: str, job: UUID, *, now_ms: int) -> Leases:
    """All leases of a job, for its consumer."""
    await jobs.view(market, caller, job)  # NotFound for whoever is not its consumer
    rows = await market.read(store.leases_of, job)
    return Leases([_view(row, now_ms) for row in rows])


async def view(market: Market, caller: str, lease: UUID, *, now_ms: int) -> LeaseView:
    """One lease, for its two parties."""
    row = await market.read(store.lease, lease)
    if row is None or caller not in {row["consumer"], row["provider"]}:
        raise NotFound("no such lease of yours")
    return _view(row, now_ms)


def _view(row: Row, now_ms: int, *, status: str = "") -> LeaseView:
    lasted_ms = _lasted_ms(row, now_ms)
    return LeaseView(
        id=str(row["id"]), statement=row["statement"], job=str(row["job"]), provider=row["provider"],
        consumer=row["consumer"], state=row["state"], reason=row["reason"], rate=str(int(row["rate"])),
        granted_ms=row["granted_ms"], lasted_ms=lasted_ms, receipted_ms=row["receipted_ms"],
        vouched_ms=row["vouched_ms"], vouched=str(int(row["vouched"])),
        at_risk_ms=rule.at_risk_ms(
            served_ms=lasted_ms, receipted_ms=row["receipted_ms"], vouched_ms=row["vouched_ms"]
        ),
        status=status,
    )  # fmt: skip
