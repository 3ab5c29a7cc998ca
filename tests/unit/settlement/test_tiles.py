"""Tiles: their paths, how they grow whatever the steps, and proofs built out of them."""

import random
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from settlement.domain import merkle, tiles
from settlement.domain.merkle import HASH_BYTES
from settlement.domain.tiles import ENTRIES, Place, Tile

COUNT: Final = 70_000
LEAVES: Final = [number.to_bytes(HASH_BYTES, "big") for number in range(COUNT)]


def grown(*, to: int, steps: list[int]) -> tuple[dict[Place, bytes], bytes]:
    """All tiles and the root of the first leaves, appended step by step over the edge alone."""
    stored: dict[Place, bytes] = {}
    size, root = 0, merkle.EMPTY_ROOT
    while size < to:
        for step in steps:
            batch = LEAVES[size : min(size + step, to)]
            growth = tiles.grow({at: stored[at] for at in tiles.edge(size)}, size, batch)
            for at, data in growth.tiles.items():
                assert data.startswith(stored.get(at, b""))
            stored |= growth.tiles
            size, root = size + len(batch), growth.root
    return stored, root


WHOLE, ROOT = grown(to=COUNT, steps=[COUNT])


@pytest.mark.parametrize(
    ("tile", "path"),
    [
        (Tile(0, 0), "0/000"),
        (Tile(0, 999), "0/999"),
        (Tile(0, 1_000), "0/x001/000"),
        (Tile(3, 1_234_067), "3/x001/x234/067"),
        (Tile(2, 5, 17), "2/005.p/17"),
        (Tile(ENTRIES, 273, 112), "entries/273.p/112"),
        (Tile(ENTRIES, 1_000_000), "entries/x001/x000/000"),
    ],
)
def test_paths(tile: Tile, path: str) -> None:
    assert tiles.path_of(tile) == path
    assert tiles.parse_path(path) == tile


@given(st.integers(ENTRIES, 7), st.integers(0, 10**15), st.integers(1, 256))
def test_paths_come_back(level: int, index: int, width: int) -> None:
    tile = Tile(level, index, width)
    assert tiles.parse_path(tiles.path_of(tile)) == tile


@pytest.mark.parametrize(
    "path",
    [
        "", "0", "0/", "0/0", "0/00", "0/0000", "00/000", "8/000", "-1/000", "0/x000/001", "0/x001",
        "0/x001/x000", "0/001/000", "0/000.p/0", "0/000.p/256", "0/000.p/01", "0/000.p/", "0/000.p",
        "0/000 ", "0/000\n", "/0/000", "0/000/", "0/../000", "entries", "entry/000", "Entries/000",
        "0/\u0660\u0660\u0660", "0/" + "x001/" * 400 + "000", "0/x1000/000",
    ],
)  # fmt: skip
def test_other_paths_name_nothing(path: str) -> None:
    assert tiles.parse_path(path) is None


@given(st.text(max_size=20))
def test_whatever_is_parsed_is_written_the_same(path: str) -> None:
    tile = tiles.parse_path(path)
    assert tile is None or tiles.path_of(tile) == path


def test_size_70_000() -> None:
    widths: dict[int, list[int]] = {}
    for (level, _), data in sorted(WHOLE.items()):
        widths.setdefault(level, []).append(len(data) // HASH_BYTES)
    assert widths == {0: [256] * 273 + [112], 1: [256, 17], 2: [1]}
    assert merkle.root_of_leaves(LEAVES) == ROOT
    assert tiles.edge(COUNT) == [(0, 273), (1, 1), (2, 0)]


def test_size_256_has_a_tile_of_width_1_above() -> None:
    stored, root = grown(to=256, steps=[256])
    assert {at: len(data) for at, data in stored.items()} == {(0, 0): 8_192, (1, 0): 32}
    assert stored[1, 0] == root
    assert tiles.edge(256) == [(1, 0)]


@pytest.mark.parametrize("seed", range(5))
def test_the_steps_leave_no_trace(seed: int) -> None:
    rng = random.Random(seed)
    to = rng.choice([1, 255, 256, 257, 700, 5_000])
    steps = [rng.choice([0, 1, 7, 255, 256, 257, 1_024]) for _ in range(rng.randint(2, 20))] + [1]
    assert grown(to=to, steps=steps) == grown(to=to, steps=[to])


def test_a_partial_tile_is_the_start_of_a_wider_one_and_never_hashed_upwards() -> None:
    before, _ = grown(to=300, steps=[300])
    after, _ = grown(to=511, steps=[511])
    assert after[0, 1].startswith(before[0, 1])
    assert before[1, 0] == after[1, 0]


@pytest.mark.parametrize("size", [1, 2, 255, 256, 257, 300, 65_535, 65_536, 65_537, COUNT])
def test_proofs_from_tiles_hold(size: int) -> None:
    """Also for a tree smaller than the stored tiles, and from the tiles that are named alone."""
    root = merkle.tree_root(tiles.reader(WHOLE), size)
    assert root == merkle.root_of_leaves(LEAVES[:size])
    for index in {0, 1, size // 3, size // 2, size - 1} & set(range(size)):

        def proof(node: merkle.Node, index: int = index) -> list[bytes]:
            return merkle.inclusion(node, index=index, size=size)

        wanted = tiles.needed(proof)
        path = proof(tiles.reader({at: WHOLE[at] for at in wanted}))
        merkle.verify_inclusion(
            LEAVES[index], index=index, size=size, path=path, expected_root=root
        )


@pytest.mark.parametrize(
    ("tile", "size", "covered"),
    [
        (Tile(0, 0, 1), 0, False),
        (Tile(0, 0, 1), 1, True),
        (Tile(0, 0, 3), 2, False),
        (Tile(0, 0), 255, False),
        (Tile(0, 0), 256, True),
        (Tile(0, 0, 100), 256, True),
        (Tile(1, 0, 1), 255, False),
        (Tile(1, 0, 1), 256, True),
        (Tile(ENTRIES, 1, 1), 256, False),
        (Tile(ENTRIES, 1, 1), 257, True),
        (Tile(7, 0, 1), 2**56, True),
    ],
)
def test_what_a_size_covers(tile: Tile, size: int, covered: bool) -> None:
    assert tiles.covered(tile, size) is covered


def test_a_bundle_of_entries() -> None:
    assert tiles.bundle([b"ab", b"", b"c" * 65_535]) == b"\0\2ab\0\0\xff\xff" + b"c" * 65_535
    with pytest.raises(OverflowError):
        tiles.bundle([bytes(65_536)])
