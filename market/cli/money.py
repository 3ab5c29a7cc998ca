"""Commands about money in the groups that exist: payouts, withdrawals, acceptances, vouchers."""

import csv
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from market.cli.connect import ask, options_of
from market.cli.output import Globals, credits_text, say, short, show, show_one
from settlement.domain.errors import Malformed, NotFound

if TYPE_CHECKING:
    from market.sdk.client import MarketClient
    from market.wire.money import LeaseView, WithdrawalView

MILLISECONDS: Final = 1_000
VOUCHER_BYTES_MAX: Final = 65_535
Context = typer.Context


# ── payouts ─────────────────────────────────────────────────────────────────────────────────


def pay_many(
    context: Context,
    file: Annotated[
        Path, typer.Argument(exists=True, dir_okay=False, help="CSV: address, credits.")
    ],
    memo: Annotated[str, typer.Option()] = "",
) -> None:
    """Pay everybody in a CSV file, or nobody: one statement, one transaction."""
    options, payees = options_of(context), _payees(file)
    moved = ask(options, lambda client: client.pay_many(payees, memo=memo))
    total = sum(amount for _, amount in payees)
    fields = {"statement": moved.statement, "log_index": moved.index, "status": moved.status}
    title = f"Paid {credits_text(total)} credits to {len(payees)} parties"
    show_one(moved, options, title, fields)


def _payees(file: Path) -> list[tuple[str, int]]:
    from settlement.domain.amount import parse_credits
    from settlement.domain.identity import is_address

    found = []
    with file.open(newline="", encoding="utf-8") as opened:
        try:
            rows = list(csv.reader(opened))
        except (csv.Error, UnicodeDecodeError) as error:
            raise Malformed(f"{file.name}: {error}") from None
    for number, row in enumerate(rows, start=1):
        cells = [cell.strip() for cell in row]
        if not any(cells) or (number == 1 and cells[:1] == ["address"]):
            continue
        if len(cells) != 2 or not is_address(cells[0]):  # noqa: PLR2004 - address and amount
            raise Malformed(f"{file.name}, line {number}: not an address and credits")
        found.append((cells[0], parse_credits(cells[1])))
    if not found:
        raise Malformed(f"{file.name} names nobody")
    return found


# ── withdrawals ─────────────────────────────────────────────────────────────────────────────


def withdraw(
    context: Context,
    amount: Annotated[str, typer.Argument(help="Credits.")],
    to: Annotated[str, typer.Option("--to", help="Where: whatever your operator pays out to.")],
) -> None:
    """Ask for credits to leave the market; they are reserved until the operator has decided."""
    from settlement.domain.amount import parse_credits

    options, microcredits = options_of(context), parse_credits(amount)
    view = ask(options, lambda client: client.withdraw(microcredits, to))
    _show_withdrawal(view, options, "Waiting for the operator")


def my_withdrawals(context: Context) -> None:
    """List what you asked to withdraw."""
    options = options_of(context)
    found = ask(options, lambda client: client.withdrawals())
    _list_withdrawals(found, options)


def all_withdrawals(
    context: Context,
    everything: Annotated[bool, typer.Option("--all", help="Decided ones too.")] = False,
) -> None:
    """List the withdrawals that wait for you, the operator (--key)."""
    options = options_of(context)
    found = ask(options, lambda client: client.withdrawals(everybody=True, waiting=not everything))
    _list_withdrawals(found, options)


def decide(
    context: Context,
    transfer: Annotated[str, typer.Argument(help="Its id, as `server withdrawals` shows it.")],
    paid: Annotated[bool, typer.Option("--paid", help="It was paid out.")] = False,
    refuse: Annotated[bool, typer.Option("--refuse", help="It will not be.")] = False,
    memo: Annotated[str, typer.Option(help="For the party: why, or how.")] = "",
) -> None:
    """Show a withdrawal, or decide it with the operator's key (--key)."""
    if paid and refuse:
        raise typer.BadParameter("--paid or --refuse, not both")
    options = options_of(context)

    async def work(client: "MarketClient") -> "WithdrawalView":
        if not (paid or refuse):
            return await client.withdrawal(transfer)
        return await client.decide_withdrawal(transfer, paid=paid, memo=memo)

    _show_withdrawal(ask(options, work), options, "Withdrawal")


def _list_withdrawals(found: "list[WithdrawalView]", options: Globals) -> None:
    columns = ("withdrawal", "party", ">credits", "to", "state", "asked", "memo")
    rows = [
        (
            view.transfer, short(view.party), credits_text(view.amount), view.destination, view.state,
            _time(view.asked_ms), view.memo,
        )
        for view in found
    ]  # fmt: skip
    show(found, options, "Withdrawals", columns, rows)


