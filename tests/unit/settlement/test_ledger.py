"""The ledger's named accounts, and its rules against a model that predicts every single answer."""

import copy
import itertools
from typing import Final
from uuid import UUID

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from settlement.domain.errors import BadAmount, LedgerRefused
from settlement.domain.ledger import (
    ALL,
    Account,
    AccountKey,
    Event,
    Flag,
    Limit,
    PendingState,
    Purpose,
    Reason,
    Transfer,
)
from settlement.domain.ledger_rules import State, expires_ns
from tests.unit.settlement.ledger_model import SECOND_NS, Model

NOW_NS: Final = 1_000 * SECOND_NS
LINKED, PENDING, POST, VOID = Flag.LINKED, Flag.PENDING, Flag.POST, Flag.VOID
BALANCING_DEBIT, BALANCING_CREDIT = Flag.BALANCING_DEBIT, Flag.BALANCING_CREDIT
UNKNOWN: Final = 99


JOB: Final = UUID(int=5)
OWNER: Final = "ab" * 32


@pytest.mark.parametrize("purpose", list(Purpose))
def test_limits_follow_from_the_purpose(purpose: Purpose) -> None:
    key = AccountKey(OWNER, purpose, JOB if purpose is Purpose.BUDGET else None)
    key.check()
    assert key.limit is (Limit.CREDITS if purpose is Purpose.ISSUED else Limit.DEBITS)


@pytest.mark.parametrize(
    "key",
    [
        AccountKey("ab", Purpose.AVAILABLE),
        AccountKey("AB" * 32, Purpose.AVAILABLE),
        AccountKey(OWNER, Purpose.BUDGET),
        AccountKey(OWNER, Purpose.HELD, JOB),
        AccountKey(OWNER, Purpose.HELD, None, 0),
        AccountKey(OWNER, Purpose.HELD, None, 2**31),
    ],
)
def test_accounts_that_cannot_be(key: AccountKey) -> None:
    with pytest.raises(LedgerRefused):
        key.check()
    good = AccountKey(OWNER, Purpose.AVAILABLE)
    for debit, credit in ((key, good), (good, key)):
        with pytest.raises(LedgerRefused):
            Transfer(UUID(int=1), debit, credit, 1, Reason.PAYMENT).check()


@pytest.mark.parametrize("amount", [-1, 2**128, True, 1.0, "1"])
def test_amounts_that_cannot_be(amount: int) -> None:
    keys = AccountKey(OWNER, Purpose.AVAILABLE), AccountKey(OWNER, Purpose.HELD)
    with pytest.raises(BadAmount):
        Transfer(UUID(int=1), *keys, amount, Reason.PAYMENT).check()


def balances(state: State) -> dict[int, tuple[int, int, int, int]]:
    return {
        one.id: (one.debits_pending, one.debits_posted, one.credits_pending, one.credits_posted)
        for one in state.accounts.values()
    }


def plain(
    identifier: int, accounts: tuple[int, int], amount: int, flags: int, timeout: int
) -> Event:
    """A transfer in form: "all" where it is a limit, a timeout where it is pending."""
    balancing = flags & (BALANCING_DEBIT | BALANCING_CREDIT)
    amount = 12 if amount == ALL and not balancing else amount
    timeout = timeout if flags & PENDING else 0
    return Event(identifier, *accounts, amount, 0, timeout, 1, 1, int(flags))


def resolving(identifier: int, pending: int, flags: int, amount: int | None) -> Event:
    """A post or void that inherits accounts, ledger and reason; None is all of it."""
    whole = ALL if flags & POST else 0
    amount = whole if amount is None else amount
    return Event(identifier, 0, 0, amount, pending, 0, 0, 0, int(flags))


