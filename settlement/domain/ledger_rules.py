"""The rules of the ledger: state, events and times in; one named result an event and the new state out.

A transfer is decided by one flat list of checks whose order is the order of precedence. The rules
see only what was loaded: an account, transfer or id that is not in the state does not exist.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from settlement.domain.amount import AMOUNT_MAX
from settlement.domain.ledger import (
    ALL,
    ID_MAX,
    TRANSIENT,
    Account,
    Code,
    Entry,
    Event,
    Limit,
    PendingState,
    Result,
)
from settlement.domain.ledger_form import (
    BALANCING,
    BALANCING_CREDIT,
    BALANCING_DEBIT,
    LINKED,
    PENDING,
    POST,
    RESOLVES,
    check_against,
    check_form,
    check_resolving,
    compare,
)

DEBITS, CREDITS = int(Limit.DEBITS), int(Limit.CREDITS)
NANOSECONDS: Final = 1_000_000_000
TIME_MAX_NS: Final = 2**63 - 1
_Counters = tuple[int, int, int, int]
_tuple: Final = tuple.__new__  # a named tuple without the detour over its keywords


@dataclass(slots=True)
class State:
    """What the rules may see, and what they changed: `created`, `resolved`, `burnt`, `touched`."""

    accounts: dict[int, Account] = field(default_factory=dict)
    transfers: dict[int, Entry] = field(default_factory=dict)
    pending: dict[int, PendingState] = field(default_factory=dict)
    failed: dict[int, Code] = field(default_factory=dict)
    created: dict[int, Entry] = field(default_factory=dict)
    resolved: dict[int, PendingState] = field(default_factory=dict)
    burnt: dict[int, Code] = field(default_factory=dict)
    touched: set[int] = field(default_factory=set)
    _undo: list[tuple[Account, _Counters]] = field(default_factory=list)
    _undo_pending: list[tuple[int, PendingState | None, PendingState | None]] = field(
        default_factory=list
    )
    _undo_created: list[int] = field(default_factory=list)
    _chained: bool = False  # only what is linked may have to be undone

    def expire(self, at_ns: int) -> list[int]:
        """Release every pending transfer whose time has come, oldest deadline first; their ids."""
        due = sorted(
            (deadline, identifier)
            for identifier, state in self.pending.items()
            if state is PendingState.OPEN
            and (deadline := expires_ns(self.transfers[identifier])) is not None
            and deadline <= at_ns
        )
        for _, identifier in due:
            entry = self.transfers[identifier]
            self._move(
                self.accounts[entry.debit],
                self.accounts[entry.credit],
                pending=-entry.amount,
                posted=0,
            )
            self._resolve(identifier, PendingState.EXPIRED)
        return [identifier for _, identifier in due]

    def apply(self, events: Sequence[Event], last_ns: int) -> list[Result]:
        """Decide the events in order, at times `last_ns - n + 1 … last_ns`."""
        results: list[Result] = []
        first_ns = last_ns - len(events) + 1
        chain: int | None = None
        broken = False
        for position, event in enumerate(events):
            at_ns = first_ns + position
            linked = event.flags & LINKED
            if chain is None and not linked:  # by itself: there is nothing to undo
                result = self._accept(event, at_ns) or self._create(event, at_ns)
                if result.code in TRANSIENT:
                    self.failed[event.id] = self.burnt[event.id] = result.code
                results.append(result)
                continue
            self._chained = True
            if linked and chain is None:
                chain, broken = position, False
            result = self._decide(
                event, at_ns, broken=broken, open_end=bool(linked) and position == len(events) - 1
            )
            if chain is not None and not broken and result.code is not Code.CREATED:
                broken = True
                self._roll_back()
                for member in range(chain, position):
                    results[member] = Result(Code.LINKED_FAILED, first_ns + member, 0)
            results.append(result)
            if not linked:
                chain, broken = None, False
                self._settle()
        self._settle()  # a chain that the batch left open has failed
        return results

    def _decide(self, event: Event, at_ns: int, *, broken: bool, open_end: bool) -> Result:
        if open_end:
            return Result(Code.CHAIN_OPEN, at_ns, 0)
        if broken:
            return Result(Code.LINKED_FAILED, at_ns, 0)
        result = self._accept(event, at_ns) or self._create(event, at_ns)
        if result.code in TRANSIENT:
            self.failed[event.id] = self.burnt[event.id] = result.code
        return result

    def _create(self, event: Event, at_ns: int) -> Result:
        known = self.transfers.get(event.id)
        if event.id == 0:
            code = Code.ID_ZERO
        elif event.id == ID_MAX:
            code = Code.ID_MAX
        elif known is not None:
            code = compare(event, known, self.transfers.get(known.pending_id))
            return Result(code, known.at_ns if code is Code.EXISTS else at_ns, known.amount)
        elif event.id in self.failed:
            code = Code.ALREADY_FAILED
        elif event.flags & RESOLVES:
            return self._resolve_pending(event, at_ns)
        else:
            return self._create_plain(event, at_ns)
        return Result(code, at_ns, 0)

    def _accept(self, event: Event, at_ns: int) -> Result | None:
        """A transfer that makes or holds, if nothing at all speaks against it.

        Most are such; whatever else it may be, the rules in their order name it.
        """
        (
            identifier,
            debit_id,
            credit_id,
            amount,
            pending_id,
            timeout_seconds,
            ledger,
            code,
            flags,
            _,
        ) = event
        debit, credit = self.accounts.get(debit_id), self.accounts.get(credit_id)
        pends = flags & PENDING
        if (
            flags & ~(LINKED | PENDING) or pending_id or (timeout_seconds and not pends) or not code
            or debit is None or credit is None or debit is credit
            or not ledger == debit.ledger == credit.ledger or not 0 < identifier < ID_MAX
            or identifier in self.transfers or identifier in self.failed
            or at_ns + timeout_seconds * NANOSECONDS > TIME_MAX_NS
        ):  # fmt: skip
            return None
        debits = debit.debits_posted + debit.debits_pending + amount
        credits_ = credit.credits_posted + credit.credits_pending + amount
        if (
            debits > AMOUNT_MAX or credits_ > AMOUNT_MAX
            or (debit.limit & DEBITS and debits > debit.credits_posted)
            or (credit.limit & CREDITS and credits_ > credit.debits_posted)
        ):  # fmt: skip
            return None
        if self._chained:
            self._undo += ((debit, _counters(debit)), (credit, _counters(credit)))
            self._undo_created.append(identifier)
        if pends:
            debit.debits_pending += amount
            credit.credits_pending += amount
            self._resolve(identifier, PendingState.OPEN)
        else:
            debit.debits_posted += amount
            credit.credits_posted += amount
        self.touched.add(debit_id)
        self.touched.add(credit_id)
        self.transfers[identifier] = self.created[identifier] = _tuple(Entry, (*event, at_ns))
        return _tuple(Result, (Code.CREATED, at_ns, amount))

    def _create_plain(self, event: Event, at_ns: int) -> Result:
        code = check_form(event) or self._check_accounts(event)
        if code is not None:
            return Result(code, at_ns, 0)
        debit, credit = self.accounts[event.debit], self.accounts[event.credit]
        amount = event.amount
        if event.flags & BALANCING:
            amount = _balanced(event, debit, credit)
            event = event._replace(amount=amount)
        code = _check_sums(event, debit, credit, amount, at_ns)
        if code is not None:
            return Result(code, at_ns, 0)
        if event.flags & PENDING:
            self._move(debit, credit, pending=amount, posted=0)
            self._resolve(event.id, PendingState.OPEN)
        else:
            self._move(debit, credit, pending=0, posted=amount)
        self._add(Entry(*event, at_ns))
        return Result(Code.CREATED, at_ns, amount)

    def _check_accounts(self, event: Event) -> Code | None:
        debit, credit = self.accounts.get(event.debit), self.accounts.get(event.credit)
        if debit is None:
            return Code.DEBIT_NOT_FOUND
        if credit is None:
            return Code.CREDIT_NOT_FOUND
        if debit.ledger != credit.ledger:
            return Code.LEDGERS_DIFFER
        if event.ledger != debit.ledger:
            return Code.LEDGER_OTHER
        return None

    def _resolve_pending(self, event: Event, at_ns: int) -> Result:
        code = check_resolving(event)
        if code is not None:
            return Result(code, at_ns, 0)
        entry = self.transfers.get(event.pending_id)
        if entry is None:
            return Result(Code.PENDING_NOT_FOUND, at_ns, 0)
        amount = (
            entry.amount if event.amount == (ALL if event.flags & POST else 0) else event.amount
        )
        code = check_against(event, entry, amount) or self._check_open(entry, at_ns)
        if code is not None:
            return Result(code, at_ns, 0)
        posted = amount if event.flags & POST else 0
        self._move(
            self.accounts[entry.debit],
            self.accounts[entry.credit],
            pending=-entry.amount,
            posted=posted,
        )
        self._resolve(entry.id, PendingState.POSTED if event.flags & POST else PendingState.VOIDED)
        self._add(
            Entry(
                event.id, entry.debit, entry.credit, amount, entry.id, 0, entry.ledger, entry.code,
                event.flags, event.cause, at_ns,
            )
        )  # fmt: skip
        return Result(Code.CREATED, at_ns, amount)

    def _check_open(self, entry: Entry, at_ns: int) -> Code | None:
        state = self.pending[entry.id]
        if state is PendingState.POSTED:
            return Code.ALREADY_POSTED
        if state is PendingState.VOIDED:
            return Code.ALREADY_VOIDED
        deadline = expires_ns(entry)
        if state is PendingState.EXPIRED or (deadline is not None and deadline <= at_ns):
            return Code.PENDING_EXPIRED
        return None

    def _move(self, debit: Account, credit: Account, *, pending: int, posted: int) -> None:
        """The only place where counters change: both sides by the same."""
        if self._chained:
            self._undo += [(debit, _counters(debit)), (credit, _counters(credit))]
        if pending:
            debit.debits_pending += pending
            credit.credits_pending += pending
            assert debit.debits_pending >= 0
            assert credit.credits_pending >= 0
        debit.debits_posted += posted
        credit.credits_posted += posted
        self.touched.add(debit.id)
        self.touched.add(credit.id)

    def _add(self, entry: Entry) -> None:
        self.transfers[entry.id] = self.created[entry.id] = entry
        if self._chained:
            self._undo_created.append(entry.id)

    def _resolve(self, identifier: int, state: PendingState) -> None:
        if self._chained:
            self._undo_pending.append(
                (identifier, self.pending.get(identifier), self.resolved.get(identifier))
            )
        self.pending[identifier] = self.resolved[identifier] = state

    def _settle(self) -> None:
        """What was done stands."""
        self._chained = False
        self._undo.clear()
        self._undo_pending.clear()
        self._undo_created.clear()

    def _roll_back(self) -> None:
        """Undo a chain whole: counters, transfers, pending states and, with those, their expiry."""
        for account, counters in reversed(self._undo):
            (
                account.debits_pending,
                account.debits_posted,
                account.credits_pending,
                account.credits_posted,
            ) = counters
        for identifier, before, resolved in reversed(self._undo_pending):
            _restore(self.pending, identifier, before)
            _restore(self.resolved, identifier, resolved)
        for identifier in self._undo_created:
            del self.transfers[identifier], self.created[identifier]
        self._settle()


def _restore(states: dict[int, PendingState], identifier: int, before: PendingState | None) -> None:
    if before is None:
        states.pop(identifier, None)
    else:
        states[identifier] = before


def _counters(account: Account) -> _Counters:
    return (
        account.debits_pending,
        account.debits_posted,
        account.credits_pending,
        account.credits_posted,
    )


def expires_ns(entry: Entry) -> int | None:
    """When a pending transfer is released by itself; None for never. Expired is `time >= this`."""
    if not entry.timeout_seconds:
        return None
    return entry.at_ns + entry.timeout_seconds * NANOSECONDS


def _check_sums(
    event: Event, debit: Account, credit: Account, amount: int, at_ns: int
) -> Code | None:
    """Overflow first, then what the accounts' limits allow."""
    debits_posted = debit.debits_posted + amount
    credits_posted = credit.credits_posted + amount
    debits = debit.debits_pending + debits_posted
    credits_ = credit.credits_pending + credits_posted
    if debits > AMOUNT_MAX or credits_ > AMOUNT_MAX:  # as every single overflow implies
        is_pending = event.flags & PENDING
        if is_pending and debit.debits_pending + amount > AMOUNT_MAX:
            return Code.OVERFLOWS_DEBITS_PENDING
        if is_pending and credit.credits_pending + amount > AMOUNT_MAX:
            return Code.OVERFLOWS_CREDITS_PENDING
        if debits_posted > AMOUNT_MAX:
            return Code.OVERFLOWS_DEBITS_POSTED
        if credits_posted > AMOUNT_MAX:
            return Code.OVERFLOWS_CREDITS_POSTED
        return Code.OVERFLOWS_DEBITS if debits > AMOUNT_MAX else Code.OVERFLOWS_CREDITS
    if at_ns + event.timeout_seconds * NANOSECONDS > TIME_MAX_NS:
        return Code.OVERFLOWS_TIMEOUT
    if debit.limit & DEBITS and debits > debit.credits_posted:
        return Code.EXCEEDS_CREDITS
    if credit.limit & CREDITS and credits_ > credit.debits_posted:
        return Code.EXCEEDS_DEBITS
    return None


def _balanced(event: Event, debit: Account, credit: Account) -> int:
    """With a balancing flag the amount is a limit: what is free is moved, at least 0."""
    amount = event.amount
    if event.flags & BALANCING_DEBIT:
        free = debit.spendable
        amount = min(amount, max(0, free))
    if event.flags & BALANCING_CREDIT:
        free = credit.debits_posted - credit.credits_posted - credit.credits_pending
        amount = min(amount, max(0, free))
    return amount
