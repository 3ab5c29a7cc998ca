"""The ledger against a model that recounts everything from its own list of what happened."""

from dataclasses import dataclass
from typing import Final

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from settlement.domain.amount import AMOUNT_MAX
from settlement.domain.ledger import ALL, Account, Code, Entry, Event, Flag, Limit, PendingState
from settlement.domain.ledger_rules import NANOSECONDS, State

ACCOUNTS: Final = range(1, 7)
IDS: Final = 60
PLAIN_FLAGS: Final = [
    Flag(0),
    Flag(0),
    Flag.PENDING,
    Flag.PENDING,
    Flag.BALANCING_DEBIT,
    Flag.BALANCING_CREDIT,
    Flag.BALANCING_DEBIT | Flag.BALANCING_CREDIT,
    Flag.BALANCING_DEBIT | Flag.PENDING,
]

identifiers = st.integers(0, IDS)
amounts = st.one_of(st.integers(0, 40), st.sampled_from([ALL, ALL - 1]))
seconds = st.sampled_from([0, 0, 1, 3])


@st.composite
def plain(draw: st.DrawFn) -> Event:
    flags = draw(st.sampled_from(PLAIN_FLAGS)) | draw(st.sampled_from([Flag(0), Flag.LINKED]))
    timeout = draw(seconds) if flags & Flag.PENDING else 0
    return Event(
        draw(identifiers), draw(st.sampled_from(ACCOUNTS)), draw(st.sampled_from(ACCOUNTS)), draw(amounts),
        0, timeout, 1, 1, int(flags), b"c",
    )  # fmt: skip


@st.composite
def resolving(draw: st.DrawFn) -> Event:
    flags = draw(st.sampled_from([Flag.POST, Flag.VOID])) | draw(
        st.sampled_from([Flag(0), Flag.LINKED])
    )
    amount = draw(st.sampled_from([0, 1, 5, ALL]))
    return Event(draw(identifiers), 0, 0, amount, draw(identifiers), 0, 0, 0, int(flags), b"c")


@dataclass
class Sums:
    debits_pending: int = 0
    debits_posted: int = 0
    credits_pending: int = 0
    credits_posted: int = 0


def recount(entries: list[Entry], released: set[int]) -> dict[int, Sums]:
    """Every counter from the entries alone; `released` are the pending ones that expired."""
    resolved = {e.pending_id for e in entries if e.flags & (Flag.POST | Flag.VOID)} | released
    sums = {identifier: Sums() for identifier in ACCOUNTS}
    for entry in entries:
        debit, credit = sums[entry.debit], sums[entry.credit]
        if entry.flags & Flag.PENDING:
            if entry.id not in resolved:
                debit.debits_pending += entry.amount
                credit.credits_pending += entry.amount
        elif not entry.flags & Flag.VOID:
            debit.debits_posted += entry.amount
            credit.credits_posted += entry.amount
    return sums


class LedgerModel(RuleBasedStateMachine):
    """Batches of random chains at growing times."""

    @initialize()
    def start(self) -> None:
        limits = [Limit.CREDITS, Limit.DEBITS, Limit.DEBITS, Limit.DEBITS, Limit.NONE, Limit.NONE]
        self.state = State(
            {n: Account(n, 1, limit) for n, limit in zip(ACCOUNTS, limits, strict=True)}
        )
        # the issuer owes nothing back yet: what it may take back is what others were given
        self.state.accounts[1].limit = Limit.NONE
        self.entries: list[Entry] = []
        self.released: set[int] = set()
        self.burnt: set[int] = set()
        self.now_ns = NANOSECONDS
        self.endow()

    def endow(self) -> None:
        event = Event(IDS + 1, 1, 2, 50, 0, 0, 1, 1, 0, b"c")
        assert self.state.apply([event], self.now_ns)[0].code is Code.CREATED
        self.entries.append(self.state.transfers[event.id])

    @rule(pause=st.sampled_from([0, 1, NANOSECONDS, 2 * NANOSECONDS]))
    def wait(self, pause: int) -> None:
        self.now_ns += pause
        before = {
            entry.id
            for entry in self.entries
            if entry.flags & Flag.PENDING and self.state.pending[entry.id] is PendingState.OPEN
        }
        expired = set(self.state.expire(self.now_ns))
        due = {
            entry.id
            for entry in self.entries
            if entry.id in before
            and entry.timeout_seconds
            and entry.at_ns + entry.timeout_seconds * NANOSECONDS <= self.now_ns
        }
        assert expired == due
        self.released |= expired

    @rule(events=st.lists(st.one_of(plain(), resolving()), min_size=1, max_size=8))
    def batch(self, events: list[Event]) -> None:
        known = set(self.state.transfers)
        self.now_ns += len(events)
        results = self.state.apply(events, self.now_ns)
        assert len(results) == len(events)
        for event, result in zip(events, results, strict=True):
            if result.code is Code.CREATED:
                entry = self.state.transfers[event.id]
                assert event.id not in known
                assert event.id not in self.burnt
                assert entry.amount == result.amount
                assert event.amount in {0, ALL} or result.amount <= event.amount
                assert entry.at_ns == result.at_ns
                self.entries.append(entry)
                known.add(event.id)
        self.burnt = set(self.state.burnt)
        assert self.burnt.isdisjoint(known)
        self.check_chains(events, [result.code for result in results])

    def check_chains(self, events: list[Event], codes: list[Code]) -> None:
        """All members of a chain are created, or none is."""
        chain: list[Code] = []
        for event, code in zip(events, codes, strict=True):
            chain.append(code)
            if not event.flags & Flag.LINKED:
                assert len(chain) == 1 or set(chain) == {Code.CREATED} or Code.CREATED not in chain
                chain = []
        assert not chain or (Code.CREATED not in chain and chain[-1] is Code.CHAIN_OPEN)

    @rule(data=st.data())
    def repeat(self, data: st.DataObject) -> None:
        """Whatever was done answers EXISTS, and changes nothing."""
        entry = data.draw(st.sampled_from(self.entries))
        event = Event(*entry[:10])
        self.now_ns += 1
        (result,) = self.state.apply(
            [event._replace(flags=entry.flags & ~Flag.LINKED)], self.now_ns
        )
        expected = Code.EXISTS_OTHER_FLAGS if entry.flags & Flag.LINKED else Code.EXISTS
        assert (result.code, result.amount) == (expected, entry.amount)

    @invariant()
    def counters_are_what_happened(self) -> None:
        if not hasattr(self, "state"):
            return
        assert set(self.state.transfers) == {entry.id for entry in self.entries}
        for identifier, sums in recount(self.entries, self.released).items():
            account = self.state.accounts[identifier]
            counted = Sums(
                account.debits_pending, account.debits_posted, account.credits_pending, account.credits_posted,
            )  # fmt: skip
            assert counted == sums
            assert max(vars(sums).values()) <= AMOUNT_MAX
            if account.limit is Limit.DEBITS:
                assert account.spendable >= 0


LedgerModel.TestCase.settings = settings(max_examples=80, stateful_step_count=30, deadline=None)
TestLedgerModel = LedgerModel.TestCase
