"""All stories in which a process may die."""

from typing import Any, Final

from tests.crash import market_stories
from tests.crash.ledger_story import LedgerStory
from tests.crash.points import Story
from tests.crash.seal_story import SealStory

# Every round trip of these fits into `make test`; of the long ones only what surrounds a commit.
SHORT_STORIES: Final[tuple[Story[Any], ...]] = (LedgerStory(), SealStory())
LONG_STORIES: Final[tuple[Story[Any], ...]] = market_stories.STORIES
STORIES: Final = (
    *SHORT_STORIES,
    *LONG_STORIES,
    LedgerStory("ledger-one-by-one", together=False),
)
