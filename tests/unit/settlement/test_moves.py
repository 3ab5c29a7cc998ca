"""The one table of transfers: what follows from each statement of a market's whole life."""

# ruff: noqa: ANN401 - a statement's fields are of many types

from typing import Any, Final
from uuid import UUID

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from settlement.domain import amount, canonical
from settlement.domain.ledger import ALL, AccountKey, Flag, Purpose, Reason, Transfer
from settlement.domain.moves import MOVING, ROLE_BITS, derived_id, moves
from settlement.domain.payments import WITHDRAWAL_SECONDS, Expiry
from settlement.domain.statement import Opened, Statement
from tests.unit.settlement import story as stories
from tests.unit.settlement.story import CONSUMER, JOB, LEDGER, STRANGER, WORKER, honest_story

MARKET: Final = LEDGER.address
SAID: Final = honest_story().said


def own(owner: str, purpose: Purpose = Purpose.AVAILABLE) -> AccountKey:
    return AccountKey(owner, purpose)


ISSUED, FEES, CHECKS = (
    own(MARKET, purpose) for purpose in (Purpose.ISSUED, Purpose.FEES, Purpose.CHECKS)
)
BUDGET: Final = AccountKey(CONSUMER.address, Purpose.BUDGET, UUID(JOB))
HELD: Final = own(WORKER.address, Purpose.HELD)
AVAILABLE: Final = own(CONSUMER.address)
# Of each kind that moves money: from where to where, for what reason.
PATHS: Final[dict[str, list[tuple[AccountKey, AccountKey, Reason]]]] = {
    "issue": [(ISSUED, AVAILABLE, Reason.ISSUE)],
    "issue checks": [(ISSUED, CHECKS, Reason.ISSUE)],
    "payment": [(AVAILABLE, own(WORKER.address), Reason.PAYMENT)],
    "payout": [
        (AVAILABLE, own(WORKER.address), Reason.PAYMENT),
        (AVAILABLE, own(stories.CHECKER.address), Reason.PAYMENT),
    ],
    "order": [(AVAILABLE, BUDGET, Reason.FUND)],
    "topup": [(AVAILABLE, BUDGET, Reason.TOP_UP)],
    "charged": [
        (BUDGET, HELD, Reason.CHARGE),
        (BUDGET, FEES, Reason.FEE),
        (BUDGET, CHECKS, Reason.SURCHARGE),
    ],
    "charged check": [
        (CHECKS, own(stories.CHECKER.address, Purpose.HELD), Reason.CHECK_WAGE),
        (CHECKS, FEES, Reason.CHECK_FEE),
    ],
    "charged voucher": [(BUDGET, HELD, Reason.CHARGE), (BUDGET, FEES, Reason.FEE)],
    "release": [(HELD, own(WORKER.address), Reason.RELEASE)],
    "close": [(BUDGET, AVAILABLE, Reason.REFUND)],
    "withdraw": [(own(STRANGER.address), ISSUED, Reason.WITHDRAWAL)],
    "withdrawn": [(own(STRANGER.address), ISSUED, Reason.WITHDRAWAL)],
    "withdrawn two": [(own(STRANGER.address), ISSUED, Reason.WITHDRAWAL)],
}


def said(name: str) -> Any:
    return SAID[name].statement


def of(name: str) -> tuple[Transfer, ...]:
    return moves(SAID[name], MARKET)


@pytest.mark.parametrize("name", PATHS)
def test_where_the_money_goes(name: str) -> None:
    made = [(one.debit, one.credit, one.reason) for one in of(name)]
    assert made == PATHS[name]


def test_every_kind_that_moves_money_is_shown() -> None:
    shown = {type(said(name)) for name in PATHS}
    assert shown | {Expiry} == MOVING
    for name, opened in SAID.items():
        if type(opened.statement) not in MOVING or isinstance(opened.statement, Expiry):
            assert of(name) == (), name


def test_amounts_are_those_that_were_said() -> None:
    for name in ("issue", "payment", "topup", "release", "withdraw"):
        assert [one.amount for one in of(name)] == [int(said(name).amount)]
    assert [one.amount for one in of("order")] == [int(said("order").budget)]
    assert [one.amount for one in of("payout")] == [3, 3]
    for name in ("charged", "charged check", "charged voucher"):
        charged = said(name)
        parts = [int(charged.gross) - int(charged.fee), int(charged.fee), int(charged.surcharge)]
        assert [one.amount for one in of(name)] == [part for part in parts if part]
        assert sum(parts) == int(charged.gross) + int(charged.surcharge) > 0


