"""What a replay knows at one point of the log: money, and whatever is still open. Nothing that is over.

Closed jobs, paid receipts and decided withdrawals are forgotten, so that a log of any length is
replayed in the memory that its open business needs.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from settlement.domain import canonical, merkle
from settlement.domain.governance import Charter
from settlement.domain.ledger import Account, AccountKey, Code, Event, Flag, Transfer
from settlement.domain.ledger_rules import State
from settlement.domain.reputation import Standing

FRESH_MS: Final = 600_000  # a statement is logged within so much of its own time, or never
_LINKED: Final = int(Flag.LINKED)
_NANOSECONDS: Final = 1_000_000

Line = tuple[object, ...]
Key = AccountKey | str  # an account, a receipt's digest, or a provider's address


@dataclass(slots=True)
class Job:
    """An order that stands: what it allows, and what was charged so far."""

    consumer: str
    order: str
    spec: str
    rate_cap: int
    tasks: int
    deadline_ms: int
    spent: int = 0
    accepted: int = 0
    done: list[tuple[int, int]] = field(default_factory=list)  # [first, end) of paid work, ordered
    leases: list[str] = field(default_factory=list)
    claims: dict[str, None] = field(default_factory=dict)  # every receipt and voucher, by digest


@dataclass(slots=True)
class Lease:
    """A lease of an open job."""

    job: str
    provider: str
    rate: int
    at_ms: int
    worked_ms: int = 0  # paid by receipts
    vouched_ms: int = 0  # paid by vouchers
    vouching: bool = False  # a voucher is logged and not paid yet


@dataclass(slots=True)
class Claim:
    """A logged receipt or voucher that was not paid yet."""

    role: str
    job: str
    lease: str
    provider: str
    consumer: str
    wall_ms: int
    price: int
    rate: int
    lease_at_ms: int
    first: int = 0
    tasks: int = 0
    judged: bool = False  # a verdict named it


@dataclass(slots=True)
class Withdrawal:
    """Tokens that wait to leave, since the log's time `at_ms`."""

    party: str
    at_ms: int


@dataclass(slots=True)
class Proposal:
    """A change of the validators or a takeover, and who approved it."""

    envelope: bytes
    approvals: list[str] = field(default_factory=list)


