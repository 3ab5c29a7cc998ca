"""The tree under one signed head, as a source serves it: nothing is used before the root vouches for it.

Memory stays flat: the right edge, a few inner tiles, and the bundles that are being read.
"""

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, TypeVar

from settlement.domain import checkpoint, merkle, tiles
from settlement.domain.checkpoint import Checkpoint
from settlement.domain.errors import BadCheckpoint, BadLog, GridpactError, Unreachable
from settlement.domain.merkle import HASH_BYTES
from settlement.domain.tiles import ENTRIES, HEIGHT, WIDTH, Place, Tile
from settlement.validator.source import CHECKPOINT, LENGTH_BYTES, Source

BUNDLES_AHEAD: Final = 12  # fetched at once
TILES_KEPT: Final = 64

T = TypeVar("T")


class Head(NamedTuple):
    """A checkpoint whose signature holds, and the note it came in."""

    checkpoint: Checkpoint
    note: str

    @property
    def size(self) -> int:
        return self.checkpoint.size

    @property
    def root(self) -> bytes:
        return self.checkpoint.root


def open_head(data: bytes, log_key: str) -> Head:
    """The head in a note's bytes; `BadCheckpoint` if the log's key did not sign it."""
    try:
        note = data.decode()
    except UnicodeDecodeError:
        raise BadCheckpoint("a checkpoint is UTF-8 text") from None
    return Head(checkpoint.verify(note, log_key), note)


def own_head(note: str) -> Head:
    """The head of a note that we checked and stored; its log may have another key by now."""
    return Head(checkpoint.head(note), note)


async def read_head(source: Source, log_key: str) -> Head:
    """The newest head that the source shows."""
    data = await source.fetch(CHECKPOINT)
    if data is None:
        raise Unreachable(f"{source.name} shows no checkpoint")
    return open_head(data, log_key)


@dataclass(frozen=True, slots=True)
class Bundle:
    """Entries from `first` on, each of which the root vouches for, and their leaf hashes."""

    first: int
    entries: list[bytes]
    leaves: list[bytes]


