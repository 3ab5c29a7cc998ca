"""The words of the ledger: accounts, transfers, flags, reasons, and one named result per transfer.

The rules that decide are in `ledger_rules.py`; money moves only through `service/engine.py`.
"""

from collections.abc import Container
from dataclasses import dataclass
from enum import IntEnum, IntFlag
from typing import Final, NamedTuple
from uuid import UUID

from settlement.domain import identity
from settlement.domain.amount import AMOUNT_MAX, checked
from settlement.domain.errors import LedgerRefused

ALL: Final = AMOUNT_MAX  # as a limit: all that is there
ID_MAX: Final = 2**128 - 1  # reserved, as is 0
LEDGER_CREDITS: Final = 1  # the one currency so far
LEDGER_MAX: Final = 2**31 - 1
TIMEOUT_SECONDS_MAX: Final = 2**31 - 1


class Purpose(IntEnum):
    """What an account is for; the number is stored."""

    AVAILABLE = 1
    HELD = 2
    STAKE = 3
    BUDGET = 4
    FEES = 5
    CHECKS = 6
    ISSUED = 7


class Reason(IntEnum):
    """Why a transfer was made: the ledger's `code`; the number is stored."""

    ISSUE = 1
    PAYMENT = 2
    FUND = 3
    TOP_UP = 4
    CHARGE = 5
    FEE = 6
    SURCHARGE = 7
    CHECK_WAGE = 8
    CHECK_FEE = 9
    RELEASE = 10
    REFUND = 11
    CLAW_BACK = 12
    WITHDRAWAL = 13


class Flag(IntFlag):
    """How a transfer works; the bits are stored."""

    LINKED = 1
    PENDING = 2
    POST = 4
    VOID = 8
    BALANCING_DEBIT = 16
    BALANCING_CREDIT = 32


class Limit(IntFlag):
    """Which side of an account may not outgrow the other; the bits are stored."""

    NONE = 0
    DEBITS = 2  # debits must not exceed credits: the balance is never negative
    CREDITS = 4  # credits must not exceed debits: only what was issued can come back


class PendingState(IntEnum):
    """What became of a pending transfer; the number is stored."""

    OPEN = 1
    POSTED = 2
    VOIDED = 3
    EXPIRED = 4


class Code(IntEnum):
    """The ledger's answer for one transfer. If several apply, the rules' order decides."""

    CREATED = 0
    LINKED_FAILED = 1
    CHAIN_OPEN = 2
    ID_ZERO = 5
    ID_MAX = 6
    FLAGS_EXCLUSIVE = 7
    DEBIT_ZERO = 8
    DEBIT_MAX = 9
    CREDIT_ZERO = 10
    CREDIT_MAX = 11
    ACCOUNTS_SAME = 12
    PENDING_ID_NEEDLESS = 13
    PENDING_ID_ZERO = 14
    PENDING_ID_MAX = 15
    PENDING_ID_OWN = 16
    TIMEOUT_NEEDLESS = 17
    LEDGER_ZERO = 19
    REASON_ZERO = 20
    DEBIT_NOT_FOUND = 21
    CREDIT_NOT_FOUND = 22
    LEDGERS_DIFFER = 23
    LEDGER_OTHER = 24
    PENDING_NOT_FOUND = 25
    PENDING_NOT_PENDING = 26
    PENDING_OTHER_DEBIT = 27
    PENDING_OTHER_CREDIT = 28
    PENDING_OTHER_LEDGER = 29
    PENDING_OTHER_REASON = 30
    EXCEEDS_PENDING = 31
    VOID_IN_PART = 32
    ALREADY_POSTED = 33
    ALREADY_VOIDED = 34
    PENDING_EXPIRED = 35
    EXISTS_OTHER_FLAGS = 36
    EXISTS_OTHER_DEBIT = 37
    EXISTS_OTHER_CREDIT = 38
    EXISTS_OTHER_AMOUNT = 39
    EXISTS_OTHER_PENDING_ID = 40
    EXISTS_OTHER_CAUSE = 41
    EXISTS_OTHER_TIMEOUT = 44
    EXISTS_OTHER_REASON = 45
    EXISTS = 46
    OVERFLOWS_DEBITS_PENDING = 47
    OVERFLOWS_CREDITS_PENDING = 48
    OVERFLOWS_DEBITS_POSTED = 49
    OVERFLOWS_CREDITS_POSTED = 50
    OVERFLOWS_DEBITS = 51
    OVERFLOWS_CREDITS = 52
    OVERFLOWS_TIMEOUT = 53
    EXCEEDS_CREDITS = 54
    EXCEEDS_DEBITS = 55
    EXISTS_OTHER_LEDGER = 67
    ALREADY_FAILED = 68


