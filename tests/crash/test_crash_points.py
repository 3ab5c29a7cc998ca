"""Whatever dies at whichever round trip: nothing acknowledged is lost, nothing is done twice.

Death is in-process here: all connections are cut, engine and pool are thrown away. `make test-crash`
does the same to every story with processes that are killed, and looks into the database after each.
"""

import pytest

from tests.crash.points import Server, Story, every_point
from tests.crash.stories import SHORT_STORIES


@pytest.mark.parametrize("story", SHORT_STORIES, ids=lambda story: str(story.name))
async def test_a_death_at_every_round_trip(server: Server, story: Story[object]) -> None:
    counted = await every_point(story, server)
    assert counted.points > counted.moved > 0
