"""The snapshot form of a replay: its whole state as canonical bytes, from which another one goes on."""

import base64
from typing import Annotated
from uuid import UUID

import msgspec

from settlement.domain import canonical
from settlement.domain.errors import LedgerRefused, Malformed
from settlement.domain.governance import Charter
from settlement.domain.ledger import AccountName, Entry, PendingState
from settlement.domain.reputation import Standing
from settlement.domain.state_lines import Line
from settlement.domain.statement import Address, Amount, Count, Digest, Identifier, Name, TimeMs
from settlement.domain.world import (
    Claim,
    Job,
    Lease,
    Proposal,
    Withdrawal,
    World,
    counters,
    restore,
)

AccountForm = tuple[AccountName, Amount, Amount, Amount, Amount]
PendingForm = tuple[Identifier, AccountName, AccountName, Amount, int, int, int, str, Count]
LeaseForm = tuple[Identifier, Address, Amount, TimeMs, Count, Count, bool]
ClaimForm = tuple[
    str, Identifier, Digest, Address, Address, Count, Amount, Amount, TimeMs, Count, Count, bool
]
HeldForm = tuple[Address, Digest, Amount, TimeMs]
# index, what (an account's name, a receipt, a provider), its line before as texts
PastForm = tuple[Count, AccountName | str, list[str]]


class JobForm(msgspec.Struct, frozen=True, forbid_unknown_fields=True, array_like=True):
    """An open job."""

    consumer: Address
    order: Digest
    spec: Digest
    rate_cap: Amount
    tasks: Count
    deadline_ms: TimeMs
    spent: Amount
    accepted: Count
    done: list[tuple[Count, Count]]
    leases: list[Digest]
    claims: list[Digest]


