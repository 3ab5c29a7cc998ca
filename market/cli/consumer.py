"""The groups of somebody who buys: offers, wallet and receipts."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from market.cli import money
from market.cli.connect import ask, options_of
from market.cli.exit import PolicyFile, exit_proof, known_keys, show_validators, verify_exit
from market.cli.output import (
    Exit,
    credits_text,
    print_error,
    say,
    short,
    show,
    show_one,
)
from settlement.domain.errors import GridpactError, NotFound, Refused

if TYPE_CHECKING:
    from market.sdk.client import MarketClient
    from market.sdk.trust import Trusted
    from market.wire.trade import OfferView

SORTS: Final = ("price", "reputation", "cpus", "memory")
MILLI: Final = 1_000

offers = typer.Typer(no_args_is_help=True, help="What is for sale, and who sells it.")
wallet = typer.Typer(no_args_is_help=True, help="Your key, your balance, your payments.")
receipt = typer.Typer(no_args_is_help=True, help="Signed receipts and their proofs.")
money.add_to_wallet(wallet)
money.add_to_receipt(receipt)

wallet.command("exit")(exit_proof)
wallet.command("exit-verify")(verify_exit)
wallet.command("validators")(show_validators)

Context = typer.Context


# ── offers ──────────────────────────────────────────────────────────────────────────────────


def _sort_key(offer: "OfferView", by: str) -> tuple[float, str]:
    key: float = {
        "price": int(offer.hourly),
        "reputation": -offer.reputation,
        "cpus": -offer.free.cpus_milli,
        "memory": -offer.free.memory_mib,
    }[by]
    return key, offer.name


@offers.command("ls")
def list_offers(
    context: Context,
    sort: Annotated[str, typer.Option(help=f"One of: {', '.join(SORTS)}.")] = "price",
) -> None:
    """List standing offers."""
    if sort not in SORTS:
        raise typer.BadParameter(f"{sort!r} is not one of {', '.join(SORTS)}")
    options = options_of(context)
    found = sorted(
        ask(options, lambda client: client.offers(), signed=False),
        key=lambda offer: _sort_key(offer, sort),
    )
    columns = (
        "name", "provider", ">cpus free", ">of", ">MiB free", ">of", "class", ">reputation",
        ">checks", "connected", ">credits/h",
    )  # fmt: skip
    rows = [
        (
            offer.name, short(offer.provider), offer.free.cpus_milli / MILLI,
            offer.capacity.cpus_milli / MILLI, offer.free.memory_mib, offer.capacity.memory_mib,
            offer.protection, offer.reputation, offer.checks, offer.connected,
            credits_text(offer.hourly),
        )
        for offer in found
    ]  # fmt: skip
    show(found, options, "Offers (price of one cpu and one GiB)", columns, rows)


@offers.command("show")
def show_offer(context: Context, provider: Annotated[str, typer.Argument()]) -> None:
    """Show the offer of a provider, by name or by the start of its address."""
    options = options_of(context)
    for offer in ask(options, lambda client: client.offers(), signed=False):
        if provider == offer.name or offer.provider.startswith(provider):
            fields = {
                "provider": offer.provider,
                "offer": offer.digest,
                "cpus": f"{offer.free.cpus_milli / MILLI} of {offer.capacity.cpus_milli / MILLI}",
                "memory_mib": f"{offer.free.memory_mib} of {offer.capacity.memory_mib}",
                "rates_microcredits": f"cpu {offer.rates.cpu}, GiB {offer.rates.gib} a second",
                "credits_per_hour": credits_text(offer.hourly),
                "protection": offer.protection,
                "environments": ", ".join(offer.environments),
                "reputation": offer.reputation,
                "checks": offer.checks,
                "connected": offer.connected,
            }
            show_one(offer, options, offer.name, fields)
            return
    raise NotFound(f"no offer of {provider!r}")


@offers.command("providers")
def list_providers(context: Context) -> None:
    """List providers with their standing and what they earned."""
    options = options_of(context)
    found = ask(options, lambda client: client.providers(), signed=False)
    columns = (
        "name", "address", "connected", "class", ">reputation", ">agreed", ">differed",
        ">chunks", ">seconds", ">earned",
    )  # fmt: skip
    rows = [
        (
            view.name, short(view.address), view.connected, view.protection, view.reputation,
            view.agreed, view.differed, view.chunks, view.seconds, credits_text(view.earned),
        )
        for view in found
    ]  # fmt: skip
    show(found, options, "Providers", columns, rows)


# ── wallet ──────────────────────────────────────────────────────────────────────────────────


@wallet.command("new")
def new_key(
    context: Context,
    path: Annotated[Path | None, typer.Argument(help="Where; else the default key file.")] = None,
) -> None:
    """Create a key in a private file; a key is an account."""
    from market.sdk.wallet import KEY_FILE, create_key

    options = options_of(context)
    target = path or (Path(options.key) if options.key else options.folder() / KEY_FILE)
    key = create_key(target)
    fields = {"address": key.address, "file": str(target)}
    show_one(fields, options, "A new key", fields)


@wallet.command("show")
def show_key(context: Context) -> None:
    """Show your address and which market is meant."""
    from market.sdk.wallet import KEY_FILE, load_key, load_profile

    options = options_of(context)
    profile = load_profile(options.folder())
    path = Path(options.key or profile.key or options.folder() / KEY_FILE)
    url = options.url or profile.url
    pin = profile.pins.get(url)
    fields = {
        "address": load_key(path).address,
        "file": str(path),
        "url": url,
        "market": pin.market if pin else "",
        "log_key": pin.log_key if pin else "",
    }
    show_one(fields, options, "Wallet", fields)


@wallet.command("balance")
def show_balance(context: Context) -> None:
    """Show what you hold."""
    options = options_of(context)
    view = ask(options, lambda client: client.balances())
    fields = {
        "available": credits_text(view.available),
        "of_it_reserved": credits_text(view.reserved),
        "held": credits_text(view.held),
        "stake": credits_text(view.stake),
        "budgets": credits_text(view.budgets),
    }
    show_one(view, options, f"{short(view.address)} (credits)", fields)


@wallet.command("history")
def show_history(
    context: Context,
    after: Annotated[int, typer.Option(min=0, help="Cursor: entries after this one.")] = 0,
    limit: Annotated[int, typer.Option(min=1, max=1_000)] = 50,
) -> None:
    """List transfers that moved your balances."""
    options = options_of(context)
    page = ask(options, lambda client: client.transfers(after=after, limit=limit))
    rows = [
        (
            row.sequence, row.reason, _account(row.debit), _account(row.credit),
            credits_text(row.amount), short(row.cause),
        )
        for row in page.transfers
    ]  # fmt: skip
    show(page, options, "Transfers", (">#", "reason", "from", "to", ">credits", "cause"), rows)


def _account(text: str) -> str:
    owner, _, purpose = text.partition("/")
    return f"{short(owner)}/{purpose}"


@wallet.command("pay")
def pay(
    context: Context,
    to: Annotated[str, typer.Argument(help="The other party's address.")],
    amount: Annotated[str, typer.Argument(help="Credits.")],
    memo: Annotated[str, typer.Option()] = "",
) -> None:
    """Pay another party from what is available."""
    from settlement.domain.amount import parse_credits
    from settlement.domain.identity import is_address

    if not is_address(to):
        raise typer.BadParameter("an address has 64 lower-case hex digits")
    options, microcredits = options_of(context), parse_credits(amount)
    moved = ask(options, lambda client: client.pay(to, microcredits, memo=memo))
    fields = {"statement": moved.statement, "log_index": moved.index, "status": moved.status}
    show_one(moved, options, f"Paid {credits_text(microcredits)} credits", fields)


@wallet.command("faucet")
def faucet(context: Context, amount: Annotated[str, typer.Argument(help="Credits.")]) -> None:
    """Get credits out of nothing; only a development stack gives any."""
    from settlement.domain.amount import parse_credits

    options, microcredits = options_of(context), parse_credits(amount)
    moved = ask(options, lambda client: client.faucet(microcredits))
    fields = {"statement": moved.statement, "log_index": moved.index, "status": moved.status}
    show_one(moved, options, f"Got {credits_text(microcredits)} credits", fields)


@wallet.command("unpin")
def unpin(context: Context, address: Annotated[str, typer.Argument(help="The URL.")]) -> None:
    """Forget a market's keys, after its operator has told you why they changed."""
    from market.sdk import wallet as wallets

    options = options_of(context)
    if not wallets.unpin(options.folder(), address.rstrip("/")):
        raise NotFound(f"{address} is not pinned")
    say(options, f"{address} will be pinned anew at the next use")


