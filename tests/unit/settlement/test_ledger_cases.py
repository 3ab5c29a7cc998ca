"""The ledger's answers by hand: every code at least once, and the order in which they win."""

from collections.abc import Sequence
from typing import Final

import pytest

from settlement.domain.ledger import (
    ALL,
    ID_MAX,
    TRANSIENT,
    Account,
    Code,
    Event,
    Flag,
    Limit,
    PendingState,
)
from settlement.domain.ledger_rules import NANOSECONDS, TIME_MAX_NS, State

AT: Final = 1_000_000 * NANOSECONDS  # time of the last event that `prepare` makes
CAUSE: Final = b"c" * 32
A, B, FREE, OTHER, FREE_TOO, GUARDED = 1, 2, 3, 4, 5, 6
LINKED, PENDING, POST, VOID = Flag.LINKED, Flag.PENDING, Flag.POST, Flag.VOID
DEBIT, CREDIT = Flag.BALANCING_DEBIT, Flag.BALANCING_CREDIT
PAID, HELD, EXPIRING, POSTED, VOIDED, BURNT, POSTING, BALANCED = range(101, 109)
PART, VOIDING, LAPSED = 109, 110, 111


def event(
    identifier: int,
    debit: int = A,
    credit: int = B,
    amount: int = 1,
    *,
    pending: int = 0,
    timeout: int = 0,
    ledger: int = 1,
    code: int = 2,
    flags: int = 0,
    cause: bytes = CAUSE,
) -> Event:
    return Event(
        identifier, debit, credit, amount, pending, timeout, ledger, code, int(flags), cause
    )


def follow(
    identifier: int,
    pending: int,
    amount: int,
    flags: Flag,
    *,
    debit: int = 0,
    credit: int = 0,
    timeout: int = 0,
    ledger: int = 0,
    code: int = 0,
) -> Event:
    """A post or void; it inherits what is not given."""
    return Event(
        identifier, debit, credit, amount, pending, timeout, ledger, code, int(flags), CAUSE
    )


def prepare() -> State:
    """A: 1000 spendable, limited; B limited; FREE unlimited; OTHER on ledger 2; GUARDED limited on credit."""
    state = State(
        {
            A: Account(A, 1, Limit.DEBITS, credits_posted=1_000),
            B: Account(B, 1, Limit.DEBITS),
            FREE: Account(FREE, 1, Limit.NONE, debits_posted=1_000),
            OTHER: Account(OTHER, 2, Limit.NONE),
            FREE_TOO: Account(FREE_TOO, 1, Limit.NONE),
            GUARDED: Account(GUARDED, 1, Limit.CREDITS, debits_posted=10),
        }
    )
    state.accounts[FREE_TOO].credits_posted = 10
    first = [
        event(PAID, amount=10),
        event(HELD, amount=20, flags=PENDING),
        event(EXPIRING, amount=5, timeout=10, flags=PENDING),
        event(POSTED, amount=30, flags=PENDING),
        event(VOIDED, amount=40, flags=PENDING),
        event(LAPSED, amount=6, timeout=10, flags=PENDING),
    ]
    assert {r.code for r in state.apply(first, AT - 6)} == {Code.CREATED}
    state.pending[LAPSED] = PendingState.EXPIRED
    second = [
        event(BURNT, B, A, 5_000),
        follow(POSTING, POSTED, ALL, POST),
        event(BALANCED, B, A, 5_000, flags=DEBIT),
        event(PART, FREE, FREE_TOO, 0),
        follow(VOIDING, VOIDED, 0, VOID),
    ]
    codes = [r.code for r in state.apply(second, AT)]
    assert codes == [Code.EXCEEDS_CREDITS] + [Code.CREATED] * 4
    return state


