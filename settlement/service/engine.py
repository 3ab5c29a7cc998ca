"""The one door that money moves through: callers hand in items, a loop commits them in batches.

One batch is in flight while the next collects (group commit). A batch holds the baton row, so any
number of processes may run this side by side; each waits for the baton, never for another's rows.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Self

from settlement.domain.errors import (
    BadStatement,
    Failed,
    GridpactError,
    LedgerRefused,
    MisConfigured,
    Unavailable,
    Unknown,
)
from settlement.domain.ledger import Code, Flag, Transfer
from settlement.domain.statement import ENVELOPE_BYTES_MAX, Opened
from settlement.service import batch
from settlement.service.item import Change, Guard, Item, Outcome, Status
from settlement.service.memory import Memory
from settlement.store.database import Database

__all__ = ["Change", "Guard", "Item", "Ledger", "Outcome", "Status"]

BATCH_EVENTS_MAX: Final = 8_190
BATCH_ROWS_MAX: Final = 16_384  # statements, guards and changes of one batch
DEFERRED_MAX: Final = 1_024  # items looked past in search of more for a batch
ITEM_EVENTS_MAX: Final = BATCH_EVENTS_MAX  # an item is never split
ITEM_ROWS_MAX: Final = 4_096
QUEUE_ITEMS_MAX: Final = 65_536


@dataclass(frozen=True, slots=True)
class _Waiting:
    """An item in the queue, what it depends on, and what it may change."""

    item: Item
    part: batch.Part
    answer: asyncio.Future[Outcome]
    needs: frozenset[Any]
    touches: frozenset[Any]
    blind: bool  # has a guard that names no row, so that it may depend on any change

    @property
    def rows(self) -> int:
        return _rows(self.item)


class Ledger:
    """`async with Ledger(database, statements=…) as ledger: outcome = await ledger.submit(item)`.

    `statements` registers the SQL that guards and changes name. Whoever awaits `submit` must hold
    no transaction open.
    """

    def __init__(
        self,
        database: Database,
        *,
        statements: Mapping[str, str],
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        self._database = database
        self._registered = dict(statements)
        self._clock = clock
        self._memory = Memory()
        self._queue: deque[_Waiting] = deque()
        self._wake = asyncio.Event()
        self._closing = False
        self._tasks = asyncio.TaskGroup()
        self.batches = 0  # committed by this process
        self.items = 0

    @property
    def retries(self) -> int:
        """Transactions that met a conflict and were repeated whole; 0 unless locks are disordered."""
        return self._database.retries

    async def __aenter__(self) -> Self:
        await self._tasks.__aenter__()
        self._tasks.create_task(self._loop(), name="ledger")
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._closing = True
        self._wake.set()
        # Not the caller's error: that would cancel the loop, and what is queued shall be finished.
        await self._tasks.__aexit__(None, None, None)

    async def submit(self, item: Item) -> Outcome:
        """Apply the item, or say why not. `Unavailable`: nothing happened. `Unknown`: ask again."""
        self._check(item)
        if self._closing:
            raise Unavailable("the ledger is closing")
        if len(self._queue) >= QUEUE_ITEMS_MAX:
            raise Unavailable(f"{QUEUE_ITEMS_MAX} items wait already")
        part = batch.prepare(item, self._memory)
        waiting = _waiting(part, asyncio.get_running_loop().create_future())
        self._queue.append(waiting)
        self._wake.set()
        return await waiting.answer

    def _check(self, item: Item) -> None:
        """Refuse at the door what no batch may see."""
        _check_form(item)
        for transfer in item.transfers:
            transfer.check(self._memory.numbers)
        if not (item.guards or item.changes):
            return
        names = {guard.name for guard in item.guards} | {change.name for change in item.changes}
        if not names <= self._registered.keys():
            unknown = min(names - self._registered.keys())
            raise MisConfigured(f"no statement {unknown!r} is registered with the ledger")

    async def _loop(self) -> None:
        taken: Sequence[_Waiting] = ()
        try:
            while True:
                taken = self._take()
                if taken:
                    await self._commit(taken)
                elif self._closing:
                    return
                else:
                    self._wake.clear()
                    await self._wake.wait()
        finally:
            self._closing = True
            _fail(taken, Unknown("the ledger ended within the commit"))
            _fail(self._queue, Unavailable("the ledger is closing"))

    def _take(self) -> list[_Waiting]:
        """The next batch: in order, passing over items that must see what an earlier one changes.

        What an item's guards name is its alone for a batch, so that an item can also keep others
        away from rows that their own guards do not name.
        """
        taken: list[_Waiting] = []
        later: list[_Waiting] = []
        needed: set[Any] = set()
        touched: set[Any] = set()
        events = rows = 0
        changing = False
        while self._queue and len(later) < DEFERRED_MAX:
            waiting = self._queue[0]
            events += len(waiting.item.transfers)
            rows += waiting.rows
            if taken and (events > BATCH_EVENTS_MAX or rows > BATCH_ROWS_MAX):
                break
            self._queue.popleft()
            if waiting.answer.done():
                continue  # the caller went away before anything happened
            apart = waiting.needs.isdisjoint(touched) and waiting.touches.isdisjoint(needed)
            if not apart or (waiting.blind and changing):
                later.append(waiting)
                continue
            taken.append(waiting)
            needed |= waiting.needs
            touched |= waiting.touches
            changing = changing or bool(waiting.item.changes)
        self._queue.extendleft(reversed(later))
        return taken

    async def _commit(self, taken: Sequence[_Waiting]) -> None:
        """One transaction; if it fails for one item's sake, each item gets its own."""
        parts = [waiting.part for waiting in taken]
        try:
            outcomes, number = await self._database.run(
                batch.run, parts, self._registered, self._clock(), self._memory
            )
        except (Unavailable, Unknown) as error:
            self._memory.forget()
            _fail(taken, error)
        except Exception as error:  # noqa: BLE001 - it fails its callers, never the loop
            self._memory.forget()
            if len(taken) > 1:
                for waiting in taken:
                    await self._commit([waiting])
            else:
                _fail(taken, _wrapped(error))
        else:
            self._memory.keep(number)
            self.batches += 1
            self.items += len(taken)
            for waiting, outcome in zip(taken, outcomes, strict=True):
                if not waiting.answer.done():
                    waiting.answer.set_result(outcome)


