"""What callers hand to the ledger and what they get back: items and outcomes."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from settlement.domain.errors import InsufficientFunds, LedgerRefused, Stale
from settlement.domain.ledger import Code, Transfer
from settlement.domain.statement import Opened


@dataclass(frozen=True, slots=True)
class Guard:
    """A registered SELECT that answers one boolean and locks the rows it read (FOR UPDATE).

    No row, NULL or false makes the item STALE. Its parameters must name the rows that it reads (by
    UUID, bytes or text), and so must the changes of other items that touch these rows: items that
    share a name go into different batches, and the later one sees what the earlier one changed.
    """

    name: str
    parameters: tuple[Any, ...] = ()


@dataclass(frozen=True, slots=True)
class Change:
    """A registered INSERT or UPDATE, run in the batch's transaction if the item is applied."""

    name: str
    parameters: tuple[Any, ...] = ()


@dataclass(frozen=True, slots=True)
class Item:
    """What happens together or not at all: a chain of transfers, statements, guarded row changes.

    The first statement is the cause of every transfer, or else the one that `cause` names by its
    digest (32 bytes or their text), which must stand in the log already. The transfers of an item
    that says `apart` stand each for itself (but for the chains that their own flags make), under
    its one statement or cause.
    """

    transfers: tuple[Transfer, ...] = ()
    statements: tuple[Opened, ...] = ()
    guards: tuple[Guard, ...] = ()
    changes: tuple[Change, ...] = ()
    apart: bool = False
    cause: bytes | str | None = None


class Status(StrEnum):
    """APPLIED: done now. DUPLICATE: done before. REFUSED: by the ledger. STALE: by a guard.

    Of transfers that stand apart one is enough for APPLIED, else for DUPLICATE; the codes tell all.
    """

    APPLIED = "applied"
    DUPLICATE = "duplicate"
    REFUSED = "refused"
    STALE = "stale"


@dataclass(frozen=True, slots=True)
class Outcome:
    """The answer for one item: a code and the moved amount per transfer, a log index per statement."""

    status: Status
    codes: tuple[Code, ...] = ()
    amounts: tuple[int, ...] = ()
    positions: tuple[int, ...] = ()
    guard: str = ""

    def raise_for_refusal(self) -> None:
        """Nothing if the item took effect, now or before; else the error that says why not."""
        if self.status is Status.STALE:
            raise Stale(f"the state has moved on ({self.guard})")
        if self.status is not Status.REFUSED:
            return
        code = next(code for code in self.codes if code not in (Code.CREATED, Code.LINKED_FAILED))
        if code is Code.EXCEEDS_CREDITS:
            raise InsufficientFunds
        raise LedgerRefused(f"the ledger answered {code.name} ({code.value})")