TABLE: Final[Sequence[tuple[Code, Event]]] = [
    (Code.CREATED, event(900)),
    (Code.CREATED, event(900, amount=0)),
    (Code.CHAIN_OPEN, event(900, flags=LINKED)),
    (Code.CHAIN_OPEN, event(0, flags=LINKED)),
    (Code.ID_ZERO, event(0, debit=0)),
    (Code.ID_MAX, event(ID_MAX, debit=0)),
    (Code.EXISTS_OTHER_FLAGS, event(PAID, pending=5, amount=10, flags=PENDING)),
    (Code.EXISTS_OTHER_PENDING_ID, event(PAID, amount=10, pending=5, timeout=5)),
    (Code.EXISTS_OTHER_TIMEOUT, event(PAID, amount=10, timeout=5, debit=9)),
    (Code.EXISTS_OTHER_DEBIT, event(PAID, debit=9, credit=9, amount=10)),
    (Code.EXISTS_OTHER_DEBIT, event(PAID, debit=0, amount=10)),
    (Code.EXISTS_OTHER_CREDIT, event(PAID, credit=9, amount=11)),
    (Code.EXISTS_OTHER_AMOUNT, event(PAID, amount=11, cause=b"x")),
    (Code.EXISTS_OTHER_AMOUNT, event(PAID, amount=9)),
    (Code.EXISTS_OTHER_CAUSE, event(PAID, amount=10, cause=b"x", ledger=2)),
    (Code.EXISTS_OTHER_LEDGER, event(PAID, amount=10, ledger=2, code=9)),
    (Code.EXISTS_OTHER_REASON, event(PAID, amount=10, code=9)),
    (Code.EXISTS, event(PAID, amount=10)),
    (Code.EXISTS, event(BALANCED, B, A, 5_000, flags=DEBIT)),
    (Code.EXISTS, event(BALANCED, B, A, 40, flags=DEBIT)),
    (Code.EXISTS_OTHER_AMOUNT, event(BALANCED, B, A, 39, flags=DEBIT)),
    (Code.EXISTS, follow(POSTING, POSTED, ALL, POST)),
    (Code.EXISTS, follow(POSTING, POSTED, 30, POST, debit=A, credit=B, ledger=1, code=2)),
    (Code.EXISTS_OTHER_AMOUNT, follow(POSTING, POSTED, 29, POST)),
    (Code.EXISTS_OTHER_DEBIT, follow(POSTING, POSTED, ALL, POST, debit=B)),
    (Code.EXISTS_OTHER_PENDING_ID, follow(POSTING, HELD, ALL, POST)),
    (Code.EXISTS, follow(VOIDING, VOIDED, 0, VOID)),
    (Code.EXISTS, follow(VOIDING, VOIDED, 40, VOID)),
    (Code.EXISTS_OTHER_AMOUNT, follow(VOIDING, VOIDED, 39, VOID)),
    (Code.ALREADY_FAILED, event(BURNT, B, A, 1)),
    (Code.ALREADY_FAILED, event(BURNT, 0, 0, 1, flags=POST | VOID)),
    (Code.FLAGS_EXCLUSIVE, event(900, flags=POST | VOID)),
    (Code.FLAGS_EXCLUSIVE, event(900, flags=POST | PENDING)),
    (Code.FLAGS_EXCLUSIVE, event(900, flags=VOID | PENDING)),
    (Code.FLAGS_EXCLUSIVE, event(900, flags=POST | DEBIT)),
    (Code.FLAGS_EXCLUSIVE, event(900, flags=VOID | CREDIT)),
    (Code.PENDING_ID_ZERO, follow(900, 0, 1, POST, timeout=5)),
    (Code.PENDING_ID_MAX, follow(900, ID_MAX, 1, POST, timeout=5)),
    (Code.PENDING_ID_OWN, follow(900, 900, 1, VOID, timeout=5)),
    (Code.TIMEOUT_NEEDLESS, follow(900, 999, 1, POST, timeout=5)),
    (Code.PENDING_NOT_FOUND, follow(900, 999, 1, POST)),
    (Code.PENDING_NOT_PENDING, follow(900, PAID, 1, POST, debit=9)),
    (Code.PENDING_OTHER_DEBIT, follow(900, HELD, 1, POST, debit=B, credit=A)),
    (Code.PENDING_OTHER_CREDIT, follow(900, HELD, 1, POST, credit=A, ledger=2)),
    (Code.PENDING_OTHER_LEDGER, follow(900, HELD, 1, POST, ledger=2, code=9)),
    (Code.PENDING_OTHER_REASON, follow(900, HELD, 99, POST, code=9)),
    (Code.EXCEEDS_PENDING, follow(900, HELD, 21, POST)),
    (Code.EXCEEDS_PENDING, follow(900, HELD, ALL, VOID)),
    (Code.EXCEEDS_PENDING, follow(900, POSTED, 31, POST)),
    (Code.VOID_IN_PART, follow(900, HELD, 19, VOID)),
    (Code.VOID_IN_PART, follow(900, POSTED, 19, VOID)),
    (Code.ALREADY_POSTED, follow(900, POSTED, ALL, POST)),
    (Code.ALREADY_VOIDED, follow(900, VOIDED, 0, VOID)),
    (Code.PENDING_EXPIRED, follow(900, LAPSED, ALL, POST)),
    (Code.DEBIT_ZERO, event(900, debit=0, credit=0)),
    (Code.DEBIT_MAX, event(900, debit=ID_MAX, credit=ID_MAX)),
    (Code.CREDIT_ZERO, event(900, credit=0)),
    (Code.CREDIT_MAX, event(900, credit=ID_MAX)),
    (Code.ACCOUNTS_SAME, event(900, debit=A, credit=A, pending=1)),
    (Code.PENDING_ID_NEEDLESS, event(900, pending=HELD, timeout=5)),
    (Code.TIMEOUT_NEEDLESS, event(900, timeout=5, ledger=0)),
    (Code.LEDGER_ZERO, event(900, ledger=0, code=0)),
    (Code.REASON_ZERO, event(900, debit=77, code=0)),
    (Code.DEBIT_NOT_FOUND, event(900, debit=77, credit=78)),
    (Code.CREDIT_NOT_FOUND, event(900, credit=78, ledger=9)),
    (Code.LEDGERS_DIFFER, event(900, credit=OTHER, ledger=9)),
    (Code.LEDGER_OTHER, event(900, ledger=9, amount=5_000)),
    (Code.OVERFLOWS_DEBITS_PENDING, event(900, amount=ALL, flags=PENDING)),
    (Code.OVERFLOWS_CREDITS_PENDING, event(900, FREE_TOO, B, ALL, flags=PENDING)),
    (Code.OVERFLOWS_DEBITS_POSTED, event(900, amount=ALL)),
    (Code.OVERFLOWS_CREDITS_POSTED, event(900, GUARDED, B, ALL - 10)),
    (Code.OVERFLOWS_DEBITS, event(900, amount=ALL - 40, credit=FREE)),
    (Code.OVERFLOWS_CREDITS, event(900, FREE_TOO, B, ALL - 41)),
    (Code.OVERFLOWS_TIMEOUT, event(900, amount=5_000, timeout=2**34, flags=PENDING)),
    (Code.EXCEEDS_CREDITS, event(900, amount=5_000, credit=GUARDED)),
    (Code.EXCEEDS_CREDITS, event(900, amount=970)),
    (Code.CREATED, event(900, amount=969)),
    (Code.EXCEEDS_DEBITS, event(900, FREE, GUARDED, 11)),
    (Code.CREATED, event(900, FREE, GUARDED, 10)),
]  # fmt: skip


