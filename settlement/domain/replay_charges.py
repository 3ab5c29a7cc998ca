"""Rules of the statements that pay for usage: what a charge follows from, and when its hold ends."""

from bisect import bisect_left
from typing import Final

from settlement.domain import canonical, charge, merkle
from settlement.domain.amount import AMOUNT_MAX, BASIS_POINTS
from settlement.domain.charge import Charge
from settlement.domain.payments import Release
from settlement.domain.replay_rules import Effect, Rule, Wrong, first_of
from settlement.domain.settled import CHECK, VOUCHER, WORK, Charged
from settlement.domain.statement import Opened
from settlement.domain.world import Claim, World

_HEX: Final = slice(len(canonical.DIGEST_PREFIX), None)  # of a digest that is in form


def _charged(world: World, said: Charged, opened: Opened) -> Wrong:  # noqa: ARG001 - as every rule
    claim = world.claims.get(said.receipt)
    if claim is None:
        return ("what is charged was logged, and not paid before", "an open receipt", said.receipt)
    billed_ms = said.billed_ms
    if _is_due(world, claim, said, billed_ms):
        return _unpaid(world, claim, said, billed_ms)
    return _undue(world, claim, said, billed_ms) or _unpaid(world, claim, said, billed_ms)


def _is_due(world: World, claim: Claim, said: Charged, billed_ms: int) -> bool:
    """Whether all of it is as the rules below want it, in one look: as nearly every charge is.

    What it lets through, they let through too; whatever else there is, they name.
    """
    rate, points, at_ms = claim.rate, said.surcharge_basis_points, said.at_ms
    gross = billed_ms * rate // charge.MILLISECONDS
    return (
        (
            said.role, said.job, said.provider, said.consumer, said.wall_ms, said.rate, said.gross, said.fee,
            said.surcharge,
        ) == (
            claim.role, claim.job, claim.provider, claim.consumer, claim.wall_ms, str(rate), str(gross),
            str(gross * charge.FEE_BASIS_POINTS // BASIS_POINTS), str(gross * points // BASIS_POINTS),
        )
        and gross <= AMOUNT_MAX
        and (not points or (points == charge.CHECK_BASIS_POINTS and said.role == WORK))
        and claim.price <= gross
        and claim.lease_at_ms <= said.handed_ms
        and said.received_ms <= at_ms
        and said.release_ms == at_ms + (world.charter.hold_ms if world.charter else 0)
    )  # fmt: skip


def _undue(world: World, claim: Claim, said: Charged, billed_ms: int) -> Wrong:
    """The first thing that is wrong with a charge."""
    rate = int(said.rate)
    due = said.due()
    surcharged = said.surcharge_basis_points if said.role == WORK else 0
    hold_ms = world.charter.hold_ms if world.charter else 0
    return first_of(
        ("a charge is of the kind of its receipt", claim.role, said.role),
        ("a charge names its receipt's job", claim.job, said.job),
        ("a charge names its receipt's provider", claim.provider, said.provider),
        ("a charge names its receipt's consumer", claim.consumer, said.consumer),
        ("a charge counts the receipt's time", claim.wall_ms, said.wall_ms),
        ("a charge takes the lease's rate", claim.rate, rate),
        ("only checked work pays a surcharge", surcharged, said.surcharge_basis_points),
        ("a surcharge is the charter's", True, surcharged in {0, charge.CHECK_BASIS_POINTS}),
        ("a charge is rate × time, by the market's clock", due.gross_microcredits, int(said.gross)),
        ("a fee is the charter's part", due.fee_microcredits, int(said.fee)),
        ("a surcharge is the charter's part", due.surcharge_microcredits, int(said.surcharge)),
        ("a provider is paid at least what it asks", True, claim.price <= _paid(world, claim, due, billed_ms)),
        ("work is handed out after its lease", True, said.handed_ms >= claim.lease_at_ms),
        ("a receipt is charged after it came", True, said.received_ms <= said.at_ms),
        ("earnings are held as the charter says", said.at_ms + hold_ms, said.release_ms),
    )  # fmt: skip


def _paid(world: World, claim: Claim, due: Charge, billed_ms: int) -> int:
    """What the provider has for a receipt's time: this charge, and what vouchers brought before."""
    lease = world.leases.get(claim.lease) if claim.role == WORK else None
    vouched_ms = lease.vouched_ms if lease is not None else 0
    if not vouched_ms:
        return due.gross_microcredits
    return charge.gross(wall_ms=billed_ms + vouched_ms, rate_microcredits=claim.rate)


def _unpaid(world: World, claim: Claim, said: Charged, billed_ms: int) -> Wrong:
    """Nothing is paid twice: no task of a job, no time of a lease."""
    if claim.role == WORK and _overlaps(world.jobs[claim.job].done, claim):
        return (
            "a task is paid once",
            "tasks that nobody was paid for",
            f"{claim.first}+{claim.tasks}",
        )
    if claim.role == CHECK:
        return None
    lease = world.leases[claim.lease]
    if claim.role == WORK and not lease.vouched_ms:
        return None  # its runs come one after the other; several hosts' clocks need not agree on it
    there_ms = (said.received_ms if claim.role == VOUCHER else said.at_ms) - lease.at_ms
    used_ms = lease.worked_ms + lease.vouched_ms + billed_ms
    whole = billed_ms == claim.wall_ms or claim.role == WORK
    return first_of(
        ("a voucher is paid whole", True, whole),
        ("a lease is paid for the time that it lasts", True, used_ms <= there_ms),
    )


def _overlaps(done: list[tuple[int, int]], claim: Claim) -> bool:
    at = bisect_left(done, (claim.first, 0))
    before = at > 0 and done[at - 1][1] > claim.first
    return before or (at < len(done) and done[at][0] < claim.first + claim.tasks)


def _pay(world: World, said: Charged, opened: Opened) -> None:  # noqa: ARG001 - as every effect
    claim = world.claims.pop(said.receipt)
    earned = int(said.gross) - int(said.fee)
    world.hold(said.provider, said.receipt, earned, said.release_ms)
    if claim.role == CHECK:
        return
    job, lease = world.jobs[claim.job], world.leases[claim.lease]
    job.spent += int(said.gross) + int(said.surcharge)
    if claim.role == VOUCHER:
        lease.vouched_ms += claim.wall_ms
        lease.vouching = False
        return
    lease.worked_ms += said.billed_ms
    job.accepted += claim.tasks
    _add(job.done, claim.first, claim.first + claim.tasks)


def _add(done: list[tuple[int, int]], first: int, end: int) -> None:
    """Into the ordered intervals, joined with its neighbours."""
    at = bisect_left(done, (first, 0))
    if at < len(done) and done[at][0] == end:
        end = done.pop(at)[1]
    if at and done[at - 1][1] == first:
        done[at - 1] = (done[at - 1][0], end)
    else:
        done.insert(at, (first, end))


def _due(world: World, said: Release) -> list[str]:
    mine = world.held.get(said.provider, {})
    until_ms = said.until_ms
    return sorted([receipt for receipt, (_, at_ms) in mine.items() if at_ms <= until_ms])


def _release(world: World, said: Release, opened: Opened) -> Wrong:  # noqa: ARG001 - as every rule
    due = _due(world, said)
    mine = world.held.get(said.provider, {})
    root = merkle.root([bytes.fromhex(receipt[_HEX]) for receipt in due])
    return first_of(
        ("a hold ends when its time is over", True, said.until_ms <= said.at_ms),
        ("a release covers all that is due", len(due), said.receipts),
        ("a release names the receipts that are due", canonical.digest_text(root), said.receipts_root),
        ("a release is what was held", sum(mine[receipt][0] for receipt in due), int(said.amount)),
    )  # fmt: skip


def _released(world: World, said: Release, opened: Opened) -> None:  # noqa: ARG001 - as every effect
    for receipt in _due(world, said):
        world.unhold(said.provider, receipt)


RULES: Final[dict[type, Rule]] = {Charged: _charged, Release: _release}
EFFECTS: Final[dict[type, Effect]] = {Charged: _pay, Release: _released}
