"""A market's log in memory, served over real HTTP: honest, until a test tells it otherwise."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

from aiohttp import web

from settlement.domain import charge, checkpoint, merkle, tiles
from settlement.domain.governance import Charter, State
from settlement.domain.identity import PrivateKey
from settlement.domain.payments import Issue, Payment
from settlement.domain.replay import Replay
from settlement.domain.statement import Opened, Statement, sign
from settlement.domain.tiles import ENTRIES, HEIGHT, WIDTH, Tile
from tests.system.running import free_port

ORIGIN: Final = "hostile.example/log"
LEDGER, LOG, OPERATOR, CONSUMER, PROVIDER = (PrivateKey(bytes([n]) * 32) for n in range(0x51, 0x56))
LOG_KEY: Final = checkpoint.verifier_key(ORIGIN, LOG)
START_MS: Final = 1_700_000_000_000
FUNDS: Final = 1_000_000


def identifier(number: int) -> str:
    return f"00000000-0000-7000-8000-{number:012x}"


def charter() -> Opened:
    said = Charter(
        v=1, kind="charter", market=ORIGIN, operator=OPERATOR.address, log_key=LOG_KEY,
        fee_basis_points=charge.FEE_BASIS_POINTS, check_basis_points=charge.CHECK_BASIS_POINTS,
        hold_ms=1_000, at_ms=START_MS,
    )  # fmt: skip
    return sign(said, LEDGER)


def issue(number: int, amount: int = FUNDS, *, key: PrivateKey = OPERATOR) -> Opened:
    said = Issue(
        v=1, kind="issue", market=ORIGIN, operator=key.address, to=CONSUMER.address,
        purpose="available", amount=str(amount), transfer=identifier(number), memo="",
        at_ms=START_MS + number,
    )  # fmt: skip
    return sign(said, key)


def payment(number: int, amount: int = 7) -> Opened:
    said = Payment(
        v=1, kind="payment", market=ORIGIN, payer=CONSUMER.address, to=PROVIDER.address,
        amount=str(amount), transfer=identifier(number), memo="", at_ms=START_MS + number,
    )  # fmt: skip
    return sign(said, CONSUMER)


def state(entries: Sequence[bytes], *, root: bytes | None = None) -> Opened:
    """The state after these entries; with `root`, the one that a liar says."""
    replay = Replay(ORIGIN)
    for index, entry in enumerate(entries):
        replay.feed(index, entry)
    said = State(
        v=1, kind="state", market=ORIGIN, size=len(entries),
        root="sha256:" + (root or replay.state_root()).hex(), lines=len(replay.lines()),
        batch=1, ledger_ns="1", at_ms=START_MS + len(entries),
    )  # fmt: skip
    return sign(said, LEDGER)


def entries_of(count: int) -> list[bytes]:
    """A log that replays: charter, tokens, payments."""
    said = [charter(), issue(1), *(payment(number) for number in range(2, count))]
    return [opened.envelope for opened in said[:count]]


def signed(statement: Statement, key: PrivateKey) -> bytes:
    return sign(statement, key).envelope


def static_files(
    entries: Sequence[bytes], *, key: PrivateKey = LOG, origin: str = ORIGIN
) -> dict[str, bytes]:
    """Every file of the log at this size, and of no other."""
    growth = tiles.grow({}, 0, [merkle.leaf_hash(entry) for entry in entries])
    size = len(entries)
    served = {"checkpoint": checkpoint.sign(origin, key, size=size, root=growth.root).encode()}
    for (level, index), data in growth.tiles.items():
        width = min(WIDTH, (size >> (HEIGHT * level)) - index * WIDTH)
        served["tile/" + tiles.path_of(Tile(level, index, width))] = data
    for index in range(-(-size // WIDTH)):
        part = entries[index * WIDTH : (index + 1) * WIDTH]
        served["tile/" + tiles.path_of(Tile(ENTRIES, index, len(part)))] = tiles.bundle(part)
    return served


@dataclass
class Server:
    """What it serves, what it was asked for, and what was brought to it."""

    url: str
    files: dict[str, bytes]
    asked: list[str] = field(default_factory=list)
    cosignatures: list[str] = field(default_factory=list)
    answer: Callable[[str], "bytes | int | None"] | None = None  # None: as `files` says
    stall: set[str] = field(default_factory=set)

    def show(self, entries: Sequence[bytes]) -> None:
        self.files = static_files(entries)


@asynccontextmanager
async def serving(entries: Sequence[bytes]) -> AsyncIterator[Server]:
    """A log's server on loopback."""
    port = free_port()
    server = Server(f"http://127.0.0.1:{port}", static_files(entries))

    async def get(request: web.Request) -> web.StreamResponse:
        path = request.match_info["path"]
        server.asked.append(path)
        if path in server.stall:
            await asyncio.sleep(3_600)
        said = server.answer(path) if server.answer is not None else None
        if isinstance(said, int):
            return web.Response(status=said)
        data = said if said is not None else server.files.get(path)
        return web.Response(status=404) if data is None else web.Response(body=data)

    async def post(request: web.Request) -> web.Response:
        server.cosignatures.append((await request.read()).decode())
        return web.Response()

    app = web.Application()
    app.add_routes([web.post("/v1/log/cosignatures", post), web.get("/{path:.+}", get)])
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    try:
        yield server
    finally:
        await runner.cleanup()