def test_ids_are_the_signers_where_the_statement_names_them() -> None:
    for name in ("issue", "payment", "order", "topup", "release", "close", "withdraw", "withdrawn"):
        assert [one.id for one in of(name)] == [UUID(said(name).transfer)]
    assert [one.id for one in of("payout")] == [UUID(one.transfer) for one in said("payout").payees]


def test_a_withdrawal_is_reserved_then_posted_or_voided() -> None:
    (asked,), (paid,), (refused,) = of("withdraw"), of("withdrawn"), of("withdrawn two")
    assert (asked.flags, asked.timeout_seconds) == (Flag.PENDING, WITHDRAWAL_SECONDS)
    assert (paid.flags, paid.amount, paid.pending_id) == (Flag.POST, ALL, asked.id)
    assert (refused.flags, refused.amount) == (Flag.VOID, 0)
    assert refused.pending_id == UUID(said("withdraw two").transfer)


def test_a_close_takes_whatever_is_there() -> None:
    (rest,) = of("close")
    assert (rest.flags, rest.amount) == (Flag.BALANCING_DEBIT, ALL)


def bent(name: str, **changes: Any) -> Opened:
    statement: Statement = msgspec.structs.replace(SAID[name].statement, **changes)
    return msgspec.structs.replace(SAID[name], statement=statement)


def test_parts_of_nothing_are_left_out() -> None:
    free = bent("charged", gross="0", fee="0", surcharge="0")
    assert moves(free, MARKET) == ()
    small = moves(bent("charged", gross="9", fee="0", surcharge="0"), MARKET)
    assert [(one.credit, one.amount) for one in small] == [(HELD, 9)]


def test_the_markets_accounts_follow_its_key() -> None:
    """After a takeover the same statement of the new market moves to the new accounts."""
    other = stories.NEXT.address
    for name, path in PATHS.items():
        expected = [
            (_renamed(debit, other), _renamed(credit, other), reason)
            for debit, credit, reason in path
        ]
        made = [(one.debit, one.credit, one.reason) for one in moves(SAID[name], other)]
        assert made == expected


def _renamed(key: AccountKey, owner: str) -> AccountKey:
    return AccountKey(owner, key.purpose, key.job) if key.owner == MARKET else key


def test_repeats_are_the_same_and_others_are_not() -> None:
    """Derived ids hang on the statement alone: another charge of the same receipt has others."""
    assert of("charged") == of("charged")
    later = stories.fresh_story()
    again = later.charge(SAID["receipt"], at_ms=later.now_ms + 99)
    ids = [{one.id for one in moves(opened, MARKET)} for opened in (SAID["charged"], again)]
    assert ids[0].isdisjoint(ids[1])
    assert len(ids[0]) == len(ids[1]) == 3


@given(
    digests=st.lists(st.binary(min_size=32, max_size=32), min_size=2, max_size=2, unique=True),
    times=st.tuples(st.integers(0, 2**48 - 1), st.integers(0, 2**48 - 1)),
    role=st.integers(0, (1 << ROLE_BITS) - 1),
)
def test_derived_ids_are_ordered_by_time(
    digests: list[bytes], times: tuple[int, int], role: int
) -> None:
    """UUIDs of version 7 (RFC 9562): time first, so that the newest stand together."""
    texts = [canonical.digest_text(digest) for digest in digests]
    first, second = (
        derived_id(text, at_ms, role) for text, at_ms in zip(texts, times, strict=True)
    )
    assert (first.version, first.variant) == (7, UUID(int=first.int).variant)
    assert first.int >> 80 == times[0]
    if times[0] != times[1]:
        assert (first < second) == (times[0] < times[1])
    others = {derived_id(texts[0], times[0], number) for number in range(1 << ROLE_BITS)}
    assert len(others) == 1 << ROLE_BITS


@given(st.integers(0, amount.AMOUNT_MAX))
def test_any_amount_moves_exactly(microcredits: int) -> None:
    (one,) = moves(bent("payment", amount=amount.to_text(microcredits)), MARKET)
    assert one.amount == microcredits
    one.check()
