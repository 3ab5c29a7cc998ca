"""What a replay knows at one point of the log: money, and whatever is still open. Nothing that is over.

Closed jobs, paid receipts and decided withdrawals are forgotten, so that a log of any length is
replayed in the memory that its open business needs.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Final

import msgspec

from settlement.domain import canonical
from settlement.domain.amount import AMOUNT_MAX, checked
from settlement.domain.errors import LedgerRefused
from settlement.domain.governance import Charter
from settlement.domain.ledger import (
    ID_MAX,
    Account,
    AccountKey,
    AccountName,
    Code,
    Event,
    Flag,
    Limit,
)
from settlement.domain.ledger_rules import TIME_MAX_NS, State
from settlement.domain.moves import Moves
from settlement.domain.reputation import Standing
from settlement.domain.state_lines import (
    Key,
    Line,
    account_fields,
    past_fields,
    some,
    standing_fields,
)

FRESH_MS: Final = 600_000  # a statement is logged within so much of its own time, or never
_LINKED: Final = int(Flag.LINKED)
_DEBITS, _CREDITS = int(Limit.DEBITS), int(Limit.CREDITS)
_NANOSECONDS: Final = 1_000_000
_CHANGED: Final = 3  # what an undo of other than plain transfers has
_DEBITS_POSTED, _CREDITS_POSTED = 1, 3  # among `counters`
_TIME_MAX_MS: Final = TIME_MAX_NS // _NANOSECONDS - 1  # short of it, no move is too late

# which entry changed what, and how it was before; of plain transfers only themselves are kept
Undo = tuple[int, Key, Line] | tuple[int, Moves]


class Job(msgspec.Struct):
    """An order that stands: what it allows, and what was charged so far."""

    consumer: str
    order: str
    spec: str
    rate_cap: int
    tasks: int
    deadline_ms: int
    spent: int = 0
    accepted: int = 0
    done: list[tuple[int, int]] = []  # [first, end) of paid work, ordered
    leases: list[str] = []
    claims: dict[str, None] = {}  # every receipt and voucher, by digest


class Lease(msgspec.Struct):
    """A lease of an open job."""

    job: str
    provider: str
    rate: int
    at_ms: int
    worked_ms: int = 0  # paid by receipts
    vouched_ms: int = 0  # paid by vouchers
    vouching: bool = False  # a voucher is logged and not paid yet


class Claim(msgspec.Struct):
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


class Withdrawal(msgspec.Struct):
    """Tokens that wait to leave, since the log's time `at_ms`."""

    party: str
    at_ms: int


