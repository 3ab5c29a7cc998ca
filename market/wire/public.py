"""What the market says about itself on the wire: validators, approvals, cosignatures, exits."""

from typing import Annotated

import msgspec

from settlement.domain.governance import MEMBERS_MAX, VerifierKey
from settlement.domain.statement import Count, Digest, TimeMs


class SetValidators(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Who shall cosign (verifier keys of type 04), and how many of them make a checkpoint final."""

    members: Annotated[list[VerifierKey], msgspec.Meta(max_length=MEMBERS_MAX)]
    quorum: Annotated[int, msgspec.Meta(ge=0, le=MEMBERS_MAX)]


class Approve(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A validator's signed approval (envelope)."""

    approval: bytes


class ProposalView(msgspec.Struct, frozen=True, kw_only=True):
    """A set that was proposed, and whose keys approved it."""

    digest: Digest
    members: list[str]
    quorum: Count
    approvals: list[str]
    state: str
    at_ms: TimeMs


class ValidatorsView(msgspec.Struct, frozen=True, kw_only=True):
    """The set that stands in the log, the sizes it reached, and what is proposed."""

    members: list[str]
    quorum: Count
    final_size: Count  # of the newest checkpoint that is final; 0 for none
    proposals: list[ProposalView]


class Cosigned(msgspec.Struct, frozen=True, kw_only=True):
    """How many valid lines a note brought, and whether its checkpoint is final by now."""

    size: Count
    taken: Count
    final: bool


class ExitQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`final`: prove against a checkpoint that a quorum cosigned; `wait_ms` for one that covers it."""

    final: bool = False
    wait_ms: Annotated[int, msgspec.Meta(ge=0, le=30_000)] = 10_000


class FinalQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`final`: only what a quorum of the validators cosigned."""

    final: bool = False


class EvidenceQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`wait_ms`: how long to wait for a checkpoint that covers it; `final`: for one that is final."""

    wait_ms: Annotated[int, msgspec.Meta(ge=0, le=30_000)] = 5_000
    final: bool = False
