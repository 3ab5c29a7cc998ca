"""One batch of the ledger: from items to answers and one writing, on the state that it may believe.

There are two ways to it. `run` takes the baton, asks the database for all that it does not know, and
does the items' guards and changes in the same transaction. `foresee` decides plain items from memory
alone, while the batch before is still being written; the writing then proves by the clock it names
that nobody else came in between.
"""

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, cast
from uuid import UUID

from settlement.domain import canonical
from settlement.domain.errors import BadStatement
from settlement.domain.ledger import AccountKey, Code, Event, PendingState, Result
from settlement.domain.ledger_form import compare
from settlement.domain.ledger_rules import State
from settlement.domain.statement import Opened
from settlement.service.freshness import Freshness
from settlement.service.item import Change, Outcome, Status
from settlement.service.memory import Memory
from settlement.service.part import Part, names_of
from settlement.store import ledger as store
from settlement.store.database import driver
from settlement.store.ledger import Clock
from settlement.store.ledger_write import Logged, Writing, compose, write

STANDS: Final = (Code.CREATED, Code.EXISTS)
NOTHING_DUE: Final = -1

Expired = Callable[[tuple[UUID, ...], int], Opened]
"""Makes the signed statement of pending transfers that ran out, at that ledger time (ns)."""
Look = Callable[..., Awaitable[Any]]
"""Runs a read outside of any transaction, as `Database.look`."""
Answer = Outcome | BadStatement


@dataclass(slots=True)
class Batch:
    """What was decided: the answers, what is to be written, and the state that it left."""

    answers: list[Answer]
    state: State
    writing: Writing | None = None
    released: int = 0


@dataclass(slots=True)
class _Groups:
    """Changes of one statement run together, as far as no order is lost.

    An item's changes keep their order, and so do changes of items that name a row in common.
    """

    groups: list[tuple[str, list[tuple[Any, ...]]]] = field(default_factory=list)
    last: dict[Any, int] = field(default_factory=dict)

    def add(self, changes: Sequence[Change]) -> None:
        names = {name for change in changes for name in names_of(change.parameters)}
        at = max((self.last[name] for name in names if name in self.last), default=0)
        for change in changes:
            while at < len(self.groups) and self.groups[at][0] != change.name:
                at += 1
            if at == len(self.groups):
                self.groups.append((change.name, []))
            self.groups[at][1].append(change.parameters)
        for name in names:
            self.last[name] = at


async def run(
    transaction: Any,
    parts: Sequence[Part],
    registered: Mapping[str, str],
    now_ns: int,
    memory: Memory,
    expired: Expired | None,
    freshness: Freshness,
) -> Batch:
    """Decide and write the items inside the caller's transaction; one answer each, in order."""
    raw = await driver(transaction)
    clock = await store.take_baton(raw)
    undisturbed = memory.begin(clock)
    await memory.open(raw, _keys(part for part in parts if not part.met))
    for part in parts:
        part.outcome = None
        if not part.met:  # also in a second attempt: what the first one opened is gone
            part.events = part.numbered(memory.number)
    everything = [event for part in parts for event in part.events]
    await memory.load(raw, _accounts(everything))
    state = State(memory.accounts)
    due_ns = max(clock.ts + len(everything), now_ns)
    named = {event.id for event in everything}
    named.update(event.pending_id for event in everything if event.pending_id)
    digests = {digest for part in parts for digest in (*part.digests, part.cause) if digest}
    known = await store.load(raw, state, named, [*digests], due_ns=due_ns)
    memory.digests |= known
    if undisturbed and not memory.window.is_open:
        await memory.open_window(raw)
    for part in parts:
        if not part.plain:
            part.outcome = await _guarded(raw, part, state, known, registered)
    batch = _settle(parts, state, known, clock, now_ns, memory, expired, freshness)
    if batch.writing is not None and not await write(raw, batch.writing):
        raise AssertionError("the clock moved under the baton")
    if memory.window.is_open and memory.due_ns <= due_ns:
        await memory.look_ahead(raw)
    await _change(raw, parts, registered)
    return batch


def _count(parts: Iterable[Part]) -> int:
    return sum(len(part.item.transfers) for part in parts)


def _foreseeable(parts: Sequence[Part], memory: Memory, at_ns: int) -> bool:
    """Whether memory may do: nothing is due, nothing guarded, and every cause is known."""
    return (
        memory.window.is_open
        and not memory.full
        and memory.due_ns > at_ns
        and all(part.plain and _founded(part, memory) for part in parts)
    )


