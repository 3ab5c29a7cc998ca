"""What this daemon has done since it was started, and what it has earned today, by its own receipts."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from compute.domain.holding import Answer, Event, Failed, Finished
from market.wire.control import Done, Settled
from settlement.domain import amount, statement
from settlement.domain.errors import GridpactError
from settlement.domain.receipt import Receipt

DAY_MS: Final = 86_400_000
REJECTED: Final = "rejected"


@dataclass
class Tally:
    """Counters. What was earned is the sum of the claims that the market took, before its fee."""

    market: str
    chunks: int = 0
    tasks: int = 0
    lost: int = 0
    rejected: int = 0
    earned_microcredits: int = 0
    _today: int = 0
    _today_microcredits: int = 0

    def take(self, event: Event, answers: Mapping[str, Answer], now_ms: int) -> None:
        """Count an event; `answers` are those that were unacknowledged before it."""
        match event:
            case Finished():
                self.chunks += 1
                self.tasks += len(event.done.leaves)
            case Failed():
                self.lost += 1
            case Settled():
                answer = answers.get(event.attempt)
                if answer is not None and isinstance(answer.frame, Done):
                    self._settle(event, answer.frame, now_ms)
            case _:
                pass

    def today_microcredits(self, now_ms: int) -> int:
        """Earned since midnight UTC."""
        return self._today_microcredits if self._today == now_ms // DAY_MS else 0

    def _settle(self, settled: Settled, done: Done, now_ms: int) -> None:
        if settled.state == REJECTED:
            self.rejected += 1
            return
        try:
            receipt, _ = statement.open_envelope(done.receipt, Receipt, market=self.market)
            claim = amount.from_text(receipt.price.amount)
        except GridpactError:  # a receipt of an older form, out of the journal
            return
        self._today_microcredits = self.today_microcredits(now_ms) + claim
        self._today = now_ms // DAY_MS
        self.earned_microcredits += claim
