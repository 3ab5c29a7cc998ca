"""The one door that money moves through: callers hand in items, a loop commits them in batches.

One batch is written while the next is decided (group commit). A batch holds the baton row, so any
number of processes may run this side by side; each waits for the baton, never for another's rows.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Self

from settlement.domain.errors import Failed, GridpactError, MisConfigured, Unavailable, Unknown
from settlement.domain.ledger_rules import State
from settlement.service import batch
from settlement.service.batch import Batch, Expired
from settlement.service.freshness import Freshness
from settlement.service.item import Change, Guard, Item, Outcome, Status
from settlement.service.memory import Memory
from settlement.service.part import (
    BATCH_EVENTS_MAX,
    ITEM_EVENTS_MAX,
    ITEM_ROWS_MAX,
    Part,
    check_item,
    check_transfers,
)
from settlement.store import ledger as store
from settlement.store.database import Database, driver
from settlement.store.writer import Sent, Writer

__all__ = [
    "BATCH_EVENTS_MAX", "ITEM_EVENTS_MAX", "ITEM_ROWS_MAX",
    "Change", "Guard", "Item", "Ledger", "Outcome", "Status",
]  # fmt: skip

BATCH_ROWS_MAX: Final = 16_384  # statements, guards and changes of one batch
CAREFUL_BATCHES: Final = 16  # under the baton from the start, after a foreseen one came to nothing
DEFERRED_MAX: Final = 1_024  # items looked past in search of more for a batch
QUEUE_ITEMS_MAX: Final = 65_536
SHARE_LEAST: Final = 32  # events that one batch may have however few wait


@dataclass(frozen=True, slots=True)
class _Flight:
    """A batch that is being written."""

    parts: Sequence[Part]
    batch: Batch
    sent: asyncio.Task[Sent]


class Ledger:
    """`async with Ledger(database, statements=…) as ledger: outcome = await ledger.submit(item)`.

    `statements` registers the SQL that guards and changes name; `expired` makes the statement that
    tells of pending transfers whose time ran out, the first that their batch logs. Whoever awaits
    `submit` must hold no transaction open.
    """

    def __init__(
        self,
        database: Database,
        *,
        statements: Mapping[str, str],
        clock: Callable[[], int] = time.time_ns,
        expired: Expired | None = None,
    ) -> None:
        self._database = database
        self._writer = Writer(database)
        self._registered = dict(statements)
        self._clock = clock
        self._expired = expired
        self._memory = Memory()
        self.freshness = Freshness()
        self._queue: deque[Part] = deque()
        self._waiting = 0  # events, or items without any, in the queue
        self._goal = 1  # of them, to be worth a batch while another one is in flight
        self._careful = 0
        self._wake = asyncio.Event()
        self._closing = False
        self._tasks = asyncio.TaskGroup()
        self.batches = 0  # committed by this process
        self.items = 0
        self.released = 0  # pending transfers whose time ran out
        self.foreseen = 0  # batches that were decided before they had the baton

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
        check_item(item)
        if item.guards or item.changes:
            self._check_names(item)
        if self._closing:
            raise Unavailable("the ledger is closing")
        if len(self._queue) >= QUEUE_ITEMS_MAX:
            raise Unavailable(f"{QUEUE_ITEMS_MAX} items wait already")
        answer: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        part = Part(item, answer, self._memory.numbers.__getitem__)
        check_transfers(part)
        self._enqueue(part)
        return await answer

    async def expire(self) -> int:
        """Release the pending transfers whose time has come, traffic or not; how many there were."""
        first = self.released
        while await self._database.look(_is_due, self._clock()):
            if self._closing:
                raise Unavailable("the ledger is closing")
            before = self.released
            part = Part(Item(), asyncio.get_running_loop().create_future())
            part.plain = False  # asks for the baton
            self._enqueue(part)
            await part.answer
            if self.released == before:
                break  # by the ledger's time there is nothing yet
        return self.released - first

    def _enqueue(self, part: Part) -> None:
        self._queue.append(part)
        self._waiting += part.weight
        if self._waiting >= self._goal:
            self._wake.set()

    def _check_names(self, item: Item) -> None:
        names = {guard.name for guard in item.guards} | {change.name for change in item.changes}
        if not names <= self._registered.keys():
            unknown = min(names - self._registered.keys())
            raise MisConfigured(f"no statement {unknown!r} is registered with the ledger")

    async def _loop(self) -> None:
        taken: Sequence[Part] = ()
        flight: _Flight | None = None
        try:
            while True:
                await self._wait(flight)
                if flight is not None and flight.sent.done() and not flight.sent.result().done:
                    await self._land(flight)
                    flight = None
                if not self._queue and flight is None:
                    if self._closing:
                        return
                    continue
                taken = self._take(flight)
                foreseen = await self._foresee(taken, flight)
                flight = await self._follow(flight, taken, foreseen)
                taken = ()
        finally:
            self._closing = True
            ended = Unknown("the ledger ended within the commit")
            _fail(taken, ended)
            _fail(() if flight is None else flight.parts, ended)
            _fail(self._queue, Unavailable("the ledger is closing"))
            await self._writer.close()

    async def _wait(self, flight: _Flight | None) -> None:
        """Until there is something to do: with a batch in flight, enough for the next, or its end.

        A batch takes no more than half of all that is under way, so that the callers of one half
        are answered, and ask again, while the other half is written.
        """
        in_flight = sum(part.weight for part in flight.parts) if flight else 0
        while True:
            share = (self._waiting + in_flight + 1) // 2
            self._goal = max(SHARE_LEAST, share) if flight else 1
            landed = flight is not None and flight.sent.done()
            if landed or self._waiting >= self._goal or (self._closing and flight is None):
                return
            self._wake.clear()
            await self._wake.wait()

    def _take(self, flight: _Flight | None) -> list[Part]:
        """The next batch: in order, passing over items that must see what an earlier one changes.

        What an item's guards name is its alone for a batch, so that an item can also keep others
        away from rows that their own guards do not name.
        """
        in_flight = sum(part.weight for part in flight.parts) if flight else 0
        share = max(SHARE_LEAST, (self._waiting + in_flight + 1) // 2)
        taken: list[Part] = []
        later: list[Part] = []
        ids: set[int] = set()
        needed: set[Any] = set()
        touched: set[Any] = set()
        events = weight = rows = 0
        changing = False
        while self._queue and len(later) < DEFERRED_MAX:
            part = self._queue[0]
            events += len(part.item.transfers)
            rows += part.rows
            if taken and (events > BATCH_EVENTS_MAX or rows > BATCH_ROWS_MAX or weight >= share):
                break
            self._queue.popleft()
            if part.answer.done():
                self._waiting -= part.weight
                continue  # the caller went away before anything happened
            apart = (
                ids.isdisjoint(part.ids)
                and touched.isdisjoint(part.needs)
                and needed.isdisjoint(part.touches)
            )
            if not apart or (part.blind and changing):
                later.append(part)
                continue
            taken.append(part)
            weight += part.weight
            ids |= part.ids
            needed |= part.needs
            touched |= part.touches
            changing = changing or bool(part.item.changes)
        self._waiting -= weight
        self._queue.extendleft(reversed(later))
        return taken

    async def _foresee(self, taken: Sequence[Part], flight: _Flight | None) -> Batch | None:
        """The batch decided from memory, if it can be."""
        if not taken:
            return None
        if self._careful:
            self._careful -= 1
            return None
        before: State | None = flight.batch.state if flight else None
        try:
            return await batch.foresee(
                taken, self._clock(), self._memory, before, self._database.look, self.freshness
            )
        except Exception:  # noqa: BLE001 - under the baton it is tried again, and told
            self._careful = CAREFUL_BATCHES
            self._memory.clock = None  # so that nothing of it is believed
            return None

    async def _follow(
        self, flight: _Flight | None, taken: Sequence[Part], foreseen: Batch | None
    ) -> _Flight | None:
        """Write what was foreseen as soon as the batch before it has landed well."""
        if flight is not None:
            await asyncio.wait((flight.sent,))
            if not flight.sent.result().done:
                await self._land(flight)
                foreseen = None
        following = None
        if foreseen is not None:
            following = self._launch(taken, foreseen)
        if flight is not None and flight.sent.result().done:
            self._answer(flight.parts, flight.batch)
            self.foreseen += 1
        if taken and foreseen is None:
            await self._commit(taken)
        return following

    def _launch(self, parts: Sequence[Part], foreseen: Batch) -> _Flight | None:
        if foreseen.writing is None:  # nothing but repeats
            self._answer(parts, foreseen)
            return None
        sent = self._tasks.create_task(self._writer.send(foreseen.writing), name="ledger-write")
        sent.add_done_callback(lambda _: self._wake.set())
        return _Flight(parts, foreseen, sent)

    async def _land(self, flight: _Flight) -> None:
        """A batch in flight came to nothing, or perhaps not: nothing that was foreseen holds."""
        self._memory.forget()
        sent = flight.sent.result()
        if sent.error is not None:
            _fail(flight.parts, sent.error)
        else:
            self._careful = CAREFUL_BATCHES
            await self._commit(flight.parts)

    async def _commit(self, taken: Sequence[Part]) -> None:
        """One transaction; if it fails for one item's sake, each item gets its own."""
        try:
            decided = await self._database.run(
                batch.run, taken, self._registered, self._clock(), self._memory, self._expired,
                self.freshness,
            )  # fmt: skip
        except (Unavailable, Unknown) as error:
            self._memory.forget()
            _fail(taken, error)
        except Exception as error:  # noqa: BLE001 - it fails its callers, never the loop
            self._memory.forget()
            if len(taken) > 1:
                for part in taken:
                    await self._commit([part])
            else:
                _fail(taken, _wrapped(error))
        else:
            self._memory.committed()
            self._answer(taken, decided)

    def _answer(self, parts: Sequence[Part], decided: Batch) -> None:
        self.batches += 1
        self.items += len(parts)
        self.released += decided.released
        for part, answer in zip(parts, decided.answers, strict=True):
            if part.answer.done():
                continue
            if isinstance(answer, GridpactError):
                part.answer.set_exception(answer)
            else:
                part.answer.set_result(answer)


async def _is_due(transaction: Any, at_ns: int) -> bool:
    return await store.is_due(await driver(transaction), at_ns)


def _fail(parts: Iterable[Part], error: GridpactError) -> None:
    for part in parts:
        if not part.answer.done():
            own = type(error)(error.detail)  # one exception a caller: raising one changes it
            own.__cause__ = error
            part.answer.set_exception(own)


def _wrapped(error: Exception) -> GridpactError:
    if isinstance(error, GridpactError):
        return error
    failed = Failed(f"the database refused the item: {error}")
    failed.__cause__ = error
    return failed
