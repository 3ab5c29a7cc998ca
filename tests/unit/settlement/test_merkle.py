"""RFC 6962 hashing and proofs: known answers, every proof of small trees, and what must be refused."""

from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from settlement.domain import merkle
from settlement.domain.errors import BadProof

# The reference entries and roots of Certificate Transparency's own tests, for 1 to 8 leaves.
ENTRIES: Final = [
    bytes.fromhex(text)
    for text in (
        "", "00", "10", "2021", "3031", "40414243", "5051525354555657",
        "606162636465666768696a6b6c6d6e6f",
    )
]  # fmt: skip
ROOTS: Final = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
SIZES: Final = 70


def leaves(count: int) -> list[bytes]:
    return [merkle.leaf_hash(b"entry %d" % number) for number in range(count)]


LEAVES: Final = leaves(SIZES)
NODE: Final = merkle.nodes_of(LEAVES)


def roots() -> list[bytes]:
    return [merkle.root_of_leaves(LEAVES[:size]) for size in range(SIZES + 1)]


def naive_root(hashes: list[bytes]) -> bytes:
    """The definition in RFC 6962, section 2.1, as it is written there."""
    if not hashes:
        return merkle.EMPTY_ROOT
    if len(hashes) == 1:
        return hashes[0]
    middle = 1
    while middle * 2 < len(hashes):
        middle *= 2
    return merkle.node_hash(naive_root(hashes[:middle]), naive_root(hashes[middle:]))


@pytest.mark.parametrize("count", range(1, 9))
def test_known_roots(count: int) -> None:
    assert merkle.root(ENTRIES[:count]).hex() == ROOTS[count - 1]


def test_the_empty_tree() -> None:
    assert (
        merkle.root([]).hex() == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    )
    assert merkle.tree_root(NODE, 0) == merkle.EMPTY_ROOT


@given(st.lists(st.binary(max_size=5), max_size=40))
def test_every_way_to_a_root_gives_the_definition(entries: list[bytes]) -> None:
    hashes = [merkle.leaf_hash(entry) for entry in entries]
    frontier = merkle.Frontier()
    for leaf in hashes:
        frontier.append(leaf)
    assert frontier.size == len(entries)
    assert frontier.root() == naive_root(hashes) == merkle.root(entries)
    assert merkle.tree_root(merkle.nodes_of(hashes), len(entries)) == naive_root(hashes)


def test_every_inclusion_proof_holds_for_its_leaf_alone() -> None:
    known = roots()
    for size in range(1, SIZES + 1):
        for index in range(size):
            path = merkle.inclusion(NODE, index=index, size=size)
            merkle.verify_inclusion(
                LEAVES[index], index=index, size=size, path=path, expected_root=known[size]
            )
            for other in {(index + 1) % size, size - 1 - index} - {index}:
                with pytest.raises(BadProof):
                    merkle.verify_inclusion(
                        LEAVES[index], index=other, size=size, path=path, expected_root=known[size]
                    )


@pytest.mark.parametrize("size", [1, 2, 3, 6, 7, 8, 33, 70])
def test_a_changed_inclusion_proof_is_refused(size: int) -> None:
    known = roots()
    index = size // 2
    path = merkle.inclusion(NODE, index=index, size=size)
    wrong: list[tuple[bytes, int, int, list[bytes], bytes]] = [
        (LEAVES[index][::-1], index, size, path, known[size]),
        (LEAVES[index], index, size, path, known[size][::-1]),
        (LEAVES[index], index, size, [*path, bytes(32)], known[size]),
        (LEAVES[index], index, size, [bytes(32), *path], known[size]),
        (LEAVES[index], -1, size, path, known[size]),
        (LEAVES[index], size, size, path, known[size]),
        (LEAVES[index], index, 0, path, known[size]),
        (LEAVES[index], index, size, [bytes(32)] * 64, known[size]),
        (LEAVES[index] + b"\0", index, size, path, known[size]),
    ]
    for place in range(len(path)):
        wrong.append((LEAVES[index], index, size, path[:place] + path[place + 1 :], known[size]))
        flipped = [*path[:place], path[place][::-1], *path[place + 1 :]]
        wrong.append((LEAVES[index], index, size, flipped, known[size]))
        short = [*path[:place], path[place][:31], *path[place + 1 :]]
        wrong.append((LEAVES[index], index, size, short, known[size]))
    for leaf, at, total, hashes, expected in wrong:
        with pytest.raises(BadProof):
            merkle.verify_inclusion(leaf, index=at, size=total, path=hashes, expected_root=expected)


