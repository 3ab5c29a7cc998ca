"""A mirror: follows a log, verifies it, and serves the same static files; never what is not verified."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from aiohttp import web

from settlement.domain import checkpoint, tiles
from settlement.domain.errors import MisConfigured, SplitView
from settlement.domain.merkle import HASH_BYTES
from settlement.domain.tiles import ENTRIES, WIDTH, Tile
from settlement.validator import files
from settlement.validator.copying import Copy
from settlement.validator.evidence import Shelf
from settlement.validator.following import Behind, Broken, Following, Step
from settlement.validator.source import CHECKPOINT, Source
from settlement.validator.tree import parse_bundle

IMMUTABLE: Final = {"Cache-Control": "public, max-age=31536000, immutable"}
BYTES: Final = "application/octet-stream"
KEY_FILE: Final = "log-key"
_log = logging.getLogger(__name__)


class Mirror:
    """One log in one folder."""

    def __init__(self, folder: Path, source: Source, log_key: str) -> None:
        self.folder, self.log_key = folder, log_key
        self.origin = checkpoint.parse_verifier_key(log_key).name
        self.copy = Copy(folder, entries=True)
        self.shelf = Shelf(folder / "evidence", log_key, origin=self.origin)
        self._following = Following(
            source, log_key, self.copy, take=_take_nothing, dump=bytes, save_seconds=0.0
        )

    def load(self) -> None:
        """Go on from the folder; it holds one log for good, whose key may change."""
        known = files.read(self.folder / KEY_FILE)
        if (
            known is not None
            and checkpoint.parse_verifier_key(known.decode().strip()).name != self.origin
        ):
            raise MisConfigured(f"{self.folder} mirrors another log: {known.decode().strip()}")
        files.write(self.folder / KEY_FILE, f"{self.log_key}\n".encode())
        self.copy.load()
        self.shelf.load()
        self._refuse_what_split()

    async def step(self) -> Step:
        """Take over what is new and publish it; `SplitView`, with the evidence kept, for good."""
        self._refuse_what_split()
        step = await self._following.step()
        if isinstance(step, Broken):
            self.shelf.keep(step.evidence)
            raise SplitView(step.detail, evidence=step.evidence)
        if isinstance(step, Behind):
            _log.warning("%s shows %d entries, after %d", self.origin, step.head.size, step.seen)
        elif files.read(self.folder / CHECKPOINT) != step.head.note.encode():
            self.copy.save()
            self.copy.publish(step.head)
            _log.info("%s: %d entries", self.origin, step.head.size)
        return step

    def _refuse_what_split(self) -> None:
        if self.shelf.items:
            raise SplitView(f"{self.origin}: {self.shelf.items[-1].detail}; see {self.folder}")


def static_app(folder: Path) -> web.Application:
    """The folder as a log's static files; of a narrow tile any narrower start is served too."""

    async def show_checkpoint(request: web.Request) -> web.Response:  # noqa: ARG001 - a handler
        note = files.read(folder / CHECKPOINT)
        if note is None:
            return web.Response(status=503, text="nothing is mirrored yet\n")
        return web.Response(body=note, content_type="text/plain", charset="utf-8")

    async def show_tile(request: web.Request) -> web.Response:
        tile, note = tiles.parse_path(request.match_info["path"]), files.read(folder / CHECKPOINT)
        size = checkpoint.head(note.decode()).size if note is not None else 0
        data = read_tile(folder, tile, size) if tile is not None else None
        if data is None:
            return web.Response(status=404, text="there is no such tile\n")
        return web.Response(body=data, content_type=BYTES, headers=IMMUTABLE)

    app = web.Application()
    app.add_routes([web.get("/checkpoint", show_checkpoint), web.get("/tile/{path:.+}", show_tile)])
    return app


def read_tile(folder: Path, tile: Tile, size: int) -> bytes | None:
    """A tile that a checkpoint of that size covers, as wide as it is asked for."""
    if not tiles.covered(tile, size):
        return None
    level = max(tile.level, 0)
    widest = min(WIDTH, (size >> (tiles.HEIGHT * level)) - tile.index * WIDTH)
    for width in (tile.width, widest, WIDTH):
        path = folder / "tile" / tiles.path_of(Tile(tile.level, tile.index, width))
        data = files.read(path)
        if data is not None:
            break
    else:
        return None
    if tile.level != ENTRIES:
        return data[: tile.width * HASH_BYTES]
    entries = parse_bundle(data)
    return None if entries is None else tiles.bundle(entries[: tile.width])


def _take_nothing(first: int, entries: Sequence[bytes]) -> None:
    """A mirror looks at no entry: what is in it is for those who replay."""
