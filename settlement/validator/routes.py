"""A validator's HTTP face: heads, add-checkpoint (C2SP tlog-witness), evidence, status."""

import asyncio
import re
from typing import Final

import msgspec
from aiohttp import web

from settlement.domain import checkpoint, merkle
from settlement.domain.errors import BadCheckpoint
from settlement.validator.evidence import Items
from settlement.validator.watch import Answer, Status, Watch

BODY_BYTES_MAX: Final = 128 * 1024
CALLS_MAX: Final = 64  # of add-checkpoint at once
OLD: Final = re.compile(r"old (0|[1-9][0-9]{0,18})\Z", re.ASCII)
SIZE_TYPE: Final = "text/x.tlog.size"
TEXT: Final = "text/plain"
JSON: Final = "application/json"


class Overview(msgspec.Struct, frozen=True):
    """`/status`."""

    name: str
    verifier_key: str
    logs: list[Status]
    peers: dict[str, str]


class Asked(msgspec.Struct, frozen=True):
    """A body of add-checkpoint."""

    old: int
    path: list[bytes]
    note: str


def parse_asked(data: bytes) -> Asked | None:
    """None unless the body is an old size, at most 63 hashes, an empty line and a checkpoint."""
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return None
    above, separator, note = text.partition("\n\n")
    old, *lines = above.split("\n")
    matched = OLD.match(old)
    if matched is None or not separator or len(lines) > merkle.PROOF_HASHES_MAX:
        return None
    path = [checkpoint.unbase64(line) for line in lines]
    hashes = [value for value in path if value is not None and len(value) == merkle.HASH_BYTES]
    return Asked(int(matched[1]), hashes, note) if len(hashes) == len(path) else None


class Routes:
    """Over the logs under watch, by their origins."""

    def __init__(self, watches: dict[str, Watch], peer_notes: dict[str, str]) -> None:
        self._watches, self._peer_notes = watches, peer_notes
        self._calls = asyncio.Semaphore(CALLS_MAX)
        self.signer = next(iter(watches.values())).cosigner.signer

    def app(self) -> web.Application:
        """The application."""
        app = web.Application(client_max_size=BODY_BYTES_MAX)
        app.add_routes(
            [
                web.get("/checkpoint/{origin:.+}", self.head),
                web.post("/add-checkpoint", self.add_checkpoint),
                web.get("/evidence", self.evidence),
                web.get("/evidence/{name}", self.evidence_file),
                web.get("/status", self.status),
            ]
        )
        return app

    async def head(self, request: web.Request) -> web.Response:
        """The last note that was cosigned, with our line."""
        watch = self._watches.get(request.match_info["origin"])
        if watch is None or not watch.cosigner.note:
            return _text(404, "nothing of such a log was cosigned")
        return _text(200, watch.cosigner.note.removesuffix("\n"))

    async def add_checkpoint(self, request: web.Request) -> web.Response:
        """A head with its proof against the last one; answered with our line."""
        asked = parse_asked(await request.read())
        if asked is None:
            return _text(400, "the body is not an old size, hashes, and a checkpoint")
        try:
            watch = self._watches.get(checkpoint.head(asked.note).origin)
        except BadCheckpoint as error:
            return _text(400, error.detail)
        if watch is None:
            return _text(404, "this log is not known here")
        if self._calls.locked():
            return _text(503, "too many calls at once")
        async with self._calls:
            answer = await watch.add_checkpoint(asked.old, asked.path, asked.note.encode())
        return _answer(answer)

    async def evidence(self, request: web.Request) -> web.Response:  # noqa: ARG002 - a handler
        """All evidence against logs."""
        items = [item for watch in self._watches.values() for item in watch.shelf.items]
        return web.Response(body=msgspec.json.encode(Items(items)), content_type=JSON)

    async def evidence_file(self, request: web.Request) -> web.Response:
        """One file, checkable by itself."""
        name = request.match_info["name"]
        for watch in self._watches.values():
            data = watch.shelf.read(name)
            if data is not None:
                return web.Response(body=data, content_type=JSON)
        return _text(404, "there is no such evidence")

    async def status(self, request: web.Request) -> web.Response:  # noqa: ARG002 - a handler
        """How all logs stand."""
        return web.Response(body=msgspec.json.encode(self.overview()), content_type=JSON)

    def overview(self) -> Overview:
        """What `/status` says."""
        logs = [watch.status() for watch in self._watches.values()]
        return Overview(self.signer.name, self.signer.verifier_key, logs, self._peer_notes)


def _answer(answer: Answer) -> web.Response:
    if answer.is_size:
        return web.Response(status=answer.status, text=f"{answer.text}\n", content_type=SIZE_TYPE)
    return _text(answer.status, answer.text.removesuffix("\n"))


def _text(status: int, text: str) -> web.Response:
    return web.Response(status=status, text=f"{text}\n", content_type=TEXT)
