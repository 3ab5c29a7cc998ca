"""The ledger explorer: what anybody may read of the money and the log, page by page.

The log is public, so everything that follows from it is; inputs, outputs and logs of tasks are not
in it, and nothing here reads them.
"""

import base64
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar
from uuid import UUID

import msgspec

from market.service.market import Market
from market.store import explorer as store
from market.store.explorer import SEQUENCE_MAX, Span
from market.store.rows import Connection, Row
from market.wire import explorer as wire
from settlement.domain import canonical, cosignature
from settlement.domain.errors import LimitExceeded, Malformed, NotFound
from settlement.domain.ledger import Flag, PendingState, Purpose, Reason
from settlement.domain.statement import Envelope

NIL: Final = UUID(int=0)
LAST: Final = UUID(int=2**128 - 1)
PAGE_BYTES_MAX: Final = 8 * 1024 * 1024  # of the statements on one page
IDLE_NS: Final = 60_000_000_000  # a ledger at rest has no time of its own; no batch takes longer

T = TypeVar("T")
View = TypeVar("View", bound=msgspec.Struct)


@dataclass(frozen=True, slots=True)
class Listed(Generic[View]):
    """One page: its rows, the cursor behind each of them, and where the list goes on."""

    views: list[View]
    cursors: list[str]
    next: str


async def look(market: Market, work: Callable[..., Awaitable[T]], *arguments: Any) -> T:
    """Run a look in a transaction of its own, which can change nothing and scans no table."""

    async def inside(connection: Connection) -> T:
        await store.begin(connection)
        return await work(connection, *arguments)

    return await market.transact(inside)


async def rows(
    page: Callable[[str, int], Awaitable[Listed[View]]], *, after: str, limit: int
) -> AsyncIterator[tuple[View, str]]:
    """All rows of a list from a cursor on, each with its own; a page at a time, as they are taken."""
    left = limit
    while left > 0:
        found = await page(after, min(left, wire.PAGE_MAX))
        for pair in zip(found.views, found.cursors, strict=True):
            yield pair
        left -= len(found.views)
        after = found.next
        if not after:
            return


# ── accounts ────────────────────────────────────────────────────────────────────────────────


async def accounts_of(
    market: Market, owner: str, *, after: str, limit: int
) -> Listed[wire.LedgerAccount]:
    """A party's accounts."""
    start = (0, LAST)
    if after:
        purpose, job = wire.parse_cursor(after, "owned", values=2)
        start = (wire.number(purpose), wire.identifier(job))

    async def read(connection: Connection) -> list[Row]:
        return await store.accounts_of(connection, bytes.fromhex(owner), after=start, limit=limit)

    found = await look(market, read)
    cursors = [wire.cursor("owned", row["purpose"], row["job"] or LAST) for row in found]
    return _listed([_account(row) for row in found], cursors, full=len(found) == limit)


async def all_accounts(market: Market, *, after: str, limit: int) -> Listed[wire.LedgerAccount]:
    """Every account, in the order in which they were opened."""
    start = wire.number(*wire.parse_cursor(after, "accounts", values=1)) if after else 0

    async def read(connection: Connection) -> list[Row]:
        return await store.all_accounts(connection, after=start, limit=limit)

    found = await look(market, read)
    cursors = [wire.cursor("accounts", row["id"]) for row in found]
    return _listed([_account(row) for row in found], cursors, full=len(found) == limit)


def _account(row: Row) -> wire.LedgerAccount:
    debits, credits_ = int(row["dr_posted"]), int(row["cr_posted"])
    against = int(row["dr_pending"])
    return wire.LedgerAccount(
        owner=row["owner"].hex(), purpose=Purpose(row["purpose"]).name.lower(), job=_job(row["job"]),
        debits_pending=str(against), debits_posted=str(debits),
        credits_pending=str(int(row["cr_pending"])), credits_posted=str(credits_),
        balance=str(credits_ - debits), spendable=str(credits_ - debits - against),
    )  # fmt: skip


async def balance(
    market: Market, owner: str, query: wire.BalanceQuery, *, now_ns: int
) -> wire.PastBalance:
    """What one account had posted at a point of the past, from the nearer end of its history."""
    if query.at_seq is not None and query.at_ns is not None:
        raise Malformed("name one point: at_seq or at_ns")
    purpose, job = _purpose(query.purpose), _job_of(query.purpose, query.job)

    async def read(connection: Connection) -> wire.PastBalance:
        clock = await store.clock(connection)
        span = await _up_to(connection, clock, query, now_ns)
        number = await store.account(connection, bytes.fromhex(owner), purpose, job)
        debits, credits_, last = 0, 0, None
        if number is not None:
            debits, credits_ = await _posted(connection, number, span, clock["seq"])
            last = await store.last_up_to(connection, number, span)
        return wire.PastBalance(
            owner=owner, purpose=query.purpose, job=_job(job), debits_posted=str(debits),
            credits_posted=str(credits_), balance=str(credits_ - debits),
            sequence=last["seq"] if last else 0, at_ns=str(last["ts"] if last else 0),
        )  # fmt: skip

    return await look(market, read)


