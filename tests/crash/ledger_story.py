"""The ledger's own story: every kind of item, alone and in company, up to an expiry."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import asyncpg

from settlement.domain.errors import Unavailable
from settlement.domain.ledger import ALL, Code, Flag, Transfer
from settlement.service.engine import Change, Guard, Item, Ledger, Outcome, Status
from settlement.store.database import Database
from tests.crash.points import Answers
from tests.store.ledger_maker import ISSUED, assert_sound, available, move, paying, statement

ISSUED_TOTAL: Final = 150
NOTES: Final = "CREATE TABLE notes (id uuid PRIMARY KEY, state text NOT NULL, count int NOT NULL)"
SECOND_NS: Final = 1_000_000_000
START_NS: Final = 2_000_000_000 * SECOND_NS
STANDS: Final = (Code.CREATED, Code.EXISTS)
STATEMENTS: Final = {
    "open": "SELECT state = 'open' FROM notes WHERE id = $1 FOR UPDATE",
    "insert": "INSERT INTO notes (id, state, count) VALUES ($1, 'open', 0)",
    "close": "UPDATE notes SET state = 'closed', count = count + 1 WHERE id = $1",
}
TIMEOUT_SECONDS: Final = 60
VIEWS: Final = (
    "SELECT owner, purpose, dr_pending, dr_posted, cr_pending, cr_posted FROM accounts ORDER BY 1, 2",
    "SELECT id, amount, pending_id, timeout_s, code, flags, cause FROM transfers ORDER BY id",
    "SELECT id, status FROM pending ORDER BY id",
    "SELECT id, code FROM failed ORDER BY id",
    "SELECT digest, kind FROM statements WHERE kind <> 'expiry' ORDER BY digest",
    "SELECT id, state, count FROM notes",
)


@dataclass(frozen=True, slots=True)
class Step:
    """Items that are submitted together, at a time."""

    items: dict[str, Item]
    at_ns: int = START_NS


def steps() -> list[Step]:
    """The story; its ids and statements are made here, once."""
    first, second, timed = (
        move(available(1), available(3), 20, flags=Flag.PENDING),
        move(available(1), available(3), 10, flags=Flag.PENDING),
        move(available(2), available(3), 5, flags=Flag.PENDING, timeout_seconds=TIMEOUT_SECONDS),
    )
    late = START_NS + (TIMEOUT_SECONDS + 1) * SECOND_NS
    opening = {
        "issue": paying(move(ISSUED, available(1), 100), move(ISSUED, available(2), 50)),
        "pay": paying(move(available(1), available(2), 30)),
        "hold": paying(first),
        "hold more": paying(second),
        "hold on": paying(timed),
    }
    ending = {
        "late": paying(move(available(2), available(4), 60)),
        "too late": paying(_resolve(timed, Flag.POST, ALL)),
    }
    return [Step(opening), Step(_middle(first, second)), Step(ending, late)]


def _middle(first: Transfer, second: Transfer) -> dict[str, Item]:
    note = move(available(2), available(4), 2)
    return {
        "post in part": paying(_resolve(first, Flag.POST, 15)),
        "void": paying(_resolve(second, Flag.VOID, 0)),
        "chain": paying(move(available(2), available(1), 1), move(available(2), available(3), 2)),
        "too much": paying(
            move(available(1), available(3), 1), move(available(3), available(1), 1_000)
        ),
        "balance": paying(move(available(3), available(2), ALL, flags=Flag.BALANCING_DEBIT)),
        "apart": Item(
            (move(available(2), available(1), 1), move(available(2), available(1), 9_999)),
            (statement(),),
            apart=True,
        ),
        "note": Item(
            (note,), (statement(),), (Guard("open", (note.id,)),), (Change("close", (note.id,)),)
        ),
        "word": Item((), (statement(),)),
    }


def one_by_one(together: list[Step]) -> list[Step]:
    """The same items, each in a batch of its own."""
    return [
        Step({name: item}, step.at_ns) for step in together for name, item in step.items.items()
    ]


def _resolve(held: Transfer, flag: Flag, amount: int) -> Transfer:
    return move(held.debit, held.credit, amount, flags=flag, pending_id=held.id)


def told(outcome: Outcome) -> str:
    """What an outcome says holds now, in words that a repeat says again."""
    stands = [code in STANDS for code in outcome.codes]
    applied = outcome.status in (Status.APPLIED, Status.DUPLICATE)
    return f"{applied} {stands if applied else []} {outcome.amounts if applied else ()} {outcome.positions}"


@dataclass(frozen=True)
class LedgerStory:
    """`view` holds all of the ledger's tables but for the numbers that batches give."""

    name: str = "ledger"
    together: bool = True

    async def prepare(self, url: str, folder: Path) -> list[Step]:
        made = steps() if self.together else one_by_one(steps())
        connection = await asyncpg.connect(url)
        await connection.execute(NOTES)
        for step in made:
            for item in step.items.values():
                for guard in item.guards:
                    await connection.execute(STATEMENTS["insert"], *guard.parameters)
        await connection.close()
        return made

    async def act(
        self, url: str, prepared: list[Step], answers: Answers, ready: Callable[[], None]
    ) -> None:
        now = [START_NS]
        database = Database(url)
        try:
            async with Ledger(database, statements=STATEMENTS, clock=lambda: now[0]) as ledger:
                await database.run(_nothing)
                ready()
                for step in prepared:
                    now[0] = step.at_ns
                    async with asyncio.TaskGroup() as tasks:
                        for name, item in step.items.items():
                            tasks.create_task(_submit(ledger, name, item, answers))
        finally:
            await database.close()

    async def view(self, url: str, prepared: list[Step]) -> object:
        database = Database(url)
        await assert_sound(database, issued=ISSUED_TOTAL)
        await database.close()
        connection = await asyncpg.connect(url)
        found = [[tuple(row) for row in await connection.fetch(sql)] for sql in VIEWS]
        await connection.close()
        return found


async def _nothing(_: object) -> None:
    """The connection is there."""


async def _submit(ledger: Ledger, name: str, item: Item, answers: Answers) -> None:
    try:
        outcome = await ledger.submit(item)
    except Unavailable:
        answers.unavailable(name)
        raise
    applied = {Status.APPLIED: True, Status.DUPLICATE: False}
    answers.give(name, told(outcome), new=applied.get(outcome.status))
