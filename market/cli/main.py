"""The command `gridpact`: its groups are loaded when they are asked for, and not before."""

import importlib
import sys
from collections.abc import Sequence
from importlib.metadata import entry_points
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from typer.core import TyperGroup

from market.cli.follow import follow_parent
from market.cli.output import Exit, Globals, exit_code, print_error
from settlement.domain.errors import GridpactError

ENTRY_POINTS: Final = "gridpact.commands"
INTERRUPTED: Final = 130  # as shells say it of SIGINT
GROUPS: Final[dict[str, str]] = {
    "devstack": "market.cli.devstack:commands",
    "offers": "market.cli.consumer:offers",
    "job": "market.cli.jobs:commands",
    "wallet": "market.cli.consumer:wallet",
    "receipt": "market.cli.consumer:receipt",
    "ledger": "market.cli.ledger:commands",
    "log": "market.cli.log:commands",
    "validator": "market.cli.validator:commands",
    "server": "market.cli.operator:server",
}


class LazyGroup(TyperGroup):
    """Loads a group when its help or one of its commands is wanted."""

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ANN401, ARG002 - typer's own type
        return [*GROUPS, *sorted(_plugins().keys() - GROUPS.keys())]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:  # noqa: ANN401, ARG002 - as above
        if cmd_name not in self.commands:
            target = GROUPS.get(cmd_name) or _plugins().get(cmd_name)
            if target is None:
                return None
            command = _command(target)
            _add_globals(command, self.params)
            command.name = cmd_name
            self.commands[cmd_name] = command
        return self.commands[cmd_name]


def _plugins() -> dict[str, str]:
    return {entry.name: entry.value for entry in entry_points(group=ENTRY_POINTS)}


def _command(target: str) -> Any:  # noqa: ANN401 - typer keeps its command class to itself
    module, _, name = target.partition(":")
    return typer.main.get_command(getattr(importlib.import_module(module), name))


def _add_globals(command: Any, options: Sequence[Any]) -> None:  # noqa: ANN401 - as above
    """The options of the root may also stand after a command's name."""
    for child in getattr(command, "commands", {}).values():
        _add_globals(child, options)
    if not getattr(command, "commands", {}):
        taken = {name for parameter in command.params for name in parameter.opts}
        command.params += [
            option
            for option in options
            if not taken.intersection(option.opts) and option.name in Globals.__annotations__
        ]


def _remember(ctx: typer.Context, param: typer.CallbackParam, value: Any) -> Any:  # noqa: ANN401
    """Keep an option wherever it stood; one that was not given changes nothing."""
    if value and param.name is not None:
        setattr(ctx.ensure_object(Globals), param.name, value)
    return value


def _version(value: bool) -> None:
    if value:
        from importlib.metadata import version

        sys.stdout.write(f"gridpact {version('gridpact')}\n")
        raise typer.Exit


PANEL: Final = "Options of every command"
app = typer.Typer(
    cls=LazyGroup,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Gridpact: buy and sell compute between people who do not trust each other.",
)


@app.callback()
def root(
    json: Annotated[
        bool,
        typer.Option(
            "--json", help="Print JSON for programs.", callback=_remember, expose_value=False,
            rich_help_panel=PANEL,
        ),
    ] = False,
    quiet: Annotated[
        bool,
        typer.Option(
            "--quiet", "-q", help="Leave out remarks.", callback=_remember, expose_value=False,
            rich_help_panel=PANEL,
        ),
    ] = False,
    url: Annotated[
        str | None,
        typer.Option(
            "--url", help="The market's address, instead of the profile's.", callback=_remember,
            expose_value=False, rich_help_panel=PANEL,
        ),
    ] = None,
    key: Annotated[
        str | None,
        typer.Option(
            "--key", help="Your key file, instead of the profile's.", callback=_remember,
            expose_value=False, rich_help_panel=PANEL,
        ),
    ] = None,
    home: Annotated[
        Path | None,
        typer.Option(
            "--home", help="The state folder, instead of GRIDPACT_HOME.", callback=_remember,
            expose_value=False, rich_help_panel=PANEL,
        ),
    ] = None,
    version: Annotated[
        bool,
        typer.Option("--version", help="Print the version and end.", callback=_version, is_eager=True),
    ] = False,
) -> None:  # fmt: skip
    """Hold the options that every command has."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; ends with one of the exit codes of `output.Exit`."""
    follow_parent()
    options = Globals()
    command: Any = typer.main.get_command(app)
    try:
        command.main(args=arguments, prog_name="gridpact", obj=options)
    except GridpactError as error:
        print_error(error, as_json=options.json)
        sys.exit(exit_code(error))
    except BrokenPipeError:
        sys.exit(Exit.REMOTE)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


if __name__ == "__main__":
    main()
