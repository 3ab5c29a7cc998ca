"""The group `server`: what an operator runs; needs gridpact[server], and imports it when asked."""

import asyncio
import os
from pathlib import Path
from typing import Annotated, Final

import typer

from market.cli import money, takeover
from market.cli.connect import ask, options_of
from market.cli.output import credits_text, say, show_one
from settlement.domain.errors import BadKey, MisConfigured

KEY_NAMES: Final = ("operator", "ledger", "log")
KEYS_VARIABLE: Final = "GRIDPACT_KEYS_FOLDER"
DATABASE_VARIABLE: Final = "DATABASE_URL"
EXTRA: Final = "pip install 'gridpact[server]'"

server = typer.Typer(no_args_is_help=True, help="Run a market: API, worker, schema, keys.")
money.add_to_server(server)
server.command("propose-takeover")(takeover.propose)
server.command("take-over")(takeover.begin)
Context = typer.Context


@server.command("run")
def run() -> None:
    """Serve the HTTP API; settings come from the environment."""
    try:
        from market.api import main
    except ModuleNotFoundError as error:
        raise MisConfigured(f"{error.name} is missing: {EXTRA}") from None
    main.run()


@server.command("work")
def work() -> None:
    """Run the worker: matcher, reconciler, settler, publisher."""
    try:
        from market.worker import main
    except ModuleNotFoundError as error:
        raise MisConfigured(f"{error.name} is missing: {EXTRA}") from None
    main.run()


@server.command("migrate")
def migrate(context: Context) -> None:
    """Bring the database's schema up to date, under a lock."""
    url = os.environ.get(DATABASE_VARIABLE)
    if not url:
        raise MisConfigured(f"{DATABASE_VARIABLE} is not set")
    try:
        from settlement.store import migrate as migrations
    except ModuleNotFoundError as error:
        raise MisConfigured(f"{error.name} is missing: {EXTRA}") from None
    asyncio.run(migrations.upgrade(url))
    say(options_of(context), "the schema is up to date")


@server.command("keygen")
def keygen(
    context: Context,
    folder: Annotated[Path | None, typer.Argument(help=f"Where; else {KEYS_VARIABLE}.")] = None,
) -> None:
    """Create the operator's, the ledger's and the log's key; existing files stay as they are."""
    from market.sdk.wallet import create_key, load_key

    options = options_of(context)
    named = folder or (Path(os.environ[KEYS_VARIABLE]) if KEYS_VARIABLE in os.environ else None)
    if named is None:
        raise MisConfigured(f"name a folder, or set {KEYS_VARIABLE}")
    addresses = {}
    for name in KEY_NAMES:
        path = named / f"{name}.key"
        try:
            addresses[name] = create_key(path).address
        except BadKey:
            addresses[name] = load_key(path).address
    show_one(addresses, options, f"Keys in {named}", addresses)


@server.command("issue")
def issue(
    context: Context,
    to: Annotated[str, typer.Argument(help="The party's address; for checks any address will do.")],
    amount: Annotated[str, typer.Argument(help="Credits.")],
    checks: Annotated[
        bool, typer.Option("--checks", help="Fill the market's account for checks instead.")
    ] = False,
    memo: Annotated[str, typer.Option()] = "",
) -> None:
    """Issue new tokens, signed with the operator's key (--key); a statement in the log."""
    from settlement.domain.amount import parse_credits
    from settlement.domain.identity import is_address

    if not is_address(to):
        raise typer.BadParameter("an address has 64 lower-case hex digits")
    options, microcredits = options_of(context), parse_credits(amount)
    purpose = "checks" if checks else "available"
    moved = ask(options, lambda client: client.issue(to, microcredits, purpose=purpose, memo=memo))
    fields = {"statement": moved.statement, "log_index": moved.index, "status": moved.status}
    show_one(moved, options, f"Issued {credits_text(microcredits)} credits", fields)


@server.command("validators")
def validators(
    context: Context,
    member: Annotated[
        list[str] | None,
        typer.Argument(help="Verifier keys of a new set (`gridpact validator init`)."),
    ] = None,
    quorum: Annotated[
        int | None, typer.Option(help="How many of them make a checkpoint final.")
    ] = None,
) -> None:
    """Show who cosigns; or, with the operator's key (--key), name a set, which the present one approves."""
    options = options_of(context)
    if member:
        count = quorum if quorum is not None else len(member) // 2 + 1
        moved = ask(options, lambda client: client.set_validators(member, count))
        say(options, f"logged as entry {moved.index}: {moved.statement}")
    view = ask(options, lambda client: client.validators(), signed=False)
    fields = {
        "members": ", ".join(view.members) or "nobody", "quorum": view.quorum,
        "final_size": view.final_size,
        "proposals": ", ".join(f"{one.digest} {one.state} ({len(one.approvals)} approvals)" for one in view.proposals) or "none",
    }  # fmt: skip
    show_one(view, options, "Validators", fields)


@server.command("doctor")
def doctor(context: Context) -> None:
    """Ask a running server whether it is ready; 5 if it is not, with the reason."""
    options = options_of(context)
    health = ask(options, lambda client: client.health(), signed=False)
    fields = {"status": health.status, **health.checks}
    show_one(health, options, "Ready", fields)