async def _up_to(connection: Connection, clock: Row, query: wire.BalanceQuery, now_ns: int) -> Span:
    """The point that is meant, which the ledger must have reached."""
    if query.at_seq is not None:
        if query.at_seq > clock["seq"]:
            raise Malformed(f"the ledger's last transfer is {clock['seq']}")
        return Span(up_to=query.at_seq)
    if query.at_ns is None:
        return Span(up_to=clock["seq"])
    if query.at_ns > max(clock["ts"], now_ns - IDLE_NS):
        raise Malformed(f"the ledger's time is {clock['ts']}, and that point may still change")
    return Span(up_to=await _last_by(connection, clock, query.at_ns), until_ns=query.at_ns)


async def _last_by(connection: Connection, clock: Row, at_ns: int) -> int:
    """A sequence number that no transfer up to this ledger time exceeds."""
    batch = await store.batch_after(connection, at_ns, batches=clock["batch"])
    return int(clock["seq"] if batch is None else batch["seq_last"])


async def _posted(connection: Connection, number: int, span: Span, newest: int) -> tuple[int, int]:
    """Debits and credits up to the span's end: added up before it, or taken away after it."""
    before = Span(0, span.up_to, -1, span.until_ns)
    late = span.up_to > newest // 2
    for backwards in (late, not late):
        if not backwards:
            found = await store.history(connection, number, before)
            if found.whole:
                return found.debits, found.credits
            continue
        # within the batch that the point lies in, time decides; behind it, the sequence does
        behind = await store.history(connection, number, Span(above=span.up_to))
        inside = Span(0, span.up_to, span.until_ns)
        within = await store.history(connection, number, inside)
        if behind.whole and within.whole:
            return (
                behind.debits_now - behind.debits - within.debits,
                behind.credits_now - behind.credits - within.credits,
            )
    raise LimitExceeded(
        f"more than {store.HISTORY_ROWS_MAX} transfers of this account stand before and after that point"
    )


# ── transfers ───────────────────────────────────────────────────────────────────────────────


async def transfers(
    market: Market, owner: str, query: wire.TransferQuery, *, after: str, limit: int
) -> Listed[wire.LedgerTransfer]:
    """Transfers of one account of a party, oldest or newest first."""
    purpose, job = _purpose(query.purpose), _job_of(query.purpose, query.job)
    code = None if query.reason is None else _reason(query.reason)
    kind = f"transfers.{query.order}"
    seen = wire.number(*wire.parse_cursor(after, kind, values=1)) if after else None

    async def read(connection: Connection) -> tuple[store.Found, dict[int, Row]]:
        number = await store.account(connection, bytes.fromhex(owner), purpose, job)
        if number is None:
            return store.Found([], None), {}
        span = await _span(connection, query, seen)
        found = await store.transfers(
            connection, number, span, order=query.order, code=code, limit=limit
        )
        return found, await _names(connection, found.rows)

    found, names = await look(market, read)
    views = [_transfer(row, names) for row in found.rows]
    cursors = [wire.cursor(kind, view.sequence) for view in views]
    return Listed(views, cursors, "" if found.reached is None else wire.cursor(kind, found.reached))


async def _span(connection: Connection, query: wire.TransferQuery, seen: int | None) -> Span:
    above, up_to = 0, SEQUENCE_MAX
    clock = await store.clock(connection)
    if query.from_ns:
        first = await store.batch_after(connection, query.from_ns - 1, batches=clock["batch"])
        above = clock["seq"] if first is None else first["seq_first"] - 1
    if query.to_ns is not None:
        up_to = await _last_by(connection, clock, query.to_ns)
    if seen is not None:
        above, up_to = (
            (max(above, seen), up_to) if query.order == "asc" else (above, min(up_to, seen - 1))
        )
    until = SEQUENCE_MAX if query.to_ns is None else query.to_ns
    return Span(above, up_to, (query.from_ns or 0) - 1, until)


async def transfer(market: Market, identifier: UUID) -> wire.TransferDetail:
    """One transfer with what became of it, and where its cause stands."""

    async def read(connection: Connection) -> tuple[Row | None, dict[int, Row]]:
        row = await store.transfer(connection, identifier)
        return row, await _names(connection, [] if row is None else [row])

    row, names = await look(market, read)
    if row is None:
        raise NotFound("there is no such transfer")
    return wire.TransferDetail(
        transfer=_transfer(row, names), cause_index=row["idx"], cause_kind=row["kind"] or "",
        pending_state="" if row["status"] is None else PendingState(row["status"]).name.lower(),
        expires_ns=None if row["expires_at"] is None else str(row["expires_at"]),
    )  # fmt: skip


async def _names(connection: Connection, found: Sequence[Row]) -> dict[int, Row]:
    return await store.names(
        connection, sorted({row[side] for row in found for side in ("dr", "cr")})
    )


