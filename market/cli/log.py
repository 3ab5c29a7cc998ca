"""The group `log`: copies of a market's public log that are worth as much as the original."""

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from market.cli.connect import options_of
from market.cli.log_key import mirrored_log_key, told_log_key
from market.cli.output import say, show_one
from market.cli.validator import start_log

commands = typer.Typer(no_args_is_help=True, help="The market's public log: mirror it.")
Context = typer.Context


@commands.callback()
def group() -> None:
    """One command does not make a group by itself."""


@commands.command("mirror")
def mirror(
    context: Context,
    from_url: Annotated[str, typer.Option(help="The market, or another mirror.")],
    to: Annotated[Path, typer.Option(help="The folder to mirror into.")],
    log_key: Annotated[
        str | None, typer.Option(help="The log's verifier key; else the market's, at first use.")
    ] = None,
    serve: Annotated[str | None, typer.Option(help="HOST:PORT to serve the copy on.")] = None,
    interval: Annotated[float, typer.Option(help="Seconds between two looks.", min=0.05)] = 1.0,
    once: Annotated[bool, typer.Option("--once", help="Catch up, then end.")] = False,
) -> None:
    """Follow a log, verify every file, keep and serve the same static files.

    A killed mirror goes on where it was. A log that forks is refused with 6; the evidence stays in
    the folder.
    """
    from settlement.validator import main

    options = options_of(context)
    key = log_key or mirrored_log_key(to)
    if key is None:
        key = told_log_key(from_url)
        say(options, f"trusting this log key from now on: {key}")
    start_log(options)
    listen = main.parse_listen(serve) if serve is not None else None
    work = main.mirror(to, from_url, key, listen=listen, once=once, interval_seconds=interval)
    size = asyncio.run(work)
    fields = {"folder": str(to), "log_key": key, "entries": size}
    show_one(fields, options, "Mirrored", fields)
