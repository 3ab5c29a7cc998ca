"""The group `ledger`: totals and tree heads, accounts, transfers, receipts, statements, as CSV too."""

import datetime as dt
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from market.cli.audit import audit
from market.cli.connect import ask, options_of
from market.cli.output import (
    Globals,
    credits_text,
    print_json,
    say,
    short,
    show,
    show_one,
)

if TYPE_CHECKING:
    from market.sdk.client import MarketClient
    from market.sdk.explorer import Listing
    from market.wire.explorer import LedgerAccount, LedgerTransfer, PastBalance

LIMIT: Final = 50
NANOSECONDS: Final = 1_000_000_000
MICROSECONDS: Final = 1_000  # nanoseconds in one
STATEMENT_CHARS: Final = 60
OWNER: Final = 64  # digits of an address

commands = typer.Typer(no_args_is_help=True, help="The public ledger and its log.")
commands.command("audit")(audit)

Context = typer.Context
Csv = Annotated[
    Path | None,
    typer.Option("--csv", help="Write the whole list, as CSV, to this file.", dir_okay=False),
]
Limit = Annotated[int, typer.Option("--limit", min=1, max=100_000, help="Rows to show at most.")]
Purpose = Annotated[str, typer.Option("--purpose", help="Which of the party's accounts.")]
Job = Annotated[str | None, typer.Option("--job", help="The job of a budget, or of receipts.")]
At = Annotated[
    str | None,
    typer.Option("--at", help="A past point: a transfer's number, or a time (ISO 8601, UTC)."),
]


@commands.command("show")
def show_ledger(context: Context) -> None:
    """Show the totals of all accounts; their sum is zero."""
    options = options_of(context)
    view = ask(options, lambda client: client.ledger(), signed=False)
    fields = {purpose: credits_text(total) for purpose, total in view.totals.items()}
    fields |= {
        "sum": credits_text(view.sum),
        "accounts": str(view.accounts),
        "transfers": str(view.transfers),
        "statements": str(view.statements),
        "checkpoint_size": str(view.checkpoint_size),
    }
    show_one(view, options, "Ledger (credits)", fields)


@commands.command("head")
def show_head(context: Context) -> None:
    """Show the log's newest signed tree head."""
    options = options_of(context)
    note = ask(options, lambda client: client.checkpoint(), signed=False)
    origin, size, root, *_ = [*note.split("\n"), "", "", ""]
    fields = {"origin": origin, "size": size, "root": root}
    show_one(fields, options, "Tree head", fields)


@commands.command("checkpoint")
def show_checkpoint(context: Context) -> None:
    """Print the newest checkpoint as it is signed (a C2SP note)."""
    options = options_of(context)
    note = ask(options, lambda client: client.checkpoint(), signed=False)
    if options.json:
        print_json({"checkpoint": note})
    else:
        typer.echo(note, nl=False)


# ── accounts and transfers ──────────────────────────────────────────────────────────────────


@commands.command("accounts")
def list_accounts(
    context: Context,
    address: Annotated[str | None, typer.Argument(help="A party; without one, everybody.")] = None,
    at: At = None,
    limit: Limit = LIMIT,
    csv: Csv = None,
) -> None:
    """List accounts with what they hold, now or at a past point (posted only)."""
    from market.sdk.explorer import accounts_of

    options = options_of(context)
    listing = accounts_of(address)
    if csv is not None:
        if at is not None:
            raise typer.BadParameter("--csv shows the present: leave out --at")
        _export(options, listing, csv)
        return
    if at is not None:
        _past_accounts(options, address, at, limit)
        return
    found = ask(options, lambda client: client.explorer.rows(listing, limit=limit), signed=False)
    columns = ("owner", "purpose", ">posted", ">pending out", ">pending in", ">spendable")
    rows = [
        (
            short(row.owner), _purpose(row), credits_text(row.balance),
            credits_text(row.debits_pending), credits_text(row.credits_pending),
            credits_text(row.spendable),
        )
        for row in found
    ]  # fmt: skip
    show(found, options, "Accounts (credits)", columns, rows)