async def foresee(
    parts: Sequence[Part], now_ns: int, memory: Memory, before: State | None, look: Look,
    freshness: Freshness,
) -> Batch | None:  # fmt: skip
    """Decide plain items from memory and what `before`, the batch in flight, is going to change.

    None: it takes the baton and a question to know. Reads go beside: whatever they find is either
    not touched by the batch in flight, or it is not asked for.
    """
    clock = memory.clock
    if clock is None or not _foreseeable(parts, memory, max(clock.ts + _count(parts), now_ns)):
        return None
    state = State(memory.accounts)
    unsure = _recall(parts, state, memory, before)
    unmet = [*_keys(part for part in parts if not part.met)]
    if unmet and not await look(_meet, memory, unmet):
        return None  # accounts are opened under the baton
    for part in parts:
        part.outcome = None
        if not part.met:
            part.events = part.numbered(memory.number)
            part.met = True
    known: dict[bytes, int] = {}
    if unsure:
        digests = [digest for part in unsure for digest in part.digests]
        ids = {number for part in unsure for number in (*part.ids, *part.pendings)}
        if before is not None:
            ids -= before.created.keys() | before.resolved.keys() | before.burnt.keys()
        known = await look(_load, state, ids, digests)
    if not memory.accounts.keys() >= (wanted := _accounts(_events(parts))):
        await look(_load_accounts, memory, wanted)
    said = (digest for part in parts for digest in part.digests)
    known |= {digest: memory.digests[digest] for digest in said if digest in memory.digests}
    return _settle(parts, state, known, clock, now_ns, memory, None, freshness)


def _settle(
    parts: Sequence[Part],
    state: State,
    known: Mapping[bytes, int],
    clock: Clock,
    now_ns: int,
    memory: Memory,
    expired: Expired | None,
    freshness: Freshness,
) -> Batch:
    """Everything that needs no database: who is live, what the rules say, what is logged."""
    errors: dict[Part, BadStatement] = {}
    for part in parts:
        if part.outcome is None and not _founded(part, memory):
            errors[part] = BadStatement("no payment without a logged cause")
        elif part.outcome is None:
            part.outcome = _repeated(part, state, known) or freshness.refused(
                part.item, max(clock.ts, now_ns)
            )
    live = [part for part in parts if part.outcome is None and part not in errors]
    events = _events(live)
    results, last_ns, released = decide(state, events, before_ns=clock.ts, now_ns=now_ns)
    logged: list[Logged] = []
    if released and expired is not None:
        ids = tuple(UUID(int=identifier) for identifier in released)
        logged.append(_logged(expired(ids, last_ns - len(events))))
    _conclude(live, results, known, clock.log_size, logged)
    answers = [errors.get(part) or part.outcome for part in parts]
    assert None not in answers
    batch = Batch(cast("list[Answer]", answers), state, released=len(released))
    if events or logged or state.touched or state.resolved:
        batch.writing = compose(clock, state, logged, ts=last_ns, events=len(events))
        memory.note(state, logged, clock.log_size, batch.writing.after)
    else:
        memory.clock = clock
    return batch


def decide(
    state: State, events: Sequence[Event], *, before_ns: int, now_ns: int
) -> tuple[list[Result], int, list[int]]:
    """Let what is due expire, then the rules decide; ledger time grows by ≥ 1 ns an event."""
    last_ns = max(before_ns + len(events), now_ns)
    released = state.expire(last_ns - len(events))
    return state.apply(events, last_ns), last_ns, released


def _recall(
    parts: Sequence[Part], state: State, memory: Memory, before: State | None
) -> list[Part]:
    """Into the state what is known of the transfers named; the parts that leave a question open."""
    window = memory.window
    unsure = []
    for part in parts:
        sure = not part.ids or window.fresh(part.ids)
        if not sure and before is not None:
            sure = _overlay(part.ids, state, memory, before)
        for identifier in part.pendings:
            if identifier in state.transfers or window.absent(identifier):
                continue
            if not _remember(identifier, state, memory, before):
                sure = False
        if not sure:
            unsure.append(part)
    return unsure


def _overlay(ids: Iterable[int], state: State, memory: Memory, before: State) -> bool:
    """What the batch in flight makes of these ids; whether that is all there is to know."""
    sure = True
    for identifier in ids:
        if identifier in before.burnt:
            state.failed[identifier] = before.burnt[identifier]
        elif not _remember(identifier, state, memory, before):
            sure = sure and memory.window.absent(identifier)
    return sure


def _remember(identifier: int, state: State, memory: Memory, before: State | None) -> bool:
    """A transfer as the batch in flight leaves it, or an open pending one; whether it is known."""
    if before is not None and (identifier in before.created or identifier in before.resolved):
        state.transfers[identifier] = before.transfers[identifier]
        if identifier in before.resolved:
            state.pending[identifier] = before.resolved[identifier]
        return True
    entry = memory.pendings.get(identifier)
    if entry is None:
        return False
    state.transfers[identifier] = entry
    state.pending[identifier] = PendingState.OPEN
    return True


async def _load(
    transaction: Any, state: State, ids: set[int], digests: list[bytes]
) -> dict[bytes, int]:
    return await store.load(await driver(transaction), state, ids, digests, due_ns=NOTHING_DUE)


