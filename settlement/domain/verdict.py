"""What verification concluded: receipts and a policy in, verdict out."""

from enum import StrEnum
from typing import Annotated

import msgspec

from settlement.domain.receipt import Leaf
from settlement.domain.statement import (
    Address,
    Count,
    Digest,
    Identifier,
    Statement,
    TimeMs,
    register,
)


class Conclusion(StrEnum):
    """AGREED: both runs gave the same. DIFFERED: they did not. UNCHECKED: nobody could check."""

    AGREED = "agreed"
    DIFFERED = "differed"
    UNCHECKED = "unchecked"


@register
class Verdict(Statement, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Signed by the market: `receipt` was compared with `checks`, leaf by leaf.

    `differing` counts leaves that differ; `first_differing` is the index of the first, or `tasks`
    when there is none. An UNCHECKED verdict has no checks and says in `reason` why.
    """

    job: Identifier
    receipt: Digest
    checks: list[Digest]
    providers: list[Address]
    comparator: Annotated[str, msgspec.Meta(pattern=r"^bytes$(?!\n)")]
    conclusion: Conclusion
    differing: Count
    first_differing: Count
    reason: Annotated[str, msgspec.Meta(max_length=200)]
    at_ms: TimeMs


def compare(work: list[Leaf], check: list[Leaf]) -> list[int]:
    """Indices of the tasks whose status or output digest differ, by the comparator `bytes`."""
    assert [leaf.index for leaf in work] == [leaf.index for leaf in check]
    return [
        ours.index
        for ours, theirs in zip(work, check, strict=True)
        if (ours.status, ours.output) != (theirs.status, theirs.output)
    ]


def conclude(differing: list[int]) -> Conclusion:
    """AGREED when nothing differs."""
    return Conclusion.DIFFERED if differing else Conclusion.AGREED