@dataclass(slots=True)
class World:
    """The state of the replay's state machine."""

    market: str
    size: int = 0
    ledger_key: str = ""
    charter: Charter | None = None
    time_ms: int = 0  # the latest time of the market's own statements
    grace_from_ms: int = 0  # after a takeover: statements since then are taken again …
    grace_until_ms: int = 0  # … until the log's time is this
    stated: int = 0  # the size that the last state statement was about
    members: tuple[str, ...] = ()
    quorum: int = 0
    jobs: dict[str, Job] = field(default_factory=dict)
    leases: dict[str, Lease] = field(default_factory=dict)
    offers: dict[str, str] = field(default_factory=dict)
    claims: dict[str, Claim] = field(default_factory=dict)
    held: dict[str, dict[str, tuple[int, int]]] = field(default_factory=dict)
    standings: dict[str, Standing] = field(default_factory=dict)
    withdrawals: dict[str, Withdrawal] = field(default_factory=dict)
    proposals: dict[str, Proposal] = field(default_factory=dict)
    seen: dict[str, int] = field(default_factory=dict)  # digest → its own time, as long as fresh
    ledger: State = field(default_factory=State)
    numbers: dict[AccountKey, int] = field(default_factory=dict)
    undo: deque[tuple[int, Key, Line]] = field(default_factory=deque)
    _next: int = 1

    def number(self, key: AccountKey) -> int:
        """The account's number in this replay; it opens empty."""
        number = self.numbers.get(key)
        if number is None:
            number = self.numbers[key] = self._next
            self._next += 1
            self.ledger.accounts[number] = Account(number, key.ledger, int(key.limit))
        return number

    def account(self, key: AccountKey) -> Account:
        """The counters of an account; empty if it never was used."""
        number = self.numbers.get(key)
        return Account(0, key.ledger, key.limit) if number is None else self.ledger.accounts[number]

    def apply(self, transfers: Sequence[Transfer], cause: bytes) -> list[Code]:
        """The transfers as one chain; the codes say whether it stands. Refused, nothing changed."""
        last, known = len(transfers) - 1, self._next
        events = [
            Event(
                transfer.id.int,
                self.number(transfer.debit),
                self.number(transfer.credit),
                transfer.amount,
                0 if transfer.pending_id is None else transfer.pending_id.int,
                0,  # no time runs out here: an expiry is a statement
                transfer.debit.ledger,
                transfer.reason,
                transfer.flags | _LINKED if at < last else transfer.flags,
                cause,
            )
            for at, transfer in enumerate(transfers)
        ]
        ledger = self.ledger
        before = [
            (self.size, key, counters(ledger.accounts[self.numbers[key]]))
            for transfer in transfers
            for key in (transfer.debit, transfer.credit)
        ]
        results = ledger.apply(events, self.time_ms * _NANOSECONDS + len(events))
        codes = [result.code for result in results]
        if all(code is Code.CREATED for code in codes):
            self.undo.extend(before)
        else:
            self._unopen(known)
        self._forget(events)
        return codes

    def _unopen(self, known: int) -> None:
        """Accounts that only a refused transfer named were never opened."""
        while self._next > known:
            self._next -= 1
            _, number = self.numbers.popitem()
            assert number == self._next
            del self.ledger.accounts[number]

    def release(self, identifier: int, *, debit: AccountKey, credit: AccountKey) -> None:
        """A pending transfer runs out: what it reserved is free again."""
        amount = self.ledger.transfers.pop(identifier).amount
        del self.ledger.pending[identifier]
        for key in (debit, credit):
            self.undo.append((self.size, key, counters(self.account(key))))
        self.account(debit).debits_pending -= amount
        self.account(credit).credits_pending -= amount

    def _forget(self, events: Sequence[Event]) -> None:
        """Only open pendings may be named again; all else would only grow."""
        ledger = self.ledger
        for event in events:
            identifier = event.id
            if identifier in ledger.created and identifier not in ledger.pending:
                del ledger.transfers[identifier]
            if event.pending_id and event.pending_id in ledger.resolved:
                ledger.transfers.pop(event.pending_id, None)
                ledger.pending.pop(event.pending_id, None)
        ledger.created.clear()
        ledger.resolved.clear()
        ledger.touched.clear()
        ledger.burnt.clear()
        ledger.failed.clear()

    def close(self, key: AccountKey) -> None:
        """An account that is empty and never used again is forgotten."""
        number = self.numbers[key]
        if _account_line(key, counters(self.ledger.accounts[number])) is None:
            del self.numbers[key], self.ledger.accounts[number]

    def rename(self, old: AccountKey, new: AccountKey) -> None:
        """The same account under another owner, as after a takeover."""
        if old not in self.numbers:
            return
        self.undo.append((self.size, old, counters(self.account(old))))
        self.undo.append((self.size, new, (0, 0, 0, 0)))
        self.numbers[new] = self.numbers.pop(old)

    @property
    def fresh_ms(self) -> int:
        """The time from which on a statement may be logged now."""
        least = self.time_ms - FRESH_MS
        return min(least, self.grace_from_ms) if self.time_ms <= self.grace_until_ms else least

    # ── the lines of the state ────────────────────────────────────────────────────────────────

    def hold(self, provider: str, receipt: str, amount: int, release_ms: int) -> None:
        """Earnings that may still be taken back."""
        self.undo.append((self.size, receipt, (provider,)))
        self.held.setdefault(provider, {})[receipt] = (amount, release_ms)

    def unhold(self, provider: str, receipt: str) -> None:
        """They are the provider's own now."""
        mine = self.held[provider]
        self.undo.append((self.size, receipt, (provider, *mine.pop(receipt))))
        if not mine:
            del self.held[provider]

    def stand(self, provider: str, standing: Standing) -> None:
        """What verdicts say of a provider."""
        before = self.standings.get(provider, Standing())
        self.undo.append((self.size, provider, (before.agreed, before.differed)))
        self.standings[provider] = standing

    def lines(self, size: int | None = None) -> list[bytes]:
        """Balances, holds and standings as canonical lines in order, after the first `size` entries.

        The past is there back to the last state statement.
        """
        past: dict[Key, Line] = {}
        for index, key, before in reversed(self.undo):
            if size is None or index < size:
                break
            past[key] = before
        return sorted(canonical.encode(line) for line in self._lines(past))

    def _lines(self, past: dict[Key, Line]) -> Iterator[Line]:
        for key, number in self.numbers.items():
            if key not in past:
                yield from _some(_account_line(key, counters(self.ledger.accounts[number])))
        for provider, mine in self.held.items():
            for receipt, (amount, release_ms) in mine.items():
                if receipt not in past:
                    yield ("held", provider, receipt, str(amount), release_ms)
        for provider, standing in self.standings.items():
            if provider not in past:
                yield from _some(_standing_line(provider, (standing.agreed, standing.differed)))
        yield from _past_lines(past)

    def trim(self, size: int) -> None:
        """Forget the past before that size."""
        while self.undo and self.undo[0][0] < size:
            self.undo.popleft()


