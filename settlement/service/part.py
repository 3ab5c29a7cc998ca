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
        "pendings", "plain", "touches",
    )  # fmt: skip

    def __init__(
        self,
        item: Item,
        answer: "asyncio.Future[Outcome]",
        number: Callable[[AccountKey], int] | None = None,
    ) -> None:
        self.item, self.answer = item, answer
        self.outcome: Outcome | None = None
        self.digests = [canonical.digest_bytes(opened.digest) for opened in item.statements]
        self.cause = _cause(item, self.digests)
        transfers = item.transfers
        self.ids = {transfer.id.int for transfer in transfers}
        self.pendings = [
            transfer.pending_id.int for transfer in transfers if transfer.pending_id is not None
        ]
        self.plain = not (item.guards or item.changes)
        self.events: list[Event] = []
        self.met = False
        if number is not None:
            with contextlib.suppress(KeyError):  # of an account never met: the batch will find it
                self.events = self.numbered(number)
                self.met = True
        self._depend()

    def _depend(self) -> None:
        own: set[Any] = set(self.digests)
        if self.plain:
            self.needs = self.touches = own
            self.blind = False
        else:
            guards = [names_of(guard.parameters) for guard in self.item.guards]
            changes = [names_of(change.parameters) for change in self.item.changes]
            self.needs = own.union(*guards)
            self.touches = self.needs.union(*changes)
            # a guard that names no row may depend on any change
            self.blind = any(not names for names in guards)
        if self.item.cause is not None:
            self.needs = self.needs | {self.cause}

    @property
    def weight(self) -> int:
        return len(self.item.transfers) or 1

    @property
    def rows(self) -> int:
        item = self.item
        return len(item.statements) + len(item.guards) + len(item.changes)

    def keys(self) -> Iterator[AccountKey]:
        for transfer in self.item.transfers:
            yield transfer.debit
            yield transfer.credit

    def numbered(self, number: Callable[[AccountKey], int]) -> list[Event]:
        """The transfers in the rules' terms: a chain of events, unless they stand apart."""
        linked = NONE if self.item.apart else LINKED
        cause = self.cause
        events = [
            _event(
                (
                    transfer.id.int,
                    number(transfer.debit),
                    number(transfer.credit),
                    transfer.amount,
                    NONE if transfer.pending_id is None else transfer.pending_id.int,
                    transfer.timeout_seconds,
                    transfer.debit.ledger,
                    int(transfer.reason),
                    int(transfer.flags) | linked,
                    cause,
                )
            )
            for transfer in self.item.transfers
        ]
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
    if transfers and transfers[-1].flags & Flag.LINKED:
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


def _storable(events: Iterable[Event]) -> bool:
    return all(
        type(event[3]) is int and 0 <= event[3] <= AMOUNT_MAX
        and type(event[5]) is int and 0 <= event[5] <= TIMEOUT_SECONDS_MAX
        for event in events
    )  # fmt: skip


def _check_each(transfers: Iterable[Transfer]) -> None:
    for transfer in transfers:
        transfer.check()


def _check_statements(statements: Sequence[Opened]) -> None:
    if len({opened.digest for opened in statements}) != len(statements):
        raise BadStatement("one item carries a statement twice")
    for opened in statements:
        if len(opened.envelope) > ENVELOPE_BYTES_MAX:
            raise BadStatement(f"an envelope has at most {ENVELOPE_BYTES_MAX} bytes")
