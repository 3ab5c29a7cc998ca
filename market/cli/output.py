"""What commands print: tables for people, JSON for programs, errors with a cure, exit codes."""

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any, Final

import msgspec

from settlement.domain import errors
from settlement.domain.amount import format_credits
from settlement.domain.errors import GridpactError

ADDRESS_CHARS_SHOWN: Final = 12
WIDE_CHARS: Final = 200


class Exit(IntEnum):
    """What a program that calls us can rely on."""

    OK = 0
    USAGE = 2
    REFUSED = 3
    NOT_FOUND = 4
    REMOTE = 5
    UNVERIFIED = 6


_USAGE: Final = (errors.MisConfigured, errors.Malformed, errors.BadAmount, errors.BadKey)
_UNVERIFIED: Final = (
    errors.BadProof, errors.BadCheckpoint, errors.BadLog, errors.Differs, errors.SplitView,
    errors.MarketChanged,
)  # fmt: skip
_REMOTE: Final = (errors.Failed, errors.TaskFailed, errors.JobEnded)


@dataclass
class Globals:
    """The options that every command has."""

    json: bool = False
    quiet: bool = False
    url: str | None = None
    key: str | None = None
    home: Path | None = None

    def folder(self) -> Path:
        """The state folder that is meant."""
        if self.home is not None:
            return self.home.absolute()
        from market.sdk.folders import state_folder

        return state_folder()


def exit_code(error: GridpactError) -> Exit:
    """The exit code for an error, by its class."""
    if isinstance(error, errors.NotFound):
        return Exit.NOT_FOUND
    if isinstance(error, _USAGE):
        return Exit.USAGE
    if isinstance(error, _UNVERIFIED):
        return Exit.UNVERIFIED
    if isinstance(error, _REMOTE):
        return Exit.REMOTE
    return Exit.REFUSED


def print_error(error: GridpactError, *, as_json: bool) -> None:
    """Cause and cure on stderr; one JSON object for programs."""
    if as_json:
        document = {"error": error.code, "detail": error.detail, "cure": error.cure}
        sys.stderr.write(json.dumps(document) + "\n")
        return
    sys.stderr.write(f"{error.code}: {printable(error.detail)}\n  what to do: {error.cure}\n")
    for note in getattr(error, "__notes__", ()):
        sys.stderr.write(f"  {printable(note)}\n")


def print_json(value: object) -> None:
    """One JSON document on stdout; Structs and dataclasses by their fields."""
    plain = json.loads(msgspec.json.encode(value))  # Raw parts too, which are JSON already
    sys.stdout.write(json.dumps(plain, indent=2, ensure_ascii=False) + "\n")


def print_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Rows for people; columns whose name starts with > are numbers, set to the right."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title or None, box=box.SIMPLE_HEAD, title_justify="left")
    for column in columns:
        right = column.startswith(">")
        table.add_column(column.removeprefix(">"), justify="right" if right else "left")
    for row in rows:
        table.add_row(*(Text(_text(cell)) for cell in row))  # Text: brackets are no markup
    width = None if sys.stdout.isatty() else WIDE_CHARS  # nothing is cut in a file or a pipe
    Console(highlight=False, width=width).print(table)


def print_fields(title: str, fields: Mapping[str, Any]) -> None:
    """Names and values of one thing, for people."""
    width = max((len(name) for name in fields), default=0)
    lines = [title] if title else []
    lines += [f"  {name.replace('_', ' '):<{width}}  {_text(fields[name])}" for name in fields]
    sys.stdout.write("\n".join(lines) + "\n")


def show(
    value: object,
    options: Globals,
    title: str,
    columns: Sequence[str],
    rows: Iterable[Sequence[Any]],
) -> None:
    """A list of things: JSON or table, as the options say."""
    if options.json:
        print_json(value)
    else:
        print_table(title, columns, rows)


def show_one(value: object, options: Globals, title: str, fields: Mapping[str, Any]) -> None:
    """One thing: JSON or names and values, as the options say."""
    if options.json:
        print_json(value)
    else:
        print_fields(title, fields)


def say(options: Globals, text: str) -> None:
    """A remark for people; nothing with --json or -q."""
    if not (options.json or options.quiet):
        sys.stderr.write(text + "\n")


def credits_text(amount_microcredits: str | int) -> str:
    """Micro-credits, also as the wire's decimal string, as credits."""
    return format_credits(int(amount_microcredits))


def short(address: str) -> str:
    """The start of an address or digest, enough for people to tell it from others."""
    prefix = "sha256:"
    bare = address.removeprefix(prefix)
    return bare[:ADDRESS_CHARS_SHOWN] + "…" if len(bare) > ADDRESS_CHARS_SHOWN else bare


def printable(text: str) -> str:
    """A stranger's words without what would steer the terminal that shows them."""
    return "".join(
        mark if mark in "\n\t" or mark.isprintable() else mark.encode("unicode_escape").decode()
        for mark in text
    )


def _text(cell: object) -> str:
    if isinstance(cell, bool):
        return "yes" if cell else "no"
    return f"{cell:.3f}" if isinstance(cell, float) else printable(str(cell))
