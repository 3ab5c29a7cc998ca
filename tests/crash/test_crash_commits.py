"""The market's money flows with a death at both sides of every commit, in-process.

Between two of them the database stands still, so that all other deaths are like these.
"""

import pytest

from tests.crash.points import Server, Story, every_commit
from tests.crash.stories import LONG_STORIES


@pytest.mark.parametrize("story", LONG_STORIES, ids=lambda story: str(story.name))
async def test_a_death_at_both_sides_of_every_commit(server: Server, story: Story[object]) -> None:
    counted = await every_commit(story, server)
    assert counted.points > counted.moved > 0
