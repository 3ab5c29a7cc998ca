"""What the escrow's statements may do, said once more and as plainly as it can be: sums and lists.

It shares nothing with the replay but the statements' shapes: money is one number an account, charges
are computed here anew, and every rule is asked for in full each time.
"""

from collections import Counter
from dataclasses import dataclass, field
from typing import Final

from settlement.domain import canonical, merkle
from settlement.domain.governance import Charter
from settlement.domain.payments import Expiry, Issue, Payment, Payout, Release, Withdraw, Withdrawn
from settlement.domain.receipt import Receipt
from settlement.domain.settled import Acceptance, Charged, Voucher
from settlement.domain.statement import Statement
from settlement.domain.trade import Close, Lease, Offer, Order, TopUp
from settlement.domain.verdict import Verdict

FRESH_MS: Final = 600_000
WEEK_MS: Final = 7 * 24 * 3_600_000
Purse = tuple[str, str]  # whose, and what for: a purpose, or a job's id


@dataclass
class JobFacts:
    order: Order
    digest: str
    spent: int = 0
    paid_tasks: set[int] = field(default_factory=set)


@dataclass
class LeaseFacts:
    said: Lease
    paid_ms: int = 0
    vouched_ms: int = 0
    unpaid_voucher: bool = False


@dataclass
class ClaimFacts:
    said: Receipt | Voucher
    role: str
    wall_ms: int
    price: int
    lease: Lease


