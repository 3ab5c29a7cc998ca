"""What must hold before a statement may stand in the log, and what it changes: one pair for a kind.

A rule answers the first thing that is wrong as (rule, expected, found), and changes nothing; its
effect is what the statement does beside its transfers, once these were taken.
"""

from collections.abc import Callable
from typing import Any, Final
from uuid import UUID

from settlement.domain import amount
from settlement.domain.ledger import AccountKey, Purpose
from settlement.domain.moves import budget
from settlement.domain.payments import (
    WITHDRAWAL_SECONDS,
    Expiry,
    Issue,
    Withdraw,
    Withdrawn,
)
from settlement.domain.receipt import Receipt
from settlement.domain.reputation import Standing, fold
from settlement.domain.settled import CHECK, VOUCHER, WORK, Acceptance, Voucher
from settlement.domain.statement import Opened
from settlement.domain.trade import Close, Lease, Offer, Order, TopUp
from settlement.domain.verdict import Conclusion, Verdict
from settlement.domain.world import FRESH_MS, Claim, Job, Withdrawal, World
from settlement.domain.world import Lease as OpenLease

Wrong = tuple[str, object, object] | None
Rule = Callable[[World, Any, Opened], Wrong]
Effect = Callable[[World, Any, Opened], None]


def first_of(*checks: tuple[str, object, object]) -> Wrong:
    """The first of (rule, expected, found) whose sides differ."""
    for check in checks:
        if check[1] != check[2]:
            return check
    return None


# ── tokens ──────────────────────────────────────────────────────────────────────────────────


def _issue(world: World, said: Issue, opened: Opened) -> Wrong:  # noqa: ARG001 - as every rule
    operator = world.charter.operator if world.charter else ""
    return first_of(("tokens are issued by the operator alone", operator, said.operator))


def _expiry(world: World, said: Expiry, opened: Opened) -> Wrong:  # noqa: ARG001 - as every rule
    if len(set(said.transfers)) != len(said.transfers):
        return ("a reservation ends once", len(set(said.transfers)), len(said.transfers))
    said_ms = int(said.ledger_ns) // 1_000_000
    if abs(said_ms - said.at_ms) > FRESH_MS:
        return ("ledger time is the market's time", said.at_ms, said_ms)
    for identifier in said.transfers:
        waiting = world.withdrawals.get(identifier)
        if waiting is None:
            return ("what expires was pending", "a pending transfer", identifier)
        due_ms = waiting.at_ms + WITHDRAWAL_SECONDS * 1_000
        if said_ms < due_ms - FRESH_MS:
            return ("a reservation ends when its time is over", due_ms, said.ledger_ns)
    return None


def _expire(world: World, said: Expiry, opened: Opened) -> None:  # noqa: ARG001 - as every effect
    for identifier in said.transfers:
        party = world.withdrawals.pop(identifier).party
        world.release(
            UUID(identifier).int,
            debit=AccountKey(party, Purpose.AVAILABLE),
            credit=AccountKey(world.ledger_key, Purpose.ISSUED),
        )


def _withdraw(world: World, said: Withdraw, opened: Opened) -> None:  # noqa: ARG001 - as every effect
    world.withdrawals[said.transfer] = Withdrawal(said.party, world.time_ms)


def _withdrawn(world: World, said: Withdrawn, opened: Opened) -> Wrong:  # noqa: ARG001 - as every rule
    waiting = world.withdrawals.get(said.withdrawal)
    operator = world.charter.operator if world.charter else ""
    return first_of(
        ("withdrawals are decided by the operator", operator, said.operator),
        ("the withdrawal is open", True, waiting is not None),
        ("the withdrawal is that party's", waiting.party if waiting else "", said.party),
    )


def _paid_out(world: World, said: Withdrawn, opened: Opened) -> None:  # noqa: ARG001 - as every effect
    del world.withdrawals[said.withdrawal]


# ── trade ───────────────────────────────────────────────────────────────────────────────────


def _offered(world: World, said: Offer, opened: Opened) -> None:
    world.offers[said.provider] = opened.digest


