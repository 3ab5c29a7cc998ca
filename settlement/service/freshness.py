"""How old a statement may be when it is logged: decided at the commit, where nothing can come between."""

from dataclasses import dataclass
from typing import Final

from settlement.domain.world import FRESH_MS
from settlement.service.item import Item, Outcome, Status

AGE_MS_MAX: Final = FRESH_MS - 120_000  # what a replay would refuse is never logged
GUARD: Final = "fresh"
_NS_PER_MS: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class Freshness:
    """Without a limit (0) everything may be logged. A takeover gives a time of grace.

    Whoever checked a time when a request began may have slept since, or have another clock than the
    rest; a statement that is logged too late would spoil the log for every replay.
    """

    age_ms: int = 0
    grace_from_ms: int = 0
    grace_until_ms: int = 0

    def refused(self, item: Item, at_ns: int) -> Outcome | None:
        """STALE, if a statement of the item is older than it may be at that ledger time."""
        if not self.age_ms:
            return None
        now_ms = at_ns // _NS_PER_MS
        least_ms = now_ms - self.age_ms
        if now_ms <= self.grace_until_ms - self.age_ms:
            least_ms = min(least_ms, self.grace_from_ms)
        for opened in item.statements:
            if getattr(opened.statement, "at_ms", now_ms) < least_ms:
                return Outcome(Status.STALE, guard=GUARD)
        return None
