"""The log's public face: seal what was committed, and answer with proofs, checkpoints and tiles.

The sealer is one follower off the commit path. It may die anywhere: tiles and checkpoint are one
transaction, and a root depends on nothing but the entries, so that no size ever gets two of them.
"""

import asyncio
import time
from typing import Any, Final, Protocol

from settlement.domain import canonical, merkle, tiles
from settlement.domain import checkpoint as checkpoints
from settlement.domain import evidence as files
from settlement.domain.checkpoint import Checkpoint
from settlement.domain.errors import BadCheckpoint, MisConfigured, Unavailable, Unknown
from settlement.domain.identity import PrivateKey
from settlement.domain.tiles import ENTRIES
from settlement.service import finality
from settlement.store import log as store
from settlement.store.database import Database, driver

INTERVAL_SECONDS: Final = 0.25  # between two checkpoints while little arrives
LEAVES_MAX: Final = 1_024  # sealed at once, and as soon as so many wait
POLL_SECONDS: Final = 0.05
PAUSE_SECONDS: Final = 1.0  # when the database is away
OLD_BACKUP: Final = (
    "this database has {there} log entries, but a tree of {signed} was signed: it was restored from an"
    " older backup, or is another one. Restore the newest, or take over from a mirror"
)
OTHER_HISTORY: Final = (
    "another tree of {size} entries was signed before: this database has another history"
)


class Mark(Protocol):
    """The largest head that the log's key ever signed, kept outside of the database."""

    def read(self) -> Checkpoint | None: ...

    def write(self, head: Checkpoint) -> None: ...


class Sealer:
    """Extends the tree over what was committed since and signs its head.

    Two at once do no harm: a lock of the database orders their rounds. With a mark, or told by
    `expect` what others saw, it signs nothing beside that: a database restored from an older backup
    would give the log a second history.
    """

    def __init__(
        self, database: Database, key: PrivateKey, *, origin: str, mark: Mark | None = None
    ) -> None:
        self._database, self._key, self._origin = database, key, origin
        self._mark = mark
        self._floor = mark.read() if mark is not None else None
        self._log_key = checkpoints.verifier_key(origin, key)
        self.failures = 0  # rounds that the database refused or lost

    async def run(self) -> None:
        """Seal for ever; while the database is away, try again."""
        last = -INTERVAL_SECONDS
        while True:
            try:
                waiting = await self._database.run(_waiting)
                now = time.monotonic()
                if waiting >= LEAVES_MAX or (waiting and now - last >= INTERVAL_SECONDS):
                    await self.seal()
                    last = now
                if waiting < LEAVES_MAX:
                    await asyncio.sleep(POLL_SECONDS)
            except (Unavailable, Unknown):
                self.failures += 1
                await asyncio.sleep(PAUSE_SECONDS)

    def expect(self, head: Checkpoint) -> None:
        """Somebody saw this head of ours: nothing may be signed that does not contain it."""
        if self._floor is None or head.size > self._floor.size:
            self._floor = head

    async def seal(self, leaves: int = LEAVES_MAX) -> int:
        """One round: the size of the tree that is signed after it; 0 while there is nothing."""
        return await self._database.run(self._seal, leaves)

    async def _seal(self, transaction: Any, leaves: int) -> int:
        connection = await driver(transaction)
        await store.lock_sealing(connection)
        old = self._own(await store.note(connection))
        await self._check_floor(connection, old)
        if self._floor is not None and old.size < self._floor.size:
            leaves = min(leaves, self._floor.size - old.size)  # so that the roots are compared
        entries = await store.entries(connection, first=old.size, count=leaves)
        if not entries:
            return old.size
        edge = await store.tiles(connection, tiles.edge(old.size))
        if tiles.grow(edge, old.size, []).root != old.root:
            raise AssertionError(f"the stored tiles do not have the root signed for {old.size}")
        grown = tiles.grow(edge, old.size, [merkle.leaf_hash(entry) for entry in entries])
        new = Checkpoint(self._origin, old.size + len(entries), grown.root)
        if self._floor is not None and self._floor.size == new.size and self._floor != new:
            raise MisConfigured(OTHER_HISTORY.format(size=new.size))
        note = checkpoints.sign(self._origin, self._key, size=new.size, root=new.root)
        if self._mark is not None and (self._floor is None or new.size > self._floor.size):
            self._mark.write(new)  # first: what is signed and lost is still signed
            self._floor = new
        await store.write(connection, grown.tiles, new, note)
        return new.size

    async def _check_floor(self, connection: Any, old: Checkpoint) -> None:
        if self._floor is None or old == self._floor:
            return
        if self._floor.origin != self._origin:
            raise MisConfigured(f"this key signed the log {self._floor.origin!r} before")
        committed, _ = await store.sizes(connection)
        if committed < self._floor.size:
            raise MisConfigured(OLD_BACKUP.format(there=committed, signed=self._floor.size))
        if old.size > self._floor.size:
            edge = await store.tiles(connection, tiles.needed(self._root_of_floor))
            if self._root_of_floor(tiles.reader(edge)) != self._floor.root:
                raise MisConfigured(OTHER_HISTORY.format(size=self._floor.size))
            self._floor = old

    def _root_of_floor(self, node: merkle.Node) -> bytes:
        assert self._floor is not None
        return merkle.tree_root(node, self._floor.size)

    def _own(self, note: str | None) -> Checkpoint:
        """The last checkpoint, which must be this log's: one log never has two keys or names."""
        if note is None:
            return Checkpoint(self._origin, 0, merkle.EMPTY_ROOT)
        try:
            return checkpoints.verify(note, self._log_key)
        except BadCheckpoint as error:
            raise MisConfigured(
                f"the log in this database is not {self._origin!r} under this key: {error.detail}"
            ) from None


async def evidence(database: Database, digest: str, *, final: bool = False) -> bytes | None:
    """A statement's evidence file; None while no checkpoint (no final one) covers such a statement."""
    if not canonical.is_digest(digest):
        return None
    return await database.run(_evidence, canonical.digest_bytes(digest), final)


async def tile(database: Database, path: str) -> bytes | None:
    """A tile by its path below `/tile/`; None for what no checkpoint covers."""
    wanted = tiles.parse_path(path)
    return None if wanted is None else await database.run(_tile, wanted)


async def _waiting(transaction: Any) -> int:
    size, sealed = await store.sizes(await driver(transaction))
    return size - sealed


async def _evidence(transaction: Any, digest: bytes, final: bool) -> bytes | None:  # noqa: FBT001 - passed on
    connection = await driver(transaction)
    found = await store.find(connection, digest)
    note = await finality.noted(connection, final=final)
    if found is None or note is None:
        return None
    index, envelope = found
    head = checkpoints.head(note)
    if index >= head.size:
        return None

    def proof(node: merkle.Node) -> list[bytes]:
        return merkle.inclusion(node, index=index, size=head.size)

    stored = await store.tiles(connection, tiles.needed(proof))
    path = proof(tiles.reader(stored))
    return files.make(envelope=envelope, index=index, path=path, note=note)


async def _tile(transaction: Any, wanted: tiles.Tile) -> bytes | None:
    connection = await driver(transaction)
    _, sealed = await store.sizes(connection)
    if not tiles.covered(wanted, sealed):
        return None
    if wanted.level == ENTRIES:
        first = wanted.index * tiles.WIDTH
        return tiles.bundle(await store.entries(connection, first=first, count=wanted.width))
    place = (wanted.level, wanted.index)
    stored = await store.tiles(connection, [place])
    return stored[place][: wanted.width * merkle.HASH_BYTES]
