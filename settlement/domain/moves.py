"""The contract: which transfers follow from a statement. Service and replay both ask here.

Nothing but the statement (and which key is the market's) decides; whether it may be made at all is
the service's guards' and the replay's question, and whether the money is there the ledger's.
"""

from collections.abc import Callable
from typing import Any, Final
from uuid import UUID

from settlement.domain import amount, canonical
from settlement.domain.ledger import ALL, AccountKey, Flag, Purpose, Reason, Transfer
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
_VERSION: Final = 7 << 76
_VARIANT: Final = 2 << 62
_RANDOM_A: Final = 2**12 - 1
_RANDOM_B: Final = 2**62 - 1


def moves(opened: Opened, market: str) -> tuple[Transfer, ...]:
    """The transfers of a statement, in order; they happen together or not at all.

    `market` is the address that `fees`, `checks` and `issued` belong to. Most kinds move nothing.
    """
    rule = _RULES.get(type(opened.statement))
    return rule(opened, market) if rule is not None else ()


def derived_id(digest: str, at_ms: int, role: int) -> UUID:
    """The id of a statement's transfer: a UUID of version 7 (RFC 9562) out of time and digest.

    A repeat makes the same transfer, never a second one; and as ids grow with time, the newest
    stand together in the database's index.
    """
    assert 0 <= role < 1 << ROLE_BITS
    bits = int.from_bytes(canonical.digest_bytes(digest)[:10])
    low = bits & _RANDOM_B & ~((1 << ROLE_BITS) - 1) | role
    return UUID(
        int=(at_ms & (2**48 - 1)) << 80 | _VERSION | (bits >> 62 & _RANDOM_A) << 64 | _VARIANT | low
    )


def _available(owner: str) -> AccountKey:
    return AccountKey(owner, Purpose.AVAILABLE)


def _issue(opened: Opened, market: str) -> tuple[Transfer, ...]:
    said: Issue = _as(opened)
    to = AccountKey(market, Purpose.CHECKS) if said.purpose == "checks" else _available(said.to)
    issued = AccountKey(market, Purpose.ISSUED)
    return (_named(said.transfer, issued, to, said.amount, Reason.ISSUE),)


def _payment(opened: Opened, market: str) -> tuple[Transfer, ...]:  # noqa: ARG001 - as every rule
    said: Payment = _as(opened)
    payer, to = _available(said.payer), _available(said.to)
    return (_named(said.transfer, payer, to, said.amount, Reason.PAYMENT),)


def _payout(opened: Opened, market: str) -> tuple[Transfer, ...]:  # noqa: ARG001 - as every rule
    said: Payout = _as(opened)
    payer = _available(said.payer)
    return tuple(
        _named(payee.transfer, payer, _available(payee.to), payee.amount, Reason.PAYMENT)
        for payee in said.payees
    )


def _order(opened: Opened, market: str) -> tuple[Transfer, ...]:  # noqa: ARG001 - as every rule
    said: Order = _as(opened)
    return (
        _named(
            said.transfer, _available(said.consumer), budget(said.consumer, said.job), said.budget, Reason.FUND
        ),
    )  # fmt: skip


def _top_up(opened: Opened, market: str) -> tuple[Transfer, ...]:  # noqa: ARG001 - as every rule
    said: TopUp = _as(opened)
    return (
        _named(
            said.transfer, _available(said.consumer), budget(said.consumer, said.job), said.amount, Reason.TOP_UP
        ),
    )  # fmt: skip


def _charged(opened: Opened, market: str) -> tuple[Transfer, ...]:
    """Work and vouchers: budget → held, → fees, → checks. A check's wage: `checks` → held, → fees."""
    said: Charged = _as(opened)
    held, fees = AccountKey(said.provider, Purpose.HELD), AccountKey(market, Purpose.FEES)
    checks = AccountKey(market, Purpose.CHECKS)
    gross, fee, surcharge = (
        amount.from_text(part) for part in (said.gross, said.fee, said.surcharge)
    )
    if said.role == CHECK:
        payer, reasons = checks, (Reason.CHECK_WAGE, Reason.CHECK_FEE)
    else:
        payer, reasons = budget(said.consumer, said.job), (Reason.CHARGE, Reason.FEE)
    parts = (
        (held, gross - fee, reasons[0]),
        (fees, fee, reasons[1]),
        (checks, surcharge, Reason.SURCHARGE),
    )
    return tuple(
        Transfer(derived_id(opened.digest, said.at_ms, role), payer, to, part, reason)
        for role, (to, part, reason) in enumerate(parts)
        if part
    )


def _release(opened: Opened, market: str) -> tuple[Transfer, ...]:  # noqa: ARG001 - as every rule
    said: Release = _as(opened)
    held = AccountKey(said.provider, Purpose.HELD)
    return (_named(said.transfer, held, _available(said.provider), said.amount, Reason.RELEASE),)


def _withdraw(opened: Opened, market: str) -> tuple[Transfer, ...]:
    said: Withdraw = _as(opened)
    return (
        Transfer(
            UUID(said.transfer), _available(said.party), AccountKey(market, Purpose.ISSUED),
            amount.from_text(said.amount), Reason.WITHDRAWAL, Flag.PENDING,
            timeout_seconds=WITHDRAWAL_SECONDS,
        ),
    )  # fmt: skip


def _withdrawn(opened: Opened, market: str) -> tuple[Transfer, ...]:
    """All of it leaves, or all of it is free again."""
    said: Withdrawn = _as(opened)
    paid = said.outcome == "paid"
    return (
        Transfer(
            UUID(said.transfer), _available(said.party), AccountKey(market, Purpose.ISSUED),
            ALL if paid else 0, Reason.WITHDRAWAL, Flag.POST if paid else Flag.VOID, UUID(said.withdrawal),
        ),
    )  # fmt: skip


def _close(opened: Opened, market: str) -> tuple[Transfer, ...]:  # noqa: ARG001 - as every rule
    """Whatever the budget still holds goes back, perhaps nothing."""
    said: Close = _as(opened)
    return (
        Transfer(
            UUID(said.transfer), budget(said.consumer, said.job), _available(said.consumer), ALL,
            Reason.REFUND, Flag.BALANCING_DEBIT,
        ),
    )  # fmt: skip


def budget(consumer: str, job: str) -> AccountKey:
    """The account of one job's tokens."""
    return AccountKey(consumer, Purpose.BUDGET, UUID(job))


def _named(
    identifier: str, debit: AccountKey, credit: AccountKey, microcredits: str, reason: Reason
) -> Transfer:
    return Transfer(UUID(identifier), debit, credit, amount.from_text(microcredits), reason)


def _as(opened: Opened) -> Any:  # noqa: ANN401 - the table below pairs kind and rule
    return opened.statement


_RULES: Final[dict[type, Callable[[Opened, str], tuple[Transfer, ...]]]] = {
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
MOVING: Final = frozenset(_RULES) | {Expiry}
"""The kinds that change balances; an expiry does so without a transfer of its own."""
