"""Routes of the ledger explorer: accounts, transfers, receipts, the log; as JSON pages or as CSV.

All of them are open: they show what the public log shows, and what follows from it.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final, TypeVar
from uuid import UUID

import msgspec

from market.http.endpoint import Call, Endpoint, Stream
from market.service import explorer, explorer_receipts
from market.service.explorer import Listed
from market.wire import explorer as wire
from market.wire.explorer import Listing
from settlement.domain import identity
from settlement.domain.errors import LimitExceeded, NotFound

PIECE_CHARS: Final = 64 * 1024
NANOSECONDS: Final = 1_000_000  # in a millisecond

View = TypeVar("View", bound=msgspec.Struct)
Page = Callable[[str, int], Awaitable[Listed[View]]]


async def ledger_accounts(call: Call, query: Listing) -> wire.LedgerAccounts:
    """Every account of the ledger, in the order of opening."""
    found = await _all_accounts(call)(query.after, _limit(query))
    return wire.LedgerAccounts(found.views, found.next)


async def party_accounts(call: Call, address: str, query: Listing) -> wire.LedgerAccounts:
    """A party's accounts: purpose, job, counters; the market's own by its ledger key."""
    found = await _accounts_of(call, _party(address))(query.after, _limit(query))
    return wire.LedgerAccounts(found.views, found.next)


async def party_balance(call: Call, address: str, query: wire.BalanceQuery) -> wire.PastBalance:
    """One account's posted balance, now or at a past point of the ledger."""
    now_ns = call.now_ms * NANOSECONDS
    return await explorer.balance(call.market, _party(address), query, now_ns=now_ns)


async def party_transfers(
    call: Call, address: str, query: wire.TransferQuery
) -> wire.LedgerTransfers:
    """Transfers of one account of a party, newest or oldest first."""
    found = await _transfers(call, _party(address), query)(query.after, _limit(query))
    return wire.LedgerTransfers(found.views, found.next)


async def show_transfer(call: Call, transfer: UUID) -> wire.TransferDetail:
    """One transfer: what became of it, what caused it, and where that stands in the log."""
    return await explorer.transfer(call.market, transfer)


async def ledger_receipts(call: Call, query: wire.ReceiptQuery) -> wire.LoggedReceipts:
    """Logged receipts with their state, money and verdict."""
    found = await _receipts(call, query)(query.after, _limit(query))
    return wire.LoggedReceipts(found.views, found.next)


async def log_entries(call: Call, query: wire.EntryQuery) -> wire.LogEntries:
    """Statements of the log from a position on."""
    found, size, sealed = await explorer.entries(
        call.market, query, after=query.after, limit=_limit(query)
    )
    return wire.LogEntries(found.views, size, sealed, found.next)


async def log_entry(call: Call, digest: str) -> wire.LogEntry:
    """One statement of the log by its digest."""
    return await explorer.entry(call.market, digest)


async def log_checkpoints(call: Call, query: wire.CheckpointQuery) -> wire.SignedHeads:
    """Signed tree heads, newest or oldest first."""
    found = await _checkpoints(call, query)(query.after, _limit(query))
    return wire.SignedHeads(found.views, found.next)


# ── the same lists, as CSV ──────────────────────────────────────────────────────────────────


def _export_all_accounts(call: Call, query: Listing) -> Stream:
    return _csv(_all_accounts(call), wire.LedgerAccount, query, "accounts")


def _export_accounts(call: Call, address: str, query: Listing) -> Stream:
    return _csv(_accounts_of(call, _party(address)), wire.LedgerAccount, query, "accounts")


def _export_transfers(call: Call, address: str, query: wire.TransferQuery) -> Stream:
    page = _transfers(call, _party(address), query)
    return _csv(page, wire.LedgerTransfer, query, "transfers")


def _export_receipts(call: Call, query: wire.ReceiptQuery) -> Stream:
    return _csv(_receipts(call, query), wire.LoggedReceipt, query, "receipts")