def _order(world: World, said: Order, opened: Opened) -> Wrong:  # noqa: ARG001 - as every rule
    return first_of(("a job has one order", False, said.job in world.jobs))


def _ordered(world: World, said: Order, opened: Opened) -> None:
    world.jobs[said.job] = Job(
        said.consumer, opened.digest, said.spec, int(said.rate_cap), said.tasks, said.deadline_ms
    )


def _top_up(world: World, said: TopUp, opened: Opened) -> Wrong:  # noqa: ARG001 - as every rule
    job = world.jobs.get(said.job)
    return first_of(
        ("a top-up is for an open job", True, job is not None),
        ("a top-up is its consumer's", job.consumer if job else "", said.consumer),
    )


def _lease(world: World, said: Lease, opened: Opened) -> Wrong:  # noqa: ARG001 - as every rule
    job = world.jobs.get(said.job)
    if job is None:
        return ("a lease is for an open job", "an open job", said.job)
    return first_of(
        ("a lease names its job's order", job.order, said.order),
        ("a lease names its job's consumer", job.consumer, said.consumer),
        ("a lease names its provider's offer", world.offers.get(said.provider), said.offer),
        ("a lease ends with its order", job.deadline_ms, said.deadline_ms),
        ("the rate is within the order's cap", True, amount.from_text(said.rate) <= job.rate_cap),
    )


def _leased(world: World, said: Lease, opened: Opened) -> None:
    world.jobs[said.job].leases.append(opened.digest)
    world.leases[opened.digest] = OpenLease(
        said.job, said.provider, amount.from_text(said.rate), said.at_ms
    )


def _close(world: World, said: Close, opened: Opened) -> Wrong:  # noqa: ARG001 - as every rule
    job = world.jobs.get(said.job)
    if job is None:
        return ("an open job closes", "an open job", said.job)
    return first_of(
        ("a close names its job's order", job.order, said.order),
        ("a close names its job's consumer", job.consumer, said.consumer),
        ("a close tells how many tasks were paid", job.accepted, said.accepted),
        ("a close tells what was spent", job.spent, int(said.spent)),
    )


def _closed(world: World, said: Close, opened: Opened) -> None:  # noqa: ARG001 - as every effect
    job = world.jobs.pop(said.job)
    for digest in job.leases:
        del world.leases[digest]
    for digest in job.claims:
        claim = world.claims.get(digest)
        if claim is not None and claim.role != CHECK:  # a check may be paid later
            del world.claims[digest]
    world.close(budget(said.consumer, said.job))


# ── usage ───────────────────────────────────────────────────────────────────────────────────


def _receipt(world: World, said: Receipt, opened: Opened) -> Wrong:
    job, lease = world.jobs.get(said.job), world.leases.get(said.lease)
    if job is None or lease is None:
        return ("a receipt is for an open lease", "an open lease", said.lease)
    amount.from_text(said.price.amount)  # out of range it is refused here, not while it is taken
    if (
        (lease.job, lease.provider, job.order, job.consumer, job.spec)
        == (said.job, said.provider, said.order, said.consumer, said.spec)
        and said.first + said.tasks <= job.tasks
        and opened.digest not in job.claims
    ):
        return None  # as nearly always; else the rules say what is wrong
    return first_of(
        ("a receipt names its lease's job", lease.job, said.job),
        ("a receipt names its lease's provider", lease.provider, said.provider),
        ("a receipt names its job's order", job.order, said.order),
        ("a receipt names its job's consumer", job.consumer, said.consumer),
        ("a receipt names its job's code", job.spec, said.spec),
        ("a receipt's tasks are the order's", True, said.first + said.tasks <= job.tasks),
        ("a receipt is logged once", False, opened.digest in job.claims),
    )  # fmt: skip


def _received(world: World, said: Receipt, opened: Opened) -> None:
    lease = world.leases[said.lease]
    world.claims[opened.digest] = Claim(
        said.purpose, said.job, said.lease, said.provider, said.consumer, said.usage.wall_ms,
        int(said.price.amount), lease.rate, lease.at_ms, said.first, said.tasks,
    )  # fmt: skip
    world.jobs[said.job].claims[opened.digest] = None


