"""Group commit: the queue, the baton, the one writing statement. All money moves through here.

Callers await one item each; whatever waits together commits together, in one order for all
processes: whoever holds the baton row makes the next batch. Who awaits the engine holds no
transaction open, since the batch may need the very rows that it has locked.
"""

import asyncio
import itertools
import time
from collections import deque
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from types import TracebackType
from typing import Any, Final, Self

import asyncpg

from settlement.domain import canonical
from settlement.domain.errors import (
    BadStatement,
    Failed,
    InsufficientFunds,
    LedgerRefused,
    LimitExceeded,
    MisConfigured,
    Stale,
    Unavailable,
)
from settlement.domain.ledger import Account, AccountKey, Code, Event, Flag, Result, Transfer
from settlement.domain.ledger_rules import State, compare
from settlement.domain.statement import Opened
from settlement.store import ledger as store
from settlement.store.database import Database, driver

EVENTS_MAX: Final = 8_190  # of one batch
ITEM_TRANSFERS_MAX: Final = 1_024
ITEM_STATEMENTS_MAX: Final = 64
QUEUE_MAX: Final = 100_000


@dataclass(frozen=True, slots=True)
class Guard:
    """A registered SELECT of one boolean, which locks what it reads; not true makes the item stale."""

    name: str
    parameters: tuple[Any, ...] = ()


@dataclass(frozen=True, slots=True)
class Change:
    """A registered row change that runs in the batch's transaction if the item is applied."""

    name: str
    parameters: tuple[Any, ...] = ()


@dataclass(frozen=True, slots=True)
class Item:
    """What happens together or not at all: one chain of transfers, their statements, row changes.

    The first statement is the cause of all transfers: there is no payment without a logged cause.
    """

    transfers: tuple[Transfer, ...] = ()
    statements: tuple[Opened, ...] = ()
    guards: tuple[Guard, ...] = ()
    changes: tuple[Change, ...] = ()


class Status(StrEnum):
    """APPLIED now; DUPLICATE: applied before, the same; REFUSED by the ledger; STALE: a guard did not hold."""

    APPLIED = "applied"
    DUPLICATE = "duplicate"
    REFUSED = "refused"
    STALE = "stale"


@dataclass(frozen=True, slots=True)
class Outcome:
    """The answer for an item: a code and the amount really moved for each transfer, a log position
    for each statement, and the guard that did not hold.
    """

    status: Status
    codes: tuple[Code, ...] = ()
    amounts: tuple[int, ...] = ()
    positions: tuple[int, ...] = ()
    guard: str = ""

    def raise_for_refusal(self) -> None:
        """Nothing when the item stands; else the error that says why not."""
        if self.status is Status.STALE:
            raise Stale(f"the guard {self.guard} no longer holds")
        if self.status is Status.REFUSED:
            code = next(
                code for code in self.codes if code not in {Code.CREATED, Code.LINKED_FAILED}
            )
            if code is Code.EXCEEDS_CREDITS:
                raise InsufficientFunds
            raise LedgerRefused(f"the ledger answered {code.name.lower().replace('_', ' ')}")


@dataclass(slots=True)
class _Waiting:
    item: Item
    future: asyncio.Future[Outcome]
    cause: bytes = b""
    touches: frozenset[Hashable] = frozenset()


@dataclass(slots=True)
class _Batch:
    """One batch under way: what was loaded, what was decided."""

    clock: store.Clock
    state: State
    accounts: dict[AccountKey, Account]
    logged: dict[bytes, int]
    outcomes: list[Outcome | None]
    fresh: list[store.Logged] = field(default_factory=list)