@dataclass
class EscrowModel:
    """Money by purse, and what is open."""

    market: str
    money: Counter[Purse] = field(default_factory=Counter)
    charter: Charter | None = None
    time_ms: int = 0
    jobs: dict[str, JobFacts] = field(default_factory=dict)
    leases: dict[str, LeaseFacts] = field(default_factory=dict)
    claims: dict[str, ClaimFacts] = field(default_factory=dict)
    offers: dict[str, str] = field(default_factory=dict)
    held: dict[tuple[str, str], tuple[int, int]] = field(default_factory=dict)
    leaving: dict[str, tuple[str, int, int]] = field(default_factory=dict)
    seen: set[str] = field(default_factory=set)
    judged: set[str] = field(default_factory=set)

    def take(self, said: Statement, signer: str, digest: str) -> bool:
        """Whether it may be logged now; if so, it has happened."""
        at_ms: int = getattr(said, "at_ms", self.time_ms)
        if digest in self.seen or at_ms < self.time_ms - FRESH_MS:
            return False
        if said.signer() is None and signer != self.market:
            return False
        name = f"_{type(said).__name__.lower()}"
        if signer == self.market and not isinstance(said, Charter):
            before, self.time_ms = self.time_ms, max(self.time_ms, at_ms)
        else:
            before = self.time_ms
        if not getattr(self, name)(said, digest):
            self.time_ms = before
            return False
        self.seen.add(digest)
        return True

    def free(self, owner: str) -> int:
        """What a party may spend: its money but for what is on its way out."""
        leaving = sum(amount for party, amount, _ in self.leaving.values() if party == owner)
        return self.money[owner, "available"] - leaving

    def _pay(self, payer: Purse, *parts: tuple[Purse, int]) -> bool:
        """All parts or none; an account never goes below zero, the issuer's alone may."""
        there = self.free(payer[0]) if payer[1] == "available" else self.money[payer]
        total = sum(amount for _, amount in parts)
        if total > there and payer[1] != "issued":
            return False
        for purse, amount in parts:
            self.money[purse] += amount
        self.money[payer] -= total
        return True

    # ── tokens

    def _charter(self, said: Charter, digest: str) -> bool:
        self.charter, self.time_ms = said, said.at_ms
        return True

    def _operator(self) -> str:
        assert self.charter is not None
        return self.charter.operator

    def _issue(self, said: Issue, digest: str) -> bool:
        checks = said.purpose == "checks"
        to = (self.market, "checks") if checks else (said.to, "available")
        return said.operator == self._operator() and self._pay(
            (self.market, "issued"), (to, int(said.amount))
        )

    def _payment(self, said: Payment, digest: str) -> bool:
        return said.payer != said.to and self._pay(
            (said.payer, "available"), ((said.to, "available"), int(said.amount))
        )

    def _payout(self, said: Payout, digest: str) -> bool:
        if any(payee.to == said.payer for payee in said.payees):
            return False
        parts = [((payee.to, "available"), int(payee.amount)) for payee in said.payees]
        return self._pay((said.payer, "available"), *parts)

    def _withdraw(self, said: Withdraw, digest: str) -> bool:
        if int(said.amount) > self.free(said.party):
            return False
        if int(said.amount) > self._outside():
            return False
        self.leaving[said.transfer] = (said.party, int(said.amount), self.time_ms)
        return True

    def _outside(self) -> int:
        """What was issued and may still come back."""
        leaving = sum(amount for _, amount, _ in self.leaving.values())
        return -self.money[self.market, "issued"] - leaving

    def _withdrawn(self, said: Withdrawn, digest: str) -> bool:
        party, amount, _ = self.leaving.get(said.withdrawal, ("", 0, 0))
        if said.operator != self._operator() or not party or party != said.party:
            return False
        del self.leaving[said.withdrawal]
        if said.outcome == "paid":
            return self._pay((party, "available"), ((self.market, "issued"), amount))
        return True

    def _expiry(self, said: Expiry, digest: str) -> bool:
        if len(set(said.transfers)) != len(said.transfers):
            return False
        for identifier in said.transfers:
            if identifier not in self.leaving:
                return False
            due_ms = self.leaving[identifier][2] + WEEK_MS
            if int(said.ledger_ns) // 1_000_000 < due_ms - FRESH_MS:
                return False
        for identifier in said.transfers:
            del self.leaving[identifier]
        return True

    # ── trade

    def _offer(self, said: Offer, digest: str) -> bool:
        self.offers[said.provider] = digest
        return True

    def _order(self, said: Order, digest: str) -> bool:
        if said.job in self.jobs:
            return False
        funded = ((said.consumer, said.job), int(said.budget))
        if not self._pay((said.consumer, "available"), funded):
            return False
        self.jobs[said.job] = JobFacts(said, digest)
        return True

    def _topup(self, said: TopUp, digest: str) -> bool:
        job = self.jobs.get(said.job)
        if job is None or job.order.consumer != said.consumer:
            return False
        more = ((said.consumer, said.job), int(said.amount))
        return self._pay((said.consumer, "available"), more)

    def _lease(self, said: Lease, digest: str) -> bool:
        job = self.jobs.get(said.job)
        if job is None or said.offer != self.offers.get(said.provider):
            return False
        told = (said.order, said.consumer, said.deadline_ms)
        if told != (job.digest, job.order.consumer, job.order.deadline_ms):
            return False
        if int(said.rate) > int(job.order.rate_cap):
            return False
        self.leases[digest] = LeaseFacts(said)
        return True

    def _close(self, said: Close, digest: str) -> bool:
        job = self.jobs.get(said.job)
        if job is None:
            return False
        told = (said.order, said.consumer, said.accepted, int(said.spent))
        if told != (job.digest, job.order.consumer, len(job.paid_tasks), job.spent):
            return False
        purse = (said.consumer, said.job)
        self._pay(purse, ((said.consumer, "available"), self.money[purse]))
        del self.jobs[said.job]
        gone = {name for name, lease in self.leases.items() if lease.said.job == said.job}
        self.leases = {name: lease for name, lease in self.leases.items() if name not in gone}
        self.claims = {
            name: claim
            for name, claim in self.claims.items()
            if claim.said.job != said.job or claim.role == "check"
        }
        return True

    # ── usage

    def _receipt(self, said: Receipt, digest: str) -> bool:
        job, lease = self.jobs.get(said.job), self.leases.get(said.lease)
        if job is None or lease is None:
            return False
        told = (said.job, said.provider, said.order, said.consumer, said.spec)
        order = job.order
        known = (lease.said.job, lease.said.provider, job.digest, order.consumer, order.spec)
        if told != known or said.first + said.tasks > order.tasks:
            return False
        self.claims[digest] = ClaimFacts(
            said, said.purpose, said.usage.wall_ms, int(said.price.amount), lease.said
        )
        return True

    def _voucher(self, said: Voucher, digest: str) -> bool:
        job, lease = self.jobs.get(said.job), self.leases.get(said.lease)
        if job is None or lease is None:
            return False
        told = (said.job, said.provider, said.consumer)
        if told != (lease.said.job, lease.said.provider, job.order.consumer):
            return False
        if said.wall_ms <= lease.vouched_ms or lease.unpaid_voucher:
            return False
        lease.unpaid_voucher = True
        more_ms = said.wall_ms - lease.vouched_ms
        self.claims[digest] = ClaimFacts(said, "voucher", more_ms, 0, lease.said)
        return True

    def _acceptance(self, said: Acceptance, digest: str) -> bool:
        claim = self.claims.get(said.receipt)
        return claim is not None and (claim.said.consumer, claim.said.job) == (
            said.consumer,
            said.job,
        )

    def _may_be_compared(self, names: list[str]) -> bool:
        if len(set(names)) != len(names) or any(name not in self.claims for name in names):
            return False
        roles = [self.claims[name].role for name in names]
        return roles == ["work"] + ["check"] * (len(names) - 1) and not self.judged & set(names)

    def _verdict(self, said: Verdict, digest: str) -> bool:
        names = [said.receipt, *said.checks]
        if not self._may_be_compared(names):
            return False
        about = [self.claims[name].said for name in names]
        if [one.provider for one in about] != said.providers:
            return False
        if any(one.job != said.job for one in about):
            return False
        unchecked, differed = said.conclusion == "unchecked", said.conclusion == "differed"
        if (unchecked, differed) != (not said.checks, said.differing > 0):
            return False
        self.judged |= set(names)
        for name in names:
            if said.conclusion == "differed":
                del self.claims[name]
        return True

    # ── charges

    def _charged(self, said: Charged, digest: str) -> bool:
        claim = self.claims.get(said.receipt)
        return (
            claim is not None
            and self._of_its_claim(said, claim)
            and self._of_its_time(said, claim)
            and self._paid(said, claim)
        )

    def _of_its_claim(self, said: Charged, claim: ClaimFacts) -> bool:
        about = claim.said
        told = (said.role, said.job, said.provider, said.consumer, said.wall_ms, int(said.rate))
        known = (about.job, about.provider, about.consumer, claim.wall_ms, int(claim.lease.rate))
        return told == (claim.role, *known)

    def _of_its_time(self, said: Charged, claim: ClaimFacts) -> bool:
        assert self.charter is not None
        billed = _billed(said)
        gross = billed * int(said.rate) // 1_000
        surcharge = gross // 10 if said.surcharge_basis_points else 0
        if (int(said.gross), int(said.fee), int(said.surcharge)) != (gross, gross // 20, surcharge):
            return False
        if said.surcharge_basis_points not in ((0, 1_000) if said.role == "work" else (0,)):
            return False
        lease = self.leases.get(claim.said.lease)
        before = lease.vouched_ms if lease is not None and claim.role == "work" else 0
        paid = (billed + before) * int(said.rate) // 1_000
        if claim.price > paid or said.received_ms > said.at_ms:
            return False
        if said.handed_ms < claim.lease.at_ms:
            return False
        return said.release_ms == said.at_ms + self.charter.hold_ms

    def _paid(self, said: Charged, claim: ClaimFacts) -> bool:
        gross, fee, surcharge = int(said.gross), int(said.fee), int(said.surcharge)
        parts = (
            ((said.provider, "held"), gross - fee),
            ((self.market, "fees"), fee),
            ((self.market, "checks"), surcharge),
        )
        if claim.role == "check":
            if not self._pay((self.market, "checks"), *parts):
                return False
        elif not self._paid_by_job(said, claim, parts):
            return False
        del self.claims[said.receipt]
        self.held[said.provider, said.receipt] = (gross - fee, said.release_ms)
        return True

    def _paid_by_job(
        self, said: Charged, claim: ClaimFacts, parts: tuple[tuple[Purse, int], ...]
    ) -> bool:
        job, lease, about = self.jobs[said.job], self.leases[claim.said.lease], claim.said
        if self._twice(said, claim, job, lease):
            return False
        if not self._pay((said.consumer, said.job), *parts):
            return False
        job.spent += int(said.gross) + int(said.surcharge)
        if isinstance(about, Receipt):
            job.paid_tasks |= set(range(about.first, about.first + about.tasks))
            lease.paid_ms += _billed(said)
        else:
            lease.vouched_ms += claim.wall_ms
            lease.unpaid_voucher = False
        return True

    @staticmethod
    def _twice(said: Charged, claim: ClaimFacts, job: JobFacts, lease: LeaseFacts) -> bool:
        about, billed = claim.said, _billed(said)
        used_ms = lease.paid_ms + lease.vouched_ms + billed
        if isinstance(about, Voucher):
            partly = billed != claim.wall_ms
            return partly or used_ms > said.received_ms - lease.said.at_ms
        if job.paid_tasks & set(range(about.first, about.first + about.tasks)):
            return True
        return bool(lease.vouched_ms) and used_ms > said.at_ms - lease.said.at_ms

    def due(self, provider: str, until_ms: int) -> list[str]:
        return sorted(
            receipt
            for (owner, receipt), (_, at_ms) in self.held.items()
            if owner == provider and at_ms <= until_ms
        )

    def _release(self, said: Release, digest: str) -> bool:
        due = self.due(said.provider, said.until_ms)
        total = sum(self.held[said.provider, receipt][0] for receipt in due)
        told = (said.receipts, said.receipts_root, int(said.amount))
        if told != (len(due), receipts_root(due), total) or said.until_ms > said.at_ms:
            return False
        for receipt in due:
            del self.held[said.provider, receipt]
        return self._pay((said.provider, "held"), ((said.provider, "available"), total))


def _billed(said: Charged) -> int:
    """What the provider says, but never more than the market saw, nor than one chunk may take."""
    return max(0, min(said.wall_ms, said.received_ms - said.handed_ms, said.window_ms))


def receipts_root(receipts: list[str]) -> str:
    """As a release names them."""
    return canonical.digest_text(merkle.root([canonical.digest_bytes(one) for one in receipts]))