def _voucher(world: World, said: Voucher, opened: Opened) -> Wrong:  # noqa: ARG001 - as every rule
    lease = world.leases.get(said.lease)
    job = world.jobs.get(said.job)
    if lease is None or job is None:
        return ("a voucher is for an open lease", "an open lease", said.lease)
    return first_of(
        ("a voucher names its lease's job", lease.job, said.job),
        ("a voucher names its lease's provider", lease.provider, said.provider),
        ("a voucher is signed by the job's consumer", job.consumer, said.consumer),
        ("a voucher says more than those before", True, said.wall_ms > lease.vouched_ms),
        ("a voucher is paid before the next one", False, lease.vouching),
    )


def _vouched(world: World, said: Voucher, opened: Opened) -> None:
    lease = world.leases[said.lease]
    world.claims[opened.digest] = Claim(
        VOUCHER, said.job, said.lease, said.provider, said.consumer, said.wall_ms - lease.vouched_ms,
        0, lease.rate, lease.at_ms,
    )  # fmt: skip
    lease.vouching = True
    world.jobs[said.job].claims[opened.digest] = None


def _acceptance(world: World, said: Acceptance, opened: Opened) -> Wrong:  # noqa: ARG001 - as every rule
    claim = world.claims.get(said.receipt)
    if claim is None:
        return ("a consumer accepts a receipt that is open", "an open receipt", said.receipt)
    return first_of(
        ("a receipt is accepted by its consumer", claim.consumer, said.consumer),
        ("an acceptance names the receipt's job", claim.job, said.job),
    )


def _verdict(world: World, said: Verdict, opened: Opened) -> Wrong:  # noqa: ARG001 - as every rule
    named = (said.receipt, *said.checks)
    claims = [world.claims.get(digest) for digest in named]
    if any(claim is None for claim in claims):
        return ("a verdict is about open receipts", "open receipts", said.receipt)
    if len(set(named)) != len(named):
        return ("a verdict compares different runs", len(named), len(set(named)))
    checked = bool(said.checks)
    roles = [WORK] + [CHECK] * len(said.checks)
    return first_of(
        ("a verdict compares work with checks", roles, [c.role for c in claims if c]),
        ("a receipt is judged once", False, any(c.judged for c in claims if c)),
        ("a verdict names the providers of its receipts", [c.provider for c in claims if c], said.providers),
        ("a verdict names its receipts' job", [said.job] * len(claims), [c.job for c in claims if c]),
        ("a verdict without checks is unchecked", not checked, said.conclusion is Conclusion.UNCHECKED),
        ("a verdict concludes from what differs", said.conclusion is Conclusion.DIFFERED, said.differing > 0),
    )  # fmt: skip


def _judged(world: World, said: Verdict, opened: Opened) -> None:  # noqa: ARG001 - as every effect
    involved = {
        provider: world.standings.get(provider, Standing())
        for provider in dict.fromkeys(said.providers)
    }
    for provider, standing in fold(involved, [said]).items():
        if standing != involved[provider]:
            world.stand(provider, standing)
    for digest in (said.receipt, *said.checks):
        world.claims[digest].judged = True
        if said.conclusion is Conclusion.DIFFERED:  # nobody is paid
            del world.claims[digest]


RULES: Final[dict[type, Rule]] = {
    Issue: _issue,
    Expiry: _expiry,
    Withdrawn: _withdrawn,
    Order: _order,
    TopUp: _top_up,
    Lease: _lease,
    Close: _close,
    Receipt: _receipt,
    Voucher: _voucher,
    Acceptance: _acceptance,
    Verdict: _verdict,
}
EFFECTS: Final[dict[type, Effect]] = {
    Expiry: _expire,
    Withdraw: _withdraw,
    Withdrawn: _paid_out,
    Offer: _offered,
    Order: _ordered,
    Lease: _leased,
    Close: _closed,
    Receipt: _received,
    Voucher: _vouched,
    Verdict: _judged,
}
