"""What every benchmark prints and keeps: one figure a line, the machine it was measured on, the table."""

import argparse
import json
import math
import os
import platform
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Final, Literal

from settlement.store import postgres_programs

FOLDER: Final = Path(__file__).resolve().parents[2] / "docs" / "benchmarks"
MACHINES: Final = FOLDER / "machines.json"
PAGE: Final = FOLDER / "README.md"
BEGIN: Final = "<!-- figures: written by `make bench RECORD=1` -->"
END: Final = "<!-- end of figures -->"
DIGITS: Final = 4  # significant ones: more would claim more than was measured


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of a benchmark; without a reference there is no ratio."""

    bench: str
    case: str
    ours: float
    reference: float | None
    ratio: float | None
    unit: str
    better: Literal["higher", "lower"]

    def line(self) -> str:
        return json.dumps(asdict(self))


def figure(
    bench: str,
    case: str,
    *,
    ours: float,
    reference: float | None,
    unit: str,
    better: Literal["higher", "lower"],
) -> Figure:
    """A figure, rounded to what can be said."""
    ratio = None if reference is None else rounded(ours / reference)
    return Figure(
        bench,
        case,
        rounded(ours),
        None if reference is None else rounded(reference),
        ratio,
        unit,
        better,
    )


def rounded(value: float) -> float:
    """To so many significant digits."""
    if not value:
        return 0.0
    return round(value, DIGITS - 1 - math.floor(math.log10(abs(value))))


def percentile(values: Sequence[float], percent: int) -> float:
    """The value that so many percent of all do not exceed."""
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1]


def command_line(about: str | None) -> argparse.ArgumentParser:
    """The command line of every benchmark, to which one may add."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--quick", action="store_true", help="a smoke run: figures mean nothing")
    parser.add_argument("--record", action="store_true", help="write docs/benchmarks anew")
    return parser


def options(about: str | None) -> argparse.Namespace:
    """What was asked of it."""
    return command_line(about).parse_args()


def tell(text: str) -> None:
    """Everything that is no figure."""
    sys.stderr.write(f"{text}\n")


def publish(figures: Sequence[Figure], *, record: bool) -> None:
    """Print them; keep them beside their machine when asked to."""
    for one in figures:
        sys.stdout.write(one.line() + "\n")
    sys.stdout.flush()
    if not record:
        return
    bench = figures[0].bench
    text = "".join(one.line() + "\n" for one in figures)
    (FOLDER / f"{bench}.jsonl").write_text(text, encoding="utf-8")
    machines = {**recorded_machines(), bench: machine()}
    MACHINES.write_text(json.dumps(machines, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    head, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    tail = rest.partition(END)[2]
    PAGE.write_text(f"{head}{BEGIN}\n{table()}{END}{tail}", encoding="utf-8")


def recorded() -> dict[str, list[Figure]]:
    """The committed figures by bench."""
    return {
        path.stem: [Figure(**json.loads(line)) for line in path.read_text().splitlines()]
        for path in sorted(FOLDER.glob("*.jsonl"))
    }


def recorded_machines() -> dict[str, dict[str, Any]]:
    """The machines that the committed figures come from, by bench."""
    if not MACHINES.exists():
        return {}
    machines: dict[str, dict[str, Any]] = json.loads(MACHINES.read_text(encoding="utf-8"))
    return machines


def table() -> str:
    """The committed figures as the page shows them."""
    lines = [
        "| bench | case | ours | reference | ratio | unit | better |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {one.bench} | {one.case} | {one.ours:g} | {_shown(one.reference)} | {_shown(one.ratio)}"
        f" | {one.unit} | {one.better} |"
        for figures in recorded().values()
        for one in figures
    ]
    lines += ["", *(_machine_line(bench, found) for bench, found in recorded_machines().items())]
    return "\n".join(lines) + "\n"


def _shown(value: float | None) -> str:
    return "–" if value is None else f"{value:g}"


def _machine_line(bench: str, found: Mapping[str, Any]) -> str:
    return (
        f"- `{bench}`, {found['day']}: {found['cores']} cores of {found['cpu']},"
        f" {found['memory_mib']} MiB, load {found['load']} at the end; kernel {found['kernel']},"
        f" Python {found['python']}, PostgreSQL {found['postgresql']}, Ray {found['ray']},"
        f" Gridpact {found['gridpact']}"
    )


def machine() -> dict[str, Any]:
    """This machine, without its name or any of its paths."""
    page, pages = os.sysconf("SC_PAGE_SIZE"), os.sysconf("SC_PHYS_PAGES")
    return {
        "cores": len(os.sched_getaffinity(0)),
        "cpu": _cpu(),
        "day": time.strftime("%Y-%m-%d", time.gmtime()),
        "gridpact": metadata.version("gridpact"),
        "kernel": platform.release().partition("-")[0],
        "load": round(os.getloadavg()[0], 2),
        "memory_mib": page * pages >> 20,
        "postgresql": postgres_programs.find().version,
        "python": platform.python_version(),
        "ray": metadata.version("ray"),
    }


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return platform.machine()