@pytest.mark.parametrize(("code", "given"), TABLE)
def test_the_answer(code: Code, given: Event) -> None:
    state = prepare()
    before = {key: repr(account) for key, account in state.accounts.items()}
    (result,) = state.apply([given], AT + 1)
    assert result.code is code
    if code is not Code.CREATED:
        assert {key: repr(account) for key, account in state.accounts.items()} == before
    assert (given.id in state.burnt and given.id != BURNT) == (code in TRANSIENT)


def test_every_code_has_its_case() -> None:
    assert {code for code, _ in TABLE} | {Code.LINKED_FAILED} == set(Code)


def test_a_chain_stands_or_falls_together() -> None:
    state = prepare()
    results = state.apply(
        [
            event(900, amount=7, flags=LINKED),
            follow(901, HELD, ALL, POST | LINKED),
            event(902, amount=3, timeout=5, flags=PENDING | LINKED),
            event(903, B, A, 5_000, flags=LINKED),
            event(904),
            event(905),
        ],
        AT + 10,
    )
    failed = Code.LINKED_FAILED
    assert [r.code for r in results] == [
        failed, failed, failed, Code.EXCEEDS_CREDITS, failed, Code.CREATED,
    ]  # fmt: skip
    assert state.pending[HELD] is PendingState.OPEN
    assert 902 not in state.pending
    assert {903} == set(state.burnt) - {BURNT}
    assert state.accounts[A].debits_posted == 41
    again = state.apply([event(900), event(903, B, A, 1), event(904)], AT + 13)
    assert [r.code for r in again] == [Code.CREATED, Code.ALREADY_FAILED, Code.CREATED]


def test_a_post_in_a_broken_chain_leaves_the_expiry_alone() -> None:
    state = prepare()
    broken = [follow(900, EXPIRING, ALL, POST | LINKED), event(901, debit=77)]
    assert [r.code for r in state.apply(broken, AT + 2)] == [
        Code.LINKED_FAILED,
        Code.DEBIT_NOT_FOUND,
    ]
    assert state.expire(AT + 20 * NANOSECONDS) == [EXPIRING]


