"""A verified copy of a log in a folder: its tiles in the static layout, what it signed, how far we are.

Every file is whole or not there. Tiles come first, `state` says which of them count, so a process
that dies anywhere goes on where `state` is; what lies beyond it is written again, the same.
"""

import base64
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import msgspec

from settlement.domain import canonical, merkle, tiles
from settlement.domain.errors import Malformed, MisConfigured
from settlement.domain.merkle import EMPTY_ROOT, HASH_BYTES
from settlement.domain.tiles import ENTRIES, HEIGHT, WIDTH, Place, Tile
from settlement.validator import files
from settlement.validator.source import CHECKPOINT
from settlement.validator.tree import Bundle, Head, SignedTree, first_unequal, own_head

HEAD_FILE: Final = "head"  # the newest note that was found to extend all before it
STATE_FILE: Final = "state"  # how far the copy goes, and what its owner made of it
ANEW: Final = "remove `state` and `tile` there, and leave the rest"  # what was cosigned stays said
PARTIALS_KEPT: Final = 4  # of each tile, for readers of checkpoints that have just been replaced


class State(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The first line of `state`."""

    size: int
    root: str
    extra: str  # digest of what follows the line


class Copy:
    """Tiles always, entries if wanted. `seen` is the newest head that fits all before it."""

    def __init__(self, folder: Path, *, entries: bool) -> None:
        self._folder, self._with_entries = folder, entries
        self.size, self.root = 0, EMPTY_ROOT
        self.seen: Head | None = None
        self.extra = b""  # what the owner stored with the state
        self._outgrown: set[Place] = set()  # places that had a narrow tile

    def load(self) -> None:
        """Go on from the folder; `MisConfigured` if its files do not fit together."""
        note = files.read(self._folder / HEAD_FILE)
        if note is not None:
            self.seen = own_head(note.decode())
        data = files.read(self._folder / STATE_FILE)
        if data is None:
            return
        line, _, self.extra = data.partition(b"\n")
        try:
            state = canonical.decode(line, State)
            self.size, self.root = state.size, base64.b64decode(state.root)
            found = self.root_at(self.size)
        except (Malformed, ValueError) as error:
            raise MisConfigured(f"{self._folder / STATE_FILE}: {error}") from None
        if found != self.root or canonical.digest(self.extra) != state.extra:
            raise MisConfigured(f"the copy in {self._folder} is damaged: {ANEW}")

    def complete(self) -> bool:
        """Whether the copy goes as far as the newest head."""
        return self.seen is not None and self.size == self.seen.size

    def see(self, head: Head) -> None:
        """Remember a head that extends all before it."""
        files.write(self._folder / HEAD_FILE, head.note.encode())
        self.seen = head

    def append(self, bundles: Sequence[Bundle]) -> None:
        """Add the bundles' new entries; nothing counts before `save`."""
        known = self.size - bundles[0].first
        fresh = [leaf for bundle in bundles for leaf in bundle.leaves][known:]
        edge = {place: self._tile(place, self.size) for place in tiles.edge(self.size)}
        self._outgrown |= {*edge, (ENTRIES, self.size // WIDTH)}
        growth = tiles.grow(edge, self.size, fresh)
        for (level, index), data in growth.tiles.items():
            self._write(Tile(level, index, len(data) // HASH_BYTES), data)
        for bundle in bundles if self._with_entries else ():
            tile = Tile(ENTRIES, bundle.first // WIDTH, len(bundle.entries))
            self._write(tile, tiles.bundle(bundle.entries))
        self.size, self.root = self.size + len(fresh), growth.root

    def save(self, extra: bytes = b"") -> None:
        """Make the copy count as far as it goes now, with what its owner made of it."""
        root = base64.b64encode(self.root).decode()
        state = State(self.size, root, canonical.digest(extra))
        files.write(self._folder / STATE_FILE, canonical.encode(state) + b"\n" + extra)
        self._forget_partials()

    def publish(self, head: Head) -> None:
        """Let readers of the folder see the head, whose tiles and entries are all there."""
        assert (self.size, self.root) == (head.size, head.root)
        files.write(self._folder / CHECKPOINT, head.note.encode())

    # ── what the tree says ──────────────────────────────────────────────────────────────────

    def root_at(self, size: int) -> bytes:
        """The root of the first entries."""
        return self._prove(size, lambda node: merkle.tree_root(node, size))

    def consistency(self, old: int) -> list[bytes]:
        """The path that shows what the first `old` entries of the copy are."""
        size = self.size
        found = tiles.needed(lambda node: merkle.consistency(node, old=old, size=size))
        held = {place: self._tile(place, size) for place in found}
        return merkle.consistency(tiles.reader(held), old=old, size=size)

    async def first_difference(self, tree: SignedTree) -> tuple[int, str, str] | None:
        """The first entry that another tree has otherwise: its index, our leaf hash and theirs."""
        size = min(self.size, tree.head.size)
        for level in range(tiles.LEVEL_MAX, -1, -1):
            count = size >> (HEIGHT * level)
            index, width = count // WIDTH, count % WIDTH
            at = await self._apart(tree, (level, index), width) if width else None
            if at is not None:
                return await self._descend(tree, level, index * WIDTH + at)
        return None

    async def _descend(
        self, tree: SignedTree, level: int, position: int
    ) -> tuple[int, str, str] | None:
        while level:
            level -= 1
            at = await self._apart(tree, (level, position), WIDTH)
            if at is None:
                return None
            position = position * WIDTH + at
        begin, place = position % WIDTH * HASH_BYTES, (0, position // WIDTH)
        ours, theirs = self._tile(place, self.size), await tree.tile(place)
        end = begin + HASH_BYTES
        return position, ours[begin:end].hex(), theirs[begin:end].hex()

    async def _apart(self, tree: SignedTree, place: Place, width: int) -> int | None:
        ours, theirs = self._tile(place, self.size), await tree.tile(place)
        bytes_max = width * HASH_BYTES
        return first_unequal(tiles.split(ours[:bytes_max]), tiles.split(theirs[:bytes_max]))

    def _prove(self, size: int, proof: Callable[[merkle.Node], bytes]) -> bytes:
        assert size <= self.size
        held = {place: self._tile(place, self.size) for place in tiles.needed(proof)}
        return proof(tiles.reader(held))

    # ── files ───────────────────────────────────────────────────────────────────────────────

    def _tile(self, place: Place, size: int) -> bytes:
        """A tile of our own, as wide as the tree of that size has it."""
        level, index = place
        width = min(WIDTH, (size >> (HEIGHT * level)) - index * WIDTH)
        path = self._folder / "tile" / tiles.path_of(Tile(level, index, width))
        data = files.read(path)
        if data is None:
            whole = self._folder / "tile" / tiles.path_of(Tile(level, index))
            data = (files.read(whole) or b"")[: width * HASH_BYTES]
        if len(data) != width * HASH_BYTES:
            raise MisConfigured(f"{path} is missing or damaged: {ANEW}")
        return data

    def _write(self, tile: Tile, data: bytes) -> None:
        files.write(self._folder / "tile" / tiles.path_of(tile), data)

    def _forget_partials(self) -> None:
        """Remove narrow tiles that wider ones replace, but for the last few of those in use."""
        for level, index in sorted(self._outgrown):
            width = (self.size >> (HEIGHT * max(level, 0))) - index * WIDTH
            whole = self._folder / "tile" / tiles.path_of(Tile(level, index))
            folder = whole.with_name(f"{whole.name}.p")
            narrower = sorted(held for held in _widths(folder) if held < width)
            kept = 0 if width >= WIDTH else PARTIALS_KEPT
            for held in narrower[: len(narrower) - kept]:
                (folder / str(held)).unlink(missing_ok=True)
            if width >= WIDTH:
                self._outgrown.discard((level, index))


def _widths(folder: Path) -> list[int]:
    if not folder.is_dir():
        return []
    return [int(path.name) for path in folder.iterdir() if path.name.isdecimal()]
