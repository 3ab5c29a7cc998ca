"""The sealer's story: tiles and checkpoints over some hundred entries, in two rounds."""

import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import asyncpg
from sqlalchemy.ext.asyncio import AsyncConnection

from market.worker.mark import FileMark
from settlement.domain import checkpoint as checkpoints
from settlement.domain import merkle, tiles
from settlement.domain.identity import PrivateKey
from settlement.domain.tiles import ENTRIES
from settlement.service.audit import Difference, check_invariants
from settlement.service.engine import Item, Ledger
from settlement.service.publish import Sealer
from settlement.store.database import Database, driver
from tests.crash.points import Answers
from tests.store.ledger_maker import MARKET, statement

KEY: Final = PrivateKey(b"\2" * 32)
SIZES: Final = (256, 300)  # just a full tile, then beyond it


class SealStory:
    """`view` holds every tile and every checkpoint, which the entries alone decide."""

    name = "seal"

    async def prepare(self, url: str, folder: Path) -> Path:
        """The folder of what is kept beside the key, outside of the database: it stays after a death."""
        database = Database(url)
        async with Ledger(database, statements={}) as ledger:
            for _ in range(SIZES[-1]):
                await ledger.submit(Item((), (statement(),)))
        await database.close()
        marks = folder / uuid.uuid4().hex
        marks.mkdir()
        return marks

    async def act(
        self, url: str, prepared: Path, answers: Answers, ready: Callable[[], None]
    ) -> None:
        database = Database(url)
        beside = prepared / urlsplit(url).path.removeprefix("/")
        beside.mkdir(exist_ok=True)
        try:
            sealer = Sealer(database, KEY, origin=MARKET, mark=FileMark(beside))
            stood = max(await database.run(_sizes), default=0)
            ready()
            for size in SIZES:
                if size > stood:
                    stood = await sealer.seal(size - stood)
                    assert stood == size
                answers.give(str(size), "signed")
        finally:
            await database.close()

    async def view(self, url: str, prepared: Path) -> object:
        database = Database(url)
        found = await database.run(_sound)
        await database.close()
        assert found == []
        connection = await asyncpg.connect(url)
        rows = await connection.fetch("SELECT envelope FROM statements ORDER BY idx")
        stored = await connection.fetch("SELECT level, idx, data FROM log_tiles")
        heads = await connection.fetch("SELECT size, root, note FROM checkpoints ORDER BY size")
        await connection.close()
        leaves = [merkle.leaf_hash(row["envelope"]) for row in rows]
        whole = tiles.grow({}, 0, leaves).tiles
        hashes = {at: data for at, data in whole.items() if at[0] != ENTRIES}
        assert {(row["level"], row["idx"]): row["data"] for row in stored} == hashes
        for row in heads:
            signed = checkpoints.verify(row["note"], checkpoints.verifier_key(MARKET, KEY))
            root = merkle.root_of_leaves(leaves[: row["size"]])
            assert (signed.size, signed.root, row["root"]) == (row["size"], root, root)
        return [(row["size"], row["note"]) for row in heads]


async def _sizes(transaction: AsyncConnection) -> list[int]:
    connection = await driver(transaction)
    return [row[0] for row in await connection.fetch("SELECT size FROM checkpoints")]


async def _sound(transaction: AsyncConnection) -> list[Difference]:
    return [*await check_invariants(transaction, market=MARKET)]
