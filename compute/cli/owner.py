"""`gridpact provider drain | pause | resume | yield | price`: words to the daemon that runs."""

from typing import Annotated

import typer

from compute.cli.options import CpuRate, GibRate, GpuRate, JsonFlag
from compute.cli.place import home_of, tell
from market.cli.connect import options_of
from market.cli.output import Exit, print_fields, print_json, say
from settlement.domain.errors import NotFound

Context = typer.Context

price = typer.Typer(no_args_is_help=True, help="What this provider asks for.")


def drain(
    context: Context,
    wait: Annotated[bool, typer.Option(help="Return when the daemon has ended.")] = True,
    json: JsonFlag = False,
) -> None:
    """Let what runs end, take nothing new, then end the daemon."""
    from compute.daemon import console

    options = options_of(context)
    options.json = options.json or json
    say(options, "draining: running chunks may end, nothing new is taken")
    answer = tell(options, console.Drain(), console.Ok, until_gone=wait)
    _done(context, answer, "the daemon has ended" if wait else "the daemon drains")


def pause(context: Context, json: JsonFlag = False) -> None:
    """Take nothing new, and stay connected; leases that stand go on."""
    from compute.daemon import console

    options = options_of(context)
    options.json = options.json or json
    _done(context, tell(options, console.Pause(), console.Ok), "paused, until `resume`")


def resume(context: Context, json: JsonFlag = False) -> None:
    """Take work again after `pause` or `yield`."""
    from compute.daemon import console

    options = options_of(context)
    options.json = options.json or json
    _done(context, tell(options, console.Resume(), console.Ok), "the offer stands again")


def give_way(context: Context, json: JsonFlag = False) -> None:
    """Give the machine back at once: every sandbox ends, its work goes elsewhere, until `resume`."""
    from compute.daemon import console

    options = options_of(context)
    options.json = options.json or json
    answer = tell(options, console.Yield(), console.Ok)
    _done(context, answer, f"the machine is yours: {answer.ended} leases ended, until `resume`")
    if not answer.empty:
        say(options, "not everything is proven gone yet: look at `provider status`")
        raise typer.Exit(Exit.REMOTE)


@price.command("set")
def set_price(
    context: Context,
    cpu: CpuRate = None,
    gib: GibRate = None,
    gpu: GpuRate = None,
    json: JsonFlag = False,
) -> None:
    """Ask for other rates from now on; leases that run keep theirs.

    A running daemon posts a new offer at once, the settings file keeps the rates for the next one.
    """
    from compute.daemon import console, settings_file

    options = options_of(context)
    options.json = options.json or json
    wanted = {"cpu_rate": cpu, "gib_rate": gib, "gpu_rate": gpu}
    given = {name: rate for name, rate in wanted.items() if rate is not None}
    if not given:
        raise typer.BadParameter("name at least one of --cpu, --gib, --gpu")
    home = home_of(options)
    kept = settings_file.read(home)
    try:
        tell(options, console.SetPrice(cpu=cpu, gib=gib, gpu=gpu), console.Ok)
        posted = True
    except NotFound:
        if not kept:
            raise
        posted = False
    if kept:
        settings_file.write(home, {**kept, **given})
    if options.json:
        print_json({"posted": posted, "kept": bool(kept), **given})
        return
    where = "posted" if posted else "kept for the next start: no daemon runs"
    print_fields(f"New rates, {where}", given)


@price.command("show")
def show_price(context: Context, json: JsonFlag = False) -> None:
    """The rates of the running daemon."""
    from compute.daemon import console

    options = options_of(context)
    options.json = options.json or json
    now = tell(options, console.Status(), console.Snapshot)
    if options.json:
        print_json(now.rates)
    else:
        rates = {"cpu": now.rates.cpu, "gib": now.rates.gib, "gpu": now.rates.gpu}
        print_fields("Micro-credits per second", rates)


def _done(context: Context, answer: object, sentence: str) -> None:
    options = options_of(context)
    if options.json:
        print_json(answer)
    else:
        typer.echo(sentence)


def add(group: typer.Typer) -> None:
    """Join the group."""
    group.command()(drain)
    group.command()(pause)
    group.command()(resume)
    group.command("yield")(give_way)
    group.add_typer(price, name="price")
