"""One batch of the ledger: everything between taking the baton and COMMIT, for many items at once."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from uuid import UUID

from settlement.domain import canonical, ledger_rules
from settlement.domain.ledger import AccountKey, Code, Event, Flag, Result
from settlement.domain.ledger_rules import State
from settlement.service.item import Change, Item, Outcome, Status
from settlement.service.memory import Memory
from settlement.store import ledger as store
from settlement.store.database import driver

STANDS: Final = (Code.CREATED, Code.EXISTS)
LINKED: Final = int(Flag.LINKED)
NONE: Final = 0  # how the rules spell "no pending transfer"


@dataclass(slots=True)
class Part:
    """One item on its way through a batch."""

    item: Item
    digests: list[bytes]
    prepared: list[Event] | None  # before the batch, if all its accounts were committed then
    events: list[Event] = field(default_factory=list)  # a repeated batch makes them anew
    outcome: Outcome | None = None


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


def prepare(item: Item, memory: Memory) -> Part:
    """All that can be done for an item before its batch: that is, while another one is in flight."""
    digests = [canonical.digest_bytes(opened.digest) for opened in item.statements]
    try:
        events = _events(item, digests, memory.numbers.__getitem__)
    except KeyError:
        events = None
    return Part(item, digests, events)


async def run(
    transaction: Any,
    parts: Sequence[Part],
    registered: Mapping[str, str],
    now_ns: int,
    memory: Memory,
) -> tuple[list[Outcome], int]:
    """Decide and write the items inside the caller's transaction; one outcome each, in order.

    And the number of the last batch, for `memory.keep` once the transaction is committed.
    """
    raw = await driver(transaction)
    clock = await store.take_baton(raw)
    memory.begin(clock.batch)
    await _number(raw, parts, memory)
    everything = [event for part in parts for event in part.events]
    wanted = {event.debit for event in everything}
    wanted.update([event.credit for event in everything])
    await memory.load(raw, wanted)
    state = State(memory.accounts)
    known = await store.load(
        raw,
        state,
        _named(everything),
        [digest for part in parts for digest in part.digests],
        due_ns=max(clock.ts + len(everything), now_ns),
    )
    for part in parts:
        part.outcome = _repeated(part, state, known) or await _guarded(raw, part.item, registered)
    live = [part for part in parts if part.outcome is None]
    events = [event for part in live for event in part.events]
    results, last_ns = decide(state, events, before_ns=clock.ts, now_ns=now_ns)
    logged = _conclude(live, results, known, clock.log_size)
    number = clock.batch
    if events or logged or state.touched:
        number += 1
        await store.write(raw, clock, state, logged, ts=last_ns, events=len(events))
    groups = _Groups()
    for part in live:
        if part.outcome is not None and part.outcome.status is Status.APPLIED:
            groups.add(part.item.changes)
    for name, rows in groups.groups:
        await raw.executemany(registered[name], rows)
    return [part.outcome for part in parts if part.outcome is not None], number


def _named(events: Sequence[Event]) -> set[int]:
    """The ids of transfers that the batch makes, or that it resolves."""
    named = {event.id for event in events}
    named.update(event.pending_id for event in events if event.pending_id)
    return named


def decide(
    state: State, events: Sequence[Event], *, before_ns: int, now_ns: int
) -> tuple[list[Result], int]:
    """Let what is due expire, then the rules decide; ledger time grows by ≥ 1 ns an event."""
    last_ns = max(before_ns + len(events), now_ns)
    state.expire(last_ns - len(events))
    return state.apply(events, last_ns), last_ns


async def _number(raw: Any, parts: Sequence[Part], memory: Memory) -> None:
    """The events of all items, also of those some of whose accounts were not known at the door."""
    await memory.open(raw, _keys(part.item for part in parts if part.prepared is None))
    for part in parts:
        part.events = (
            _events(part.item, part.digests, memory.number)
            if part.prepared is None
            else part.prepared
        )


def _keys(items: Iterable[Item]) -> Iterator[AccountKey]:
    for item in items:
        for transfer in item.transfers:
            yield transfer.debit
            yield transfer.credit


def _events(
    item: Item, digests: Sequence[bytes], number: Callable[[AccountKey], int]
) -> list[Event]:
    """The item in the rules' terms: a chain of events whose cause is the first statement."""
    events = []
    linked = NONE if item.apart else LINKED
    for transfer in item.transfers:
        pending = transfer.pending_id
        debit = transfer.debit
        events.append(
            Event(
                transfer.id.int,
                number(debit),
                number(transfer.credit),
                transfer.amount,
                NONE if pending is None else pending.int,
                transfer.timeout_seconds,
                debit.ledger,
                int(transfer.reason),
                int(transfer.flags) | linked,
                digests[0],
            )
        )
    if linked and events:  # the last one ends the chain
        events[-1] = events[-1]._replace(flags=int(item.transfers[-1].flags))
    return events