class Form(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The bytes' shape; every list and object is in a fixed order."""

    v: Annotated[int, msgspec.Meta(ge=1, le=1)]
    market: Name
    size: Count
    ledger_key: str
    charter: list[Charter]  # one, or none before the first entry
    time_ms: TimeMs
    grace: tuple[TimeMs, TimeMs]
    stated: Count
    members: list[str]
    quorum: Count
    jobs: dict[str, JobForm]
    leases: dict[str, LeaseForm]
    offers: dict[str, str]
    claims: dict[str, ClaimForm]
    held: list[HeldForm]
    standings: dict[str, tuple[Count, Count]]
    withdrawals: dict[str, tuple[Address, TimeMs]]
    proposals: dict[str, tuple[str, list[str]]]
    seen: list[tuple[str, TimeMs]]
    accounts: list[AccountForm]
    pendings: list[PendingForm]
    past: list[PastForm]


def dump(world: World) -> bytes:
    """Canonical bytes: two replays of the same entries give the same ones."""
    names = {account.id: name for name, account in world.accounts.items()}
    form = Form(
        v=1, market=world.market, size=world.size, ledger_key=world.ledger_key,
        charter=[] if world.charter is None else [world.charter], time_ms=world.time_ms,
        grace=(world.grace_from_ms, world.grace_until_ms), stated=world.stated, members=list(world.members), quorum=world.quorum,
        jobs={name: _job_form(job) for name, job in world.jobs.items()},
        leases={
            digest: (
                lease.job, lease.provider, str(lease.rate), lease.at_ms, lease.worked_ms,
                lease.vouched_ms, lease.vouching,
            )
            for digest, lease in world.leases.items()
        },
        offers=world.offers,
        claims={digest: _claim_form(claim) for digest, claim in world.claims.items()},
        held=sorted(
            (provider, receipt, str(amount), at_ms)
            for provider, mine in world.held.items()
            for receipt, (amount, at_ms) in mine.items()
        ),
        standings={name: (one.agreed, one.differed) for name, one in world.standings.items()},
        withdrawals={name: (one.party, one.at_ms) for name, one in world.withdrawals.items()},
        proposals={
            digest: (base64.b64encode(one.envelope).decode(), one.approvals)
            for digest, one in world.proposals.items()
        },
        seen=sorted(world.seen.items()),
        accounts=sorted(
            (name, *map(str, counters(account)))  # type: ignore[misc]
            for name, account in world.accounts.items()
        ),
        pendings=sorted(
            (
                str(UUID(int=entry.id)), names[entry.debit], names[entry.credit], str(entry.amount),
                entry.ledger, entry.code, entry.flags, entry.cause.hex(), entry.at_ns // 1_000_000,
            )
            for entry in world.ledger.transfers.values()
        ),
        past=[
            (index, key, [str(part) for part in line]) for index, key, line in world.history(0)
        ][::-1],
    )  # fmt: skip
    return canonical.encode(form)


def load(data: bytes) -> World:
    """The state behind `dump`; `Malformed` for anything else."""
    form = canonical.decode(data, Form)
    try:
        world = _load(form)
    except (ValueError, KeyError, TypeError, LedgerRefused) as error:
        raise Malformed(f"this is no snapshot of a replay: {error}") from None
    if dump(world) != data:
        raise Malformed("a snapshot has one form for one state, and this is another")
    return world


def _load(form: Form) -> World:
    world = World(form.market, form.size, form.ledger_key)
    world.charter = form.charter[0] if form.charter else None
    world.time_ms, world.stated = form.time_ms, form.stated
    world.grace_from_ms, world.grace_until_ms = form.grace
    world.members, world.quorum = tuple(form.members), form.quorum
    world.jobs = {name: _job(job) for name, job in form.jobs.items()}
    world.leases = {
        digest: Lease(job, provider, int(rate), at_ms, worked_ms, vouched_ms, vouching)
        for digest, (job, provider, rate, at_ms, worked_ms, vouched_ms, vouching) in form.leases.items()
    }  # fmt: skip
    world.offers = dict(form.offers)
    world.claims = {digest: _claim(claim) for digest, claim in form.claims.items()}
    for provider, receipt, amount, at_ms in form.held:
        world.held.setdefault(provider, {})[receipt] = (int(amount), at_ms)
    world.standings = {name: Standing(*counts) for name, counts in form.standings.items()}
    world.withdrawals = {name: Withdrawal(*one) for name, one in form.withdrawals.items()}
    world.proposals = {
        digest: Proposal(base64.b64decode(envelope), list(approvals))
        for digest, (envelope, approvals) in form.proposals.items()
    }
    world.seen = dict(form.seen)
    _load_ledger(world, form)
    return world


def _load_ledger(world: World, form: Form) -> None:
    for name, *values in form.accounts:
        restore(world.account(name), tuple(int(value) for value in values))
    for identifier, debit, credit, amount, ledger, code, flags, cause, at_ms in form.pendings:
        number = UUID(identifier).int
        world.ledger.transfers[number] = Entry(
            number, world.account(debit).id, world.account(credit).id, int(amount), 0, 0, ledger, code, flags,
            bytes.fromhex(cause), at_ms * 1_000_000,
        )  # fmt: skip
        world.ledger.pending[number] = PendingState.OPEN
    for index, past, parts in form.past:
        line: Line = tuple(parts)
        if isinstance(past, tuple) or not past.startswith(canonical.DIGEST_PREFIX):
            line = tuple(int(part) for part in parts)
        elif len(parts) > 1:
            line = (parts[0], int(parts[1]), int(parts[2]))
        world.undo.append((index, past, line))


def _job_form(job: Job) -> JobForm:
    return JobForm(
        job.consumer, job.order, job.spec, str(job.rate_cap), job.tasks, job.deadline_ms,
        str(job.spent), job.accepted, job.done, job.leases, list(job.claims),
    )  # fmt: skip


def _job(form: JobForm) -> Job:
    return Job(
        form.consumer, form.order, form.spec, int(form.rate_cap), form.tasks, form.deadline_ms,
        int(form.spent), form.accepted, list(form.done), list(form.leases), dict.fromkeys(form.claims),
    )  # fmt: skip


def _claim_form(claim: Claim) -> ClaimForm:
    return (
        claim.role, claim.job, claim.lease, claim.provider, claim.consumer, claim.wall_ms,
        str(claim.price), str(claim.rate), claim.lease_at_ms, claim.first, claim.tasks,
        claim.judged,
    )  # fmt: skip


def _claim(form: ClaimForm) -> Claim:
    first, tasks, judged = form[9:]
    role, job, lease, provider, consumer, wall_ms, price, rate, lease_at_ms = form[:9]
    return Claim(
        role, job, lease, provider, consumer, wall_ms, int(price), int(rate), lease_at_ms, first, tasks,
        judged,
    )  # fmt: skip
