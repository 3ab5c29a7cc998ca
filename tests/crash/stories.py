"""All stories in which a process may die."""

from typing import Any, Final

from tests.crash.ledger_story import LedgerStory
from tests.crash.points import Story
from tests.crash.seal_story import SealStory

STORIES: Final[tuple[Story[Any], ...]] = (LedgerStory(), SealStory())

# Its points are those of `ledger` many times over: for the runs that take their time.
LONG_STORIES: Final[tuple[Story[Any], ...]] = (
    *STORIES,
    LedgerStory("ledger-one-by-one", together=False),
)
