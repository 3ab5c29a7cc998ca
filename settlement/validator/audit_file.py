"""The snapshot file: a replay at a signed head, from which an audit goes on without what came before.

A line of JSON (head, right edge of the tree, digest) and then the replay's own dump. The head proves
which log and how much of it is meant; the replay behind it is as good as whoever made the file. Make
your own, or check the next `state` statement, which no wrong balance survives.
"""

import base64
from typing import Annotated, Final, NamedTuple

import msgspec

from settlement.domain import canonical, merkle
from settlement.domain.errors import BadProof, Malformed
from settlement.domain.evidence import Hash, hash_of
from settlement.domain.replay import Replay
from settlement.validator.tree import Head, SignedTree, open_head

VERSION: Final = 1
Place = tuple[int, int]


class Form(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The first line."""

    version: Annotated[int, msgspec.Meta(ge=VERSION, le=VERSION)]
    note: str
    edge: Annotated[list[Hash], msgspec.Meta(max_length=merkle.PROOF_HASHES_MAX)]
    digest: str  # of all that follows the line


class Snapshot(NamedTuple):
    """A replay that stands exactly at a head, with the subtrees that make up its tree."""

    head: Head
    edge: list[bytes]
    dump: bytes

    def replay(self) -> Replay:
        return Replay.load(self.dump)


def places(size: int) -> list[Place]:
    """The largest complete subtrees of a tree, from the left."""
    found, first = [], 0
    for level in reversed(range(size.bit_length())):
        if size >> level & 1:
            found.append((level, first >> level))
            first += 1 << level
    return found


def root_of(edge: list[bytes]) -> bytes:
    """The root of a tree from its largest complete subtrees."""
    if not edge:
        return merkle.EMPTY_ROOT
    root = edge[-1]
    for left in reversed(edge[:-1]):
        root = merkle.node_hash(left, root)
    return root


async def take(tree: SignedTree, head: Head, replay: Replay) -> Snapshot:
    """The snapshot of a replay that took all entries of the tree."""
    assert replay.size == head.size
    edge = await tree.prove(lambda node: [node(*place) for place in places(head.size)])
    return Snapshot(head, edge, replay.dump())


def encode(snapshot: Snapshot) -> bytes:
    """The file's bytes."""
    form = Form(
        version=VERSION,
        note=snapshot.head.note,
        edge=[base64.b64encode(value).decode() for value in snapshot.edge],
        digest=canonical.digest(snapshot.dump),
    )
    return canonical.encode(form) + b"\n" + snapshot.dump


def decode(data: bytes, log_key: str) -> Snapshot:
    """The snapshot, if the log's key signed its head and all parts fit together; else BadProof."""
    line, _, dump = data.partition(b"\n")
    try:
        form = canonical.decode(line, Form)
    except Malformed as error:
        raise BadProof(f"this is no snapshot of an audit: {error.detail}") from None
    head = open_head(form.note.encode(), log_key)
    edge = [hash_of(text) for text in form.edge]
    if len(edge) != len(places(head.size)) or root_of(edge) != head.root:
        raise BadProof("the snapshot's tree is not the one that its head signs")
    if canonical.digest(dump) != form.digest:
        raise BadProof("the snapshot's replay is not the one that was saved")
    try:
        replay = Replay.load(dump)
    except Malformed as error:
        raise BadProof(f"the snapshot's replay is damaged: {error.detail}") from None
    if (replay.market, replay.size) != (head.checkpoint.origin, head.size):
        raise BadProof("the snapshot's replay does not stand at its head")
    return Snapshot(head, edge, dump)