def _export_entries(call: Call, query: wire.EntryQuery) -> Stream:
    async def page(after: str, limit: int) -> Listed[wire.LogEntry]:
        asked = query if after == query.after else msgspec.structs.replace(query, from_=0)
        return (await explorer.entries(call.market, asked, after=after, limit=limit))[0]

    return _csv(page, wire.LogEntry, query, "entries")


def _export_checkpoints(call: Call, query: wire.CheckpointQuery) -> Stream:
    return _csv(_checkpoints(call, query), wire.SignedHead, query, "checkpoints")


def _csv(page: Page[View], kind: type[View], query: Listing, name: str) -> Stream:
    limit = wire.EXPORT_ROWS_MAX if query.limit is None else query.limit
    return Stream(_lines(page, kind, query.after, limit), wire.CSV, f"{name}.csv")


async def _lines(
    page: Page[View], kind: type[View], after: str, limit: int
) -> AsyncIterator[bytes]:
    """Header and rows in pieces of some size; nothing is read before it is wanted."""
    lines, size = [wire.csv_header(kind)], 0
    async for view, cursor in explorer.rows(page, after=after, limit=limit):
        lines.append(wire.csv_row(view, cursor))
        size += len(lines[-1])
        if size >= PIECE_CHARS:
            yield "".join(lines).encode()
            lines, size = [], 0
    yield "".join(lines).encode()


# ── lists ───────────────────────────────────────────────────────────────────────────────────


def _all_accounts(call: Call) -> Page[wire.LedgerAccount]:
    return lambda after, limit: explorer.all_accounts(call.market, after=after, limit=limit)


def _accounts_of(call: Call, owner: str) -> Page[wire.LedgerAccount]:
    return lambda after, limit: explorer.accounts_of(call.market, owner, after=after, limit=limit)


def _transfers(call: Call, owner: str, query: wire.TransferQuery) -> Page[wire.LedgerTransfer]:
    return lambda after, limit: explorer.transfers(
        call.market, owner, query, after=after, limit=limit
    )


def _receipts(call: Call, query: wire.ReceiptQuery) -> Page[wire.LoggedReceipt]:
    return lambda after, limit: explorer_receipts.receipts(
        call.market, query, after=after, limit=limit
    )


def _checkpoints(call: Call, query: wire.CheckpointQuery) -> Page[wire.SignedHead]:
    return lambda after, limit: explorer.checkpoints(
        call.market, order=query.order, after=after, limit=limit
    )


def _limit(query: Listing) -> int:
    limit = wire.PAGE_DEFAULT if query.limit is None else query.limit
    if limit > wire.PAGE_MAX:
        raise LimitExceeded(f"a page has at most {wire.PAGE_MAX} rows; only CSV has more")
    return limit


def _party(address: str) -> str:
    if not identity.is_address(address):
        raise NotFound("an address has 64 lower-case hex digits")
    return address


_ACCOUNTS: Final = "/v1/ledger/accounts"

ENDPOINTS: Final = (
    Endpoint("GET", _ACCOUNTS, ledger_accounts, export=_export_all_accounts),
    Endpoint("GET", f"{_ACCOUNTS}/{{address}}", party_accounts, export=_export_accounts),
    Endpoint("GET", f"{_ACCOUNTS}/{{address}}/balance", party_balance),
    Endpoint(
        "GET", f"{_ACCOUNTS}/{{address}}/transfers", party_transfers, export=_export_transfers
    ),
    Endpoint("GET", "/v1/ledger/transfers/{transfer}", show_transfer),
    Endpoint("GET", "/v1/ledger/receipts", ledger_receipts, export=_export_receipts),
    Endpoint("GET", "/v1/log/entries", log_entries, export=_export_entries),
    Endpoint("GET", "/v1/log/entries/{digest}", log_entry),
    Endpoint("GET", "/v1/log/checkpoints", log_checkpoints, export=_export_checkpoints),
)
