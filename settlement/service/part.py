"""An item on its way through the ledger: its form checked, and all that can be known before its batch."""

import asyncio
import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any, Final
from uuid import UUID

from settlement.domain import canonical
from settlement.domain.amount import AMOUNT_MAX
from settlement.domain.errors import BadStatement, LedgerRefused, Malformed
from settlement.domain.ledger import (
    TIMEOUT_SECONDS_MAX,
    AccountKey,
    Code,
    Event,
    Flag,
    Transfer,
)
from settlement.domain.statement import ENVELOPE_BYTES_MAX, Opened
from settlement.service.item import Item, Outcome

BATCH_EVENTS_MAX: Final = 8_190
ITEM_EVENTS_MAX: Final = BATCH_EVENTS_MAX  # an item is never split
ITEM_ROWS_MAX: Final = 4_096
DIGEST_BYTES: Final = 32
LINKED: Final = int(Flag.LINKED)
NONE: Final = 0  # how the rules spell "no pending transfer"
NOTHING: Final[frozenset[Any]] = frozenset()

_event: Final = partial(tuple.__new__, Event)  # a named tuple without the detour over its keywords


class Part:
    """One item, what it depends on and may change, and the caller who waits for its outcome.

    `needs` and `touches` are what it shares with no other item of its batch: its own ids and
    digests, and what its guards and changes name. `met` says that all its accounts were there, and
    so its `events` are right, before any batch.
    """

    __slots__ = (
        "answer", "blind", "cause", "digests", "events", "ids", "item", "met", "needs", "outcome",
        "pendings", "plain", "rows", "touches", "weight",
    )  # fmt: skip

    def __init__(
        self,
        item: Item,
        answer: "asyncio.Future[Outcome]",
        number: Callable[[AccountKey], int] | None = None,
    ) -> None:
        self.item, self.answer = item, answer
        self.outcome: Outcome | None = None
        self.events: list[Event] = []
        self.met = False
        transfers, statements = item.transfers, item.statements
        self.weight = len(transfers) or 1
        self.rows = len(statements) + len(item.guards) + len(item.changes)
        self.plain = not (item.guards or item.changes)
        self.digests = [canonical.digest_bytes(opened.digest) for opened in statements]
        self.cause = _cause(item, self.digests)
        if number is not None:
            with contextlib.suppress(KeyError):  # of an account never met: the batch will find it
                self.events = self.numbered(number)
                self.met = True
        if self.met:
            self.ids = {event[0] for event in self.events}
            self.pendings = [event[4] for event in self.events if event[4]]
        else:
            self.ids = {transfer.id.int for transfer in transfers}
            self.pendings = [
                transfer.pending_id.int for transfer in transfers if transfer.pending_id is not None
            ]
        own: frozenset[Any] = frozenset(self.digests) if statements else NOTHING
        self.needs = self.touches = own
        self.blind = False
        if not self.plain:
            guards = [names_of(guard.parameters) for guard in item.guards]
            changes = [names_of(change.parameters) for change in item.changes]
            self.needs = own.union(*guards)
            self.touches = self.needs.union(*changes)
            # a guard that names no row may depend on any change
            self.blind = any(not names for names in guards)
        if item.cause is not None:
            self.needs = self.needs | {self.cause}

    def keys(self) -> Iterator[AccountKey]:
        for transfer in self.item.transfers:
            yield transfer.debit
            yield transfer.credit

    def numbered(self, number: Callable[[AccountKey], int]) -> list[Event]:
        """The transfers in the rules' terms: a chain of events, unless they stand apart."""
        linked = NONE if self.item.apart else LINKED
        cause = self.cause
        events = []
        for transfer in self.item.transfers:
            debit, pending = transfer.debit, transfer.pending_id
            events.append(
                _event(
                    (
                        transfer.id.int, number(debit), number(transfer.credit), transfer.amount,
                        NONE if pending is None else pending.int, transfer.timeout_seconds,
                        debit.ledger, int(transfer.reason), int(transfer.flags) | linked, cause,
                    )
                )
            )  # fmt: skip
        if linked and events:  # the last one ends the chain
            events[-1] = events[-1]._replace(flags=int(self.item.transfers[-1].flags))
        return events


def names_of(parameters: Sequence[Any]) -> set[Any]:
    """What may name a row: UUIDs, bytes and texts, also within lists; numbers never do."""
    found: set[Any] = set()
    for parameter in parameters:
        if isinstance(parameter, list | tuple):
            found |= names_of(parameter)
        elif isinstance(parameter, UUID):
            found.add(parameter.int)  # whose hash costs less
        elif isinstance(parameter, bytes | str):
            found.add(parameter)
    return found


def _cause(item: Item, digests: Sequence[bytes]) -> bytes:
    cause = item.cause
    if cause is None:
        return digests[0] if digests else b""
    if isinstance(cause, str):
        try:
            return canonical.digest_bytes(cause)
        except Malformed as error:
            raise BadStatement(error.detail) from None
    if len(cause) != DIGEST_BYTES:
        raise BadStatement(f"a cause is named by {DIGEST_BYTES} bytes")
    return cause


def check_item(item: Item) -> None:
    """Refuse at the door what no batch may see."""
    transfers, statements = item.transfers, item.statements
    if not (transfers or statements or item.changes):
        raise BadStatement("the item does nothing")
    if transfers and not statements and item.cause is None:
        raise BadStatement("no payment without a logged cause")
    causes = len(statements) + (item.cause is not None)
    if item.apart and (not transfers or causes > 1 or item.changes):
        raise BadStatement("transfers that stand apart have one cause, and change nothing else")
    if (
        len(transfers) > ITEM_EVENTS_MAX
        or len(statements) + len(item.guards) + len(item.changes) > ITEM_ROWS_MAX
    ):
        raise LedgerRefused("the item is too large")
    if statements:
        _check_statements(statements)
    if transfers and int(transfers[-1].flags) & LINKED:  # a flag's own `&` costs more than it all
        raise LedgerRefused(f"the ledger answered {Code.CHAIN_OPEN.name} ({Code.CHAIN_OPEN.value})")


def check_transfers(part: Part) -> None:
    """Refuse what could not even be stored; the common case in few steps.

    The keys of events that are numbered were checked when their accounts were opened.
    """
    events, transfers = part.events, part.item.transfers
    if len(part.ids) != len(transfers):
        raise LedgerRefused("one item names a transfer twice")
    if not (part.met and _storable(events)):
        _check_each(transfers)


def _storable(events: Sequence[Event]) -> bool:
    for event in events:
        amount, timeout_seconds = event[3], event[5]
        if not (
            type(amount) is type(timeout_seconds) is int
            and 0 <= amount <= AMOUNT_MAX
            and 0 <= timeout_seconds <= TIMEOUT_SECONDS_MAX
        ):
            return False
    return True


def _check_each(transfers: Iterable[Transfer]) -> None:
    for transfer in transfers:
        transfer.check()


def _check_statements(statements: Sequence[Opened]) -> None:
    if len({opened.digest for opened in statements}) != len(statements):
        raise BadStatement("one item carries a statement twice")
    for opened in statements:
        if len(opened.envelope) > ENVELOPE_BYTES_MAX:
            raise BadStatement(f"an envelope has at most {ENVELOPE_BYTES_MAX} bytes")