def _repeated(part: Part, state: State, known: Mapping[bytes, int]) -> Outcome | None:
    """The first answer again, if this very item was applied before."""
    if part.item.apart:
        return None  # the rules answer each by itself
    logged = all(digest in known for digest in part.digests)
    events = part.events
    if not events:
        if not part.digests or not logged:
            return None
        return Outcome(Status.DUPLICATE, positions=tuple(known[digest] for digest in part.digests))
    entries = [state.transfers.get(event.id) for event in events]
    codes = [
        Code.CREATED
        if entry is None
        else ledger_rules.compare(event, entry, state.transfers.get(entry.pending_id))
        for event, entry in zip(events, entries, strict=True)
    ]
    if any(code is not Code.EXISTS for code in codes):
        return None
    if not logged:  # the same transfers, but under further statements: another item
        return Outcome(Status.REFUSED, (Code.EXISTS_OTHER_CAUSE,) * len(codes))
    return Outcome(
        Status.DUPLICATE,
        tuple(codes),
        tuple(entry.amount for entry in entries if entry is not None),
        tuple(known[digest] for digest in part.digests),
    )


async def _guarded(raw: Any, item: Item, registered: Mapping[str, str]) -> Outcome | None:
    for guard in item.guards:
        if await raw.fetchval(registered[guard.name], *guard.parameters) is not True:
            return Outcome(Status.STALE, guard=guard.name)
    return None


def _conclude(
    live: Sequence[Part], results: Sequence[Result], known: Mapping[bytes, int], size: int
) -> list[store.Logged]:
    """Outcomes from results; the statements of applied items get the log's next positions."""
    logged: list[store.Logged] = []
    positions = dict(known)
    at = 0
    for part in live:
        mine = results[at : at + len(part.events)]
        at += len(mine)
        codes = tuple(result.code for result in mine)
        status = _status(codes, apart=part.item.apart)
        if status is Status.REFUSED:
            part.outcome = Outcome(status, codes, (0,) * len(codes))
            continue
        for opened, digest in zip(part.item.statements, part.digests, strict=True):
            if digest in positions:
                continue
            positions[digest] = size + len(logged)
            logged.append(
                store.Logged(
                    positions[digest], digest, opened.statement.kind, opened.signer, opened.envelope
                )
            )
        part.outcome = Outcome(
            status,
            codes,
            tuple(result.amount if result.code in STANDS else 0 for result in mine),
            tuple(positions[digest] for digest in part.digests),
        )
    return logged


def _status(codes: Sequence[Code], *, apart: bool) -> Status:
    """Of a chain all members must have been created; apart, one is enough."""
    if not apart:
        whole = all(code is Code.CREATED for code in codes)
        return Status.APPLIED if whole else Status.REFUSED
    if Code.CREATED in codes:
        return Status.APPLIED
    return Status.DUPLICATE if Code.EXISTS in codes else Status.REFUSED
