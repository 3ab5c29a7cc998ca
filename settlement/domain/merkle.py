"""RFC 6962 hashes and proofs over SHA-256: what makes one root stand for a list of entries.

Every proof is built from hashes of complete subtrees, named by (level, index): the node at level l
and index i covers the leaves i · 2^l … (i + 1) · 2^l − 1. `tiles.py` answers such look-ups.
"""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from settlement.domain.errors import BadProof

HASH_BYTES: Final = 32
LEAF_PREFIX: Final = b"\x00"
NODE_PREFIX: Final = b"\x01"
EMPTY_ROOT: Final = hashlib.sha256(b"").digest()
PROOF_HASHES_MAX: Final = 63  # a tree of up to 2^63 leaves

Node = Callable[[int, int], bytes]


def leaf_hash(entry: bytes) -> bytes:
    """The hash of one entry."""
    return hashlib.sha256(LEAF_PREFIX + entry).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """The hash of an inner node; the order of its children counts."""
    return hashlib.sha256(NODE_PREFIX + left + right).digest()


class Frontier:
    """The right edge of a growing tree: enough to append and to know the root, and nothing else."""

    __slots__ = ("_subtrees", "size")

    def __init__(self) -> None:
        self._subtrees: list[tuple[int, bytes]] = []  # (level, hash), largest subtree first
        self.size = 0

    def append(self, leaf: bytes) -> None:
        """Take the hash of the next leaf."""
        level, value = 0, leaf
        while self._subtrees and self._subtrees[-1][0] == level:
            value = node_hash(self._subtrees.pop()[1], value)
            level += 1
        self._subtrees.append((level, value))
        self.size += 1

    def root(self) -> bytes:
        """The root over all leaves so far."""
        if not self._subtrees:
            return EMPTY_ROOT
        value = self._subtrees[-1][1]
        for _, left in reversed(self._subtrees[:-1]):
            value = node_hash(left, value)
        return value


def root_of_leaves(leaves: Iterable[bytes]) -> bytes:
    """The root over leaf hashes."""
    level = list(leaves)
    if not level:
        return EMPTY_ROOT
    while len(level) > 1:
        last = level[len(level) & ~1 :]  # a node without a sibling goes up as it is
        pairs = zip(level[::2], level[1::2], strict=False)
        level = [node_hash(left, right) for left, right in pairs] + last
    return level[0]


def root(entries: Iterable[bytes]) -> bytes:
    """The root over entries."""
    return root_of_leaves(leaf_hash(entry) for entry in entries)


def nodes_of(leaves: Sequence[bytes]) -> Node:
    """Look-ups of complete subtrees over leaf hashes held in memory."""
    levels = [list(leaves)]
    while len(levels[-1]) > 1:
        below = levels[-1]
        levels.append(
            [node_hash(below[at], below[at + 1]) for at in range(0, len(below) - 1, 2)],
        )

    def node(level: int, index: int) -> bytes:
        return levels[level][index]

    return node


def _split(count: int) -> int:
    """The largest power of two below count."""
    return 1 << ((count - 1).bit_length() - 1)


def subtree_root(node: Node, *, first: int, end: int) -> bytes:
    """The root over the leaves first … end − 1, where `first` is aligned as RFC 6962 cuts trees."""
    count = end - first
    assert count > 0
    if count & (count - 1) == 0:
        level = count.bit_length() - 1
        return node(level, first >> level)
    middle = first + _split(count)
    left = subtree_root(node, first=first, end=middle)
    return node_hash(left, subtree_root(node, first=middle, end=end))


def tree_root(node: Node, size: int) -> bytes:
    """The root of the first `size` leaves."""
    return subtree_root(node, first=0, end=size) if size else EMPTY_ROOT


