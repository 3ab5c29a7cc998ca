"""The committed figures: each benchmark has some, in the one form, and the page shows the same."""

import json
from pathlib import Path
from typing import Final

import pytest

from tests.bench import figures
from tests.meta import tree

FIELDS: Final = ["bench", "case", "ours", "reference", "ratio", "unit", "better"]
CASES: Final = {
    "api": {"signed-write"},
    "call": {"warm-p50", "warm-p99"},
    "map": {"trivial-2000", "trivial-20000"},
}
SMALLEST_STEP: Final = 10.0 ** (1 - figures.DIGITS)  # what rounding may change, as a share


def test_every_benchmark_has_its_figures() -> None:
    programs = {
        path.stem.removeprefix("bench_") for path in (tree.ROOT / "tests/bench").glob("bench_*.py")
    }
    found = {bench: {one.case for one in lines} for bench, lines in figures.recorded().items()}
    assert found.keys() <= programs
    assert found.keys() == figures.recorded_machines().keys()
    assert {bench: found[bench] for bench in CASES} == CASES


@pytest.mark.parametrize(
    "path", sorted(figures.FOLDER.glob("*.jsonl")), ids=lambda path: str(path.stem)
)
def test_figures_have_the_one_form(path: Path) -> None:
    for line in path.read_text(encoding="utf-8").splitlines():
        told = json.loads(line)
        assert list(told) == FIELDS
        assert told["bench"] == path.stem
        assert told["better"] in {"higher", "lower"}
        assert told["ours"] > 0
        assert (told["reference"] is None) == (told["ratio"] is None)
        if told["ratio"] is not None:
            ratio = told["ours"] / told["reference"]
            assert ratio == pytest.approx(told["ratio"], rel=SMALLEST_STEP * 3)


def test_the_page_shows_the_committed_figures() -> None:
    page = figures.PAGE.read_text(encoding="utf-8")
    shown = page.partition(figures.BEGIN)[2].partition(figures.END)[0]
    assert shown == f"\n{figures.table()}"


def test_machines_are_described_without_their_names() -> None:
    described = {
        "cores",
        "cpu",
        "day",
        "gridpact",
        "kernel",
        "load",
        "memory_mib",
        "postgresql",
        "python",
        "ray",
    }
    for found in figures.recorded_machines().values():
        assert set(found) == described
        assert "/" not in "".join(str(value) for value in found.values())