class Proposal(msgspec.Struct):
    """A change of the validators or a takeover, and who approved it."""

    envelope: bytes
    approvals: list[str] = []


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
    # digests of statements, ids that they gave to transfers → their own time, as long as fresh
    seen: dict[str, int] = field(default_factory=dict)
    ledger: State = field(default_factory=State)
    accounts: dict[AccountName, Account] = field(default_factory=dict)
    undo: deque[Undo] = field(default_factory=deque)
    _next: int = 1

    @property
    def numbers(self) -> dict[AccountKey, int]:
        """Every account that was used and may be again, with its number in this replay."""
        return {AccountKey.of(name): account.id for name, account in self.accounts.items()}

    def account(self, name: AccountName) -> Account:
        """The account; it opens empty. LedgerRefused if it can't be one."""
        account = self.accounts.get(name)
        if account is None:
            key = AccountKey.of(name)
            key.check()
            account = self.accounts[name] = Account(self._next, key.ledger, int(key.limit))
            self.ledger.accounts[self._next] = account
            self._next += 1
        return account

    def move(self, moves: Moves, cause: str) -> Code | None:
        """All the transfers of a statement, or none: then the code of the one that was refused."""
        return None if self._post(moves) else self._decide(moves, cause)

    def _post(self, moves: Moves) -> bool:
        """Plain transfers between accounts that were used before, as nearly all are, in one pass.

        What it takes, the ledger's rules take too (tests compare the two). Whatever else there is,
        it changes nothing and answers False: the rules know why.
        """
        accounts, pendings = self.accounts, self.ledger.pending
        if self.time_ms > _TIME_MAX_MS or (
            len(moves) > 1 and len({move[0] for move in moves}) < len(moves)
        ):
            return False
        for move in moves:
            identifier, payer, payee, amount, _, flags, _, _ = move
            debit, credit = accounts.get(payer), accounts.get(payee)
            if flags or debit is None or credit is None or debit is credit:
                break
            debits = debit.debits_posted + amount
            credits_ = credit.credits_posted + amount
            all_debits = debits + debit.debits_pending
            all_credits = credits_ + credit.credits_pending
            if (
                amount < 0 or all_debits > AMOUNT_MAX or all_credits > AMOUNT_MAX
                or (debit.limit & _DEBITS and all_debits > debit.credits_posted)
                or (credit.limit & _CREDITS and all_credits > credit.debits_posted)
                or not 0 < identifier < ID_MAX or identifier in pendings
            ):  # fmt: skip
                break
            debit.debits_posted, credit.credits_posted = debits, credits_
        else:
            self.undo.append((self.size, moves))
            return True
        for done in takewhile(lambda one: one is not move, moves):
            accounts[done.debit].debits_posted -= done.amount
            accounts[done.credit].credits_posted -= done.amount
        return False

    def _decide(self, moves: Moves, cause: str) -> Code | None:
        """The transfers as one chain of the ledger's rules."""
        last, known = len(moves) - 1, self._next
        amounts = [checked(move.amount) for move in moves]
        digest = canonical.digest_bytes(cause)
        try:
            pairs = [(self.account(move.debit), self.account(move.credit)) for move in moves]
        except LedgerRefused:
            self._unopen(known)
            raise
        events = [
            Event(
                move.id, debit.id, credit.id, amount, move.pending_id,
                0,  # no time runs out here: an expiry is a statement
                debit.ledger, move.reason, move.flags | _LINKED if at < last else move.flags, digest,
            )
            for at, (move, (debit, credit), amount) in enumerate(zip(moves, pairs, amounts, strict=True))
        ]  # fmt: skip
        before = [
            (self.size, name, counters(account))
            for move, pair in zip(moves, pairs, strict=True)
            for name, account in zip((move.debit, move.credit), pair, strict=True)
        ]
        results = self.ledger.apply(events, self.time_ms * _NANOSECONDS + len(events))
        refused = [
            result.code
            for result in results
            if result.code not in (Code.CREATED, Code.LINKED_FAILED)
        ]
        if refused:
            self._unopen(known)
        else:
            self.undo.extend(before)
        self._forget(events)
        return refused[0] if refused else None

    def _unopen(self, known: int) -> None:
        """Accounts that only a refused transfer named were never opened."""
        while self._next > known:
            self._next -= 1
            _, account = self.accounts.popitem()
            assert account.id == self._next
            del self.ledger.accounts[account.id]

    def release(self, identifier: int, *, debit: AccountKey, credit: AccountKey) -> None:
        """A pending transfer runs out: what it reserved is free again."""
        amount = self.ledger.transfers.pop(identifier).amount
        del self.ledger.pending[identifier]
        payer, payee = self.accounts[debit.name], self.accounts[credit.name]
        self.undo.append((self.size, debit.name, counters(payer)))
        self.undo.append((self.size, credit.name, counters(payee)))
        payer.debits_pending -= amount
        payee.credits_pending -= amount

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

    def close(self, name: AccountName) -> None:
        """An account that is empty and never used again is forgotten."""
        account = self.accounts[name]
        if account_fields(name, counters(account)) is None:
            self.undo.append((self.size, name, counters(account)))
            del self.accounts[name], self.ledger.accounts[account.id]

    def rename(self, old: AccountKey, new: AccountKey) -> None:
        """The same account under another owner, as after a takeover."""
        account = self.accounts.get(old.name)
        if account is None:
            return
        self.undo.append((self.size, old.name, counters(account)))
        self.undo.append((self.size, new.name, (0, 0, 0, 0)))
        self.accounts[new.name] = self.accounts.pop(old.name)

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
        past = {key: before for _, key, before in self.history(self.size if size is None else size)}
        return sorted(canonical.encode(line) for line in self._lines(past))

    def history(self, size: int) -> Iterator[tuple[int, Key, Line]]:
        """What changed after so many entries, newest first: by which entry, what, as it was before."""
        past: dict[Key, Line] = {}
        for undo in reversed(self.undo):
            if undo[0] < size:
                return
            if len(undo) == _CHANGED:
                _, key, past[key] = undo
                yield undo
                continue
            index, moves = undo
            for move in reversed(moves):
                for name, at in ((move.credit, _CREDITS_POSTED), (move.debit, _DEBITS_POSTED)):
                    now = past[name] if name in past else counters(self.accounts[name])
                    was = now[at] - move.amount  # type: ignore[operator]
                    past[name] = (*now[:at], was, *now[at + 1 :])
                    yield index, name, past[name]

    def _lines(self, past: dict[Key, Line]) -> Iterator[Line]:
        for name, account in self.accounts.items():
            if name not in past:
                yield from some(account_fields(name, counters(account)))
        for provider, mine in self.held.items():
            for receipt, (amount, release_ms) in mine.items():
                if receipt not in past:
                    yield ("held", provider, receipt, str(amount), release_ms)
        for provider, standing in self.standings.items():
            if provider not in past:
                yield from some(standing_fields(provider, (standing.agreed, standing.differed)))
        yield from past_fields(past)

    def trim(self, size: int) -> None:
        """Forget the past before that size."""
        undo = self.undo
        while undo and undo[0][0] < size:
            undo.popleft()


def counters(account: Account) -> tuple[int, int, int, int]:
    """Pending and posted debits, pending and posted credits."""
    return (
        account.debits_pending,
        account.debits_posted,
        account.credits_pending,
        account.credits_posted,
    )


def restore(account: Account, values: Line) -> None:
    """Set the counters as `counters` told them."""
    (
        account.debits_pending,
        account.debits_posted,
        account.credits_pending,
        account.credits_posted,
    ) = values  # type: ignore[assignment]
