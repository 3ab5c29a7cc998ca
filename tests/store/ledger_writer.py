"""A program that pays as fast as it can and says which transfers were acknowledged.

`python -m tests.store.ledger_writer URL CALLERS`: for the tests that kill it.
"""

import asyncio
import random
import sys

from settlement.service.engine import Ledger, Status
from settlement.store.database import Database
from tests.store.ledger_maker import available, move, paying

PARTIES = 20


async def pay(ledger: Ledger) -> None:
    while True:
        debit, credit = random.sample(range(1, PARTIES + 1), 2)
        first = move(available(debit), available(credit), random.randrange(5))
        second = move(available(credit), available(debit), random.randrange(3))
        outcome = await ledger.submit(paying(first, second))
        if outcome.status is Status.APPLIED:
            sys.stdout.write(f"{first.id}\n{second.id}\n")
            sys.stdout.flush()


async def main(url: str, callers: int) -> None:
    database = Database(url)
    async with Ledger(database, statements={}) as ledger, asyncio.TaskGroup() as tasks:
        for _ in range(callers):
            tasks.create_task(pay(ledger))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2])))
