"""What the parties of an escrow may say at a moment: each kind of statement, right or bent in one field."""

import hashlib
import random
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar
from uuid import UUID

import msgspec

from settlement.domain.charge import charge
from settlement.domain.governance import Charter
from settlement.domain.payments import (
    Expiry,
    Issue,
    Payee,
    Payment,
    Payout,
    Release,
    Withdraw,
    Withdrawn,
)
from settlement.domain.receipt import Environment, Price, Receipt, Usage
from settlement.domain.resources import Rates, Resources
from settlement.domain.settled import Acceptance, Charged, Voucher
from settlement.domain.statement import Opened, Statement
from settlement.domain.trade import Close, JobEnd, Lease, Offer, Order, TopUp
from settlement.domain.verdict import Conclusion, Verdict
from tests.unit.settlement.escrow_model import EscrowModel, receipts_root

ABOUT: Final = "escrow.example"
HOLD_MS: Final = 60_000
FORGED_ONE_IN: Final = 50
MARKET: Final = f"{1:064x}"
OPERATOR: Final = f"{2:064x}"
CONSUMERS: Final = (f"{3:064x}", f"{4:064x}")
PROVIDERS: Final = (f"{5:064x}", f"{6:064x}")
PARTIES: Final = (*CONSUMERS, *PROVIDERS)
NOTHING: Final = "sha256:" + "0" * 64
RATE_CAP: Final = 2_000
SLOT: Final = Resources(1_000, 512, 0)
START_MS: Final = 1_800_000_000_000
TASKS: Final = 6
WALLS_MS: Final = (0, 400, 1_000, 2_500, 9_000)
WINDOW_MS: Final = 5_000

T = TypeVar("T")


