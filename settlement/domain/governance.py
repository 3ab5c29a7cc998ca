"""Statements about the market itself: its charter, its validators, its state, and who takes over."""

from typing import Annotated, Final

import msgspec

from settlement.domain.statement import (
    Address,
    Amount,
    Count,
    Digest,
    Statement,
    TimeMs,
    register,
)  # fmt: skip

MEMBERS_MAX: Final = 64
GRACE_MS_MAX: Final = 30 * 24 * 3_600_000
VERIFIER_KEY_MAX: Final = 300

VerifierKey = Annotated[str, msgspec.Meta(min_length=1, max_length=VERIFIER_KEY_MAX)]


@register
class Charter(Statement, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Signed by the market's ledger key: the log's first entry, and each later change of its terms.

    `operator` may issue tokens; `log_key` is the verifier key that signs checkpoints.
    """

    operator: Annotated[str, msgspec.Meta(pattern=r"^([0-9a-f]{64})?$(?!\n)")]
    log_key: VerifierKey
    fee_basis_points: Annotated[int, msgspec.Meta(ge=0, le=10_000)]
    check_basis_points: Annotated[int, msgspec.Meta(ge=0, le=10_000)]
    hold_ms: Count
    at_ms: TimeMs


@register
class Validators(Statement, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Signed by the market: who cosigns from now on, and how many of them make a checkpoint final.

    In force at once while there is no set, else when `quorum` members of the present one approved.
    """

    members: Annotated[list[VerifierKey], msgspec.Meta(max_length=MEMBERS_MAX)]
    quorum: Annotated[int, msgspec.Meta(ge=0, le=MEMBERS_MAX)]
    at_ms: TimeMs


@register
class Approval(Statement, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Signed by a validator's key: it agrees to that statement (validators, takeover)."""

    validator: Address
    statement: Digest
    at_ms: TimeMs

    def signer(self) -> str:
        return self.validator


@register
class Takeover(Statement, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Signed by the new ledger key: from the final tree of `size` and `root` on, it is the market.

    In force when a quorum of the validators that stood at that size approved it. For `grace_ms`
    from then on, statements of parties that the old market took but never made final may be
    handed in again, though they are no longer fresh.
    """

    size: Count
    root: Digest
    ledger_key: Address
    log_key: VerifierKey
    grace_ms: Annotated[int, msgspec.Meta(ge=0, le=GRACE_MS_MAX)]
    at_ms: TimeMs

    def signer(self) -> str:
        return self.ledger_key


@register
class State(Statement, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Signed by the market: the root over all state lines after the log's first `size` entries.

    `lines` counts them. `batch` and `ledger_ns` say where the ledger stood.
    """

    size: Count
    root: Digest
    lines: Count
    batch: Count
    ledger_ns: Amount
    at_ms: TimeMs


STATE_LAG_MAX: Final = 100_000  # entries between the state that is meant and its statement