def test_every_consistency_proof_holds_for_its_sizes_alone() -> None:
    known = roots()
    for size in range(SIZES + 1):
        for old in range(size + 1):
            path = merkle.consistency(NODE, old=old, size=size)
            merkle.verify_consistency(
                old=old, old_root=known[old], size=size, root=known[size], path=path
            )
            if 0 < old < size:
                with pytest.raises(BadProof):
                    merkle.verify_consistency(
                        old=old, old_root=known[old - 1], size=size, root=known[size], path=path
                    )
                with pytest.raises(BadProof):
                    merkle.verify_consistency(
                        old=old, old_root=known[old], size=size, root=known[size - 1], path=path
                    )


@pytest.mark.parametrize(("old", "size"), [(1, 2), (2, 3), (3, 7), (4, 8), (6, 8), (33, 70)])
def test_a_changed_consistency_proof_is_refused(old: int, size: int) -> None:
    known = roots()
    path = merkle.consistency(NODE, old=old, size=size)
    wrong = [[], [*path, bytes(32)], [bytes(32), *path], [bytes(32)] * 64, [b"", *path[1:]]]
    for place in range(len(path)):
        wrong.append(path[:place] + path[place + 1 :])
        wrong.append([*path[:place], path[place][::-1], *path[place + 1 :]])
    for hashes in wrong:
        with pytest.raises(BadProof):
            merkle.verify_consistency(
                old=old, old_root=known[old], size=size, root=known[size], path=hashes
            )


@pytest.mark.parametrize(
    ("old", "old_root", "size", "root", "path"),
    [
        (0, merkle.EMPTY_ROOT, 5, roots()[5], [bytes(32)]),  # old size 0 with a proof
        (0, bytes(32), 5, roots()[5], []),  # size 0 with another root
        (0, merkle.EMPTY_ROOT, 0, bytes(32), []),
        (5, roots()[5], 5, roots()[4], []),  # two roots for one size
        (5, roots()[5], 5, roots()[5], [bytes(32)]),
        (5, roots()[5], 4, roots()[4], []),  # the old one is larger
        (-1, roots()[5], 4, roots()[4], []),
        (5, b"", 5, b"", []),
    ],
)
def test_consistency_at_the_borders(
    old: int, old_root: bytes, size: int, root: bytes, path: list[bytes]
) -> None:
    with pytest.raises(BadProof):
        merkle.verify_consistency(old=old, old_root=old_root, size=size, root=root, path=path)


def test_a_path_of_another_length_proves_nothing_even_if_it_leads_to_the_root() -> None:
    first, second, third, fourth = LEAVES[:4]
    pair, other = merkle.node_hash(first, second), merkle.node_hash(third, fourth)
    whole, strange = merkle.node_hash(pair, other), bytes(32)
    long = merkle.node_hash(strange, first)
    for size, path, root in ((2, [], first), (1, [strange], long), (4, [second], pair)):
        with pytest.raises(BadProof, match="too"):
            merkle.verify_inclusion(first, index=0, size=size, path=path, expected_root=root)
    three = merkle.node_hash(pair, third)
    for old, old_root, size, root, path in (
        (1, first, 4, pair, [second]),
        (
            3,
            merkle.node_hash(strange, three),
            4,
            merkle.node_hash(strange, whole),
            [third, fourth, pair, strange],
        ),
    ):
        with pytest.raises(BadProof, match="too"):
            merkle.verify_consistency(old=old, old_root=old_root, size=size, root=root, path=path)


def test_nothing_is_proven_of_leaves_that_are_not_there() -> None:
    for index, size in ((5, 5), (-1, 5), (0, 0)):
        with pytest.raises(BadProof):
            merkle.inclusion(NODE, index=index, size=size)
    for old, size in ((6, 5), (-1, 5)):
        with pytest.raises(BadProof):
            merkle.consistency(NODE, old=old, size=size)


def test_a_leaf_is_never_taken_for_a_node() -> None:
    left, right = LEAVES[:2]
    assert merkle.leaf_hash(left + right) != merkle.node_hash(left, right)
    assert merkle.node_hash(left, right) != merkle.node_hash(right, left)