NUMBERS: Final = st.integers(1, 24)
LIMITS: Final = {1: Limit.NONE, 2: Limit.DEBITS, 3: Limit.CREDITS, 4: Limit.DEBITS}
AMOUNTS: Final = st.one_of(st.integers(0, 12), st.just(ALL))
PLAIN: Final = st.builds(
    plain,
    NUMBERS,
    st.sampled_from(list(itertools.permutations([1, 2, 3, 4, UNKNOWN], 2))),
    AMOUNTS,
    st.sampled_from(
        [
            0, 0, PENDING, PENDING, LINKED, LINKED | PENDING, BALANCING_DEBIT, BALANCING_CREDIT,
            BALANCING_DEBIT | BALANCING_CREDIT | PENDING,
        ]
    ),
    st.integers(0, 3),
)  # fmt: skip
RESOLVING: Final = st.builds(
    resolving,
    NUMBERS,
    NUMBERS,
    st.sampled_from([POST, VOID, POST | LINKED, VOID | LINKED]),
    st.one_of(st.none(), st.integers(0, 12)),
)


class LedgerMachine(RuleBasedStateMachine):
    """Batches through the rules as the store feeds them: each from what it names alone."""

    @initialize()
    def begin(self) -> None:
        self.model = Model(dict(LIMITS))
        self.stored = State(
            {number: Account(number, 1, int(limit)) for number, limit in LIMITS.items()}
        )
        self.now_ns = NOW_NS

    @rule(
        events=st.lists(st.one_of(PLAIN, PLAIN, RESOLVING), min_size=1, max_size=8),
        pause_ns=st.sampled_from([0, 0, 1, SECOND_NS - 1, SECOND_NS, 2 * SECOND_NS]),
    )
    def batch(self, events: list[Event], pause_ns: int) -> None:
        self.now_ns += len(events) + pause_ns
        state = self._loaded(events)
        state.expire(self.now_ns - len(events))
        results = state.apply(events, self.now_ns)
        self._store(state)
        assert [result.code for result in results] == self.model.run(events, self.now_ns)

    def _loaded(self, events: list[Event]) -> State:
        """As `store.ledger.load`: named transfers, named burnt ids, and what is due."""
        named = {one.id for one in events} | {one.pending_id for one in events}
        for identifier, state in self.stored.pending.items():
            deadline = expires_ns(self.stored.transfers[identifier])
            if state is PendingState.OPEN and deadline is not None and deadline <= self.now_ns:
                named.add(identifier)
        return State(
            copy.deepcopy(self.stored.accounts),
            {key: value for key, value in self.stored.transfers.items() if key in named},
            {key: value for key, value in self.stored.pending.items() if key in named},
            {key: value for key, value in self.stored.failed.items() if key in named},
        )

    def _store(self, state: State) -> None:
        """As `store.ledger.write`: what the batch says that it changed, and nothing else."""
        assert not state.created.keys() & self.stored.transfers.keys()
        assert not state.burnt.keys() & self.stored.failed.keys()
        self.stored.transfers |= state.created
        self.stored.pending |= state.resolved
        self.stored.failed |= state.burnt
        self.stored.accounts |= {number: state.accounts[number] for number in state.touched}

    @invariant()
    def the_books_are_the_models(self) -> None:
        for number, counters in balances(self.stored).items():
            assert counters == self.model.balance(number)
        assert self.stored.transfers.keys() == self.model.happened.keys()
        assert self.stored.failed.keys() == self.model.burnt

    @invariant()
    def the_books_balance(self) -> None:
        accounts = self.stored.accounts.values()
        assert sum(a.debits_posted - a.credits_posted for a in accounts) == 0
        assert sum(a.debits_pending - a.credits_pending for a in accounts) == 0
        assert all(min(counters) >= 0 for counters in balances(self.stored).values())
        for one in accounts:
            if one.limit & Limit.DEBITS:
                assert one.spendable >= 0
            if one.limit & Limit.CREDITS:
                assert one.credits_posted + one.credits_pending <= one.debits_posted


LedgerMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=15, deadline=None)
TestLedgerMachine = LedgerMachine.TestCase
