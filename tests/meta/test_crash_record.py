"""The committed result of `make test-crash`: whole, without a loss, and the page shows the same."""

from tests.bench import figures
from tests.crash import record
from tests.crash.main import KILLS, LIVES
from tests.crash.stories import STORIES


def test_the_last_run_was_whole_and_lost_nothing() -> None:
    found = record.recorded()
    points, kills = found["points"], found["kills"]
    assert set(points["stories"]) == {story.name for story in STORIES}
    assert points["deaths"] == sum(points["stories"].values()) > points["moved"] > 0
    assert kills["writer"] + kills["postgresql"] >= KILLS
    assert kills["acknowledged"] > 0
    assert [points["lost"], points["twice"], kills["lost"], kills["twice"]] == [0] * 4
    assert {what: lived["lives"] >= LIVES for what, lived in found["interleavings"].items()} == {
        "ledger": True,
        "escrow": True,
    }


def test_the_page_shows_the_committed_result() -> None:
    page = figures.PAGE.read_text(encoding="utf-8")
    shown = page.partition(record.BEGIN)[2].partition(record.END)[0]
    assert shown == f"\n{record.shown(record.recorded())}"


def test_the_machine_is_described_without_its_name() -> None:
    machine = record.recorded()["machine"]
    assert machine.keys() == next(iter(figures.recorded_machines().values())).keys()
    assert "/" not in "".join(str(value) for value in machine.values())