async def _meet(transaction: Any, memory: Memory, keys: list[AccountKey]) -> bool:
    return await memory.meet(await driver(transaction), keys)


async def _load_accounts(transaction: Any, memory: Memory, numbers: set[int]) -> None:
    await memory.load(await driver(transaction), numbers)


def _events(parts: Iterable[Part]) -> list[Event]:
    return [event for part in parts for event in part.events]


def _accounts(events: Iterable[Event]) -> set[int]:
    wanted = {event[1] for event in events}
    wanted.update([event[2] for event in events])
    return wanted


def _keys(parts: Iterable[Part]) -> Iterable[AccountKey]:
    return (key for part in parts for key in part.keys())  # noqa: SIM118


def _founded(part: Part, memory: Memory) -> bool:
    """Whether a cause that the item only names is in the log."""
    return part.item.cause is None or part.cause in memory.digests or part.cause in part.digests


def _repeated(part: Part, state: State, known: Mapping[bytes, int]) -> Outcome | None:
    """The first answer again, if this very item was applied before."""
    if part.item.apart or (part.events and part.events[0].id not in state.transfers):
        return None  # the rules answer each by itself; the first was never made
    events = part.events
    logged = all(digest in known for digest in part.digests)
    if not events and not (part.digests and logged):
        return None
    if not events:
        return Outcome(Status.DUPLICATE, positions=tuple(known[digest] for digest in part.digests))
    entries = [state.transfers.get(event.id) for event in events]
    codes = [
        Code.CREATED
        if entry is None
        else compare(event, entry, state.transfers.get(entry.pending_id))
        for event, entry in zip(events, entries, strict=True)
    ]
    if codes.count(Code.EXISTS) < len(codes):
        return None
    if not logged:  # the same transfers, but under further statements: another item
        return Outcome(Status.REFUSED, (Code.EXISTS_OTHER_CAUSE,) * len(codes))
    return Outcome(
        Status.DUPLICATE,
        tuple(codes),
        tuple(entry.amount for entry in entries if entry is not None),
        tuple(known[digest] for digest in part.digests),
    )


async def _guarded(
    raw: Any, part: Part, state: State, known: Mapping[bytes, int], registered: Mapping[str, str]
) -> Outcome | None:
    """A repeat is answered before any guard is asked: what it guarded may be long gone."""
    outcome = _repeated(part, state, known)
    if outcome is not None:
        return outcome
    for guard in part.item.guards:
        if await raw.fetchval(registered[guard.name], *guard.parameters) is not True:
            return Outcome(Status.STALE, guard=guard.name)
    return None


async def _change(raw: Any, parts: Sequence[Part], registered: Mapping[str, str]) -> None:
    groups = _Groups()
    for part in parts:
        if part.outcome is not None and part.outcome.status is Status.APPLIED:
            groups.add(part.item.changes)
    for name, rows in groups.groups:
        await raw.executemany(registered[name], rows)


def _conclude(
    live: Sequence[Part],
    results: Sequence[Result],
    known: Mapping[bytes, int],
    size: int,
    logged: list[Logged],
) -> None:
    """Outcomes from results; the statements of applied items get the log's next positions.

    In the order in which their transfers were decided: whoever replays the log finds the same.
    """
    positions = dict(known)
    at = 0
    for part in live:
        mine = results[at : at + len(part.events)]
        at += len(mine)
        codes = tuple([result[0] for result in mine])
        status = _status(codes, apart=part.item.apart)
        if status is Status.REFUSED:
            part.outcome = Outcome(status, codes, (0,) * len(codes))
            continue
        if not part.digests:
            part.outcome = Outcome(status, codes, _amounts(mine))
            continue
        for opened, digest in zip(part.item.statements, part.digests, strict=True):
            if digest not in positions:
                positions[digest] = size + len(logged)
                logged.append(_logged(opened, digest))
        part.outcome = Outcome(
            status,
            codes,
            _amounts(mine),
            tuple([positions[digest] for digest in part.digests]),
        )


def _amounts(results: Sequence[Result]) -> tuple[int, ...]:
    """What each has moved."""
    return tuple([amount if code in STANDS else 0 for code, _, amount in results])


def _logged(opened: Opened, digest: bytes | None = None) -> Logged:
    return Logged(
        digest or canonical.digest_bytes(opened.digest),
        opened.statement.kind,
        opened.signer,
        opened.envelope,
    )


def _status(codes: Sequence[Code], *, apart: bool) -> Status:
    """Of a chain all members must have been created; apart, one is enough."""
    if not apart:
        whole = codes.count(Code.CREATED) == len(codes)
        return Status.APPLIED if whole else Status.REFUSED
    if Code.CREATED in codes:
        return Status.APPLIED
    return Status.DUPLICATE if Code.EXISTS in codes else Status.REFUSED
