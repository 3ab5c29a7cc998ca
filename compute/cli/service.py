"""`gridpact provider install-service`: the systemd unit that keeps a provider running."""

import os
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from compute.cli.options import JsonFlag
from compute.cli.place import home_of
from market.cli.connect import options_of
from market.cli.output import Exit, print_json, say
from settlement.domain.errors import MisConfigured


def install_service(
    context: typer.Context,
    system: Annotated[
        bool | None,
        typer.Option(
            "--system/--user", help="The machine's service, or your own; by default who you are."
        ),
    ] = None,
    run_as: Annotated[
        str, typer.Option(help="With --system: who runs it; root gives each slot its own user.")
    ] = "root",
    dry_run: Annotated[bool, typer.Option(help="Print the unit, write nothing.")] = False,
    yes: Annotated[bool, typer.Option(help="Replace a unit that is there.")] = False,
    json: JsonFlag = False,
) -> None:
    """Write a hardened systemd unit for `provider join`, or print it with --dry-run."""
    from compute.daemon import service_unit, settings, settings_file
    from market.sdk.folders import state_folder

    options = options_of(context)
    options.json = options.json or json
    home = home_of(options)
    flavour: Literal["system", "user"] = "user"
    if system or (system is None and os.geteuid() == 0):
        flavour = "system"
        service_unit.check_user(run_as, Path(sys.executable))
    elif run_as != service_unit.ROOT:
        raise MisConfigured("--run-as goes with --system: a user's own service runs as that user")
    kept = settings_file.read(home)
    if not kept and not dry_run:
        raise MisConfigured(f"there are no settings in {home}: `gridpact provider init` first")
    content = service_unit.text(
        service_unit.Service(
            flavour=flavour,
            command=(sys.executable, "-m", "market.cli.main", "provider", "join"),
            home=home,
            state=state_folder(),
            drain_seconds=float(kept.get("drain_seconds", settings.DRAIN_SECONDS)),
            user=run_as,
        )
    )
    path = service_unit.place(flavour)
    written = not dry_run and _written(path, content, yes=yes)
    if options.json:
        print_json({"path": str(path), "unit": content, "written": written})
    elif dry_run:
        say(options, f"# would be written to {path}")
        typer.echo(content, nl=False)
    else:
        _tell_next(path, flavour, written=written)


def _written(path: Path, content: str, *, yes: bool) -> bool:
    """Whether it had to be written; a unit that is there goes only if its owner says so."""
    from compute.daemon import service_unit

    if path.exists():
        if path.read_text(encoding="utf-8") == content:
            return False
        if not yes and not typer.confirm(f"Replace {path}?", err=True):
            raise typer.Exit(Exit.USAGE)
    service_unit.write(path, content)
    return True


def _tell_next(path: Path, flavour: str, *, written: bool) -> None:
    how = "systemctl" if flavour == "system" else "systemctl --user"
    typer.echo(f"{path} {'written' if written else 'is as it should be'}")
    typer.echo(f"  {how} daemon-reload && {how} enable --now {path.name}")
    if flavour == "user":
        typer.echo("  loginctl enable-linger   # so that it runs while you are not logged in")
