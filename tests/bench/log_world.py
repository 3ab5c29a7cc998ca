"""What the log's benchmark reads: logs that a market would write, signed entry by entry, made ahead.

The mixed log is a market's ordinary day. For each job: an order that buys spot checks (the default),
leases of two providers, 20 receipts of 50 tasks with their charges (three transfers each, since
checked work pays a surcharge), of which 7 % are run again by the other provider (its receipt, a
verdict, its wage), a release of what that provider's hold is over for, and a close. Beside each job
five payments, beside each tenth one payout to a hundred payees, and a state every 20,000 entries.
Jobs run at the same time and their statements stand in the log in turns. That is 81 transfers in 55
statements a job. The plain log is payments alone, whose statements are the smallest that move money.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final
from uuid import UUID

from settlement.domain import canonical, charge, checkpoint, merkle
from settlement.domain.governance import Charter, State
from settlement.domain.identity import PrivateKey
from settlement.domain.payments import Issue, Payee, Payment, Payout, Release
from settlement.domain.receipt import Environment, Price, Receipt, Usage
from settlement.domain.replay import Replay
from settlement.domain.resources import Rates, Resources
from settlement.domain.settled import CHECK, WORK, Charged
from settlement.domain.statement import Opened, Statement, sign
from settlement.domain.trade import Close, JobEnd, Lease, Offer, Order
from settlement.domain.verdict import Conclusion, Verdict
from tests.bench.ledger_world import DIGEST, MARKET, OPERATOR, owner

BEGIN_MS: Final = 1_790_000_000_000
STEP_MS: Final = 50  # of the market's clock from one statement to the next
CONSUMERS: Final = 400
PROVIDERS: Final = 100
JOBS_AT_ONCE: Final = 40
RECEIPTS: Final = 20  # of a job
TASKS: Final = 50  # of a receipt
CHECKED_PERCENT: Final = 7
WALL_MS: Final = 4_000
RATE: Final = 400  # micro-credits a slot-second
HOLD_MS: Final = 30_000
PAYMENTS: Final = 5  # a job
PAYOUT_EVERY: Final = 10  # jobs
PAYEES: Final = 100
STATE_EVERY: Final = 20_000  # a minute of a busy market
DAY_MS: Final = 24 * 3_600_000
FUNDS: Final = 10**12
LOG_KEY: Final = checkpoint.verifier_key(MARKET, OPERATOR)
_FEE, _SURCHARGE = charge.FEE_BASIS_POINTS, charge.CHECK_BASIS_POINTS


@dataclass
class _Running:
    """A job under way, as its market knows it."""

    consumer: PrivateKey
    job: str
    order: str
    leases: list[tuple[PrivateKey, str]] = field(default_factory=list)
    leased_ms: int = 0
    spent: int = 0


class LogWorld:
    """A market that writes its log; the same seed writes the same."""

    def __init__(self, seed: int = 1) -> None:
        self._random = random.Random(seed)
        keys = [owner(number) for number in range(CONSUMERS + PROVIDERS)]
        self.consumers, self.providers = keys[:CONSUMERS], keys[CONSUMERS:]
        self.replay = Replay(MARKET)
        self._now_ms = BEGIN_MS
        self._held: dict[str, dict[str, tuple[int, int]]] = {}
        self._offers: dict[str, str] = {}

    def mixed(self, entries: int) -> Iterator[Opened]:
        """An ordinary day of at least so many entries, up to the end of the jobs it began."""
        yield from self._opening()
        running: list[Iterator[Opened]] = []
        begun = 0
        while running or self.replay.size < entries:
            while len(running) < JOBS_AT_ONCE and self.replay.size < entries:
                begun += 1
                running.append(self._job(begun))
            at = self._random.randrange(len(running))
            opened = next(running[at], None)
            if opened is None:
                running.pop(at)
                continue
            yield self._logged(opened)
            if self.replay.size % STATE_EVERY == 0:
                yield self._logged(self._state())

    def plain(self, entries: int) -> Iterator[Opened]:
        """So many entries, nearly all of them payments."""
        yield from self._opening()
        while self.replay.size < entries:
            late = self.replay.size % STATE_EVERY == 0
            yield self._logged(self._state() if late else self._payment())

    # ── what the market does ────────────────────────────────────────────────────────────────

    def _logged(self, opened: Opened) -> Opened:
        self.replay.take(self.replay.size, opened)
        return opened

    def _opening(self) -> Iterator[Opened]:
        """Charter, offers, and tokens for everybody."""
        yield self._logged(
            self._say(
                OPERATOR, Charter, operator=OPERATOR.address, log_key=LOG_KEY,
                fee_basis_points=_FEE, check_basis_points=_SURCHARGE, hold_ms=HOLD_MS,
            )
        )  # fmt: skip
        issued = [(key.address, "available") for key in (*self.consumers, *self.providers)]
        for address, purpose in (*issued, (OPERATOR.address, "checks")):
            yield self._logged(
                self._say(
                    OPERATOR, Issue, operator=OPERATOR.address, to=address, purpose=purpose,
                    amount=str(FUNDS), transfer=self._id(), memo="",
                )
            )  # fmt: skip
        for provider in self.providers:
            offer = self._say(
                provider, Offer, provider=provider.address, name="bench",
                capacity=Resources(8_000, 16_384, 0), rates=Rates(RATE, 0, 0),
                environments=[], protection="S", expires_ms=BEGIN_MS + DAY_MS, nonce=self._nonce(),
            )  # fmt: skip
            self._offers[provider.address] = offer.digest
            yield self._logged(offer)

    def _job(self, number: int) -> Iterator[Opened]:
        """Everything about one job, and what happens beside it."""
        consumer = self._random.choice(self.consumers)
        name = self._id()
        order = self._say(
            consumer, Order, consumer=consumer.address, job=name, spec=DIGEST,
            tasks=RECEIPTS * TASKS, slots=2, rate_cap=str(RATE), budget=str(10**6),
            transfer=self._id(), deadline_ms=BEGIN_MS + DAY_MS,
        )  # fmt: skip
        yield order
        job = _Running(consumer, name, order.digest)
        for provider in self._random.sample(self.providers, 2):
            lease = self._lease(job, provider)
            job.leases.append((provider, lease.digest))
            yield lease
        job.leased_ms = self._now_ms
        for at in range(RECEIPTS):
            yield from self._settle(job, at)
            if at % (RECEIPTS // PAYMENTS) == 0:
                yield self._payment()
        yield from self._release(job.leases[number % 2][0])
        yield self._say(
            OPERATOR, Close, job=name, consumer=consumer.address, order=order.digest,
            end=JobEnd.DONE, accepted=RECEIPTS * TASKS, spent=str(job.spent), transfer=self._id(),
        )  # fmt: skip
        if number % PAYOUT_EVERY == 0:
            yield self._payout()

    def _settle(self, job: _Running, at: int) -> Iterator[Opened]:
        """One chunk: its receipt and charge; now and then another provider runs it again."""
        worker, checker = job.leases if at % 2 else reversed(job.leases)
        receipt = self._receipt(job, worker, WORK, at)
        yield receipt
        again = None
        if self._random.randrange(100) < CHECKED_PERCENT:
            again = self._receipt(job, checker, CHECK, at)
            yield again
            yield self._say(
                OPERATOR, Verdict, job=job.job, receipt=receipt.digest, checks=[again.digest],
                providers=[worker[0].address, checker[0].address], comparator="bytes",
                conclusion=Conclusion.AGREED, differing=0, first_differing=TASKS, reason="",
            )  # fmt: skip
        yield self._charged(job, worker[0], receipt, WORK)
        if again is not None:
            yield self._charged(job, checker[0], again, CHECK)

    # ── statements ──────────────────────────────────────────────────────────────────────────

    def _say(self, key: PrivateKey, kind: type[Statement], **said: Any) -> Opened:  # noqa: ANN401
        self._now_ms += STEP_MS
        if kind is not Receipt:  # whose times are the provider's
            said["at_ms"] = self._now_ms
        return sign(kind(v=1, kind=kind.__name__.lower(), market=MARKET, **said), key)

    def _lease(self, job: _Running, provider: PrivateKey) -> Opened:
        return self._say(
            OPERATOR, Lease, lease=self._id(), offer=self._offers[provider.address],
            order=job.order, job=job.job, provider=provider.address,
            consumer=job.consumer.address, slot=Resources(1_000, 1_024, 0), rate=str(RATE),
            deadline_ms=BEGIN_MS + DAY_MS,
        )  # fmt: skip

    def _receipt(
        self, job: _Running, worker: tuple[PrivateKey, str], purpose: str, at: int
    ) -> Opened:
        wall_ms = min(WALL_MS + self._random.randrange(1_000), self._now_ms - job.leased_ms)
        provider, lease = worker
        return self._say(
            provider, Receipt, lease=lease, order=job.order, job=job.job, spec=DIGEST,
            attempt=self._id(), purpose=purpose, provider=provider.address,
            consumer=job.consumer.address, first=at * TASKS, tasks=TASKS, tasks_root=DIGEST,
            inputs=DIGEST, outputs=DIGEST, env=Environment(DIGEST, "class", 1), protection="S",
            started_ms=self._now_ms - wall_ms, finished_ms=self._now_ms, status="ok",
            usage=Usage(wall_ms, 0, wall_ms, 0, wall_ms),
            price=Price(str(charge.gross(wall_ms=wall_ms, rate_microcredits=RATE)), 1),
            nonce=self._nonce(),
        )  # fmt: skip

    def _charged(self, job: _Running, provider: PrivateKey, receipt: Opened, role: str) -> Opened:
        claim = receipt.statement
        assert isinstance(claim, Receipt)
        wall_ms = claim.usage.wall_ms
        due = charge.split(
            charge.gross(wall_ms=wall_ms, rate_microcredits=RATE), checked=role == WORK
        )
        if role == WORK:
            job.spent += due.paid_microcredits
        release_ms = self._now_ms + STEP_MS + HOLD_MS
        mine = self._held.setdefault(provider.address, {})
        mine[receipt.digest] = (due.earned_microcredits, release_ms)
        return self._say(
            OPERATOR, Charged, receipt=receipt.digest, role=role, job=job.job,
            provider=provider.address, consumer=job.consumer.address, wall_ms=wall_ms,
            handed_ms=job.leased_ms, received_ms=self._now_ms, window_ms=WALL_MS * 2,
            rate=str(RATE), surcharge_basis_points=_SURCHARGE if role == WORK else 0,
            gross=str(due.gross_microcredits), fee=str(due.fee_microcredits),
            surcharge=str(due.surcharge_microcredits), release_ms=release_ms,
        )  # fmt: skip

    def _release(self, provider: PrivateKey) -> Iterator[Opened]:
        mine = self._held.get(provider.address, {})
        due = sorted(receipt for receipt, (_, at_ms) in mine.items() if at_ms <= self._now_ms)
        if not due:
            return
        root = merkle.root([canonical.digest_bytes(receipt) for receipt in due])
        until_ms = self._now_ms
        amount = sum(mine.pop(receipt)[0] for receipt in due)
        yield self._say(
            OPERATOR, Release, provider=provider.address, until_ms=until_ms, receipts=len(due),
            receipts_root=canonical.digest_text(root), amount=str(amount), transfer=self._id(),
        )  # fmt: skip

    def _payment(self) -> Opened:
        payer, to = self._random.sample(self.consumers, 2)
        return self._say(
            payer, Payment, payer=payer.address, to=to.address, amount="1000",
            transfer=self._id(), memo="",
        )  # fmt: skip

    def _payout(self) -> Opened:
        payer = self._random.choice(self.providers)
        payees = [
            Payee(to.address, "100", self._id()) for to in self._random.sample(self.consumers, PAYEES)
        ]  # fmt: skip
        return self._say(payer, Payout, payer=payer.address, payees=payees, memo="")

    def _state(self) -> Opened:
        lines = self.replay.lines()
        root = merkle.root(lines)
        return self._say(
            OPERATOR, State, size=self.replay.size, root=canonical.digest_text(root),
            lines=len(lines), batch=0, ledger_ns="0",
        )  # fmt: skip

    def _id(self) -> str:
        number = self._now_ms << 80 | self._random.getrandbits(80)
        return str(UUID(int=number & ~(0xF000 << 64) & ~(3 << 62) | 7 << 76 | 2 << 62))

    def _nonce(self) -> str:
        return f"{self._random.getrandbits(128):032x}"
