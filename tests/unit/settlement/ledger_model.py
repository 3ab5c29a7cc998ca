"""A ledger as simple as it can be said, for well-formed events: the whole state is copied per chain.

Balances are not kept but summed up anew from what happened, so that it shares no step with the rules.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from settlement.domain.ledger import ALL, Code, Event, Flag, Limit

SECOND_NS: Final = 1_000_000_000
BURNING: Final = {
    Code.DEBIT_NOT_FOUND,
    Code.CREDIT_NOT_FOUND,
    Code.PENDING_NOT_FOUND,
    Code.EXCEEDS_CREDITS,
    Code.EXCEEDS_DEBITS,
}

# Plain numbers: an enum's own arithmetic would cost more than all the rest.
LINKED, PENDING, POST, VOID = (
    int(flag) for flag in (Flag.LINKED, Flag.PENDING, Flag.POST, Flag.VOID)
)
BALANCING_DEBIT, BALANCING_CREDIT = int(Flag.BALANCING_DEBIT), int(Flag.BALANCING_CREDIT)


@dataclass
class Happened:
    """One transfer that was made: its event, what it moved, when, and what became of it."""

    event: Event
    amount: int
    at_ns: int
    open: bool = False
    end: str = ""


@dataclass
class Model:
    """Limits by account; everything that happened, by id; ids that may never happen."""

    limits: dict[int, Limit]
    happened: dict[int, Happened] = field(default_factory=dict)
    burnt: set[int] = field(default_factory=set)

    def balance(self, account: int) -> tuple[int, int, int, int]:
        """Debits pending and posted, credits pending and posted."""
        sums = [0, 0, 0, 0]
        for one in self.happened.values():
            debit, credit = self._sides(one)
            pending = one.event.flags & PENDING
            if (pending and not one.open) or one.event.flags & VOID:
                continue
            sums[0 if pending else 1] += one.amount if debit == account else 0
            sums[2 if pending else 3] += one.amount if credit == account else 0
        return (sums[0], sums[1], sums[2], sums[3])

    def run(self, events: Sequence[Event], last_ns: int) -> list[Code]:
        """What each event answers."""
        self._expire(last_ns - len(events))
        codes: list[Code] = []
        chain: list[tuple[Event, int]] = []
        for position, event in enumerate(events):
            chain.append((event, last_ns - len(events) + 1 + position))
            if not event.flags & LINKED or position == len(events) - 1:
                codes += self._run_chain(chain)
                chain = []
        return codes

    def _run_chain(self, chain: Sequence[tuple[Event, int]]) -> list[Code]:
        before = self.happened
        if len(chain) > 1:  # alone, an event that fails has changed nothing
            before = {key: dataclasses.replace(one) for key, one in before.items()}
        for place, (event, at_ns) in enumerate(chain):
            last = place == len(chain) - 1
            open_end = last and bool(event.flags & LINKED)
            code = Code.CHAIN_OPEN if open_end else self._one(event, at_ns)
            if code is Code.CREATED:
                continue
            if code in BURNING:
                self.burnt.add(event.id)
            self.happened = before
            codes = [Code.LINKED_FAILED] * len(chain)
            codes[place] = code
            if chain[-1][0].flags & LINKED:
                codes[-1] = Code.CHAIN_OPEN
            return codes
        return [Code.CREATED] * len(chain)

    def _one(self, event: Event, at_ns: int) -> Code:
        if event.id in self.happened:
            return self._again(event, self.happened[event.id])
        if event.id in self.burnt:
            return Code.ALREADY_FAILED
        if event.flags & (POST | VOID):
            return self._resolve(event, at_ns)
        for account, code in (
            (event.debit, Code.DEBIT_NOT_FOUND),
            (event.credit, Code.CREDIT_NOT_FOUND),
        ):
            if account not in self.limits:
                return code
        return self._move(event, at_ns)

    def _move(self, event: Event, at_ns: int) -> Code:
        amount = event.amount
        debit, credit = self.balance(event.debit), self.balance(event.credit)
        if event.flags & BALANCING_DEBIT:
            amount = min(amount, max(0, debit[3] - debit[1] - debit[0]))
        if event.flags & BALANCING_CREDIT:
            amount = min(amount, max(0, credit[1] - credit[3] - credit[2]))
        if self.limits[event.debit] is Limit.DEBITS and debit[0] + debit[1] + amount > debit[3]:
            return Code.EXCEEDS_CREDITS
        if self.limits[event.credit] is Limit.CREDITS and sum(credit[2:]) + amount > credit[1]:
            return Code.EXCEEDS_DEBITS
        pending = bool(event.flags & PENDING)
        self.happened[event.id] = Happened(event, amount, at_ns, open=pending)
        return Code.CREATED

    def _resolve(self, event: Event, at_ns: int) -> Code:
        if event.pending_id == event.id:
            return Code.PENDING_ID_OWN
        held = self.happened.get(event.pending_id)
        if held is None:
            return Code.PENDING_NOT_FOUND
        everything = ALL if event.flags & POST else 0
        amount = held.amount if event.amount == everything else event.amount
        checks = (
            (not held.event.flags & PENDING, Code.PENDING_NOT_PENDING),
            (amount > held.amount, Code.EXCEEDS_PENDING),
            (bool(event.flags & VOID) and amount < held.amount, Code.VOID_IN_PART),
            (held.end == "posted", Code.ALREADY_POSTED),
            (held.end == "voided", Code.ALREADY_VOIDED),
            (held.end == "expired" or self._due(held, at_ns), Code.PENDING_EXPIRED),
        )
        for wrong, code in checks:
            if wrong:
                return code
        held.open, held.end = False, "posted" if event.flags & POST else "voided"
        self.happened[event.id] = Happened(event, amount, at_ns)
        return Code.CREATED

    def _again(self, event: Event, first: Happened) -> Code:
        fields = (
            (event.flags == first.event.flags, Code.EXISTS_OTHER_FLAGS),
            (event.pending_id == first.event.pending_id, Code.EXISTS_OTHER_PENDING_ID),
            (event.timeout_seconds == first.event.timeout_seconds, Code.EXISTS_OTHER_TIMEOUT),
            (event.debit == first.event.debit, Code.EXISTS_OTHER_DEBIT),
            (event.credit == first.event.credit, Code.EXISTS_OTHER_CREDIT),
            (self._same_amount(event, first), Code.EXISTS_OTHER_AMOUNT),
        )
        return next((code for same, code in fields if not same), Code.EXISTS)

    def _same_amount(self, event: Event, first: Happened) -> bool:
        if event.flags & (BALANCING_DEBIT | BALANCING_CREDIT):
            return event.amount >= first.amount
        if event.flags & POST and event.amount == ALL:
            held = self.happened.get(event.pending_id)  # None: another pending id, told before
            return held is not None and first.amount == held.amount
        if event.flags & VOID and event.amount == 0:
            return True
        return event.amount == first.amount

    def _expire(self, at_ns: int) -> None:
        for one in self.happened.values():
            if one.open and self._due(one, at_ns):
                one.open, one.end = False, "expired"

    @staticmethod
    def _due(one: Happened, at_ns: int) -> bool:
        seconds = one.event.timeout_seconds
        return bool(seconds) and at_ns >= one.at_ns + seconds * SECOND_NS

    def _sides(self, one: Happened) -> tuple[int, int]:
        """A post moves between the accounts of what it posts."""
        event = one.event
        if event.flags & (POST | VOID):
            event = self.happened[event.pending_id].event
        return event.debit, event.credit
