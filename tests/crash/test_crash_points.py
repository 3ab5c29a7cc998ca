"""Whatever dies at whichever round trip: nothing acknowledged is lost, nothing is done twice.

Death is in-process here: all connections are cut, engine and pool are thrown away. `make test-crash`
does the same with processes that are killed, and looks into the database after each.
"""

from pathlib import Path

import pytest

from tests.crash.points import Server, Story, every_commit, every_point
from tests.crash.stories import LONG_STORIES, SHORT_STORIES


@pytest.fixture
def server(postgres: str, template: str, tmp_path: Path) -> Server:
    return Server(postgres, template, tmp_path)


@pytest.mark.parametrize("story", SHORT_STORIES, ids=lambda story: str(story.name))
async def test_a_death_at_every_round_trip(server: Server, story: Story[object]) -> None:
    counted = await every_point(story, server)
    assert counted.points > counted.moved > 0


@pytest.mark.parametrize("story", LONG_STORIES, ids=lambda story: str(story.name))
async def test_a_death_at_both_sides_of_every_commit(server: Server, story: Story[object]) -> None:
    """Between two of them the database stands still, so that all other deaths are like these."""
    counted = await every_commit(story, server)
    assert counted.points > counted.moved > 0
