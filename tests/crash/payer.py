"""A client with the engine inside: pays and seals without pause, and keeps what was acknowledged.

`python -m tests.crash.payer URL FOLDER NAME CALLERS`. It writes `NAME.intended` before a payment is
first sent, `NAME.acknowledged` when it was answered (on disk before anything follows from it), and
`NAME.heads`: each checkpoint that it saw. What fails for the database's sake is sent again with the
same ids, for ever.
"""

import asyncio
import contextlib
import os
import random
import sys
from pathlib import Path
from typing import Final

from settlement.domain import checkpoint
from settlement.domain.errors import Unavailable, Unknown
from settlement.service import finality
from settlement.service.engine import Item, Ledger, Outcome, Status
from settlement.service.publish import Sealer
from settlement.store.database import Database
from tests.crash.seal_story import KEY
from tests.store.ledger_maker import MARKET, available, move, paying

AGAIN_SECONDS: Final = 0.02
PARTIES: Final = 20
WATCH_SECONDS: Final = 0.05


class Journal:
    """Lines that outlive the process when `keep` returns; callers that come together share it."""

    def __init__(self, path: Path, *, durable: bool = True) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._waiting: list[str] = []
        self._turn, self._durable = asyncio.Lock(), durable

    async def keep(self, *lines: str) -> None:
        self._waiting += lines
        async with self._turn:
            if not self._waiting:
                return  # somebody else's turn has kept them
            kept, self._waiting = self._waiting, []
            os.write(self._file, "".join(f"{one}\n" for one in kept).encode())
            if self._durable:
                await asyncio.to_thread(os.fsync, self._file)


async def pay(ledger: Ledger, intended: Journal, acknowledged: Journal) -> None:
    """One caller, for ever: a chain of two payments, each time."""
    while True:
        debit, credit = random.sample(range(1, PARTIES + 1), 2)
        there = move(available(debit), available(credit), random.randrange(5))
        back = move(available(credit), available(debit), random.randrange(3))
        item = paying(there, back)
        words = [f"{one.id} {one.amount}" for one in (there, back)]
        await intended.keep(*words)
        outcome = await until_answered(ledger, item)
        if outcome.status in (Status.APPLIED, Status.DUPLICATE):
            await acknowledged.keep(*words)


async def watch(database: Database, heads: Journal) -> None:
    """Every checkpoint that is shown, for ever."""
    while True:
        with contextlib.suppress(Unavailable, Unknown):
            note = await finality.checkpoint(database)
            if note is not None:
                head = checkpoint.head(note)
                await heads.keep(f"{head.size} {head.root.hex()}")
        await asyncio.sleep(WATCH_SECONDS)


async def until_answered(ledger: Ledger, item: Item) -> Outcome:
    """The same item again until there is an answer."""
    while True:
        try:
            return await ledger.submit(item)
        except (Unavailable, Unknown):
            await asyncio.sleep(AGAIN_SECONDS)


async def main(url: str, folder: Path, name: str, callers: int) -> None:
    database = Database(url)
    intended = Journal(folder / f"{name}.intended", durable=False)
    heads = Journal(folder / f"{name}.heads", durable=False)
    acknowledged = Journal(folder / f"{name}.acknowledged")
    async with Ledger(database, statements={}) as ledger, asyncio.TaskGroup() as tasks:
        tasks.create_task(Sealer(database, KEY, origin=MARKET).run())
        tasks.create_task(watch(database, heads))
        for _ in range(callers):
            tasks.create_task(pay(ledger, intended, acknowledged))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], Path(sys.argv[2]), sys.argv[3], int(sys.argv[4])))