def _past_accounts(options: Globals, address: str | None, at: str, limit: int) -> None:
    if address is None:
        raise typer.BadParameter("--at needs the address of a party")
    point = _point(at)

    async def read(client: "MarketClient") -> "list[PastBalance]":
        from market.sdk.explorer import accounts_of

        accounts = await client.explorer.rows(accounts_of(address), limit=limit)
        return [
            await client.explorer.balance(
                address, purpose=row.purpose, job=row.job or None, **point
            )
            for row in accounts
        ]

    found = ask(options, read, signed=False)
    rows = [
        (short(row.owner), _purpose(row), credits_text(row.balance), row.sequence, _time(row.at_ns))
        for row in found
    ]
    columns = ("owner", "purpose", ">posted", ">last transfer", "at")
    show(found, options, f"Accounts (credits) at {at}", columns, rows)


@commands.command("transfers")
def list_transfers(  # noqa: PLR0913, PLR0917 - an account and its filters
    context: Context,
    address: Annotated[str, typer.Argument(help="A party.")],
    purpose: Purpose = "available",
    job: Job = None,
    reason: Annotated[str | None, typer.Option(help="Only such, as `fund` or `payment`.")] = None,
    since: Annotated[str | None, typer.Option(help="From this time on (ISO 8601, UTC).")] = None,
    until: Annotated[str | None, typer.Option(help="Up to this time.")] = None,
    oldest: Annotated[bool, typer.Option("--oldest", help="Oldest first.")] = False,
    limit: Limit = LIMIT,
    csv: Csv = None,
) -> None:
    """List the transfers of one account of a party, newest first."""
    from market.sdk.explorer import transfers_of

    options = options_of(context)
    listing = transfers_of(
        address, purpose=purpose, job=job, order="asc" if oldest else "desc", reason=reason,
        from_ns=_nanoseconds(since) if since else None, to_ns=_nanoseconds(until) if until else None,
    )  # fmt: skip
    if csv is not None:
        _export(options, listing, csv)
        return
    found = ask(options, lambda client: client.explorer.rows(listing, limit=limit), signed=False)
    columns = (">#", "time", "reason", "from", "to", ">credits", "id")
    rows = [
        (
            row.sequence, _time(row.at_ns), _reason(row), _account(row.debit), _account(row.credit),
            credits_text(row.amount), row.id,
        )
        for row in found
    ]  # fmt: skip
    show(found, options, f"Transfers of {short(address)}/{purpose}", columns, rows)


@commands.command("transfer")
def show_transfer(
    context: Context, identifier: Annotated[str, typer.Argument(metavar="ID")]
) -> None:
    """Show one transfer, what became of it, and what caused it."""
    options = options_of(context)
    view = ask(options, lambda client: client.explorer.transfer(identifier), signed=False)
    made = view.transfer
    fields: dict[str, Any] = {
        "sequence": made.sequence, "time": _time(made.at_ns), "reason": made.reason,
        "from": made.debit, "to": made.credit, "credits": credits_text(made.amount),
        "flags": ", ".join(made.flags), "pending_id": made.pending_id, "state": view.pending_state,
        "expires": _time(view.expires_ns) if view.expires_ns else "", "cause": made.cause,
        "cause_kind": view.cause_kind,
        "log_index": "" if view.cause_index is None else view.cause_index,
    }  # fmt: skip
    filled = {name: value for name, value in fields.items() if value != ""}
    show_one(view, options, f"Transfer {made.id}", filled)


# ── receipts and statements ─────────────────────────────────────────────────────────────────


@commands.command("receipts")
def list_receipts(
    context: Context,
    provider: Annotated[str | None, typer.Option(help="Only of this provider.")] = None,
    consumer: Annotated[str | None, typer.Option(help="Only for this consumer.")] = None,
    job: Job = None,
    limit: Limit = LIMIT,
    csv: Csv = None,
) -> None:
    """List logged receipts with their state, money and verdict."""
    from market.sdk.explorer import receipts_of

    options = options_of(context)
    listing = receipts_of(provider=provider, consumer=consumer, job=job)
    if csv is not None:
        _export(options, listing, csv)
        return
    found = ask(options, lambda client: client.explorer.rows(listing, limit=limit), signed=False)
    columns = (
        ">entry", "receipt", "purpose", "state", "provider", "job", ">tasks", ">charge", "money",
        "verdict",
    )  # fmt: skip
    rows = [
        (
            row.index, short(row.digest), row.purpose, row.state, short(row.provider), row.job,
            row.tasks, credits_text(row.charge), row.money, row.verdict,
        )
        for row in found
    ]  # fmt: skip
    show(found, options, "Receipts", columns, rows)


