"""What is wrong with a transfer whatever the balances: its form, and a post or void against its pending."""

from typing import Final

from settlement.domain.ledger import ALL, ID_MAX, Code, Entry, Event, Flag

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
    """What is wrong with a post or void whatever it resolves."""
    identifier, _, _, _, pending_id, timeout_seconds, _, _, flags, _ = event
    if flags & RESOLVES == RESOLVES or flags & (PENDING | BALANCING):
        return Code.FLAGS_EXCLUSIVE
    if pending_id == 0:
        return Code.PENDING_ID_ZERO
    if pending_id == ID_MAX:
        return Code.PENDING_ID_MAX
    if pending_id == identifier:
        return Code.PENDING_ID_OWN
    if timeout_seconds != 0:
        return Code.TIMEOUT_NEEDLESS
    return None


def check_against(event: Event, entry: Entry, amount: int) -> Code | None:
    """A post or void against its pending transfer; 0 inherits."""
    _, debit, credit, _, _, _, ledger, code, flags, _ = event
    if not entry.flags & PENDING:
        return Code.PENDING_NOT_PENDING
    if debit not in {0, entry.debit}:
        return Code.PENDING_OTHER_DEBIT
    if credit not in {0, entry.credit}:
        return Code.PENDING_OTHER_CREDIT
    if ledger not in {0, entry.ledger}:
        return Code.PENDING_OTHER_LEDGER
    if code not in {0, entry.code}:
        return Code.PENDING_OTHER_REASON
    if amount > entry.amount:
        return Code.EXCEEDS_PENDING
    if flags & VOID and amount < entry.amount:
        return Code.VOID_IN_PART
    return None


def compare(event: Event, known: Entry, pending: Entry | None) -> Code:
    """The same id again: in which field it differs, if in any."""
    if event.flags != known.flags:
        return Code.EXISTS_OTHER_FLAGS
    if event.pending_id != known.pending_id:
        return Code.EXISTS_OTHER_PENDING_ID
    if event.timeout_seconds != known.timeout_seconds:
        return Code.EXISTS_OTHER_TIMEOUT
    inherits = bool(event.flags & RESOLVES)
    if event.debit != known.debit and not (inherits and event.debit == 0):
        return Code.EXISTS_OTHER_DEBIT
    if event.credit != known.credit and not (inherits and event.credit == 0):
        return Code.EXISTS_OTHER_CREDIT
    if not _same_amount(event, known, pending):
        return Code.EXISTS_OTHER_AMOUNT
    if event.cause != known.cause:
        return Code.EXISTS_OTHER_CAUSE
    if event.ledger != known.ledger and not (inherits and event.ledger == 0):
        return Code.EXISTS_OTHER_LEDGER
    if event.code != known.code and not (inherits and event.code == 0):
        return Code.EXISTS_OTHER_REASON
    return Code.EXISTS


def _same_amount(event: Event, known: Entry, pending: Entry | None) -> bool:
    if event.flags & BALANCING:
        return event.amount >= known.amount
    if event.flags & VOID and event.amount == 0:
        return True
    if event.flags & POST and event.amount == ALL:
        assert pending is not None
        return known.amount == pending.amount
    return event.amount == known.amount
