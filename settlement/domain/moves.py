"""The contract: which transfers follow from a statement. Service and replay both ask here.

Nothing but the statement (and which key is the market's) decides; whether it may be made at all is
the service's guards' and the replay's question, and whether the money is there the ledger's.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Final, NamedTuple
from uuid import UUID

from settlement.domain.amount import checked
from settlement.domain.ledger import (
    ALL,
    LEDGER_CREDITS,
    AccountKey,
    AccountName,
    Flag,
    Purpose,
    Reason,
    Transfer,
)
from settlement.domain.payments import (
    WITHDRAWAL_SECONDS,
    Expiry,
    Issue,
    Payment,
    Payout,
    Release,
    Withdraw,
    Withdrawn,
)
from settlement.domain.settled import CHECK, Charged
from settlement.domain.statement import Opened
from settlement.domain.trade import Close, Order, TopUp

ROLE_BITS: Final = 3  # of a derived id: which of its statement's transfers it is
_DIGEST_BITS: Final = slice(7, 27)  # of a digest's text: the first 80 bits
_VERSION: Final = 7 << 76
_VARIANT: Final = 2 << 62
_RANDOM_A: Final = 2**12 - 1
_RANDOM_B: Final = 2**62 - 1 & ~((1 << ROLE_BITS) - 1)
# an enum costs more to hash than the whole look-up of a name
_AVAILABLE, _HELD, _BUDGET = int(Purpose.AVAILABLE), int(Purpose.HELD), int(Purpose.BUDGET)
_FEES, _CHECKS, _ISSUED = int(Purpose.FEES), int(Purpose.CHECKS), int(Purpose.ISSUED)
_CREDITS: Final = LEDGER_CREDITS
_CHARGE, _FEE, _SURCHARGE = Reason.CHARGE, Reason.FEE, Reason.SURCHARGE  # and to name
_PAYMENT: Final = Reason.PAYMENT


class Move(NamedTuple):
    """A transfer in plain values, of which a replay makes millions."""

    id: int
    debit: AccountName
    credit: AccountName
    amount: int
    reason: Reason
    flags: int = 0
    pending_id: int = 0
    timeout_seconds: int = 0


Moves = tuple[Move, ...]
Mover = Callable[[Opened, str], Moves]
_move: Final = partial(tuple.__new__, Move)  # a named tuple without the detour over its keywords


def moves(opened: Opened, market: str) -> tuple[Transfer, ...]:
    """The transfers of a statement, in order; they happen together or not at all.

    `market` is the address that `fees`, `checks` and `issued` belong to. Most kinds move nothing.
    """
    rule = RULES.get(type(opened.statement))
    return tuple(transfer(move) for move in rule(opened, market)) if rule is not None else ()


def transfer(move: Move) -> Transfer:
    """The same as the engine takes it."""
    return Transfer(
        UUID(int=move.id), AccountKey.of(move.debit), AccountKey.of(move.credit), checked(move.amount),
        move.reason, Flag(move.flags), UUID(int=move.pending_id) if move.pending_id else None,
        move.timeout_seconds,
    )  # fmt: skip


def derived_id(digest: str, at_ms: int, role: int) -> UUID:
    """The id of a statement's transfer: a UUID of version 7 (RFC 9562) out of time and digest.

    A repeat makes the same transfer, never a second one; and as ids grow with time, the newest
    stand together in the database's index.
    """
    assert 0 <= role < 1 << ROLE_BITS
    return UUID(int=_derived(digest, at_ms) + role)


def _derived(digest: str, at_ms: int) -> int:
    """The id of role 0; those of the others follow it."""
    bits = int(digest[_DIGEST_BITS], 16)
    return (
        (at_ms & (2**48 - 1)) << 80 | _VERSION | (bits >> 62 & _RANDOM_A) << 64 | _VARIANT
        | bits & _RANDOM_B
    )  # fmt: skip


def budget(consumer: str, job: str) -> AccountName:
    """The account of one job's tokens."""
    return (consumer, _BUDGET, job, _CREDITS)


def _issue(opened: Opened, market: str) -> Moves:
    said: Issue = _as(opened)
    owner, purpose = (market, _CHECKS) if said.purpose == "checks" else (said.to, _AVAILABLE)
    return _one(said, (market, _ISSUED, "", _CREDITS), (owner, purpose, "", _CREDITS), Reason.ISSUE)


def _payment(opened: Opened, market: str) -> Moves:  # noqa: ARG001 - as every rule
    said: Payment = _as(opened)
    return _one(said, _available(said.payer), _available(said.to), _PAYMENT)