@commands.command("entries")
def list_entries(
    context: Context,
    first: Annotated[int, typer.Option("--from", min=0, help="The first position.")] = 0,
    kind: Annotated[str | None, typer.Option(help="Only this kind, as `receipt`.")] = None,
    signer: Annotated[str | None, typer.Option(help="Only what this key signed.")] = None,
    limit: Limit = LIMIT,
    csv: Csv = None,
) -> None:
    """List statements of the log."""
    from market.sdk.explorer import entries_from

    options = options_of(context)
    listing = entries_from(first, kind=kind, signer=signer)
    if csv is not None:
        _export(options, listing, csv)
        return
    found = ask(options, lambda client: client.explorer.rows(listing, limit=limit), signed=False)
    rows = [
        (row.index, row.kind, short(row.signer), short(row.digest), _start(bytes(row.statement)))
        for row in found
    ]
    columns = (">#", "kind", "signer", "digest", "statement")
    show(found, options, "Log", columns, rows)


@commands.command("entry")
def show_entry(context: Context, digest: Annotated[str, typer.Argument(help="sha256:…")]) -> None:
    """Print one statement of the log, as JSON."""
    options = options_of(context)
    print_json(ask(options, lambda client: client.explorer.entry(digest), signed=False))


@commands.command("checkpoints")
def list_checkpoints(context: Context, limit: Limit = LIMIT, csv: Csv = None) -> None:
    """List signed tree heads, newest first."""
    from market.sdk.explorer import checkpoints

    options = options_of(context)
    listing = checkpoints()
    if csv is not None:
        _export(options, listing, csv)
        return
    found = ask(options, lambda client: client.explorer.rows(listing, limit=limit), signed=False)
    rows = [(head.size, head.root, _signers(head.note)) for head in found]
    show(found, options, "Checkpoints", (">size", "root", ">signatures"), rows)


# ── words ───────────────────────────────────────────────────────────────────────────────────


def _export(options: Globals, listing: "Listing[Any]", path: Path) -> None:
    with path.open("wb") as file:
        ask(options, lambda client: client.explorer.export(listing, file.write), signed=False)
    say(options, f"wrote {path} ({path.stat().st_size} bytes)")


def _purpose(row: "LedgerAccount | PastBalance") -> str:
    return f"{row.purpose}/{row.job}" if row.job else row.purpose


def _reason(row: "LedgerTransfer") -> str:
    return " ".join((row.reason, *row.flags))


def _account(path: str) -> str:
    return short(path[:OWNER]) + path[OWNER:]


def _start(statement: bytes) -> str:
    text = statement.decode()
    return text if len(text) <= STATEMENT_CHARS else text[:STATEMENT_CHARS] + "…"


def _signers(note: str) -> int:
    return sum(line.startswith("— ") for line in note.splitlines())


def _time(at_ns: str) -> str:
    at = dt.datetime.fromtimestamp(int(at_ns) // NANOSECONDS, dt.UTC)
    return at.strftime("%Y-%m-%d %H:%M:%S") if int(at_ns) else ""


def _point(text: str) -> dict[str, int]:
    """A transfer's number, or a time."""
    return {"at_seq": int(text)} if text.isdecimal() else {"at_ns": _nanoseconds(text)}


def _nanoseconds(text: str) -> int:
    try:
        at = dt.datetime.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is no time like 2026-05-01T12:00:00Z") from None
    at = at.replace(tzinfo=dt.UTC) if at.tzinfo is None else at
    since = at - dt.datetime.fromtimestamp(0, dt.UTC)
    return since // dt.timedelta(microseconds=1) * MICROSECONDS
