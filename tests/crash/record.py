"""What the last whole run of `make test-crash` found, kept with the benchmarks and shown on their page."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from tests.bench.figures import FOLDER, PAGE

BEGIN: Final = "<!-- crashes: written by `make test-crash RECORD=1` -->"
END: Final = "<!-- end of crashes -->"
RECORD: Final = FOLDER / "crash.json"


def keep(found: Mapping[str, Any], *, record: Path = RECORD, page: Path = PAGE) -> None:
    """Write the record and the page's part."""
    record.write_text(json.dumps(found, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    head, _, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    tail = rest.partition(END)[2]
    page.write_text(f"{head}{BEGIN}\n{shown(found)}{END}{tail}", encoding="utf-8")


def recorded() -> dict[str, Any]:
    """The committed record."""
    found: dict[str, Any] = json.loads(RECORD.read_text(encoding="utf-8"))
    return found


def shown(found: Mapping[str, Any]) -> str:
    """The record as the page shows it."""
    points, kills, lives = found["points"], found["kills"], found["interleavings"]
    stories, machine = points["stories"], found["machine"]
    lines = [
        "| what | times | what stood after it |",
        "|---|---|---|",
        (
            f"| SIGKILL at each point of {len(stories)} stories | {points['deaths']} |"
            f" {points['moved']} had moved the database on; lost {points['lost']}, twice {points['twice']} |"
        ),
        f"| `kill -9` of a writer under load | {kills['writer']} | {_acknowledged(kills)} |",
        (
            f"| `kill -9` of PostgreSQL, all of it, under load | {kills['postgresql']} |"
            f" the same; answering again after {kills['recovery_seconds_most']} s at most |"
        ),
        (
            f"| random lives of the ledger's rules | {lives['ledger']['lives']} |"
            f" {lives['ledger']['steps']} transfers as the model says |"
        ),
        (
            f"| random lives of the escrow's statements | {lives['escrow']['lives']} |"
            f" {lives['escrow']['steps']} statements as the model says |"
        ),
        (
            f"| random steps of two engines on one database | {found['two_engines']['steps']} |"
            f" {found['two_engines']['restarts']} restarts in between; as the model says |"
        ),
        "",
        (
            f"Seed {found['seed']}, {found['seconds']} s, {machine['day']}: {machine['cores']} cores of"
            f" {machine['cpu']}, kernel {machine['kernel']}, Python {machine['python']},"
            f" PostgreSQL {machine['postgresql']}, Gridpact {machine['gridpact']}."
        ),
    ]
    lines += ["", "Points by story: " + ", ".join(f"`{n}` {c}" for n, c in stories.items()) + "."]
    return "\n".join(lines) + "\n"


def _acknowledged(kills: Mapping[str, Any]) -> str:
    return f"{kills['acknowledged']} acknowledged payments, lost {kills['lost']}, twice {kills['twice']}"