class Ledger:
    """The engine of one process. Several processes may run one each: the baton orders them."""

    def __init__(self, database: Database, *, statements: Mapping[str, str]) -> None:
        self._database = database
        self._registered = dict(statements)
        self._queue: deque[_Waiting] = deque()
        self._arrived = asyncio.Event()
        self._closing = False
        self._tasks = asyncio.TaskGroup()
        self.batches = 0  # committed by this process
        self.items = 0

    @property
    def retries(self) -> int:
        """Transactions of this process's pool repeated after a conflict."""
        return self._database.retries

    async def __aenter__(self) -> Self:
        await self._tasks.__aenter__()
        self._tasks.create_task(self._run())
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._closing = True
        self._arrived.set()
        await self._tasks.__aexit__(kind, error, traceback)

    async def submit(self, item: Item) -> Outcome:
        """Commit the item with whatever else waits; its answer when that is durable.

        Raises at the door for what could never be committed; `Unavailable` when nothing happened;
        `Unknown` when the answer to COMMIT was lost: the same item again answers DUPLICATE or now.
        """
        self._check(item)
        if self._closing:
            raise Unavailable("the ledger is closing")
        if len(self._queue) >= QUEUE_MAX:
            raise LimitExceeded(f"more than {QUEUE_MAX} items wait for the ledger")
        waiting = _Waiting(item, asyncio.get_running_loop().create_future())
        if item.statements:
            waiting.cause = canonical.digest_bytes(item.statements[0].digest)
        waiting.touches = _touches(item)
        self._queue.append(waiting)
        self._arrived.set()
        return await waiting.future

    def _check(self, item: Item) -> None:
        if item.transfers and not item.statements:
            raise BadStatement("a payment needs a statement that causes it")
        if len(item.transfers) > ITEM_TRANSFERS_MAX or len(item.statements) > ITEM_STATEMENTS_MAX:
            raise LimitExceeded("too many transfers or statements in one item")
        for transfer in item.transfers:
            transfer.check()
        if item.transfers and item.transfers[-1].flags & Flag.LINKED:
            raise LedgerRefused("the last transfer of a chain is not linked")
        for name in (*(guard.name for guard in item.guards), *(c.name for c in item.changes)):
            if name not in self._registered:
                raise MisConfigured(f"no statement {name!r} is registered with the ledger")

    async def _run(self) -> None:
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            while self._queue:
                await self._commit(self._collect())
            if self._closing:
                return

    def _collect(self) -> list[_Waiting]:
        """The next batch, in order of arrival. What shares an id, a statement or a guard with an
        earlier item waits for the next, where it sees what that one did.
        """
        batch: list[_Waiting] = []
        later: list[_Waiting] = []
        seen: set[Hashable] = set()
        events = 0
        while self._queue and events < EVENTS_MAX:
            waiting = self._queue.popleft()
            if waiting.future.done():  # its caller was cancelled before anything began
                continue
            size = max(1, len(waiting.item.transfers))
            if waiting.touches & seen:
                later.append(waiting)
            elif events + size > EVENTS_MAX:
                later.append(waiting)
                break
            else:
                batch.append(waiting)
                events += size
            seen |= waiting.touches
        self._queue.extendleft(reversed(later))
        return batch

    async def _commit(self, batch: list[_Waiting]) -> None:
        try:
            outcomes = await self._database.run(self._write, batch)
        except asyncpg.PostgresError as error:
            if len(batch) > 1:  # somebody's change fails: find out whose, and spare the others
                for waiting in batch:
                    await self._commit([waiting])
                return
            failure = Failed(f"a row change failed: {error}")
            failure.__cause__ = error
            _fail(batch, failure)
        except Exception as error:  # noqa: BLE001 - it belongs to the callers, each of whom gets it
            _fail(batch, error)
        else:
            self.batches += 1
            self.items += len(batch)
            for waiting, outcome in zip(batch, outcomes, strict=True):
                if not waiting.future.done():
                    waiting.future.set_result(outcome)

    async def _write(self, transaction: Any, batch: list[_Waiting]) -> list[Outcome]:
        connection = await driver(transaction)
        clock = await store.take_baton(connection)
        loaded = await self._load(connection, clock, batch)
        for position, waiting in enumerate(batch):
            outcome = _duplicate(waiting, loaded)
            if outcome is None:
                outcome = await self._stale(connection, waiting.item.guards)
            loaded.outcomes[position] = outcome
        undecided = [p for p, outcome in enumerate(loaded.outcomes) if outcome is None]
        ts, events = _decide(loaded, batch, undecided)
        await store.write(connection, clock, loaded.state, loaded.fresh, ts=ts, events=events)
        applied = [p for p in undecided if _status(loaded, p) is Status.APPLIED]
        await self._change(connection, [batch[position].item.changes for position in applied])
        return [outcome for outcome in loaded.outcomes if outcome is not None]

    async def _load(self, connection: Any, clock: store.Clock, batch: Sequence[_Waiting]) -> _Batch:
        transfers = [transfer for waiting in batch for transfer in waiting.item.transfers]
        keys = list(dict.fromkeys(key for t in transfers for key in (t.debit, t.credit)))
        accounts = await store.open_accounts(connection, keys)
        state = State({account.id: account for account in accounts.values()})
        ids = {t.id for t in transfers} | {t.pending_id for t in transfers if t.pending_id}
        await store.load(connection, state, ids, due_ns=max(clock.ts, time.time_ns()))
        digests = [
            canonical.digest_bytes(statement.digest)
            for waiting in batch
            for statement in waiting.item.statements
        ]
        logged = await store.positions(connection, digests) if digests else {}
        return _Batch(clock, state, accounts, logged, [None] * len(batch))

    async def _stale(self, connection: Any, guards: Iterable[Guard]) -> Outcome | None:
        for guard in guards:
            if not await connection.fetchval(self._registered[guard.name], *guard.parameters):
                return Outcome(Status.STALE, guard=guard.name)
        return None

    async def _change(self, connection: Any, items: Sequence[tuple[Change, ...]]) -> None:
        """Changes by name, in the order in which the names first appear: one round trip a name."""
        grouped: dict[str, list[tuple[Any, ...]]] = {}
        for changes in items:
            for change in changes:
                grouped.setdefault(change.name, []).append(change.parameters)
        for name, parameters in grouped.items():
            if len(parameters) == 1:
                await connection.execute(self._registered[name], *parameters[0])
            else:
                await connection.executemany(self._registered[name], parameters)