TRANSIENT: Final = frozenset(
    {
        Code.DEBIT_NOT_FOUND,
        Code.CREDIT_NOT_FOUND,
        Code.PENDING_NOT_FOUND,
        Code.EXCEEDS_CREDITS,
        Code.EXCEEDS_DEBITS,
    }
)
"""Failures that might not happen later, and so burn the id: a retry must never succeed."""


AccountName = tuple[str, int, str, int]
"""An account in plain values, as state lines name it: owner, purpose, job or "", ledger."""


@dataclass(frozen=True, slots=True)
class AccountKey:
    """Names an account: whose, what for, and for which job if it is a budget."""

    owner: str
    purpose: Purpose
    job: UUID | None = None
    ledger: int = LEDGER_CREDITS

    def __hash__(self) -> int:
        # the ledger meets each key many times; an enum's own hash costs more than all of this
        return hash((self.owner, self.job)) ^ int.__hash__(self.purpose)

    @classmethod
    def of(cls, name: AccountName) -> "AccountKey":
        """The key behind a name; ValueError if there is none."""
        owner, purpose, job, ledger = name
        return cls(owner, Purpose(purpose), UUID(job) if job else None, ledger)

    @property
    def name(self) -> AccountName:
        """The same in plain values."""
        return self.owner, int(self.purpose), "" if self.job is None else str(self.job), self.ledger

    @property
    def limit(self) -> Limit:
        """The limit follows from the purpose."""
        return Limit.CREDITS if self.purpose is Purpose.ISSUED else Limit.DEBITS

    def check(self) -> None:
        """`LedgerRefused` unless the key is in form."""
        if not identity.is_address(self.owner):
            raise LedgerRefused(f"{self.owner[:80]!r} is not an address")
        if not 0 < self.ledger <= LEDGER_MAX:
            raise LedgerRefused(f"there is no ledger {self.ledger}")
        if (self.purpose is Purpose.BUDGET) != (self.job is not None):
            raise LedgerRefused("a budget belongs to a job, and no other account does")


@dataclass(frozen=True, slots=True)
class Transfer:
    """One debit, one credit, and a client-made id that makes it happen at most once."""

    id: UUID
    debit: AccountKey
    credit: AccountKey
    amount: int
    reason: Reason
    flags: Flag = Flag(0)
    pending_id: UUID | None = None
    timeout_seconds: int = 0

    def check(self, known: Container[AccountKey] = ()) -> None:
        """Refuse what could not even be stored; everything else is the rules' to answer.

        Keys that are known were checked before.
        """
        checked(self.amount)
        if not 0 <= self.timeout_seconds <= TIMEOUT_SECONDS_MAX:
            raise LedgerRefused(f"a timeout of {self.timeout_seconds} s is out of range")
        if self.debit not in known:
            self.debit.check()
        if self.credit not in known:
            self.credit.check()


class Event(NamedTuple):
    """A transfer as the rules see it: numbers only, 0 for "none"."""

    id: int
    debit: int
    credit: int
    amount: int
    pending_id: int
    timeout_seconds: int
    ledger: int
    code: int
    flags: int
    cause: bytes = b""


class Entry(NamedTuple):
    """A transfer as it was made: the event with what it inherited and really moved, and when."""

    id: int
    debit: int
    credit: int
    amount: int
    pending_id: int
    timeout_seconds: int
    ledger: int
    code: int
    flags: int
    cause: bytes
    at_ns: int


class Result(NamedTuple):
    """The answer for one event: its code, its time, and what it really moved."""

    code: Code
    at_ns: int
    amount: int


@dataclass(slots=True)
class Account:
    """The four counters of one account, and what limits them."""

    id: int
    ledger: int
    limit: int
    debits_pending: int = 0
    debits_posted: int = 0
    credits_pending: int = 0
    credits_posted: int = 0

    @property
    def spendable(self) -> int:
        """What may still be debited; never negative where debits are limited."""
        return self.credits_posted - self.debits_posted - self.debits_pending
