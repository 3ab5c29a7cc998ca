"""Standing folded from verdicts: a Beta posterior in exact fractions; nothing a party says of itself."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from fractions import Fraction

from settlement.domain.verdict import Conclusion, Verdict


@dataclass(frozen=True, slots=True)
class Standing:
    """Checked receipts that agreed and that differed."""

    agreed: int = 0
    differed: int = 0

    @property
    def mean(self) -> Fraction:
        """Mean of Beta(agreed + 1, differed + 1): a newcomer starts at one half."""
        return Fraction(self.agreed + 1, self.agreed + self.differed + 2)


def fold(standings: dict[str, Standing], verdicts: Iterable[Verdict]) -> dict[str, Standing]:
    """Standings after more verdicts, by provider. UNCHECKED says nothing about anybody.

    `providers` of a verdict names the checked provider first. Two runs that differ do not tell who
    was wrong; until referees exist the checked one carries it, the checker gains only by agreeing.
    """
    result = dict(standings)
    for verdict in verdicts:
        checked, *checkers = verdict.providers
        now = result.get(checked, Standing())
        if verdict.conclusion is Conclusion.AGREED:
            result[checked] = replace(now, agreed=now.agreed + 1)
            for checker in checkers:
                standing = result.get(checker, Standing())
                result[checker] = replace(standing, agreed=standing.agreed + 1)
        elif verdict.conclusion is Conclusion.DIFFERED:
            result[checked] = replace(now, differed=now.differed + 1)
    return result
