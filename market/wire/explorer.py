"""Shapes of the ledger explorer: accounts, transfers, receipts, log entries, and their cursors.

A cursor names the last row that was seen by values that never change, so that rows which come later
neither repeat nor hide others. A page that looked at its share of rows ends early and says where to
go on: an empty `next`, not a short page, is the end.
"""

import base64
import re
from collections.abc import Sequence
from typing import Annotated, Final, Literal
from uuid import UUID

import msgspec

from settlement.domain.errors import Malformed
from settlement.domain.statement import Address, Amount, Count, Digest, Identifier

PAGE_MAX: Final = 1_000
PAGE_DEFAULT: Final = 100
EXPORT_ROWS_MAX: Final = 100_000  # of one CSV; each row carries the cursor to go on after it
CURSOR_CHARS_MAX: Final = 200
NUMBER_MAX: Final = 2**63 - 1
_TEXT: Final = re.compile(r"[0-9a-z.:-]{1,140}\Z")
_NUMBER: Final = re.compile(r"(?:0|[1-9][0-9]{0,18})\Z", re.ASCII)
_ASCII_ONLY: Final = r"^[A-Za-z0-9_-]*$(?!\n)"

Cursor = Annotated[str, msgspec.Meta(max_length=CURSOR_CHARS_MAX, pattern=_ASCII_ONLY)]
Format = Literal["json", "csv"]
Limit = Annotated[int, msgspec.Meta(ge=1, le=EXPORT_ROWS_MAX)]
Number = Annotated[int, msgspec.Meta(ge=0, le=NUMBER_MAX)]
Nanoseconds = Annotated[str, msgspec.Meta(pattern=r"^(0|[1-9][0-9]{0,18})$(?!\n)")]
Order = Literal["asc", "desc"]
PurposeName = Annotated[str, msgspec.Meta(pattern=r"^[a-z_]{1,40}$(?!\n)")]
ReasonName = Annotated[str, msgspec.Meta(pattern=r"^[a-z_]{1,40}$(?!\n)")]
Kind = Annotated[str, msgspec.Meta(pattern=r"^[a-z]{1,40}$(?!\n)")]
Signed = Annotated[str, msgspec.Meta(pattern=r"^-?(0|[1-9][0-9]{0,38})$(?!\n)")]


# ── cursors ─────────────────────────────────────────────────────────────────────────────────


def cursor(kind: str, *values: object) -> str:
    """The opaque text behind which a list goes on: what list it is, and the last row's key."""
    text = ":".join((kind, *(str(value) for value in values)))
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def parse_cursor(text: str, kind: str, *, values: int) -> list[str]:
    """The strict inverse; a cursor of another list, or one that nobody made, is refused."""
    try:
        data = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)).decode("ascii")
    except ValueError:
        data = ""
    parts = data.split(":")
    if not _TEXT.match(data) or parts[0] != kind or len(parts) != values + 1:
        raise Malformed("the cursor is not one of this list")
    if cursor(kind, *parts[1:]) != text:
        raise Malformed("the cursor is not one of this list")
    return parts[1:]


def number(text: str) -> int:
    """A cursor's number."""
    if not _NUMBER.match(text) or int(text) > NUMBER_MAX:
        raise Malformed("the cursor is not one of this list")
    return int(text)


def identifier(text: str) -> UUID:
    """A cursor's id."""
    try:
        return UUID(text)
    except ValueError:
        raise Malformed("the cursor is not one of this list") from None


# ── what is asked ───────────────────────────────────────────────────────────────────────────


