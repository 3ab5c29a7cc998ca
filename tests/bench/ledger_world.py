"""What the ledger's benchmark moves: parties with keys and funds, payments, batches, escrow lives.

Everything that a client does for itself (ids, statements, signatures) is made before a clock starts.
"""

import hashlib
import os
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from settlement.domain import canonical
from settlement.domain.identity import PrivateKey
from settlement.domain.ledger import AccountKey, Flag, Purpose, Reason, Transfer
from settlement.domain.payments import Issue, Payment
from settlement.domain.receipt import Environment, Price, Receipt, Usage
from settlement.domain.resources import Resources
from settlement.domain.statement import Opened, sign
from settlement.domain.trade import Lease
from settlement.service.engine import Item, Ledger

BATCH: Final = 8_190
CANCELLED_PERCENT: Final = 10  # of escrow lives
DIGEST: Final = "sha256:" + "5a" * 32
FUNDS: Final = 10**12
HOUR_SECONDS: Final = 3_600
HOLD, PRICE, FEE, STAKE = 1_000, 800, 16, 500
MARKET: Final = "gridpact.local/bench"
OPERATOR: Final = PrivateKey(b"\1" * 32)
REJECTED_PERCENT: Final = 2

FEES: Final = AccountKey(OPERATOR.address, Purpose.FEES)
CLEARING: Final = AccountKey(OPERATOR.address, Purpose.HELD)
ISSUED: Final = AccountKey(OPERATOR.address, Purpose.ISSUED)
BROKE: Final = AccountKey("0" * 64, Purpose.AVAILABLE)


@dataclass(frozen=True, slots=True)
class Party:
    """One of the many: its key and its accounts."""

    key: PrivateKey
    available: AccountKey
    stake: AccountKey


@dataclass(frozen=True, slots=True)
class Life:
    """One escrow: first held and locked under a lease, then charged (or not) under a receipt."""

    opening: Item
    closing: Item