def _transfer(row: Row, names: dict[int, Row]) -> wire.LedgerTransfer:
    return wire.LedgerTransfer(
        sequence=row["seq"], id=str(row["id"]), debit=_path(names[row["dr"]]),
        credit=_path(names[row["cr"]]), amount=str(int(row["amount"])),
        reason=Reason(row["code"]).name.lower(),
        flags=[flag.name.lower() for flag in Flag if flag & row["flags"] and flag.name],
        pending_id=_job(row["pending_id"]), timeout_seconds=row["timeout_s"],
        cause=canonical.digest_text(row["cause"]), at_ns=str(row["ts"]),
    )  # fmt: skip


def _path(row: Row) -> str:
    job = f"/{row['job']}" if row["job"] is not None else ""
    return f"{row['owner'].hex()}/{Purpose(row['purpose']).name.lower()}{job}"


# ── the log ─────────────────────────────────────────────────────────────────────────────────


async def entries(
    market: Market, query: wire.EntryQuery, *, after: str, limit: int
) -> tuple[Listed[wire.LogEntry], int, int]:
    """Statements from a position on, the log's size, and how much of it is sealed."""
    first = (
        wire.number(*wire.parse_cursor(after, "entries", values=1)) + 1 if after else query.from_
    )
    if after and query.from_:
        raise Malformed("name one place to begin: from or after")
    signer = None if query.signer is None else bytes.fromhex(query.signer)

    async def read(connection: Connection) -> tuple[list[Row], int | None, int, int]:
        found = await store.entry_keys(
            connection, first=first, kind=query.kind, signer=signer, limit=limit
        )
        fitting = _fitting(found.rows)
        reached = found.reached if len(fitting) == len(found.rows) else fitting[-1]["idx"]
        whole = await store.entries(connection, [row["idx"] for row in fitting])
        sealed = await store.sealed(connection)
        return whole, reached, (await store.clock(connection))["log_size"], sealed

    whole, reached, size, sealed = await look(market, read)
    views = [_entry(row) for row in whole]
    cursors = [wire.cursor("entries", view.index) for view in views]
    onwards = "" if reached is None else wire.cursor("entries", reached)
    return Listed(views, cursors, onwards), size, sealed


def _fitting(found: Sequence[Row]) -> list[Row]:
    """As many statements as a page may hold bytes; one always."""
    taken: list[Row] = []
    total = 0
    for row in found:
        total += row["size"]
        if taken and total > PAGE_BYTES_MAX:
            break
        taken.append(row)
    return taken


async def entry(market: Market, digest: str) -> wire.LogEntry:
    """One statement by its digest."""
    row = await look(market, store.entry, canonical.digest_bytes(digest))
    if row is None:
        raise NotFound("no such statement is logged")
    return _entry(row)


def _entry(row: Row) -> wire.LogEntry:
    return wire.LogEntry(
        index=row["idx"], digest=canonical.digest_text(row["digest"]), kind=row["kind"],
        signer=row["signer"].hex(), statement=msgspec.Raw(payload(row["envelope"])),
    )  # fmt: skip


def payload(envelope: bytes) -> bytes:
    """The statement inside an envelope of our own log: canonical JSON, as it was signed."""
    return base64.b64decode(msgspec.json.decode(envelope, type=Envelope).payload)


async def checkpoints(
    market: Market, *, order: str, after: str, limit: int
) -> Listed[wire.SignedHead]:
    """Signed heads with their cosignatures, newest or oldest first."""
    kind = f"checkpoints.{order}"
    first = -1 if order == "asc" else SEQUENCE_MAX
    seen = wire.number(*wire.parse_cursor(after, kind, values=1)) if after else first

    async def read(connection: Connection) -> tuple[list[Row], list[Row]]:
        found = await store.checkpoints(connection, after=seen, order=order, limit=limit)
        return found, await store.cosignatures(connection, [row["size"] for row in found])

    found, lines = await look(market, read)
    notes = {row["size"]: row["note"] for row in found}
    for row in lines:
        notes[row["size"]] = cosignature.add_line(notes[row["size"]], row["line"])
    views = [
        wire.SignedHead(size=row["size"], root=row["root"].hex(), note=notes[row["size"]])
        for row in found
    ]
    cursors = [wire.cursor(kind, view.size) for view in views]
    return _listed(views, cursors, full=len(found) == limit)


# ── words ───────────────────────────────────────────────────────────────────────────────────


def _listed(views: list[View], cursors: list[str], *, full: bool) -> Listed[View]:
    return Listed(views, cursors, cursors[-1] if full else "")


def _job(job: UUID | None) -> str:
    return "" if job is None else str(job)


def _job_of(purpose: str, job: str | None) -> UUID | None:
    if (purpose == "budget") != (job is not None):
        raise Malformed("a budget is named with its job, and no other account has one")
    return None if job is None else UUID(job)


def _purpose(name: str) -> Purpose:
    try:
        return Purpose[name.upper()]
    except KeyError:
        known = ", ".join(purpose.name.lower() for purpose in Purpose)
        raise Malformed(f"{name!r} is not one of {known}") from None


def _reason(name: str) -> Reason:
    try:
        return Reason[name.upper()]
    except KeyError:
        known = ", ".join(reason.name.lower() for reason in Reason)
        raise Malformed(f"{name!r} is not one of {known}") from None