def _payout(opened: Opened, market: str) -> Moves:  # noqa: ARG001 - as every rule
    said: Payout = _as(opened)
    payer = _available(said.payer)
    return tuple(
        [
            _plain(
                payee.transfer, payer, (payee.to, _AVAILABLE, "", _CREDITS), payee.amount, _PAYMENT
            )
            for payee in said.payees
        ]
    )


def _order(opened: Opened, market: str) -> Moves:  # noqa: ARG001 - as every rule
    said: Order = _as(opened)
    payer, account = _available(said.consumer), budget(said.consumer, said.job)
    return (_plain(said.transfer, payer, account, said.budget, Reason.FUND),)


def _top_up(opened: Opened, market: str) -> Moves:  # noqa: ARG001 - as every rule
    said: TopUp = _as(opened)
    return _one(said, _available(said.consumer), budget(said.consumer, said.job), Reason.TOP_UP)


def _charged(opened: Opened, market: str) -> Moves:
    """Work and vouchers: budget → held, → fees, → checks. A check's wage: `checks` → held, → fees."""
    said: Charged = _as(opened)
    gross, fee, surcharge = int(said.gross), int(said.fee), int(said.surcharge)
    checks = (market, _CHECKS, "", _CREDITS)
    if said.role == CHECK:
        payer, wage, cut = checks, Reason.CHECK_WAGE, Reason.CHECK_FEE
    else:
        payer, wage, cut = (said.consumer, _BUDGET, said.job, _CREDITS), _CHARGE, _FEE
    first = _derived(opened.digest, said.at_ms)
    made = []
    if gross != fee:
        held = (said.provider, _HELD, "", _CREDITS)
        made.append(_move((first, payer, held, gross - fee, wage, 0, 0, 0)))
    if fee:
        fees = (market, _FEES, "", _CREDITS)
        made.append(_move((first + 1, payer, fees, fee, cut, 0, 0, 0)))
    if surcharge:
        made.append(_move((first + 2, payer, checks, surcharge, _SURCHARGE, 0, 0, 0)))
    return tuple(made)


def _release(opened: Opened, market: str) -> Moves:  # noqa: ARG001 - as every rule
    said: Release = _as(opened)
    held = (said.provider, _HELD, "", _CREDITS)
    return _one(said, held, _available(said.provider), Reason.RELEASE)


def _withdraw(opened: Opened, market: str) -> Moves:
    said: Withdraw = _as(opened)
    return (
        Move(
            _number(said.transfer), _available(said.party), (market, _ISSUED, "", _CREDITS),
            int(said.amount), Reason.WITHDRAWAL, int(Flag.PENDING),
            timeout_seconds=WITHDRAWAL_SECONDS,
        ),
    )  # fmt: skip


def _withdrawn(opened: Opened, market: str) -> Moves:
    """All of it leaves, or all of it is free again."""
    said: Withdrawn = _as(opened)
    paid = said.outcome == "paid"
    return (
        Move(
            _number(said.transfer), _available(said.party), (market, _ISSUED, "", _CREDITS),
            ALL if paid else 0, Reason.WITHDRAWAL, int(Flag.POST if paid else Flag.VOID),
            _number(said.withdrawal),
        ),
    )  # fmt: skip


def _close(opened: Opened, market: str) -> Moves:  # noqa: ARG001 - as every rule
    """Whatever the budget still holds goes back, perhaps nothing."""
    said: Close = _as(opened)
    return (
        Move(
            _number(said.transfer), budget(said.consumer, said.job), _available(said.consumer), ALL,
            Reason.REFUND, int(Flag.BALANCING_DEBIT),
        ),
    )  # fmt: skip


def _available(owner: str) -> AccountName:
    return (owner, _AVAILABLE, "", _CREDITS)


def _number(identifier: str) -> int:
    return int(identifier.replace("-", ""), 16)


def _one(said: Any, debit: AccountName, credit: AccountName, reason: Reason) -> Moves:  # noqa: ANN401 - kinds that name one transfer and its amount
    return (_plain(said.transfer, debit, credit, said.amount, reason),)


def _plain(
    identifier: str, debit: AccountName, credit: AccountName, microcredits: str, reason: Reason
) -> Move:
    number = int(identifier.replace("-", ""), 16)
    return _move((number, debit, credit, int(microcredits), reason, 0, 0, 0))


def _as(opened: Opened) -> Any:  # noqa: ANN401 - the table below pairs kind and rule
    return opened.statement


RULES: Final[dict[type, Mover]] = {
    Issue: _issue,
    Payment: _payment,
    Payout: _payout,
    Order: _order,
    TopUp: _top_up,
    Charged: _charged,
    Release: _release,
    Withdraw: _withdraw,
    Withdrawn: _withdrawn,
    Close: _close,
}
MOVING: Final = frozenset(RULES) | {Expiry}
"""The kinds that change balances; an expiry does so without a transfer of its own."""