def _check_form(item: Item) -> None:
    if not (item.transfers or item.statements or item.changes):
        raise BadStatement("the item does nothing")
    if item.transfers and not item.statements:
        raise BadStatement("no payment without a logged cause")
    if item.apart and (not item.transfers or len(item.statements) > 1 or item.changes):
        raise BadStatement("transfers that stand apart have one statement, and change nothing else")
    if len(item.transfers) > ITEM_EVENTS_MAX or _rows(item) > ITEM_ROWS_MAX:
        raise LedgerRefused("the item is too large")
    _check_statements(item.statements)
    _check_ids(item.transfers)


def _check_statements(statements: Sequence[Opened]) -> None:
    if len({opened.digest for opened in statements}) != len(statements):
        raise BadStatement("one item carries a statement twice")
    for opened in statements:
        if len(opened.envelope) > ENVELOPE_BYTES_MAX:
            raise BadStatement(f"an envelope has at most {ENVELOPE_BYTES_MAX} bytes")


def _check_ids(transfers: Sequence[Transfer]) -> None:
    if len({transfer.id.int for transfer in transfers}) != len(transfers):
        raise LedgerRefused("one item names a transfer twice")
    if transfers and transfers[-1].flags & Flag.LINKED:
        raise LedgerRefused(f"the ledger answered {Code.CHAIN_OPEN.name} ({Code.CHAIN_OPEN.value})")


def _rows(item: Item) -> int:
    return len(item.statements) + len(item.guards) + len(item.changes)


def _waiting(part: batch.Part, answer: asyncio.Future[Outcome]) -> _Waiting:
    item = part.item
    own: set[Any] = {transfer.id.int for transfer in item.transfers}
    own.update([opened.digest for opened in item.statements])
    if not (item.guards or item.changes):
        alone = frozenset(own)
        return _Waiting(item, part, answer, alone, alone, blind=False)
    guards = [batch.names_of(guard.parameters) for guard in item.guards]
    changes = [batch.names_of(change.parameters) for change in item.changes]
    needs = frozenset(own.union(*guards))
    return _Waiting(
        item, part, answer, needs, needs.union(*changes), blind=any(not names for names in guards)
    )


def _fail(waiting: Sequence[_Waiting] | deque[_Waiting], error: GridpactError) -> None:
    for one in waiting:
        if not one.answer.done():
            own = type(error)(error.detail)  # one exception a caller: raising one changes it
            own.__cause__ = error
            one.answer.set_exception(own)


def _wrapped(error: Exception) -> GridpactError:
    if isinstance(error, GridpactError):
        return error
    failed = Failed(f"the database refused the item: {error}")
    failed.__cause__ = error
    return failed
