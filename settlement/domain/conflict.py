"""Evidence against a log: two heads that do not fit together, or an entry that breaks a rule.

A split proves itself: both notes carry the log's signature, and the path shows that the second tree
does not begin with the first. Of a difference the file proves which entry is meant and that the log
signed it; that it breaks the rule is for everybody to see by replaying.
"""

import base64
from collections.abc import Sequence
from typing import Annotated, Final, Literal, TypeVar

import msgspec

from settlement.domain import canonical, checkpoint, merkle
from settlement.domain.checkpoint import Checkpoint
from settlement.domain.errors import BadProof, Malformed
from settlement.domain.evidence import Hash
from settlement.domain.statement import Count

CONFLICT_BYTES_MAX: Final = 512 * 1024
TEXT_MAX: Final = 4_096
VERSION: Final = 1

Text = Annotated[str, msgspec.Meta(max_length=TEXT_MAX)]
T = TypeVar("T")
Path = Annotated[list[Hash], msgspec.Meta(max_length=merkle.PROOF_HASHES_MAX)]


class Split(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`root` is that of the second tree's first entries, as many as the first head has.

    `index`, `expected` and `found` say where the two part, as far as it is known ("" if not); they
    help a reader and prove nothing.
    """

    version: Annotated[int, msgspec.Meta(ge=VERSION, le=VERSION)]
    kind: Literal["split"]
    first: str
    second: str
    root: Hash
    proof: Path
    index: Text
    expected: Text
    found: Text


class Difference(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a replay found wrong: the entry, its place under the signed head, the rule it breaks."""

    version: Annotated[int, msgspec.Meta(ge=VERSION, le=VERSION)]
    kind: Literal["difference"]
    note: str
    index: Count
    envelope: str  # base64: an entry need not be text
    proof: Path
    rule: Text
    expected: Text
    found: Text


class Kind(msgspec.Struct, frozen=True):
    """What a file of either kind begins to say."""

    kind: Literal["split", "difference"]


def kind_of(data: bytes) -> str:
    """`split` or `difference`; `BadProof` for what is neither."""
    try:
        return msgspec.json.decode(data, type=Kind).kind
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadProof(f"this is no evidence against a log: {error}") from None


def make_split(
    one: str,
    other: str,
    *,
    root: bytes,
    path: Sequence[bytes],
    index: int | None = None,
    expected: str = "",
    found: str = "",
) -> bytes:
    """The file's bytes; `root` and `path` as in `Split`, of the larger head."""
    first, second = sorted((one, other), key=lambda note: checkpoint.head(note).size)
    return canonical.encode(
        Split(
            version=VERSION,
            kind="split",
            first=first,
            second=second,
            root=_text(root),
            proof=[_text(value) for value in path],
            index="" if index is None else str(index),
            expected=expected[:TEXT_MAX],
            found=found[:TEXT_MAX],
        )
    )


def verify_split(data: bytes, log_key: str) -> tuple[Checkpoint, Checkpoint]:
    """Both heads, if the log's key signed them and they do not fit; `BadProof` otherwise."""
    split = _decode(data, Split)
    first = checkpoint.verify(split.first, log_key)
    second = checkpoint.verify(split.second, log_key)
    if first.size > second.size:
        raise BadProof("the smaller head comes first")
    merkle.verify_consistency(
        old=first.size,
        old_root=_bytes(split.root),
        size=second.size,
        root=second.root,
        path=[_bytes(text) for text in split.proof],
    )
    if _bytes(split.root) == first.root:
        raise BadProof("the second tree begins with the first: this is no split")
    return first, second


def make_difference(
    note: str,
    entry: bytes,
    *,
    index: int,
    path: Sequence[bytes],
    rule: str,
    expected: str,
    found: str,
) -> bytes:
    """The file's bytes."""
    return canonical.encode(
        Difference(
            version=VERSION,
            kind="difference",
            note=note,
            index=index,
            envelope=_text(entry),
            proof=[_text(value) for value in path],
            rule=rule[:TEXT_MAX],
            expected=expected[:TEXT_MAX],
            found=found[:TEXT_MAX],
        )
    )


def verify_difference(data: bytes, log_key: str) -> Difference:
    """What is claimed, if the log's key signed a tree with this entry; replay shows if it is true."""
    difference = _decode(data, Difference)
    head = checkpoint.verify(difference.note, log_key)
    merkle.verify_inclusion(
        merkle.leaf_hash(_bytes(difference.envelope)),
        index=difference.index,
        size=head.size,
        path=[_bytes(text) for text in difference.proof],
        expected_root=head.root,
    )
    return difference


def _decode(data: bytes, kind: type[T]) -> T:
    if len(data) > CONFLICT_BYTES_MAX:
        raise BadProof(f"evidence against a log has at most {CONFLICT_BYTES_MAX} bytes")
    try:
        return canonical.decode(data, kind)
    except Malformed as error:
        raise BadProof(f"the evidence is not in form: {error.detail}") from None


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _bytes(text: str) -> bytes:
    data = checkpoint.unbase64(text)
    if data is None:
        raise BadProof("the evidence holds what is not canonical base64")
    return data
