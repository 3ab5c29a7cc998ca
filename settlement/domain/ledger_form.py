"""What is wrong with a transfer whatever the balances: its form, and a post or void against its pending."""

from collections.abc import Iterable
from typing import Final

from settlement.domain.ledger import ID_MAX, Code, Entry, Event, Flag

LINKED, PENDING, POST, VOID = (
    int(flag) for flag in (Flag.LINKED, Flag.PENDING, Flag.POST, Flag.VOID)
)
BALANCING_DEBIT, BALANCING_CREDIT = int(Flag.BALANCING_DEBIT), int(Flag.BALANCING_CREDIT)
RESOLVES: Final = POST | VOID
BALANCING: Final = BALANCING_DEBIT | BALANCING_CREDIT


def check_form(event: Event) -> Code | None:
    """What is wrong with a plain or pending transfer whatever the accounts."""
    _, debit, credit, _, pending_id, timeout_seconds, ledger, code, flags, _ = event
    if debit == 0:
        return Code.DEBIT_ZERO
    if debit == ID_MAX:
        return Code.DEBIT_MAX
    if credit == 0:
        return Code.CREDIT_ZERO
    if credit == ID_MAX:
        return Code.CREDIT_MAX
    if debit == credit:
        return Code.ACCOUNTS_SAME
    if pending_id != 0:
        return Code.PENDING_ID_NEEDLESS
    if timeout_seconds and not flags & PENDING:
        return Code.TIMEOUT_NEEDLESS
    if ledger == 0:
        return Code.LEDGER_ZERO
    if code == 0:
        return Code.REASON_ZERO
    return None


def check_resolving(event: Event) -> Code | None:
    both = event.flags & RESOLVES == RESOLVES
    checks = (
        (both or bool(event.flags & (PENDING | BALANCING)), Code.FLAGS_EXCLUSIVE),
        (event.pending_id == 0, Code.PENDING_ID_ZERO),
        (event.pending_id == ID_MAX, Code.PENDING_ID_MAX),
        (event.pending_id == event.id, Code.PENDING_ID_OWN),
        (event.timeout_seconds != 0, Code.TIMEOUT_NEEDLESS),
    )
    return _first(checks)


def check_against(event: Event, entry: Entry, amount: int) -> Code | None:
    """A post or void against its pending transfer; 0 inherits."""
    checks = (
        (not entry.flags & PENDING, Code.PENDING_NOT_PENDING),
        (event.debit not in {0, entry.debit}, Code.PENDING_OTHER_DEBIT),
        (event.credit not in {0, entry.credit}, Code.PENDING_OTHER_CREDIT),
        (event.ledger not in {0, entry.ledger}, Code.PENDING_OTHER_LEDGER),
        (event.code not in {0, entry.code}, Code.PENDING_OTHER_REASON),
        (amount > entry.amount, Code.EXCEEDS_PENDING),
        (bool(event.flags & VOID) and amount < entry.amount, Code.VOID_IN_PART),
    )
    return _first(checks)


def _first(checks: Iterable[tuple[bool, Code]]) -> Code | None:
    return next((code for wrong, code in checks if wrong), None)