def _show_withdrawal(view: "WithdrawalView", options: Globals, title: str) -> None:
    fields: dict[str, Any] = {
        "withdrawal": view.transfer,
        "party": view.party,
        "credits": credits_text(view.amount),
        "to": view.destination,
        "state": view.state,
        "asked": _time(view.asked_ms),
        "free_again_if_not_decided_by": _time(view.expires_ms),
        "memo": view.memo,
        "statement": view.statement,
        "decision": view.decision,
    }
    show_one(view, options, title, fields)


def _time(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / MILLISECONDS, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


# ── receipts, leases, vouchers ──────────────────────────────────────────────────────────────


def accept(
    context: Context,
    digest: Annotated[str, typer.Argument(help="sha256:… as `receipt ls --json` shows it.")],
) -> None:
    """Take a receipt as it is, so that it is settled without waiting for a check."""
    options = options_of(context)
    view = ask(options, lambda client: client.accept_receipt(digest))
    fields = {
        "receipt": view.receipt,
        "job": view.job,
        "state": view.state,
        "charge": credits_text(view.charge),
        "surcharge": credits_text(view.surcharge),
    }
    show_one(view, options, "Settled", fields)


def list_leases(context: Context, job: Annotated[str, typer.Argument()]) -> None:
    """List a job's leases, and how much of their time is paid."""
    options = options_of(context)
    found = ask(options, lambda client: client.leases(job))
    columns = (
        "lease", "provider", "state", ">lasted s", ">receipts s", ">vouchers s", ">open s", ">vouched",
    )  # fmt: skip
    rows = [
        (
            view.id, short(view.provider), view.state, view.lasted_ms / MILLISECONDS,
            view.receipted_ms / MILLISECONDS, view.vouched_ms / MILLISECONDS,
            view.at_risk_ms / MILLISECONDS, credits_text(view.vouched),
        )
        for view in found
    ]  # fmt: skip
    show(found, options, f"Leases of {job}", columns, rows)


def vouch(
    context: Context,
    lease: Annotated[str, typer.Argument(help="Its id, as `job leases` shows it.")],
    seconds: Annotated[
        float | None,
        typer.Option(min=0, help="In all, beside receipts; else all that nobody has signed for."),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write the voucher, and pay nothing yet.")
    ] = None,
) -> None:
    """Sign for the time of a running lease, so that its provider is paid for it now."""
    options = options_of(context)

    async def work(client: "MarketClient") -> "tuple[LeaseView, bytes]":
        view = await client.lease(lease)
        wall_ms = view.vouched_ms + view.at_risk_ms
        if seconds is not None:
            wall_ms = int(seconds * MILLISECONDS)
        market = (await client.market()).market
        voucher = client.sign_voucher(view, wall_ms, market=market)
        if output is None:
            view = await client.hand_in_voucher(view.statement, voucher)
        return view, voucher

    view, voucher = ask(options, work)
    if output is not None:
        output.write_bytes(voucher)
        say(options, f"wrote {output}; the provider hands it in with `gridpact provider voucher`")
    _show_lease(view, options)


def hand_in(
    context: Context,
    file: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="A signed voucher.")],
) -> None:
    """Have a consumer's voucher paid into your hold."""
    from settlement.domain.settled import Voucher
    from settlement.domain.statement import open_envelope

    options = options_of(context)
    with file.open("rb") as opened:
        envelope = opened.read(VOUCHER_BYTES_MAX + 1)

    async def work(client: "MarketClient") -> "LeaseView":
        market = (await client.market()).market
        said, _ = open_envelope(envelope, Voucher, market=market)
        if client.address not in {said.provider, said.consumer}:
            raise NotFound("the voucher is for another provider's lease")
        return await client.hand_in_voucher(said.lease, envelope)

    _show_lease(ask(options, work), options)


def _show_lease(view: "LeaseView", options: Globals) -> None:
    fields: dict[str, Any] = {
        "lease": view.id,
        "state": view.state + (f" ({view.reason})" if view.reason else ""),
        "lasted_seconds": view.lasted_ms / MILLISECONDS,
        "receipted_seconds": view.receipted_ms / MILLISECONDS,
        "vouched_seconds": view.vouched_ms / MILLISECONDS,
        "vouched_credits": credits_text(view.vouched),
        "nobody_signed_for_seconds": view.at_risk_ms / MILLISECONDS,
    }
    show_one(view, options, "Lease", fields)


# ── where they stand ────────────────────────────────────────────────────────────────────────


def add_to_wallet(group: typer.Typer) -> None:
    group.command("pay-many")(pay_many)
    group.command("withdraw")(withdraw)
    group.command("withdrawals")(my_withdrawals)


def add_to_server(group: typer.Typer) -> None:
    group.command("withdrawals")(all_withdrawals)
    group.command("withdrawal")(decide)


def add_to_receipt(group: typer.Typer) -> None:
    group.command("accept")(accept)


def add_to_job(group: typer.Typer) -> None:
    group.command("leases")(list_leases)
    group.command("vouch")(vouch)


def add_to_provider(group: typer.Typer) -> None:
    group.command("voucher")(hand_in)