def root(lines: Sequence[bytes]) -> bytes:
    """The state root: RFC 6962 over the lines."""
    return merkle.root(list(lines))


def counters(account: Account) -> tuple[int, int, int, int]:
    """Pending and posted debits, pending and posted credits."""
    return (
        account.debits_pending,
        account.debits_posted,
        account.credits_pending,
        account.credits_posted,
    )


def account_line(key: AccountKey, values: Line) -> bytes | None:
    """`["account", owner, purpose, job or "", ledger, pending debits, pending credits, debit, credit]`.

    What was posted is netted: one of the last two is 0. None for an account that has nothing.
    """
    line = _account_line(key, values)
    return None if line is None else canonical.encode(line)


def held_line(*, provider: str, receipt: str, amount: int, release_ms: int) -> bytes:
    """`["held", provider, receipt, amount, release_ms]`."""
    return canonical.encode(("held", provider, receipt, str(amount), release_ms))


def standing_line(provider: str, standing: Standing) -> bytes | None:
    """`["standing", provider, agreed, differed]`; None for a newcomer."""
    line = _standing_line(provider, (standing.agreed, standing.differed))
    return None if line is None else canonical.encode(line)


def _account_line(key: AccountKey, values: Line) -> Line | None:
    debits_pending, debits_posted, credits_pending, credits_posted = values
    assert isinstance(credits_posted, int)
    assert isinstance(debits_posted, int)
    net = credits_posted - debits_posted
    if not (net or debits_pending or credits_pending):
        return None
    job = "" if key.job is None else str(key.job)
    return (
        "account", key.owner, int(key.purpose), job, key.ledger, str(debits_pending),
        str(credits_pending), str(max(0, -net)), str(max(0, net)),
    )  # fmt: skip


def _standing_line(provider: str, values: Line) -> Line | None:
    return ("standing", provider, *values) if any(values) else None


def _past_lines(past: dict[Key, Line]) -> Iterator[Line]:
    for key, before in past.items():
        if isinstance(key, AccountKey):
            yield from _some(_account_line(key, before))
        elif key.startswith(canonical.DIGEST_PREFIX):
            if len(before) > 1:
                provider, amount, release_ms = before
                yield ("held", provider, key, str(amount), release_ms)
        else:
            yield from _some(_standing_line(key, before))


def _some(line: Line | None) -> Iterable[Line]:
    return () if line is None else (line,)
