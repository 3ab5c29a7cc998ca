"""`gridpact provider run | join | status | ls`, and the group that all commands join."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import msgspec
import typer

from compute.cli import examination, owner, setup
from compute.cli.earnings import earnings, today_microcredits
from compute.cli.options import (
    CpuRate,
    Cpus,
    ExecutorName,
    GibRate,
    GpuRate,
    JsonFlag,
    Memory,
    MetricsPort,
    Name,
    YieldLoad,
)
from compute.cli.place import acting, home_of, market_url, tell
from compute.cli.service import install_service
from market.cli import money
from market.cli.connect import ask, options_of
from market.cli.output import (
    Globals,
    credits_text,
    print_fields,
    print_json,
    print_table,
    short,
    show,
)
from settlement.domain.errors import GridpactError, MisConfigured, NotFound

if TYPE_CHECKING:
    from compute.daemon.console import Snapshot

MILLI: Final = 1_000

commands = typer.Typer(no_args_is_help=True, help="Sell compute: run and look after a provider.")

Context = typer.Context


@commands.command()
def run(  # noqa: PLR0913, PLR0917 - one option each
    context: Context,
    name: Name = None,
    url: Annotated[str | None, typer.Option(help="The market's address.")] = None,
    key: Annotated[Path | None, typer.Option(help="The provider's key file.")] = None,
    home: Annotated[Path | None, typer.Option(help="This daemon's own folder.")] = None,
    cpus: Cpus = None,
    memory: Memory = None,
    cpu_rate: CpuRate = None,
    gib_rate: GibRate = None,
    gpu_rate: GpuRate = None,
    executor: ExecutorName = None,
    drain_seconds: Annotated[
        float | None, typer.Option(help="How long running chunks may go on after SIGTERM.")
    ] = None,
    yield_when_load: YieldLoad = None,
    metrics_port: MetricsPort = None,
    insecure_no_sandbox: Annotated[
        bool, typer.Option(help="Development only: run strangers' code UNPROTECTED.")
    ] = False,
) -> None:
    """Offer this machine on the market and work until SIGTERM or Ctrl-C."""
    from compute.daemon import main, settings

    options = options_of(context)
    main.run(
        settings.load(
            market_url(url, options),
            name=name,
            url=url or options.url,
            key=key or options.key,
            home=home or options.home,
            cpus=cpus,
            memory_mib=memory,
            cpu_rate=cpu_rate,
            gib_rate=gib_rate,
            gpu_rate=gpu_rate,
            executor=executor,
            drain_seconds=drain_seconds,
            yield_when_load=yield_when_load,
            metrics_port=metrics_port,
            insecure_no_sandbox=insecure_no_sandbox or None,
        )
    )


@commands.command()
def join(context: Context) -> None:
    """Offer this machine with the settings of `init`, and work until SIGTERM, Ctrl-C or `drain`."""
    from compute.daemon import main, settings, settings_file

    options = options_of(context)
    home = home_of(options)
    if not settings_file.read(home):
        raise MisConfigured(f"there are no settings in {home}: `gridpact provider init` first")
    main.run(
        settings.load(
            home=home, url=options.url, key=None if options.key is None else Path(options.key)
        )
    )


@commands.command()
def status(context: Context, json: JsonFlag = False) -> None:
    """How the provider is: its daemon on this machine, and what the market sees of it."""
    from compute.daemon import console

    options = acting(options_of(context))
    options.json = options.json or json
    try:
        live: Snapshot | None = tell(options, console.Status(), console.Snapshot)
    except NotFound:
        live = None
    try:
        seen, today = ask(options, _seen)
    except GridpactError:
        if live is None:
            raise
        seen, today = None, None
    if options.json:
        document: dict[str, Any] = {} if seen is None else msgspec.to_builtins(seen)
        document |= {"daemon": None if live is None else msgspec.to_builtins(live)}
        print_json(document | {"earned_today": None if today is None else str(today)})
        return
    _print_live(live, options)
    if seen is not None:
        _print_seen(seen, today)


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


def _print_live(live: "Snapshot | None", options: Globals) -> None:
    if live is None:
        print_fields("Daemon", {"state": f"none runs in {home_of(options)}"})
        return
    fields = {
        "state": f"{live.state}{f' ({live.reason})' if live.reason else ''}, process {live.pid}",
        "connected": live.connected,
        "protection": f"class {live.protection}",
        "slots in use": f"{live.taken.cpus_milli / MILLI:g} of {live.capacity.cpus_milli / MILLI:g} cpus,"
        f" {live.taken.memory_mib} of {live.capacity.memory_mib} MiB,"
        f" {live.taken.gpus} of {live.capacity.gpus} gpus",
        "rates": f"cpu {live.rates.cpu}, gib {live.rates.gib}, gpu {live.rates.gpu}",
        "chunks": f"{live.chunks} run, {live.running} running, {live.lost} lost, {live.rejected} rejected",
        "claimed today": credits_text(live.earned_today),
    }
    print_fields(f"{live.name}  {live.address}", fields)
    if live.leases:
        print_table(
            "Leases",
            ("lease", "job", "phase", ">cpus", ">MiB", ">gpus", ">rate", ">chunks"),
            [
                (
                    short(line.lease), short(line.job), line.phase, f"{line.slot.cpus_milli / MILLI:g}",
                    line.slot.memory_mib, line.slot.gpus, line.rate, line.chunks,
                )
                for line in live.leases
            ],
        )  # fmt: skip


def _print_seen(seen: Any, today: int | None) -> None:  # noqa: ANN401 - trade.ProviderView
    fields = {
        "connected": seen.connected,
        "draining": seen.draining,
        "leases": seen.leases,
        "protection": seen.protection,
        "chunks": seen.chunks,
        "seconds": seen.seconds,
        "earned": credits_text(seen.earned),
        "earned today": "–" if today is None else credits_text(today),
        "checks agreed": seen.agreed,
        "checks differed": seen.differed,
        "reputation": seen.reputation,
    }
    print_fields(f"As the market sees {seen.name}  {seen.address}", fields)


async def _seen(client: Any) -> Any:  # noqa: ANN401 - the client is loaded by then
    seen = await _mine(client)
    try:
        return seen, await today_microcredits(client)
    except GridpactError:  # an older market
        return seen, None


async def _mine(client: Any) -> Any:  # noqa: ANN401 - the client is loaded by then
    address = client.address
    for provider in await client.providers():
        if provider.address == address:
            return provider
    raise NotFound(f"no provider with the key {short(address)} is on this market")


examination.add(commands)
setup.add(commands)
owner.add(commands)
commands.command()(earnings)
commands.command()(install_service)
money.add_to_provider(commands)