def inclusion(node: Node, *, index: int, size: int) -> list[bytes]:
    """The audit path of one leaf in the tree of the first `size` leaves."""
    if not 0 <= index < size:
        raise BadProof(f"there is no leaf {index} in a tree of {size}")
    path: list[bytes] = []
    first, end = 0, size
    while end - first > 1:
        middle = first + _split(end - first)
        if index < middle:
            path.append(subtree_root(node, first=middle, end=end))
            end = middle
        else:
            path.append(subtree_root(node, first=first, end=middle))
            first = middle
    path.reverse()
    return path


def consistency(node: Node, *, old: int, size: int) -> list[bytes]:
    """The hashes that show the tree of `old` leaves to be the start of the tree of `size`."""
    if not 0 <= old <= size:
        raise BadProof(f"a tree of {size} leaves does not extend one of {old}")
    if old in (0, size):
        return []
    path: list[bytes] = []
    first, end, whole = 0, size, True
    while old != end:
        middle = first + _split(end - first)
        if old <= middle:
            path.append(subtree_root(node, first=middle, end=end))
            end = middle
        else:
            path.append(subtree_root(node, first=first, end=middle))
            first, whole = middle, False
    if not whole:
        path.append(subtree_root(node, first=first, end=end))
    path.reverse()
    return path


def verify_inclusion(
    leaf: bytes, *, index: int, size: int, path: Sequence[bytes], expected_root: bytes
) -> None:
    """`BadProof` unless the leaf hash stands at `index` in the tree with that size and root."""
    if not 0 <= index < size or len(path) > PROOF_HASHES_MAX:
        raise BadProof(f"there is no leaf {index} in a tree of {size}")
    _check_widths([leaf, *path])
    place, last, value = index, size - 1, leaf
    for sibling in path:
        if last == 0:
            raise BadProof("the inclusion path is too long")
        if place & 1 or place == last:
            value = node_hash(sibling, value)
            while place and not place & 1:
                place, last = place >> 1, last >> 1
        else:
            value = node_hash(value, sibling)
        place, last = place >> 1, last >> 1
    if last != 0:
        raise BadProof("the inclusion path is too short")
    if value != expected_root:
        raise BadProof("the inclusion path does not lead to the root")


def verify_consistency(
    *, old: int, old_root: bytes, size: int, root: bytes, path: Sequence[bytes]
) -> None:
    """`BadProof` unless the tree of `old` leaves is the start of the tree of `size` leaves."""
    if not 0 <= old <= size or len(path) > PROOF_HASHES_MAX:
        raise BadProof(f"a tree of {size} leaves does not extend one of {old}")
    _check_widths([old_root, root, *path])
    if old == 0 and old_root != EMPTY_ROOT:
        raise BadProof("this is not the root of the empty tree")
    if old in (0, size):
        if path:
            raise BadProof("no hashes belong to this consistency proof")
        if old == size and old_root != root:
            raise BadProof("two roots for one size")
        return
    hashes = [old_root, *path] if old & (old - 1) == 0 else list(path)
    if not path or _fold_consistency(hashes, old=old, size=size) != (old_root, root):
        raise BadProof("the consistency proof does not lead from the old root to the new one")


def _fold_consistency(hashes: Sequence[bytes], *, old: int, size: int) -> tuple[bytes, bytes]:
    """Both roots that a consistency proof leads to; the first hash is a subtree of both trees."""
    place, last = old - 1, size - 1
    while place & 1:
        place, last = place >> 1, last >> 1
    before = after = hashes[0]
    for sibling in hashes[1:]:
        if last == 0:
            raise BadProof("the consistency proof is too long")
        if place & 1 or place == last:
            before, after = node_hash(sibling, before), node_hash(sibling, after)
            while place and not place & 1:
                place, last = place >> 1, last >> 1
        else:
            after = node_hash(after, sibling)
        place, last = place >> 1, last >> 1
    if last != 0:
        raise BadProof("the consistency proof is too short")
    return before, after


def _check_widths(hashes: Sequence[bytes]) -> None:
    if any(len(value) != HASH_BYTES for value in hashes):
        raise BadProof(f"a hash has {HASH_BYTES} bytes")