class Speech:
    """Statements that fit what the model knows; ids and digests are counted, so that a seed repeats."""

    def __init__(self, model: EscrowModel, chance: random.Random) -> None:
        self.model, self.chance = model, chance
        self.now, self._count = START_MS, 0

    def say(self, said: Statement) -> Opened:
        """As if opened: signed by whom it names, else by the market; seldom by somebody else."""
        signer = said.signer() or MARKET
        if said.signer() is None and not self.chance.randrange(FORGED_ONE_IN):
            signer = self.chance.choice(PARTIES)
        return self.signed(said, signer)

    def signed(self, said: Statement, signer: str) -> Opened:
        self._count += 1
        digest = "sha256:" + hashlib.sha256(b"%d" % self._count).hexdigest()
        return Opened(said, signer, digest, b"")

    def anything(self) -> Statement | None:
        """Some kind that can be said now."""
        said: Statement | None = self.chance.choice(_KINDS)(self)
        return said

    def bent(self, said: Statement) -> Statement:
        """One field is another's, or off by one."""
        fields = [name for name in said.__struct_fields__ if name in _BENDS]
        if not fields:
            return said
        name = self.chance.choice(fields)
        value = _BENDS[name](self, getattr(said, name))
        return msgspec.structs.replace(said, **{name: value})

    # ── tokens

    def charter(self, log_key: str) -> Charter:
        return Charter(
            **self._head("charter"), operator=OPERATOR, log_key=log_key, fee_basis_points=500,
            check_basis_points=1_000, hold_ms=HOLD_MS, at_ms=self.now,
        )  # fmt: skip

    def issue(self, to: str, amount: int) -> Issue:
        checks = to == "checks"
        return Issue(
            **self._head("issue"), operator=OPERATOR, to=PARTIES[0] if checks else to,
            purpose="checks" if checks else "available", amount=str(amount), transfer=self._id(),
            memo="", at_ms=self.now,
        )  # fmt: skip

    def any_issue(self) -> Issue:
        return self.issue(self.chance.choice((*PARTIES, "checks")), self._amount())

    def payment(self) -> Payment:
        payer, to = self.chance.choice(PARTIES), self.chance.choice(PARTIES)
        return Payment(
            **self._head("payment"), payer=payer, to=to, amount=str(self._amount()),
            transfer=self._id(), memo="", at_ms=self.now,
        )  # fmt: skip

    def payout(self) -> Payout:
        payer, *others = self.chance.sample(PARTIES, 3)
        payees = [Payee(to, str(self._amount()), self._id()) for to in others]
        return Payout(
            **self._head("payout"), payer=payer, payees=payees, memo="", at_ms=self.now
        )  # fmt: skip

    def withdraw(self) -> Withdraw:
        return Withdraw(
            **self._head("withdraw"), party=self.chance.choice(PARTIES), amount=str(self._amount()),
            transfer=self._id(), destination="", at_ms=self.now,
        )  # fmt: skip

    def withdrawn(self) -> Withdrawn | None:
        identifier = self._any(self.model.leaving)
        if not identifier:
            return None
        return Withdrawn(
            **self._head("withdrawn"), operator=OPERATOR, party=self.model.leaving[identifier][0],
            withdrawal=identifier, transfer=self._id(), memo="", at_ms=self.now,
            outcome=self.chance.choice(("paid", "refused")),
        )  # fmt: skip

    def expiry(self, identifier: str = "") -> Expiry | None:
        identifier = identifier or self._any(self.model.leaving)
        if not identifier:
            return None
        return Expiry(
            **self._head("expiry"), transfers=[identifier] * self.chance.choice((1, 1, 1, 2)),
            ledger_ns=str(self.now * 1_000_000), at_ms=self.now,
        )  # fmt: skip

    # ── trade

    def offer(self) -> Offer:
        return Offer(
            **self._head("offer"), provider=self.chance.choice(PROVIDERS), name="made", capacity=SLOT,
            rates=Rates(1, 1, 1), environments=[], protection="S", expires_ms=self.now, at_ms=self.now,
            nonce="0" * 32,
        )  # fmt: skip

    def order(self) -> Order:
        return Order(
            **self._head("order"), consumer=self.chance.choice(CONSUMERS), job=self._id(), spec=NOTHING,
            tasks=TASKS, slots=1, rate_cap=str(RATE_CAP), budget=str(self._amount()),
            transfer=self._id(), deadline_ms=self.now, at_ms=self.now,
        )  # fmt: skip

    def top_up(self) -> TopUp | None:
        job = self._any(self.model.jobs)
        if not job:
            return None
        return TopUp(
            **self._head("topup"), consumer=self.model.jobs[job].order.consumer, job=job,
            amount=str(self._amount()), transfer=self._id(), at_ms=self.now,
        )  # fmt: skip

    def lease(self) -> Lease | None:
        job, provider = self._any(self.model.jobs), self._any(self.model.offers)
        if not job or not provider:
            return None
        facts = self.model.jobs[job]
        return Lease(
            **self._head("lease"), lease=self._id(), offer=self.model.offers[provider],
            order=facts.digest, job=job, provider=provider, consumer=facts.order.consumer, slot=SLOT,
            rate=str(self.chance.choice((500, 1_000, RATE_CAP))),
            deadline_ms=facts.order.deadline_ms, at_ms=self.now,
        )  # fmt: skip

    def any_close(self) -> Close | None:
        job = self._any(self.model.jobs)
        return self.close(job) if job else None

    def close(self, job: str) -> Close:
        facts = self.model.jobs[job]
        return Close(
            **self._head("close"), job=job, consumer=facts.order.consumer, order=facts.digest,
            end=JobEnd.DONE, accepted=len(facts.paid_tasks), spent=str(facts.spent),
            transfer=self._id(), at_ms=self.now,
        )  # fmt: skip

    # ── usage

    def receipt(self) -> Receipt | None:
        name = self._any(self.model.leases)
        if not name:
            return None
        lease = self.model.leases[name].said
        wall_ms, first = self.chance.choice(WALLS_MS), self.chance.randrange(TASKS)
        tasks = self.chance.randint(1, TASKS - first)
        return Receipt(
            **self._head("receipt"), lease=name, order=lease.order, job=lease.job, spec=NOTHING,
            attempt=self._id(), purpose=self.chance.choice(("work", "work", "check")),
            provider=lease.provider, consumer=lease.consumer, first=first, tasks=tasks,
            tasks_root=NOTHING, inputs=NOTHING, outputs=NOTHING, env=Environment(NOTHING, "e", 1),
            protection="S", started_ms=0, finished_ms=0, status="ok",
            usage=Usage(0, 0, 0, 0, wall_ms), nonce="0" * 32,
            price=Price(str(min(wall_ms, WINDOW_MS) * int(lease.rate) // 1_000), 1),
        )  # fmt: skip

    def voucher(self) -> Voucher | None:
        name = self._any(self.model.leases)
        if not name:
            return None
        facts = self.model.leases[name]
        return Voucher(
            **self._head("voucher"), consumer=facts.said.consumer, provider=facts.said.provider,
            job=facts.said.job, lease=name, at_ms=self.now,
            wall_ms=facts.vouched_ms + self.chance.choice(WALLS_MS),
        )  # fmt: skip

    def acceptance(self) -> Acceptance | None:
        name = self._any(self.model.claims)
        if not name:
            return None
        said = self.model.claims[name].said
        return Acceptance(
            **self._head("acceptance"), consumer=said.consumer, job=said.job, receipt=name, at_ms=self.now
        )  # fmt: skip

    def verdict(self) -> Verdict | None:
        claims = self.model.claims
        name = self._any([one for one, claim in claims.items() if claim.role == "work"])
        name = name or self._any(claims)
        if not name:
            return None
        said = claims[name].said
        others = [one for one, claim in claims.items() if claim.said.job == said.job]
        others = [one for one in others if claims[one].role == "check"] or others
        checks = self.chance.sample(others, self.chance.choice((0, 1, 1)))
        wrong = self.chance.choice((0, 0, 1))
        checked = Conclusion.DIFFERED if wrong else Conclusion.AGREED
        return Verdict(
            **self._head("verdict"), job=said.job, receipt=name, checks=checks, comparator="bytes",
            providers=[said.provider, *(self.model.claims[one].said.provider for one in checks)],
            conclusion=checked if checks else Conclusion.UNCHECKED, differing=wrong if checks else 0,
            first_differing=0, reason="", at_ms=self.now,
        )  # fmt: skip

    # ── charges

    def any_charge(self) -> Charged | None:
        name = self._any(self.model.claims)
        return self.charged(name) if name else None

    def charged(self, name: str) -> Charged:
        """What a claim costs by the rules, for as long as the market saw it."""
        claim = self.model.claims[name]
        handed_ms = max(claim.lease.at_ms, self.now - claim.wall_ms)
        checked = claim.role == "work" and self._count % 2 == 0
        price = charge(
            wall_ms=claim.wall_ms, clock_ms=self.now - handed_ms, window_ms=WINDOW_MS,
            rate_microcredits=int(claim.lease.rate), checked=checked,
        )  # fmt: skip
        return Charged(
            **self._head("charged"), receipt=name, role=claim.role, job=claim.said.job,
            provider=claim.said.provider, consumer=claim.said.consumer, wall_ms=claim.wall_ms,
            handed_ms=handed_ms, received_ms=self.now, window_ms=WINDOW_MS, rate=claim.lease.rate,
            surcharge_basis_points=1_000 if checked else 0, gross=str(price.gross_microcredits),
            fee=str(price.fee_microcredits), surcharge=str(price.surcharge_microcredits),
            release_ms=self.now + HOLD_MS, at_ms=self.now,
        )  # fmt: skip

    def any_release(self) -> Release:
        return self.release(self.chance.choice(PROVIDERS))

    def release(self, provider: str) -> Release:
        due = self.model.due(provider, self.now)
        total = sum(self.model.held[provider, receipt][0] for receipt in due)
        return Release(
            **self._head("release"), provider=provider, until_ms=self.now, receipts=len(due),
            receipts_root=receipts_root(due), amount=str(total), transfer=self._id(), at_ms=self.now,
        )  # fmt: skip

    # ── words

    def _head(self, kind: str) -> dict[str, Any]:
        return {"v": 1, "kind": kind, "market": ABOUT}

    def _id(self) -> str:
        self._count += 1
        return str(UUID(int=self._count))

    def _amount(self) -> int:
        return self.chance.choice((1, 500, 3_000, 9_000, 50_000))

    def _any(self, names: Sequence[str] | dict[str, Any]) -> str:
        return self.chance.choice(list(names)) if names else ""


def _party(speech: Speech, value: str) -> str:
    return speech.chance.choice((*PARTIES, OPERATOR, MARKET))


def _job(speech: Speech, value: str) -> str:
    return speech.chance.choice([*speech.model.jobs, str(UUID(int=0))])


def _digest(speech: Speech, value: str) -> str:
    model = speech.model
    return speech.chance.choice([NOTHING, *model.leases, *model.claims, *model.offers.values()])


def _text(speech: Speech, value: str) -> str:
    return str(max(0, int(value) + speech.chance.choice((-1, 1))))


def _number(speech: Speech, value: int) -> int:
    return max(0, value + speech.chance.choice((-1_000, -1, 1, 1_000)))


def _tasks(speech: Speech, value: int) -> int:
    return max(1, _number(speech, value))  # none at all are refused by the form


_KINDS: Final[Sequence[Callable[[Speech], Any]]] = (
    Speech.any_issue, Speech.payment, Speech.payout, Speech.withdraw, Speech.withdrawn, Speech.expiry,
    Speech.offer, Speech.order, Speech.order, Speech.top_up, Speech.lease, Speech.lease, Speech.any_close,
    Speech.receipt, Speech.receipt, Speech.receipt, Speech.voucher, Speech.acceptance, Speech.verdict,
    Speech.any_charge, Speech.any_charge, Speech.any_charge, Speech.any_charge, Speech.any_release,
)  # fmt: skip
_BENDS: Final[dict[str, Callable[[Speech, Any], object]]] = {
    **dict.fromkeys(("operator", "payer", "to", "party", "consumer", "provider"), _party),
    "job": _job,
    "tasks": _tasks,
    **dict.fromkeys(("order", "offer", "spec", "lease", "receipt"), _digest),
    **dict.fromkeys(("amount", "budget", "rate", "gross", "fee", "surcharge", "spent"), _text),
    **dict.fromkeys(
        (
            "accepted", "at_ms", "deadline_ms", "differing", "first", "handed_ms", "received_ms", "receipts",
            "release_ms", "surcharge_basis_points", "until_ms", "wall_ms", "window_ms",
        ),
        _number,
    ),
}  # fmt: skip
