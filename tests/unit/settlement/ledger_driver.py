"""Batches of random transfers for rules and model: every flag, few ids, little money, jumping clocks."""

import random
from typing import Final

from settlement.domain.amount import AMOUNT_MAX
from settlement.domain.ledger import ALL, Account, Code, Event, Flag, Limit
from settlement.domain.ledger_rules import State
from tests.unit.settlement.ledger_model import PENDING, SECOND_NS, Model

ACCOUNTS: Final = range(1, 6)
AGAIN_ONE_IN: Final = 5
BATCH_MAX: Final = 5
FUNDS: Final = 60
IDS: Final = 24
LIMITS: Final = (Limit.NONE, Limit.DEBITS, Limit.DEBITS, Limit.DEBITS, Limit.CREDITS)
PAUSES_NS: Final = (0, 1, SECOND_NS, 2 * SECOND_NS)
PLAIN_FLAGS: Final = (
    Flag(0), Flag(0), Flag(0), Flag.PENDING, Flag.PENDING, Flag.BALANCING_DEBIT, Flag.BALANCING_CREDIT,
    Flag.BALANCING_DEBIT | Flag.BALANCING_CREDIT, Flag.BALANCING_DEBIT | Flag.PENDING,
)  # fmt: skip


class LedgerDriver:
    """One ledger's life, a batch at a time."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        accounts = {n: Account(n, 1, limit) for n, limit in zip(ACCOUNTS, LIMITS, strict=True)}
        self.state = State(accounts)
        self.model = Model(dict(zip(ACCOUNTS, LIMITS, strict=True)))
        self.now_ns = SECOND_NS
        self.said: list[Event] = []
        self.codes: set[Code] = set()
        self.events = 0
        self._both([Event(IDS + n, 1, n, FUNDS, 0, 0, 1, 1, 0, b"c") for n in (2, 3)])

    def step(self) -> None:
        """Some chains at a later time; some events are old ones, the same or changed."""
        self.now_ns += self.chance.choice(PAUSES_NS)
        events = [self._event() for _ in range(self.chance.randint(1, BATCH_MAX))]
        self.said += events
        self._both(events)

    def finish(self) -> None:
        """Every hold ends: voided, posted, or run out; nothing is pending then."""
        self.now_ns += 10 * SECOND_NS
        self._both([])
        for identifier, one in list(self.model.happened.items()):
            if one.open:
                flag = self.chance.choice((Flag.POST, Flag.VOID))
                amount = ALL if flag is Flag.POST else 0
                self._both(
                    [Event(2**64 + identifier, 0, 0, amount, identifier, 0, 0, 0, int(flag), b"c")]
                )
        for account in self.state.accounts.values():
            assert account.debits_pending == account.credits_pending == 0

    def _both(self, events: list[Event]) -> None:
        self.now_ns += len(events)
        self.state.expire(self.now_ns - len(events))
        found = [result.code for result in self.state.apply(events, self.now_ns)]
        expected = self.model.run(events, self.now_ns)
        assert found == expected, events
        self.codes.update(found)
        self.events += len(events)
        self._check()

    def _check(self) -> None:
        """Sums are zero, nothing is negative, and every counter is what the model recounts."""
        accounts = self.state.accounts.values()
        assert sum(one.credits_posted - one.debits_posted for one in accounts) == 0
        assert sum(one.credits_pending - one.debits_pending for one in accounts) == 0
        for account in accounts:
            counters = (
                account.debits_pending, account.debits_posted, account.credits_pending, account.credits_posted,
            )  # fmt: skip
            assert min(counters) >= 0
            assert max(counters) <= AMOUNT_MAX
            assert account.limit != Limit.DEBITS or account.spendable >= 0
            assert counters == self.model.balance(account.id)

    def _event(self) -> Event:
        chance = self.chance
        if self.said and not chance.randrange(AGAIN_ONE_IN):
            again = chance.choice(self.said)
            return again if chance.randrange(2) else again._replace(amount=again.amount + 1)
        linked = chance.choice((Flag(0), Flag(0), Flag.LINKED))
        identifier = chance.randint(1, IDS)
        if chance.randrange(3) == 0:
            flags = chance.choice((Flag.POST, Flag.VOID))
            amount = chance.choice((0, 1, 5, ALL))
            held = [n for n, one in self.model.happened.items() if one.event.flags & PENDING]
            pending = (
                chance.choice(held) if held and chance.randrange(4) else chance.randint(1, IDS)
            )
            return Event(identifier, 0, 0, amount, pending, 0, 0, 0, int(flags | linked), b"c")
        flags = chance.choice(PLAIN_FLAGS)
        debit, credit = chance.sample(ACCOUNTS, 2)
        seconds = chance.choice((0, 1, 3)) if flags & Flag.PENDING else 0
        amount = chance.choice((0, 1, 5, 20, 50, 100))
        return Event(identifier, debit, credit, amount, 0, seconds, 1, 1, int(flags | linked), b"c")
