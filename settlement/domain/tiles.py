"""Tiles as C2SP tlog-tiles cuts a tree: their paths, how they grow, and proofs out of them.

A tile of level L holds up to 256 hashes of nodes of level 8 · L; inner levels are computed. What is
stored is each tile as wide as it is so far, since a narrower one is the start of a wider one.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, TypeVar

from settlement.domain import merkle
from settlement.domain.merkle import HASH_BYTES

HEIGHT: Final = 8
WIDTH: Final = 1 << HEIGHT
TILE_BYTES: Final = WIDTH * HASH_BYTES
ENTRIES: Final = -1  # the level that stands for entry bundles, which are as wide as level 0
LEVEL_MAX: Final = 7  # of a tree below 2^63 leaves
_GROUP: Final = 1_000
_PATH: Final = re.compile(
    r"(entries|[0-9])/((?:x[0-9]{3}/){0,6}[0-9]{3})(?:\.p/([1-9][0-9]{0,2}))?\Z", re.ASCII
)

Place = tuple[int, int]
"""A tile's level and index."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Tile:
    """Which tile, and how wide: 256 for a full one."""

    level: int
    index: int
    width: int = WIDTH


class Growth(NamedTuple):
    """What more leaves made: every tile that changed, whole, and the new root."""

    tiles: dict[Place, bytes]
    root: bytes


# ── paths ───────────────────────────────────────────────────────────────────────────────────


def path_of(tile: Tile) -> str:
    """The path below `tile/`: the index in groups of three digits, all but the last with `x`."""
    rest, group = divmod(tile.index, _GROUP)
    groups = [f"{group:03d}"]
    while rest:
        rest, group = divmod(rest, _GROUP)
        groups.append(f"x{group:03d}")
    level = "entries" if tile.level == ENTRIES else str(tile.level)
    partial = "" if tile.width == WIDTH else f".p/{tile.width}"
    return f"{level}/{'/'.join(reversed(groups))}{partial}"


def parse_path(path: str) -> Tile | None:
    """The strict inverse of `path_of`."""
    matched = _PATH.match(path)
    if matched is None:
        return None
    level = ENTRIES if matched[1] == "entries" else int(matched[1])
    index = int(matched[2].replace("x", "").replace("/", ""))
    tile = Tile(level, index, int(matched[3]) if matched[3] else WIDTH)
    return tile if path_of(tile) == path and level <= LEVEL_MAX else None


def covered(tile: Tile, size: int) -> bool:
    """Whether the tile, as wide as it is asked for, is part of the tree of that size."""
    level = max(tile.level, 0)
    return tile.index * WIDTH + tile.width <= size >> (HEIGHT * level)


def bundle(entries: Iterable[bytes]) -> bytes:
    """An entry bundle: each entry after its length in two bytes."""
    return b"".join(len(entry).to_bytes(2, "big") + entry for entry in entries)


# ── growth ──────────────────────────────────────────────────────────────────────────────────


def edge(size: int) -> list[Place]:
    """The tiles on the right edge that are not full: all that a tree needs in order to grow."""
    return [
        (level, size >> (HEIGHT * (level + 1)))
        for level in range(LEVEL_MAX + 1)
        if (size >> (HEIGHT * level)) % WIDTH
    ]


def grow(stored: Mapping[Place, bytes], size: int, leaves: Sequence[bytes]) -> Growth:
    """Append leaf hashes to the tree of that size, whose right edge is given."""
    changed: dict[Place, bytes] = {}
    added = list(leaves)
    for level in range(LEVEL_MAX + 1):
        if not added:
            break
        begin = size >> (HEIGHT * level)
        added = _grow_level(stored, changed, level, begin, added)
    total = size + len(leaves)
    return Growth(changed, merkle.tree_root(reader({**stored, **changed}), total))


def _grow_level(
    stored: Mapping[Place, bytes],
    changed: dict[Place, bytes],
    level: int,
    begin: int,
    added: Sequence[bytes],
) -> list[bytes]:
    """Hashes from position `begin` on; the roots of tiles that became full belong one level up."""
    index, held = divmod(begin, WIDTH)
    data = stored[level, index][: held * HASH_BYTES] if held else b""
    data += b"".join(added)
    upwards: list[bytes] = []
    for at in range(0, len(data), TILE_BYTES):
        piece = changed[level, index] = data[at : at + TILE_BYTES]
        if len(piece) == TILE_BYTES:
            upwards.append(merkle.root_of_leaves(split(piece)))
        index += 1
    return upwards


# ── look-ups ────────────────────────────────────────────────────────────────────────────────


def split(data: bytes) -> list[bytes]:
    """A tile's hashes."""
    return [data[at : at + HASH_BYTES] for at in range(0, len(data), HASH_BYTES)]


def reader(stored: Mapping[Place, bytes]) -> merkle.Node:
    """Look-ups of complete subtrees in tiles at hand."""

    def node(level: int, index: int) -> bytes:
        tile_level, inner = divmod(level, HEIGHT)
        first = index << inner
        begin = first % WIDTH * HASH_BYTES
        data = stored[tile_level, first // WIDTH][begin : begin + (HASH_BYTES << inner)]
        assert len(data) == HASH_BYTES << inner
        return merkle.root_of_leaves(split(data))

    return node


def needed(proof: Callable[[merkle.Node], T]) -> set[Place]:
    """The tiles that a proof will look into, found by making it over nothing."""
    places: set[Place] = set()

    def node(level: int, index: int) -> bytes:
        tile_level, inner = divmod(level, HEIGHT)
        places.add((tile_level, (index << inner) // WIDTH))
        return bytes(HASH_BYTES)

    proof(node)
    return places
