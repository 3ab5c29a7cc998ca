"""One log has one history: a database that was restored from a backup signs nothing beside it."""

from pathlib import Path

import pytest

from market.worker.mark import NAME, FileMark
from settlement.domain import checkpoint as checkpoints
from settlement.domain.checkpoint import Checkpoint
from settlement.domain.errors import MisConfigured
from settlement.domain.identity import PrivateKey
from settlement.service import finality
from settlement.service.engine import Item, Ledger
from settlement.service.publish import Sealer
from settlement.store.database import Database
from tests.store.ledger_maker import MARKET, statement

KEY = PrivateKey(b"\2" * 32)


async def log(database: Database, count: int) -> None:
    async with Ledger(database, statements={}) as ledger:
        for _ in range(count):
            await ledger.submit(Item(statements=(statement(),)))


async def head(database: Database) -> Checkpoint | None:
    note = await finality.checkpoint(database)
    return None if note is None else checkpoints.head(note)


def sealer(database: Database, folder: Path) -> Sealer:
    return Sealer(database, KEY, origin=MARKET, mark=FileMark(folder))


async def test_the_mark_follows_what_is_signed(database: Database, tmp_path: Path) -> None:
    await log(database, 3)
    assert await sealer(database, tmp_path).seal() == 3
    assert FileMark(tmp_path).read() == await head(database)
    await log(database, 2)
    assert await sealer(database, tmp_path).seal() == 5
    assert FileMark(tmp_path).read() == await head(database)


async def test_an_older_backup_does_not_sign(database: Database, tmp_path: Path) -> None:
    await log(database, 3)
    FileMark(tmp_path).write(Checkpoint(MARKET, 4, b"\7" * 32))
    with pytest.raises(MisConfigured, match="3 log entries, but a tree of 4 was signed"):
        await sealer(database, tmp_path).seal()
    assert await head(database) is None


async def test_a_backup_that_grew_anew_does_not_sign(database: Database, tmp_path: Path) -> None:
    """The root at the signed size is compared before anything larger is signed."""
    await log(database, 5)
    FileMark(tmp_path).write(Checkpoint(MARKET, 4, b"\7" * 32))
    with pytest.raises(MisConfigured, match="another tree of 4 entries"):
        await sealer(database, tmp_path).seal()
    assert await head(database) is None


async def test_a_seal_that_was_lost_after_the_mark_is_made_again(
    database: Database, tmp_path: Path
) -> None:
    await log(database, 4)
    assert await Sealer(database, KEY, origin=MARKET).seal() == 4
    signed = await head(database)
    assert signed is not None
    FileMark(tmp_path).write(signed)
    await log(database, 3)
    mine = sealer(database, tmp_path)
    assert await mine.seal() == 7
    assert FileMark(tmp_path).read() == await head(database)


async def test_the_tree_below_a_larger_checkpoint_is_compared(
    database: Database, tmp_path: Path
) -> None:
    await log(database, 6)
    assert await Sealer(database, KEY, origin=MARKET).seal() == 6
    FileMark(tmp_path).write(Checkpoint(MARKET, 4, b"\7" * 32))
    await log(database, 1)
    with pytest.raises(MisConfigured, match="another tree of 4 entries"):
        await sealer(database, tmp_path).seal()


async def test_what_a_witness_saw_counts_as_well(database: Database) -> None:
    await log(database, 2)
    mine = Sealer(database, KEY, origin=MARKET)
    mine.expect(Checkpoint(MARKET, 9, b"\7" * 32))
    with pytest.raises(MisConfigured, match="2 log entries, but a tree of 9"):
        await mine.seal()


async def test_a_mark_of_another_log_is_refused(database: Database, tmp_path: Path) -> None:
    await log(database, 1)
    FileMark(tmp_path).write(Checkpoint("other.example", 1, b"\7" * 32))
    with pytest.raises(MisConfigured, match=r"other\.example"):
        await sealer(database, tmp_path).seal()


def test_a_broken_mark_is_no_mark(tmp_path: Path) -> None:
    (tmp_path / NAME).write_text("nonsense")
    with pytest.raises(MisConfigured, match=NAME):
        FileMark(tmp_path).read()
