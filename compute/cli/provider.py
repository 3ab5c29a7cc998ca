"""The command group `gridpact provider`: sell this machine's compute, see what it earns."""

import os
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from market.cli import money
from market.cli.connect import ask, options_of
from market.cli.output import Exit, credits_text, print_fields, print_json, short, show, show_one

PROGRAM_URL: Final = "GRIDPACT_PROVIDER_URL"
PAGE: Final = 20
MILLI: Final = 1_000

commands = typer.Typer(no_args_is_help=True, help="Sell compute: run and look after a provider.")
money.add_to_provider(commands)

Context = typer.Context
JsonFlag = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]


@commands.command()
def run(  # noqa: PLR0913, PLR0917 - one option each
    context: Context,
    name: Annotated[str | None, typer.Option(help="Shown beside the offer.")] = None,
    url: Annotated[str | None, typer.Option(help="The market's address.")] = None,
    key: Annotated[Path | None, typer.Option(help="The provider's key file.")] = None,
    home: Annotated[Path | None, typer.Option(help="This daemon's own folder.")] = None,
    cpus: Annotated[float | None, typer.Option(help="Cpus offered; all by default.")] = None,
    memory_mib: Annotated[
        int | None, typer.Option(help="Memory offered; half of the machine's by default.")
    ] = None,
    cpu_rate: Annotated[
        int | None, typer.Option(help="Micro-credits per second of one cpu.")
    ] = None,
    gib_rate: Annotated[
        int | None, typer.Option(help="Micro-credits per second of one GiB.")
    ] = None,
    executor: Annotated[str | None, typer.Option(help="`ray` or `local`.")] = None,
    drain_seconds: Annotated[
        float | None, typer.Option(help="How long running chunks may go on after SIGTERM.")
    ] = None,
    insecure_no_sandbox: Annotated[
        bool, typer.Option(help="Development only: run strangers' code UNPROTECTED.")
    ] = False,
) -> None:
    """Offer this machine on the market and work until SIGTERM or Ctrl-C."""
    from compute.daemon import main, settings

    options = options_of(context)
    main.run(
        settings.load(
            name=name,
            url=_market_url(url, options),
            key=key or options.key,
            home=home or options.home,
            cpus=cpus,
            memory_mib=memory_mib,
            cpu_rate=cpu_rate,
            gib_rate=gib_rate,
            executor=executor,
            drain_seconds=drain_seconds,
            insecure_no_sandbox=insecure_no_sandbox or None,
        )
    )


@commands.command()
def doctor(context: Context, json: JsonFlag = False) -> None:
    """Try a sandbox on this machine and say what holds, what does not, and what to do."""
    import asyncio

    found = asyncio.run(_diagnose())
    if json or options_of(context).json:
        print_json(found)
    else:
        shown = {**found, "protection": found["protection"] or "none: no sandbox works"}
        shown["reasons"] = "; ".join(found["reasons"])
        print_fields("This machine as a provider", {k: v for k, v in shown.items() if v != ""})
    if not found["protection"]:
        raise typer.Exit(Exit.REMOTE)


@commands.command()
def status(context: Context, json: JsonFlag = False) -> None:
    """How the market sees the provider of your key."""
    options = options_of(context)
    options.json = options.json or json
    mine = ask(options, _mine)
    seen = {
        "connected": mine.connected,
        "draining": mine.draining,
        "leases": mine.leases,
        "protection": mine.protection,
        "chunks": mine.chunks,
        "seconds": mine.seconds,
        "earned": credits_text(mine.earned),
        "checks agreed": mine.agreed,
        "checks differed": mine.differed,
        "reputation": mine.reputation,
    }
    show_one(mine, options, f"{mine.name}  {mine.address}", seen)


@commands.command("ls")
def list_providers(context: Context, json: JsonFlag = False) -> None:
    """List all providers of the market."""
    options = options_of(context)
    options.json = options.json or json
    found = ask(options, lambda client: client.providers(), signed=False)
    show(
        found,
        options,
        "Providers",
        ("name", "address", "connected", ">leases", ">chunks", ">seconds", ">earned", ">reputation"),
        [
            (
                each.name, short(each.address), "draining" if each.draining else each.connected,
                each.leases, each.chunks, each.seconds, credits_text(each.earned), each.reputation,
            )
            for each in found
        ],
    )  # fmt: skip


@commands.command()
def earnings(context: Context, json: JsonFlag = False) -> None:
    """What the provider of your key has earned, holds, and was paid last."""
    options = options_of(context)
    options.json = options.json or json

    async def both(client: Any) -> Any:  # noqa: ANN401 - the client is loaded by then
        return await client.balances(), await client.transfers(limit=PAGE)

    account, history = ask(options, both)
    if options.json:
        print_json({"account": account, "transfers": history.transfers})
        return
    fields = {
        "available": credits_text(account.available),
        "held": credits_text(account.held),
        "stake": credits_text(account.stake),
    }
    print_fields(account.address, fields)
    show(
        history,
        options,
        "Transfers",
        (">#", "from", "to", ">credits", "reason"),
        [
            (each.sequence, each.debit, each.credit, credits_text(each.amount), each.reason)
            for each in history.transfers
        ],
    )


def _market_url(url: str | None, options: Any) -> str | None:  # noqa: ANN401 - output.Globals
    """The flag, else the daemon's own variable, else the market that the profile names."""
    if url or options.url:
        return url or str(options.url)
    if os.environ.get(PROGRAM_URL):
        return None  # read by the settings themselves
    from market.sdk import wallet
    from market.sdk.folders import state_folder

    return wallet.choose(state_folder()).url


async def _mine(client: Any) -> Any:  # noqa: ANN401 - the client is loaded by then
    from settlement.domain.errors import NotFound

    address = client.address
    for provider in await client.providers():
        if provider.address == address:
            return provider
    raise NotFound(f"no provider with the key {short(address)} is on this market")


async def _diagnose() -> dict[str, Any]:
    """Lay the ground that the daemon would stand on, look at it, end it."""
    from importlib.util import find_spec

    from compute.daemon import inventory
    from compute.executors.local import LocalExecutor
    from market.sdk.folders import state_folder
    from settlement.domain.errors import GridpactError

    whole = inventory.machine()
    found: dict[str, Any] = {
        "cpus": whole.cpus_milli / MILLI,
        "memory_mib": whole.memory_mib,
        "state_folder": str(state_folder()),
        "ray": "installed" if find_spec("ray") else "missing: install gridpact[provider]",
        "protection": "",
        "environment": "",
        "reasons": [],
        "cure": "",
    }
    executor = LocalExecutor(state_folder())
    try:
        await executor.start()
        found["protection"] = executor.protection
        found["environment"] = executor.environment.digest
        found["reasons"] = list(executor.ground.reasons)
    except GridpactError as error:
        found["reasons"] = [error.detail]
        found["cure"] = error.cure
    finally:
        await executor.shutdown()
    return found