# ── receipts ────────────────────────────────────────────────────────────────────────────────


@receipt.command("ls")
def list_receipts(context: Context, job: Annotated[str, typer.Argument()]) -> None:
    """List the attempts of a job with their receipts and their money."""
    options = options_of(context)
    found = ask(options, lambda client: client.receipts(job))
    columns = (
        "receipt", "purpose", "state", "provider", ">first", ">tasks", ">wall ms", ">charge",
        ">surcharge", "money",
    )  # fmt: skip
    rows = [
        (
            view.receipt if not view.receipt else short(view.receipt), view.purpose, view.state,
            view.provider_name, view.first, view.tasks, view.wall_ms, credits_text(view.charge),
            credits_text(view.surcharge), view.money,
        )
        for view in found
    ]  # fmt: skip
    show(found, options, f"Receipts of {job}", columns, rows)


@receipt.command("save")
def save_receipt(
    context: Context,
    digest: Annotated[str, typer.Argument(help="sha256:… as `receipt ls --json` shows it.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The file to write.")],
    final: Annotated[bool, typer.Option("--final", help="Only what a quorum cosigned.")] = False,
) -> None:
    """Fetch a receipt with its proof, check it, and write it to a file."""
    options = options_of(context)

    async def fetch(client: "MarketClient") -> "tuple[bytes, Trusted]":
        from market.sdk import trust
        from market.sdk.exits import FINAL_WAIT_MS, WAIT_MS

        wait_ms = FINAL_WAIT_MS if final else WAIT_MS
        data = await client.evidence(digest, wait_ms=wait_ms, final=final)
        return data, await trust.trusted(client)

    data, trusted = ask(options, fetch, signed=False)
    proven = _checked(data, trusted, as_json=options.json, final=final)
    if proven["receipt"] != digest:
        raise Refused(f"the market sent the receipt {proven['receipt']}")
    output.write_bytes(data)
    say(options, f"wrote {output} ({len(data)} bytes)")


