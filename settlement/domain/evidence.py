"""The evidence file: a statement with its place in the log, checkable by the log's key alone.

Every byte counts: the file is canonical JSON, and whatever is not bound by a signature is bound by
the path to the signed root.
"""

import base64
from typing import Annotated, Final

import msgspec

from settlement.domain import canonical, checkpoint, merkle
from settlement.domain.errors import BadProof, Malformed
from settlement.domain.receipt import TASKS_MAX, Leaf, Receipt, tasks_root
from settlement.domain.statement import Count, Opened, open_any

EVIDENCE_BYTES_MAX: Final = 32 * 1024 * 1024  # the leaves of a whole chunk
HASH_CHARACTERS: Final = 44  # of 32 bytes in base64

Hash = Annotated[str, msgspec.Meta(min_length=HASH_CHARACTERS, max_length=HASH_CHARACTERS)]


class Evidence(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`leaves` is empty unless the tasks of a receipt are wanted too."""

    version: Annotated[int, msgspec.Meta(ge=1, le=1)]
    envelope: str
    index: Count
    proof: Annotated[list[Hash], msgspec.Meta(max_length=merkle.PROOF_HASHES_MAX)]
    checkpoint: str
    leaves: Annotated[list[Leaf], msgspec.Meta(max_length=TASKS_MAX)]


def make(
    *, envelope: bytes, index: int, path: list[bytes], note: str, leaves: list[Leaf] | None = None
) -> bytes:
    """The file's bytes."""
    return canonical.encode(
        Evidence(
            version=1,
            envelope=envelope.decode(),
            index=index,
            proof=[base64.b64encode(value).decode() for value in path],
            checkpoint=note,
            leaves=leaves or [],
        )
    )


def verify(data: bytes, log_key: str) -> Opened:
    """The statement, if the log's key signed a tree that holds it; the key's name is the market.

    BadCheckpoint, BadProof, BadStatement, BadSignature or WrongMarket otherwise.
    """
    if len(data) > EVIDENCE_BYTES_MAX:
        raise BadProof(f"an evidence file has at most {EVIDENCE_BYTES_MAX} bytes")
    try:
        evidence = canonical.decode(data, Evidence)
    except Malformed as error:
        raise BadProof(f"the evidence file is not in form: {error.detail}") from None
    head = checkpoint.verify(evidence.checkpoint, log_key)
    envelope = evidence.envelope.encode()
    merkle.verify_inclusion(
        merkle.leaf_hash(envelope),
        index=evidence.index,
        size=head.size,
        path=[hash_of(text) for text in evidence.proof],
        expected_root=head.root,
    )
    opened = open_any(envelope, market=head.origin)
    _check_leaves(evidence.leaves, opened)
    return opened


def _check_leaves(leaves: list[Leaf], opened: Opened) -> None:
    if not leaves:
        return
    if not isinstance(opened.statement, Receipt):
        raise BadProof("only a receipt has tasks")
    if tasks_root(leaves) != opened.statement.tasks_root:
        raise BadProof("the tasks are not those of the receipt")


def hash_of(text: str) -> bytes:
    """The bytes behind canonical base64."""
    try:
        value = base64.b64decode(text, validate=True)
    except ValueError:
        raise BadProof("a hash is not base64") from None
    if base64.b64encode(value).decode() != text:
        raise BadProof("the base64 of a hash is not canonical")
    return value