def test_an_open_chain_fails_whole() -> None:
    state = prepare()
    results = state.apply([event(900, flags=LINKED), event(901, flags=LINKED)], AT + 2)
    assert [r.code for r in results] == [Code.LINKED_FAILED, Code.CHAIN_OPEN]
    assert state.apply([event(900)], AT + 3)[0].code is Code.CREATED
    results = state.apply([event(902, debit=77, flags=LINKED), event(903, flags=LINKED)], AT + 5)
    assert [r.code for r in results] == [Code.DEBIT_NOT_FOUND, Code.CHAIN_OPEN]


def test_a_repeat_within_one_batch() -> None:
    state = prepare()
    results = state.apply(
        [event(900, amount=7), event(900, amount=7), event(900, amount=8)], AT + 3
    )
    assert [r.code for r in results] == [Code.CREATED, Code.EXISTS, Code.EXISTS_OTHER_AMOUNT]
    assert results[1].at_ns == results[0].at_ns == AT + 1
    assert results[1].amount == 7


def test_expired_is_the_very_nanosecond() -> None:
    made = AT - 6 - 3  # EXPIRING is the third of six events
    deadline = made + 10 * NANOSECONDS
    late = prepare().apply([follow(900, EXPIRING, ALL, POST)], deadline)
    in_time = prepare().apply([follow(900, EXPIRING, ALL, POST)], deadline - 1)
    assert (late[0].code, in_time[0].code) == (Code.PENDING_EXPIRED, Code.CREATED)
    assert prepare().expire(deadline - 1) == []
    state = prepare()
    assert state.expire(deadline) == [EXPIRING]
    assert (
        state.apply([follow(900, EXPIRING, 0, VOID)], deadline + 1)[0].code is Code.PENDING_EXPIRED
    )
    assert state.accounts[A].debits_pending == 26  # HELD, and LAPSED by hand


def test_it_expires_between_two_events_of_one_batch() -> None:
    deadline = AT - 6 - 3 + 10 * NANOSECONDS
    results = prepare().apply(
        [event(900), follow(901, EXPIRING, 1, POST), event(902)], deadline + 1
    )
    assert [r.code for r in results] == [Code.CREATED, Code.PENDING_EXPIRED, Code.CREATED]


def test_post_in_part_frees_the_rest() -> None:
    state = prepare()
    (result,) = state.apply([follow(900, HELD, 15, POST)], AT + 1)
    assert (result.code, result.amount) == (Code.CREATED, 15)
    account = state.accounts[A]
    assert (account.debits_pending, account.debits_posted) == (11, 55)
    assert state.transfers[900].code == state.transfers[HELD].code


@pytest.mark.parametrize(
    ("given", "moved"),
    [
        (event(900, A, B, ALL, flags=DEBIT), 969),
        (event(900, A, B, 3, flags=DEBIT), 3),
        (event(900, B, A, ALL, flags=DEBIT), 0),
        (event(900, FREE, FREE_TOO, ALL, flags=DEBIT), 0),
        (event(900, FREE, GUARDED, ALL, flags=CREDIT), 10),
        (event(900, A, GUARDED, ALL, flags=CREDIT | DEBIT), 10),
        (event(900, A, FREE, 999, flags=CREDIT | DEBIT | PENDING), 969),
    ],
)
def test_balancing_moves_what_is_there(given: Event, moved: int) -> None:
    state = prepare()
    (result,) = state.apply([given], AT + 1)
    assert (result.code, result.amount) == (Code.CREATED, moved)
    assert state.transfers[900].amount == moved


def test_balancing_on_one_side_still_meets_the_other_sides_limit() -> None:
    (result,) = prepare().apply([event(900, A, FREE, ALL, flags=CREDIT)], AT + 1)
    assert result.code is Code.EXCEEDS_CREDITS


def test_amounts_up_to_the_last_value() -> None:
    state = State({A: Account(A, 1, Limit.CREDITS), B: Account(B, 1, Limit.DEBITS)})
    results = state.apply(
        [
            event(900, amount=ALL - 1),
            event(901, amount=2),
            event(902, amount=1),
            event(903, amount=0),
        ],
        AT,
    )
    assert [r.code for r in results] == [
        Code.CREATED, Code.OVERFLOWS_DEBITS_POSTED, Code.CREATED, Code.CREATED,
    ]  # fmt: skip
    assert state.accounts[B].spendable == ALL


def test_a_timeout_past_the_end_of_time() -> None:
    seconds = (TIME_MAX_NS - AT) // NANOSECONDS
    fits, over = (event(900, timeout=s, flags=PENDING) for s in (seconds, seconds + 1))
    assert prepare().apply([fits], AT)[0].code is Code.CREATED
    assert prepare().apply([over], AT)[0].code is Code.OVERFLOWS_TIMEOUT