def _touches(item: Item) -> frozenset[Hashable]:
    ids: list[Hashable] = [transfer.id for transfer in item.transfers]
    pending = [
        transfer.pending_id for transfer in item.transfers if transfer.pending_id is not None
    ]
    statements = [statement.digest for statement in item.statements]
    guards = [(guard.name, repr(guard.parameters)) for guard in item.guards]
    return frozenset((*ids, *pending, *statements, *guards))


def _duplicate(waiting: _Waiting, batch: _Batch) -> Outcome | None:
    """DUPLICATE when all of the item stands already, alike. Decided before the rules, whose chains
    break at the first member that exists.
    """
    item = waiting.item
    if not item.transfers and not item.statements:
        return None
    positions = tuple(
        batch.logged.get(canonical.digest_bytes(s.digest), -1) for s in item.statements
    )
    if -1 in positions:
        return None
    amounts = []
    for event in _events(waiting, batch):
        known = batch.state.transfers.get(event.id)
        if known is None:
            return None
        if compare(event, known, batch.state.transfers.get(known.pending_id)) is not Code.EXISTS:
            return None
        amounts.append(known.amount)
    codes = (Code.EXISTS,) * len(amounts)
    return Outcome(Status.DUPLICATE, codes, tuple(amounts), positions)


def _events(waiting: _Waiting, batch: _Batch) -> list[Event]:
    """The item's transfers as one chain: all but the last are linked."""
    transfers = waiting.item.transfers
    linked = [Flag.LINKED] * (len(transfers) - 1) + [Flag(0)]
    return [
        _event(transfer, transfer.flags | link, waiting.cause, batch)
        for transfer, link in zip(transfers, linked if transfers else [], strict=True)
    ]


def _event(transfer: Transfer, flags: Flag, cause: bytes, batch: _Batch) -> Event:
    return Event(
        transfer.id.int,
        batch.accounts[transfer.debit].id,
        batch.accounts[transfer.credit].id,
        transfer.amount,
        transfer.pending_id.int if transfer.pending_id else 0,
        transfer.timeout_seconds,
        transfer.debit.ledger,
        int(transfer.reason),
        int(flags),
        cause,
    )


def _decide(
    batch: _Batch, waiting: Sequence[_Waiting], undecided: Sequence[int]
) -> tuple[int, int]:
    """Run the rules over all chains in order; the batch's time and number of events."""
    chains = [(position, _events(waiting[position], batch)) for position in undecided]
    events = [event for _, chain in chains for event in chain]
    last_ns = max(batch.clock.ts + len(events) + 1, time.time_ns())
    batch.state.expire(last_ns - len(events))
    results = iter(batch.state.apply(events, last_ns))
    for position, chain in chains:
        answers = list(itertools.islice(results, len(chain)))
        batch.outcomes[position] = _outcome(waiting[position].item, answers, batch)
    return last_ns, len(events)


def _outcome(item: Item, answers: Sequence[Result], batch: _Batch) -> Outcome:
    """Applied when every transfer is made; then its statements get the next positions."""
    codes = tuple(answer.code for answer in answers)
    if any(code is not Code.CREATED for code in codes):
        return Outcome(Status.REFUSED, codes)
    positions = tuple(_log(statement, batch) for statement in item.statements)
    return Outcome(Status.APPLIED, codes, tuple(answer.amount for answer in answers), positions)


def _log(statement: Opened, batch: _Batch) -> int:
    digest = canonical.digest_bytes(statement.digest)
    if digest not in batch.logged:
        index = batch.clock.log_size + len(batch.fresh)
        signer = bytes.fromhex(statement.signer)
        kind = statement.statement.kind
        batch.logged[digest] = index
        batch.fresh.append(store.Logged(index, digest, kind, signer, statement.envelope))
    return batch.logged[digest]


def _status(batch: _Batch, position: int) -> Status | None:
    outcome = batch.outcomes[position]
    return None if outcome is None else outcome.status


def _fail(batch: Iterable[_Waiting], error: Exception) -> None:
    for waiting in batch:
        if not waiting.future.done():
            waiting.future.set_exception(error)
