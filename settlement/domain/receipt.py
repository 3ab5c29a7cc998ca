"""What a provider claims for one attempt at one chunk, signed: the receipt, and its leaves."""

from typing import Annotated, Final

import msgspec

from settlement.domain import canonical, merkle
from settlement.domain.statement import (
    Address,
    Amount,
    Count,
    Digest,
    Identifier,
    Name,
    Nonce,
    Statement,
    TimeMs,
    register,
)  # fmt: skip

TASKS_MAX: Final = 100_000  # tasks of one chunk
STATUS_OK: Final = "ok"


class Environment(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the chunk ran in: manifest digest, class within which results compare, seed."""

    digest: Digest
    equivalence: Name
    seed: Count


class Usage(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What was metered. Only `wall_ms` is billed; the rest is evidence (DESIGN.md 3)."""

    cpu_ms: Count
    gpu_ms: Count
    memory_mib_s: Count
    network_bytes: Count
    wall_ms: Count


class Price(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The provider's claim; the market computes the charge itself and refuses a higher claim."""

    amount: Amount
    ledger: Annotated[int, msgspec.Meta(ge=1, le=2**31 - 1)]


class Leaf(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One task of a receipt: `[index, input digest, output digest, status]`."""

    index: Count
    input: Digest
    output: Digest
    status: Annotated[str, msgspec.Meta(pattern=r"^[a-z_]{1,32}$(?!\n)")]


@register
class Receipt(Statement, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Signed by the provider. `protection` says which sandbox class held the code; `purpose` is
    `work` or `check`. Digests refer to statements (`lease`, `order`) and manifests.
    """

    lease: Digest
    order: Digest
    job: Identifier
    spec: Digest
    attempt: Identifier
    purpose: Annotated[str, msgspec.Meta(pattern=r"^(work|check)$(?!\n)")]
    provider: Address
    consumer: Address
    first: Count
    tasks: Annotated[int, msgspec.Meta(ge=1, le=TASKS_MAX)]
    tasks_root: Digest
    inputs: Digest
    outputs: Digest
    env: Environment
    protection: Annotated[str, msgspec.Meta(pattern=r"^(W|S|G|R|L|none)$(?!\n)")]
    started_ms: TimeMs
    finished_ms: TimeMs
    status: Annotated[str, msgspec.Meta(pattern=r"^(ok|failed)$(?!\n)")]
    usage: Usage
    price: Price
    nonce: Nonce

    def signer(self) -> str:
        return self.provider


def tasks_root(leaves: list[Leaf]) -> str:
    """RFC 6962 root over one leaf per task in index order."""
    return canonical.digest_text(merkle.root([canonical.encode(leaf) for leaf in leaves]))


def inputs_digest(leaves: list[Leaf]) -> str:
    """Digest of the manifest of inputs: the canonical list of their digests."""
    return canonical.digest(canonical.encode([leaf.input for leaf in leaves]))


def outputs_digest(leaves: list[Leaf]) -> str:
    """Digest of the manifest of outputs: the canonical list of the leaves."""
    return canonical.digest(canonical.encode(leaves))