class Listing(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A list from a cursor on; `limit` has a default by format: 100 in JSON, 100 000 in CSV."""

    after: Cursor = ""
    limit: Limit | None = None
    format: Format | None = None


class CheckpointQuery(Listing, frozen=True, forbid_unknown_fields=True, kw_only=True):
    order: Order = "desc"


class TransferQuery(Listing, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Transfers of one account of a party; the times are ledger time, both ends included."""

    purpose: PurposeName = "available"
    job: Identifier | None = None
    order: Order = "desc"
    reason: ReasonName | None = None
    from_ns: Number | None = None
    to_ns: Number | None = None


class BalanceQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One account, now or after the ledger's transfer `at_seq`, or at the ledger time `at_ns`."""

    purpose: PurposeName = "available"
    job: Identifier | None = None
    at_seq: Number | None = None
    at_ns: Number | None = None


class ReceiptQuery(Listing, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Receipts in the log's order; with `job` or `consumer` by job and attempt."""

    provider: Address | None = None
    consumer: Address | None = None
    job: Identifier | None = None


class EntryQuery(Listing, frozen=True, forbid_unknown_fields=True, kw_only=True):
    from_: Number = msgspec.field(default=0, name="from")
    kind: Kind | None = None
    signer: Address | None = None


# ── what is answered ────────────────────────────────────────────────────────────────────────


class LedgerAccount(msgspec.Struct, frozen=True, kw_only=True):
    """The four counters of an account, micro-credits; `issued` alone may have a negative balance."""

    owner: Address
    purpose: str
    job: str
    debits_pending: Amount
    debits_posted: Amount
    credits_pending: Amount
    credits_posted: Amount
    balance: Signed  # posted
    spendable: Signed  # posted, less what is pending against it


class LedgerAccounts(msgspec.Struct, frozen=True):
    accounts: list[LedgerAccount]
    next: str


class PastBalance(msgspec.Struct, frozen=True, kw_only=True):
    """Posted counters at a point; `sequence` is the account's last transfer up to it, 0 for none."""

    owner: Address
    purpose: str
    job: str
    debits_posted: Amount
    credits_posted: Amount
    balance: Signed
    sequence: Count
    at_ns: Nanoseconds  # the ledger time of that transfer


class LedgerTransfer(msgspec.Struct, frozen=True, kw_only=True):
    """One transfer. `flags` are the ledger's words for how it works; `pending_id` names the pending
    transfer that this one posts or voids.
    """

    sequence: Count
    id: Identifier
    debit: str  # owner/purpose or owner/budget/job
    credit: str
    amount: Amount
    reason: str
    flags: list[str]
    pending_id: str
    timeout_seconds: Count
    cause: Digest
    at_ns: Nanoseconds


class LedgerTransfers(msgspec.Struct, frozen=True):
    transfers: list[LedgerTransfer]
    next: str


class TransferDetail(msgspec.Struct, frozen=True, kw_only=True):
    """A transfer with its cause's place in the log and, if it is a pending one, what became of it."""

    transfer: LedgerTransfer
    cause_index: Count | None  # None: the cause is no logged statement
    cause_kind: str
    pending_state: str  # open, posted, voided, expired; empty if it is not a pending one
    expires_ns: Nanoseconds | None


class LoggedReceipt(msgspec.Struct, frozen=True, kw_only=True):
    """A logged receipt and what became of it. `verdict`: `agreed`; `differed` (it, or other work of
    its provider in the job); `open` while a check is awaited; empty where nothing was compared.
    `money`: `charged` (in the hold) or `released`.
    """

    index: Count
    digest: Digest
    provider: Address
    consumer: Address
    job: Identifier
    attempt: Identifier
    purpose: str
    first: Count
    tasks: Count
    wall_ms: Count
    cpu_ms: Count
    protection: str
    state: str
    reason: str
    charge: Amount
    fee: Amount
    surcharge: Amount
    money: str
    verdict: str
    check: str  # digest of the accepted check's receipt


class LoggedReceipts(msgspec.Struct, frozen=True):
    receipts: list[LoggedReceipt]
    next: str


class LogEntry(msgspec.Struct, frozen=True, kw_only=True):
    """A statement of the log: where it stands, who signed it, what it says."""

    index: Count
    digest: Digest
    kind: str
    signer: Address
    statement: msgspec.Raw


class LogEntries(msgspec.Struct, frozen=True):
    """`size`: entries of the log; `sealed`: how many of them a checkpoint covers."""

    entries: list[LogEntry]
    size: Count
    sealed: Count
    next: str


class SignedHead(msgspec.Struct, frozen=True, kw_only=True):
    """A checkpoint: the tree head, and the note with all signatures that are kept."""

    size: Count
    root: str  # hex
    note: str


class SignedHeads(msgspec.Struct, frozen=True):
    checkpoints: list[SignedHead]
    next: str


# ── CSV ─────────────────────────────────────────────────────────────────────────────────────

CSV: Final = "text/csv"
_QUOTED: Final = re.compile(r'[",\r\n]')
_NUMERIC: Final = re.compile(r"-?[0-9]+(?:\.[0-9]+)?\Z", re.ASCII)
_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")  # noqa: RUF001
# full-width forms are folded to formulas by some spreadsheets


def csv_line(cells: Sequence[object]) -> str:
    """One record of RFC 4180."""
    return ",".join(_cell(cell) for cell in cells) + "\r\n"


def csv_row(view: msgspec.Struct, after: str) -> str:
    """A view's fields in their order, and the cursor that goes on after it."""
    return csv_line([*(getattr(view, name) for name in view.__struct_fields__), after])


def csv_header(kind: type[msgspec.Struct]) -> str:
    """The names of a view's fields."""
    return csv_line([*kind.__struct_fields__, "cursor"])


def _cell(cell: object) -> str:
    """What a spreadsheet would run gets a quote before it; then commas and quotes are quoted."""
    if isinstance(cell, msgspec.Raw):
        text = bytes(cell).decode()
    elif isinstance(cell, list):
        text = " ".join(str(item) for item in cell)
    else:
        text = "" if cell is None else str(cell)
    if text.startswith(_FORMULA) and not _NUMERIC.match(text):
        text = "'" + text
    return '"' + text.replace('"', '""') + '"' if _QUOTED.search(text) else text