@receipt.command("verify")
def verify_receipt(
    context: Context,
    file: Annotated[Path, typer.Argument(exists=True, dir_okay=False)],
    offline: Annotated[bool, typer.Option("--offline", help="Ask no server.")] = False,
    log_key: Annotated[
        str | None, typer.Option("--log-key", help="The log's verifier key, else the pinned one.")
    ] = None,
    policy: PolicyFile = None,
    final: Annotated[bool, typer.Option("--final", help="Refuse what is not final.")] = False,
) -> None:
    """Check a receipt's file: signature, inclusion in the log, the log's signature. 6 if it fails."""
    options = options_of(context)
    if offline or log_key is not None or policy is not None:
        trusted = known_keys(options, log_key=log_key, policy=policy, needs_ledger=False)
    else:
        trusted = ask(options, _trusted, signed=False)
    fields = _checked(file.read_bytes(), trusted, as_json=options.json, final=final)
    show_one({"verified": True, **fields}, options, "The receipt holds", fields)


async def _trusted(client: "MarketClient") -> "Trusted":
    from market.sdk import trust

    return await trust.trusted(client)


def _checked(
    data: bytes, trusted: "Trusted", *, as_json: bool, final: bool
) -> dict[str, str | int]:
    """The fields of a receipt's file; whatever is wrong with it ends with the code for that."""
    from market.sdk.evidence import verify_trusted

    try:
        return verify_trusted(data, trusted, final=final).fields()
    except GridpactError as error:
        print_error(error, as_json=as_json)
        raise typer.Exit(Exit.UNVERIFIED) from None