def first_unequal(one: Sequence[bytes], other: Sequence[bytes]) -> int | None:
    """Where two lists of hashes part; None if the shorter is the start of the longer."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((at for at, (left, right) in pairs if left != right), None)


def parse_bundle(data: bytes) -> list[bytes] | None:
    """The entries of a bundle; None if its lengths do not add up."""
    entries, at = [], 0
    while at < len(data):
        begin = at + LENGTH_BYTES
        at = begin + int.from_bytes(data[at:begin], "big")
        if begin > len(data) or at > len(data):
            return None
        entries.append(data[begin:at])
    return entries


class SignedTree:
    """Tiles and entries below one head; open it before anything else."""

    def __init__(self, source: Source, head: Checkpoint) -> None:
        self._source, self.head = source, head
        self._edge: dict[Place, bytes] = {}
        self._kept: OrderedDict[Place, bytes] = OrderedDict()

    async def open(self) -> None:
        """Read the right edge; `BadLog` names the file if it does not lead to the signed root."""
        for level, index in tiles.edge(self.head.size):
            self._edge[level, index] = await self._fetch(level, index)
        if merkle.tree_root(tiles.reader(self._edge), self.head.size) != self.head.root:
            raise await self._blame_edge()

    async def tile(self, place: Place) -> bytes:
        """A tile as wide as it is under this head; `BadLog` if its parent does not vouch for it."""
        known = self._edge.get(place) or self._kept.get(place)
        if known is not None:
            return known
        data, wanted = await self._fetch(*place), await self._parent(place)
        if merkle.root_of_leaves(tiles.split(data)) != wanted:
            raise await self._blame_tile(place, data)
        self._kept[place] = data
        if len(self._kept) > TILES_KEPT:
            self._kept.popitem(last=False)
        return data

    async def prove(self, proof: Callable[[merkle.Node], T]) -> T:
        """What a function makes of hashes of subtrees of this tree."""
        found = {place: await self.tile(place) for place in sorted(tiles.needed(proof))}
        return proof(tiles.reader(found))

    async def root_at(self, size: int) -> bytes:
        """The root of this tree's first entries."""
        return await self.prove(lambda node: merkle.tree_root(node, size))

    async def consistency(self, old: int) -> list[bytes]:
        """The path that shows what this tree's first `old` entries are."""
        return await self.prove(lambda node: merkle.consistency(node, old=old, size=self.head.size))

    async def inclusion(self, index: int) -> list[bytes]:
        """The path of one entry."""
        return await self.prove(
            lambda node: merkle.inclusion(node, index=index, size=self.head.size)
        )

    async def batches(self, first: int) -> AsyncIterator[list[Bundle]]:
        """Whole bundles from the one with entry `first` on, a few at a time."""
        last = -(-self.head.size // WIDTH)
        for begin in range(first // WIDTH, last, BUNDLES_AHEAD):
            numbers = range(begin, min(begin + BUNDLES_AHEAD, last))
            for number in {numbers[0], numbers[-1]}:  # so that no two tasks fetch one parent
                if (number + 1) * WIDTH <= self.head.size:
                    await self._parent((0, number))
            yield await self._batch(numbers)

    async def _batch(self, numbers: range) -> list[Bundle]:
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self._bundle(number)) for number in numbers]
        except ExceptionGroup as errors:
            named = [error for error in errors.exceptions if isinstance(error, GridpactError)]
            if not named:
                raise
            raise min(named, key=lambda error: getattr(error, "index", -1)) from None
        return [task.result() for task in tasks]

    async def _bundle(self, number: int) -> Bundle:
        """One bundle whose every entry is what the root says."""
        place = (0, number)
        entries = await self._entries(number)
        leaves = [merkle.leaf_hash(entry) for entry in entries]
        held = self._edge.get(place)
        shown = held if held is not None else await self._fetch(*place)
        apart = first_unequal(tiles.split(shown), leaves)
        if held is None:
            wanted = await self._parent(place)
            sound = merkle.root_of_leaves(leaves) == wanted
            if sound and apart is not None:
                raise self._wrong(place, apart, found=shown, expected=b"".join(leaves))
            if not sound and merkle.root_of_leaves(tiles.split(shown)) != wanted:
                raise self._wrong(place, apart or 0, found=shown, expected=b"".join(leaves))
        if apart is not None:
            raise self._wrong((ENTRIES, number), apart, found=b"".join(leaves), expected=shown)
        return Bundle(number * WIDTH, entries, leaves)

    # ── files ───────────────────────────────────────────────────────────────────────────────

    def _width(self, level: int, index: int) -> int:
        return min(WIDTH, (self.head.size >> (HEIGHT * max(level, 0))) - index * WIDTH)

    def _path(self, place: Place) -> str:
        return "tile/" + tiles.path_of(Tile(*place, self._width(*place)))

    async def _fetch(self, level: int, index: int) -> bytes:
        """A tile as served, as wide as this head wants it."""
        width, path = self._width(level, index), self._path((level, index))
        data = await self._source.fetch(path)
        if data is None and width < WIDTH:  # it became full since
            whole = "tile/" + tiles.path_of(Tile(level, index))
            data = (await self._source.fetch(whole) or b"")[: width * HASH_BYTES] or None
        if data is None:
            raise BadLog(f"{path} is missing", path=path, index=self._first(level, index))
        if len(data) != width * HASH_BYTES:
            raise BadLog(
                f"{path} has {len(data)} bytes, not {width * HASH_BYTES}",
                path=path,
                index=self._first(level, index),
            )
        return data

    async def _entries(self, number: int) -> list[bytes]:
        """A bundle as served, with as many entries as this head wants."""
        width, path = self._width(ENTRIES, number), self._path((ENTRIES, number))
        data = await self._source.fetch(path)
        entries = parse_bundle(data) if data is not None else []
        if data is None and width < WIDTH:
            data = await self._source.fetch("tile/" + tiles.path_of(Tile(ENTRIES, number)))
            entries = parse_bundle(data) if data is not None else []
            entries = entries[:width] if entries else entries
        if data is None:
            raise BadLog(f"{path} is missing", path=path, index=number * WIDTH)
        if entries is None or len(entries) != width:
            raise BadLog(f"{path} does not hold {width} entries", path=path, index=number * WIDTH)
        return entries

    async def _parent(self, place: Place) -> bytes:
        """What the tile above says of a full tile."""
        level, index = place
        above = await self.tile((level + 1, index // WIDTH))
        begin = index % WIDTH * HASH_BYTES
        return above[begin : begin + HASH_BYTES]

    # ── who is wrong ────────────────────────────────────────────────────────────────────────

    @staticmethod
    def _first(level: int, position: int) -> int:
        """The first entry under a tile."""
        return (position * WIDTH) << (HEIGHT * max(level, 0))

    def _wrong(self, place: Place, at: int, *, found: bytes, expected: bytes) -> BadLog:
        level, index = place
        entry = (index * WIDTH + at) << (HEIGHT * max(level, 0))
        begin = at * HASH_BYTES
        wanted = expected[begin : begin + HASH_BYTES].hex()
        shown = found[begin : begin + HASH_BYTES].hex()
        path = self._path(place)
        what = f"entry {entry}" if level <= 0 else f"the hash over the entries from {entry} on"
        return BadLog(
            f"{path}: {what} should hash to {wanted}, and has {shown}",
            path=path,
            index=entry,
            expected=wanted,
            found=shown,
        )

    async def _from_below(self, place: Place) -> bytes:
        """What a tile should be, by the tiles or entries under it."""
        level, index = place
        if level == 0:
            return b"".join(merkle.leaf_hash(entry) for entry in await self._entries(index))
        below = range(index * WIDTH, index * WIDTH + self._width(level, index))
        served = [await self._fetch(level - 1, number) for number in below]
        return b"".join(merkle.root_of_leaves(tiles.split(data)) for data in served)

    async def _blame_tile(self, place: Place, data: bytes) -> BadLog:
        """Name the first place of a tile that does not fit what is under it."""
        try:
            below = await self._from_below(place)
        except GridpactError:
            below = b""
        at = first_unequal(tiles.split(data), tiles.split(below)) or 0
        return self._wrong(place, at, found=data, expected=below)

    async def _blame_edge(self) -> BadLog:
        """Name the tile of the right edge whose correction leads to the signed root."""
        edge, wrong = dict(self._edge), []
        for place in sorted(edge):
            try:
                below = await self._from_below(place)
            except GridpactError:
                continue
            at = first_unequal(tiles.split(edge[place]), tiles.split(below))
            if at is None:
                continue
            wrong.append(self._wrong(place, at, found=edge[place], expected=below))
            edge[place] = below
        if wrong and merkle.tree_root(tiles.reader(edge), self.head.size) == self.head.root:
            return wrong[0]
        return BadLog(
            f"the signed root of {self.head.size} entries is not the root of what is served",
            path=CHECKPOINT,
        )