def time_ordered_id() -> UUID:
    """A UUID of version 7, as clients make them: milliseconds, then chance."""
    number = (time.time_ns() // 1_000_000 << 80) | int.from_bytes(os.urandom(10))
    return UUID(int=(number & ~(0xF000 << 64) & ~(3 << 62)) | (7 << 76) | (2 << 62))


class World:
    """So many parties; the same seed moves the same tokens."""

    def __init__(self, parties: int, seed: int = 1) -> None:
        self._random = random.Random(seed)
        self.parties = [_party(number) for number in range(parties)]
        self._cause = b""

    async def endow(self, ledger: Ledger) -> None:
        """Tokens and stakes for everybody; all accounts are open after it."""
        transfers = [
            _move(ISSUED, key, FUNDS, Reason.ISSUE)
            for party in self.parties
            for key in (party.available, party.stake)
        ]
        transfers += [
            _move(self.parties[0].available, CLEARING, 1),
            _move(self.parties[0].available, FEES, 1),
        ]
        for first in range(0, len(transfers), BATCH):
            await self.must(ledger, self._apart(transfers[first : first + BATCH]))
        cause = _issue(transfers[0].id)
        await self.must(ledger, Item((), (cause,)))
        self._cause = canonical.digest_bytes(cause.digest)

    async def age(self, ledger: Ledger, transfers: int) -> None:
        """Older transfers, so that no table or index is small."""
        for _ in range(0, transfers, BATCH):
            await self.must(ledger, self.uniform())

    async def must(self, ledger: Ledger, item: Item) -> None:
        """Apply it, or end the run."""
        (await ledger.submit(item)).raise_for_refusal()

    def payment(self) -> Item:
        """One party pays another: one transfer under a cause that is logged already."""
        return Item((self._any(),), cause=self._cause)

    def signed_payment(self) -> Item:
        """One party pays another: one transfer under a statement of its own, signed by the payer."""
        payer, payee = self._random.sample(self.parties, 2)
        transfer = _move(payer.available, payee.available, 1)
        said = Payment(
            v=1, kind="payment", market=MARKET, payer=payer.key.address, to=payee.key.address,
            amount="1", transfer=str(transfer.id), memo="", at_ms=_now_ms(),
        )  # fmt: skip
        return Item((transfer,), (sign(said, payer.key),))

    def uniform(self) -> Item:
        """A full batch between random parties, each transfer by itself, all under one cause."""
        return self._apart([self._any() for _ in range(BATCH)])

    def hot(self) -> Item:
        """A full batch from random parties to one account."""
        payers = self._random.choices(self.parties, k=BATCH)
        return self._apart([_move(payer.available, FEES, 1, Reason.FEE) for payer in payers])

    def rejects(self) -> Item:
        """A full batch of which some debit an account that has nothing."""
        return self._apart(
            [
                _move(BROKE, self._random.choice(self.parties).available, 1)
                if self._random.randrange(100) < REJECTED_PERCENT
                else self._any()
                for _ in range(BATCH)
            ]
        )

    def to_strangers(self, stored: int) -> Item:
        """A full batch from random parties to any of so many accounts that were stored before."""
        return self._apart(
            [
                _move(payer.available, stranger(self._random.randrange(stored)), 1)
                for payer in self._random.choices(self.parties, k=BATCH)
            ]
        )

    def life(self) -> Life:
        """An escrow's life under a cause that is logged already."""
        opening, closing, _, _ = self._moves()
        return Life(Item(opening, cause=self._cause), Item(closing, cause=self._cause))

    def signed_life(self) -> Life:
        """The same under a lease and a receipt, both signed."""
        opening, closing, consumer, provider = self._moves()
        lease = _lease(consumer, provider)
        receipt = _receipt(consumer, provider, lease.digest)
        return Life(Item(opening, (lease,)), Item(closing, (receipt,)))

    def _moves(self) -> tuple[tuple[Transfer, ...], tuple[Transfer, ...], Party, Party]:
        """Six events: [hold, stake lock], then [post, pay provider, fee, void stake].

        A cancelled one voids both and ends with four.
        """
        consumer, provider = self._random.sample(self.parties, 2)
        hold = _move(consumer.available, CLEARING, HOLD, Reason.FUND, Flag.PENDING)
        lock = _move(provider.stake, FEES, STAKE, Reason.CLAW_BACK, Flag.PENDING)
        free = _move(provider.stake, FEES, 0, Reason.CLAW_BACK, Flag.VOID, lock.id)
        if self._random.randrange(100) < CANCELLED_PERCENT:
            back = _move(consumer.available, CLEARING, 0, Reason.FUND, Flag.VOID, hold.id)
            closing: tuple[Transfer, ...] = (back, free)
        else:
            closing = (
                _move(consumer.available, CLEARING, PRICE, Reason.FUND, Flag.POST, hold.id),
                _move(CLEARING, provider.available, PRICE - FEE, Reason.CHARGE),
                _move(CLEARING, FEES, FEE, Reason.FEE),
                free,
            )
        return (hold, lock), closing, consumer, provider

    def statements(self, count: int) -> Iterator[Item]:
        """Entries for the log that move nothing: receipts."""
        for _ in range(count):
            consumer, provider = self._random.sample(self.parties, 2)
            yield Item((), (_receipt(consumer, provider, DIGEST),))

    def _any(self) -> Transfer:
        payer, payee = self._random.sample(self.parties, 2)
        return _move(payer.available, payee.available, 1)

    def _apart(self, transfers: list[Transfer]) -> Item:
        return Item(tuple(transfers), (_issue(transfers[0].id),), apart=True)


def owner(number: int) -> PrivateKey:
    """The key of one party, the same in each run."""
    return PrivateKey(hashlib.sha256(b"party %d" % number).digest())


def stranger(number: int) -> AccountKey:
    """An account whose owner is nobody's key."""
    return AccountKey(hashlib.sha256(b"stranger %d" % number).hexdigest(), Purpose.AVAILABLE)


def _party(number: int) -> Party:
    key = owner(number)
    return Party(
        key, AccountKey(key.address, Purpose.AVAILABLE), AccountKey(key.address, Purpose.STAKE)
    )


def _move(
    debit: AccountKey,
    credit: AccountKey,
    amount: int,
    reason: Reason = Reason.PAYMENT,
    flags: Flag = Flag(0),
    pending_id: UUID | None = None,
) -> Transfer:
    timeout_seconds = HOUR_SECONDS if flags & Flag.PENDING else 0
    return Transfer(
        time_ordered_id(), debit, credit, amount, reason, flags, pending_id, timeout_seconds
    )


def _issue(transfer: UUID) -> Opened:
    said = Issue(
        v=1, kind="issue", market=MARKET, operator=OPERATOR.address, to=OPERATOR.address,
        purpose="available", amount="1", transfer=str(transfer), memo="bench", at_ms=_now_ms(),
    )  # fmt: skip
    return sign(said, OPERATOR)


def _lease(consumer: Party, provider: Party) -> Opened:
    said = Lease(
        v=1, kind="lease", market=MARKET, lease=str(time_ordered_id()), offer=DIGEST, order=DIGEST,
        job=str(time_ordered_id()), provider=provider.key.address, consumer=consumer.key.address,
        slot=Resources(1_000, 1_024, 0), rate=str(PRICE), deadline_ms=_now_ms() + 60_000,
        at_ms=_now_ms(),
    )  # fmt: skip
    return sign(said, OPERATOR)


def _receipt(consumer: Party, provider: Party, lease: str) -> Opened:
    said = Receipt(
        v=1, kind="receipt", market=MARKET, lease=lease, order=DIGEST, job=str(time_ordered_id()),
        spec=DIGEST, attempt=str(time_ordered_id()), purpose="work", provider=provider.key.address,
        consumer=consumer.key.address, first=0, tasks=100, tasks_root=DIGEST, inputs=DIGEST,
        outputs=DIGEST, env=Environment(DIGEST, "class", 1), protection="S", started_ms=1,
        finished_ms=2, status="ok", usage=Usage(1, 0, 1, 0, 1), price=Price(str(PRICE), 1),
        nonce=os.urandom(16).hex(),
    )  # fmt: skip
    return sign(said, provider.key)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
