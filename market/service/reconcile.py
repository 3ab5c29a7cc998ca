"""Bring what should be and what is together: gone providers, overdue chunks, ended jobs, due money."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final
from uuid import UUID

import structlog

from market.domain.job import JobState
from market.domain.lease import LeaseEnd
from market.service import jobs, leases, settle
from market.service.market import Market, change, guard
from market.store import book, control, ledger, work
from market.store import jobs as job_store
from market.store.rows import Connection, Row
from market.wire.control import SILENCE_SECONDS_MAX, WINDOW_LOST
from settlement.domain import amount, canonical, merkle
from settlement.domain.errors import InsufficientFunds, Refused
from settlement.domain.ledger import Purpose
from settlement.domain.moves import moves
from settlement.domain.payments import Release
from settlement.domain.trade import JobEnd
from settlement.service.engine import Item, Outcome, Status

GONE_MS: Final = 2_000  # a daemon that reconnects within this keeps its leases
SILENT_MS: Final = int(SILENCE_SECONDS_MAX * 1_000)
ARM_MS: Final = 120_000  # a machine that is not ready by then does not serve the lease
IDLE_MS: Final = 60_000  # a warm lease without work
SESSION_IDLE_MS: Final = 120_000  # a session whose consumer went away is sealed for it
OVERDUE_GRACE_MS: Final = 5_000
CHECK_WAIT_MS: Final = 20_000  # then a receipt is accepted unchecked
ROUND_MAX: Final = 1_000
_log = structlog.get_logger()


@contextmanager
def _apart(round_: str, **item: str) -> Iterator[None]:
    """An item that is refused is told of, and its round goes on with the others."""
    try:
        yield
    except Refused as error:
        _log.error("item refused", round=round_, error=repr(error), **item)


async def leases_round(market: Market, *, now_ms: int) -> int:
    """End leases that must end; what they held is pending again. The number ended."""
    rows = await market.read(_stale, now_ms)
    for row in rows:
        reason, detail = LeaseEnd(row["reason"]), row["detail"]
        await market.transact(leases.end, None, row["id"], reason, detail, now_ms)
    for row in await market.read(_overdue, now_ms):
        await leases.lost(market, row["provider"], row["id"], WINDOW_LOST, now_ms=now_ms)
        gone, why = LeaseEnd.PROVIDER_GONE, "no receipt within the window"
        await market.transact(leases.end, None, row["lease"], gone, why, now_ms)
    return len(rows)


async def _stale(connection: Connection, now_ms: int) -> list[Row]:
    return await book.stale_leases(
        connection, now_ms=now_ms, gone_ms=GONE_MS, silent_ms=SILENT_MS, idle_ms=IDLE_MS,
        arm_ms=ARM_MS,
    )  # fmt: skip


async def _overdue(connection: Connection, now_ms: int) -> list[Row]:
    return await book.overdue_attempts(connection, now_ms=now_ms, grace_ms=OVERDUE_GRACE_MS)


async def jobs_round(market: Market, *, now_ms: int) -> int:
    """Stop late jobs, seal sessions whose consumer went away, close what has settled."""
    closed = 0
    for row in await market.read(_due, now_ms):
        with _apart("jobs", job=str(row["id"])):
            if row["state"] != JobState.FINISHING:
                await market.transact(_time_is_up, row["id"], row["late"], now_ms)
            closed += await jobs.finish(market, row["id"], now_ms=now_ms)
    return closed


async def _due(connection: Connection, now_ms: int) -> Row:
    return await job_store.due(connection, now_ms=now_ms, session_idle_ms=SESSION_IDLE_MS)


async def _time_is_up(connection: Connection, job: UUID, late: bool, now_ms: int) -> None:  # noqa: FBT001 - a column
    await work.lock_job(connection, job)
    if late:
        await jobs.stop(connection, job, JobEnd.DEADLINE, now_ms)
    else:
        await job_store.extended(connection, job, tasks=0, sealed=True, now_ms=now_ms)


async def checks_round(market: Market, *, now_ms: int) -> int:
    """Receipts that nobody can check, or that waited too long, are accepted with an UNCHECKED verdict."""
    decided = 0
    for row in await market.read(book.waiting_checks):
        with _apart("checks", attempt=str(row["id"])):
            decided += await _decide_unchecked(market, row, now_ms)
    return decided


async def _decide_unchecked(market: Market, row: Row, now_ms: int) -> bool:
    reason = await market.read(_why_unchecked, row, now_ms)
    if not reason:
        return False
    item = settle.settle_unchecked(market, row, reason=reason, now_ms=now_ms)
    outcome = await market.ledger.submit(item)
    if outcome.status is Status.STALE:
        return False
    await _unburnt(market, row["id"], outcome)
    await jobs.finish(market, row["job"], now_ms=now_ms)
    return True


async def _why_unchecked(connection: Connection, row: Row, now_ms: int) -> str:
    if row["job_state"] != JobState.RUNNING:
        return "the job has ended"
    if now_ms - row["received_ms"] > CHECK_WAIT_MS:
        return f"no check came within {CHECK_WAIT_MS // 1000} s"
    others = await control.other_providers(
        connection, row["job"], row["provider"], environment=row["environment"], now_ms=now_ms
    )
    return "" if others else "no second provider is there"


async def wages_round(market: Market, *, now_ms: int) -> int:
    """Pay checkers from `checks`, oldest first, as far as the surcharges have filled it."""
    paid = 0
    left = await market.read(ledger.balance, market.address, Purpose.CHECKS)
    for row in await market.read(book.unpaid_checks, ROUND_MAX):
        wage = int(row["charge"])
        if left < wage:
            return paid
        with _apart("wages", attempt=str(row["id"])):
            try:
                done = await _pay_wage(market, row, now_ms)
            except InsufficientFunds:
                return paid
            paid += done
            left -= wage
    return paid


async def _pay_wage(market: Market, row: Row, now_ms: int) -> bool:
    outcome = await market.ledger.submit(settle.wage(market, row, now_ms=now_ms))
    if outcome.status is Status.STALE:  # paid by another round
        return False
    await _unburnt(market, row["id"], outcome)
    return True


async def _unburnt(market: Market, attempt: UUID, outcome: Outcome) -> None:
    """Refused ids are burnt: after a refusal the next try takes new ones."""
    if outcome.status is Status.REFUSED:
        await market.transact(control.bump_tries, attempt)
    outcome.raise_for_refusal()


async def releases_round(market: Market, *, now_ms: int) -> int:
    """Earnings whose hold is over become the provider's own: one transfer a provider."""
    released = 0
    for row in await market.read(_due_providers, now_ms):
        with _apart("releases", provider=row["provider"]):
            await _release(market, row["provider"], row["until_ms"], now_ms)
            released += 1
    return released


async def _due_providers(connection: Connection, now_ms: int) -> list[Row]:
    return await book.due_providers(connection, now_ms=now_ms, limit=ROUND_MAX)


async def _release(market: Market, provider: str, until_ms: int, now_ms: int) -> None:
    async def due(connection: Connection) -> list[Row]:
        return await book.due_charges(connection, provider, until_ms=until_ms)

    rows = await market.read(due)
    receipts = sorted(row["receipt"] for row in rows)
    root = merkle.root([canonical.digest_bytes(receipt) for receipt in receipts])
    statement = market.sign(
        Release(
            v=1, kind="release", market=market.origin, provider=provider, until_ms=until_ms,
            receipts=len(receipts), receipts_root=canonical.digest_text(root),
            amount=amount.to_text(sum(int(row["amount"]) for row in rows)),
            transfer=str(jobs.new_id()), at_ms=now_ms,  # a foreseeable id could be burnt by others
        )
    )  # fmt: skip
    item = Item(
        moves(statement, market.address),
        (statement,),
        (guard("charges_due", provider, until_ms, len(receipts)),),
        (change("charges_release", provider, until_ms),),
    )
    outcome = await market.ledger.submit(item)
    if outcome.status is not Status.STALE:
        outcome.raise_for_refusal()
