"""What anybody may read of a market's ledger and log: `client.explorer`, and its blocking twin.

A list is named first (`transfers_of(…)`) and then fetched, page after page until it ends, or
exported as the market's own CSV, request after request behind the last row's cursor.
"""

from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any, Final, Generic, ParamSpec, Protocol, TypeVar

import msgspec

from market.sdk.reader import read
from market.sdk.transport import Transport
from market.wire import explorer as wire
from settlement.domain.errors import Malformed

CSV_ROWS: Final = 10_000  # of one request for CSV
ACCOUNTS: Final = "/v1/ledger/accounts"
ENTRIES: Final = "/v1/log/entries"

Query = Mapping[str, str | int | None]
View = TypeVar("View", bound=msgspec.Struct)
P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Listing(Generic[View]):
    """A list of the market's: where it is, what it is asked, what its rows are."""

    path: str
    kind: type[View]
    page: type[msgspec.Struct]
    query: Query


def accounts_of(address: str | None = None) -> Listing[wire.LedgerAccount]:
    """A party's accounts, or everybody's."""
    path = ACCOUNTS if address is None else f"{ACCOUNTS}/{address}"
    return Listing(path, wire.LedgerAccount, wire.LedgerAccounts, {})


def transfers_of(
    address: str, *, purpose: str = "available", job: str | None = None, order: str = "desc",
    reason: str | None = None, from_ns: int | None = None, to_ns: int | None = None,
) -> Listing[wire.LedgerTransfer]:  # fmt: skip
    """Transfers of one account of a party; times are ledger time, both ends included."""
    return Listing(
        f"{ACCOUNTS}/{address}/transfers", wire.LedgerTransfer, wire.LedgerTransfers,
        {"purpose": purpose, "job": job, "order": order, "reason": reason, "from_ns": from_ns, "to_ns": to_ns},
    )  # fmt: skip


def receipts_of(
    *, provider: str | None = None, consumer: str | None = None, job: str | None = None
) -> Listing[wire.LoggedReceipt]:
    """Logged receipts with their state, money and verdict."""
    query = {"provider": provider, "consumer": consumer, "job": job}
    return Listing("/v1/ledger/receipts", wire.LoggedReceipt, wire.LoggedReceipts, query)


def entries_from(
    first: int = 0, *, kind: str | None = None, signer: str | None = None
) -> Listing[wire.LogEntry]:
    """Statements of the log from a position on."""
    query = {"from": first or None, "kind": kind, "signer": signer}
    return Listing(ENTRIES, wire.LogEntry, wire.LogEntries, query)


def checkpoints(*, order: str = "desc") -> Listing[wire.SignedHead]:
    """Signed tree heads, newest or oldest first."""
    return Listing("/v1/log/checkpoints", wire.SignedHead, wire.SignedHeads, {"order": order})


class Explorer:
    """Reads without a signature."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def balance(
        self, address: str, *, purpose: str = "available", job: str | None = None,
        at_seq: int | None = None, at_ns: int | None = None,
    ) -> wire.PastBalance:  # fmt: skip
        """One account's posted balance, now or at a past point of the ledger."""
        query = {"purpose": purpose, "job": job, "at_seq": at_seq, "at_ns": at_ns}
        return await self._get(f"{ACCOUNTS}/{address}/balance", wire.PastBalance, query)

    async def transfer(self, identifier: str) -> wire.TransferDetail:
        """One transfer, what became of it, and what caused it."""
        return await self._get(f"/v1/ledger/transfers/{identifier}", wire.TransferDetail, {})

    async def entry(self, digest: str) -> wire.LogEntry:
        """One statement of the log."""
        return await self._get(f"{ENTRIES}/{digest}", wire.LogEntry, {})

    async def rows(self, listing: Listing[View], *, limit: int | None = None) -> list[View]:
        """The rows of a list, all of them without a limit."""
        found: list[View] = []
        after, query = "", listing.query
        while limit is None or len(found) < limit:
            size = wire.PAGE_MAX if limit is None else min(wire.PAGE_MAX, limit - len(found))
            asked = {**query, "limit": size, "after": after or None}
            answer: Any = await self._get(listing.path, listing.page, asked)
            found += getattr(answer, listing.page.__struct_fields__[0])
            if not answer.next:
                break
            after, query = _onwards(answer.next, after), _unplaced(query)
        return found

    async def export(
        self, listing: Listing[View], write: Callable[[bytes], object], *, limit: int | None = None
    ) -> None:
        """A list as CSV, handed to `write` piece by piece; the header stands once."""
        after, query, left, head = "", listing.query, limit, True
        while head or left is None or left > 0:
            size = CSV_ROWS if left is None else min(CSV_ROWS, left)
            asked = {**query, "format": "csv", "limit": size, "after": after or None}
            data = await self._transport.request(
                "GET", listing.path, query=_given(asked), signed=False
            )
            names, _, records = data.partition(b"\r\n")
            write(data if head else records)
            if not names or not records:
                return
            cursor = records.removesuffix(b"\r\n").rpartition(b",")[2].decode()
            after, query, head = _onwards(cursor, after), _unplaced(query), False
            left = None if left is None else left - size

    async def _get(self, path: str, kind: type[T], query: Query) -> T:
        data = await self._transport.request("GET", path, query=_given(query), signed=False)
        return read(data, kind)


class Runner(Protocol):
    """What waits for a coroutine: the portal."""

    def run(self, work: Coroutine[Any, Any, T]) -> T: ...


class BlockingExplorer:
    """The same calls, each of which waits for its answer."""

    def __init__(self, aio: Explorer, runner: Runner) -> None:
        self.aio = aio
        self.balance = waiting(aio.balance, runner)
        self.transfer = waiting(aio.transfer, runner)
        self.entry = waiting(aio.entry, runner)
        self._runner = runner

    def rows(self, listing: Listing[View], *, limit: int | None = None) -> list[View]:
        """The rows of a list, all of them without a limit."""
        return self._runner.run(self.aio.rows(listing, limit=limit))

    def export(
        self, listing: Listing[View], write: Callable[[bytes], object], *, limit: int | None = None
    ) -> None:
        """A list as CSV, handed to `write` piece by piece."""
        self._runner.run(self.aio.export(listing, write, limit=limit))


def waiting(method: Callable[P, Coroutine[Any, Any, T]], runner: Runner) -> Callable[P, T]:
    """The blocking twin of an async method."""

    def wait(*args: P.args, **kwargs: P.kwargs) -> T:
        return runner.run(method(*args, **kwargs))

    return wait


def _onwards(cursor: str, before: str) -> str:
    if not cursor or cursor == before:
        raise Malformed("the market's list does not go on")
    return cursor


def _unplaced(query: Query) -> Query:
    """The question without where it began: from here on the cursor says that."""
    return {name: value for name, value in query.items() if name != "from"}


def _given(query: Query) -> dict[str, str | int]:
    return {name: value for name, value in query.items() if value is not None}
