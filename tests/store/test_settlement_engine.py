"""The engine on a real PostgreSQL: what an item does, once, whatever is repeated, refused or lost."""

import asyncio
import dataclasses
import uuid
from collections.abc import AsyncIterator
from typing import Any, Final

import asyncpg
import pytest
import pytest_asyncio

from settlement.domain.errors import (
    BadStatement,
    Failed,
    InsufficientFunds,
    LedgerRefused,
    MisConfigured,
    Stale,
    Unavailable,
    Unknown,
)
from settlement.domain.ledger import ALL, Code, Flag
from settlement.domain.statement import Opened
from settlement.service.engine import Change, Guard, Item, Ledger, Outcome, Status
from settlement.store import database as database_module
from settlement.store.database import Database
from tests.store.ledger_maker import (
    ISSUED,
    assert_sound,
    available,
    endow,
    move,
    paying,
    statement,
)

NOTES: Final = (
    "CREATE TABLE notes (id uuid PRIMARY KEY, state text NOT NULL, count int NOT NULL CHECK (count <= 3))",
    "CREATE TABLE trail (position bigint GENERATED ALWAYS AS IDENTITY, id uuid, word text)",
)
STATEMENTS: Final = {
    "open": "SELECT state = 'open' FROM notes WHERE id = $1 FOR UPDATE",
    "absent": "SELECT NOT EXISTS (SELECT 1 FROM notes WHERE id = $1)",
    "any_open": "SELECT count(*) > 0 FROM (SELECT 1 FROM notes WHERE state = 'open' FOR UPDATE) AS o",
    "insert": "INSERT INTO notes (id, state, count) VALUES ($1, 'open', 0)",
    "close": "UPDATE notes SET state = 'closed' WHERE id = $1",
    "count": "UPDATE notes SET count = count + 1 WHERE id = $1",
    "trail": "INSERT INTO trail (id, word) VALUES ($1, $2)",
}


@pytest_asyncio.fixture
async def connection(database_url: str) -> AsyncIterator[Any]:
    """A connection beside the engine's, with the caller's tables."""
    beside = await asyncpg.connect(database_url)
    for sql in NOTES:
        await beside.execute(sql)
    yield beside
    await beside.close()


@pytest_asyncio.fixture
async def ledger(database: Database, connection: Any) -> AsyncIterator[Ledger]:
    async with Ledger(database, statements=STATEMENTS) as running:
        await endow(running, {1: 1_000, 2: 50})
        yield running
    assert running.retries == 0


async def spendable(connection: Any, number: int) -> int:
    key = available(number)
    value = await connection.fetchval(
        "SELECT cr_posted - dr_posted - dr_pending FROM accounts WHERE owner = $1 AND purpose = 1",
        bytes.fromhex(key.owner),
    )
    return int(value or 0)


async def submit_all(ledger: Ledger, *items: Item) -> list[Outcome]:
    """Together, in this order."""
    async with asyncio.TaskGroup() as tasks:
        submitted = [tasks.create_task(ledger.submit(item)) for item in items]
    return [task.result() for task in submitted]


async def test_a_chain_moves_money_and_logs_its_cause(ledger: Ledger, connection: Any) -> None:
    item = paying(move(available(1), available(3), 10), move(available(3), available(4), 4))
    outcome = await ledger.submit(item)
    assert outcome == Outcome(Status.APPLIED, (Code.CREATED, Code.CREATED), (10, 4), (1,))
    assert [await spendable(connection, n) for n in (1, 3, 4)] == [990, 6, 4]
    envelope = await connection.fetchval("SELECT envelope FROM statements WHERE idx = 1")
    assert envelope == item.statements[0].envelope


async def test_a_repeat_answers_as_the_first_time_and_does_nothing(
    ledger: Ledger, connection: Any
) -> None:
    note = uuid.uuid4()
    item = Item(
        (
            move(available(1), available(3), 10),
            move(available(2), available(3), ALL, flags=Flag.BALANCING_DEBIT),
        ),
        (statement(), statement()),
        (Guard("absent", (note,)),),
        (Change("insert", (note,)),),
    )
    first = await ledger.submit(item)
    again = await ledger.submit(item)
    assert first == Outcome(Status.APPLIED, (Code.CREATED,) * 2, (10, 50), (1, 2))
    assert again == Outcome(Status.DUPLICATE, (Code.EXISTS,) * 2, (10, 50), (1, 2))
    again.raise_for_refusal()
    assert await spendable(connection, 3) == 60


async def test_the_same_item_many_times_at_once_happens_once(
    ledger: Ledger, connection: Any
) -> None:
    item = paying(move(available(1), available(3), 10), move(available(3), available(4), 10))
    outcomes = await submit_all(ledger, *[item] * 20)
    assert [outcome.status for outcome in outcomes].count(Status.APPLIED) == 1
    assert {outcome.status for outcome in outcomes} == {Status.APPLIED, Status.DUPLICATE}
    assert await spendable(connection, 4) == 10


async def test_a_logged_statement_without_transfers_is_a_duplicate(ledger: Ledger) -> None:
    note = uuid.uuid4()
    item = Item((), (statement(),), (), (Change("insert", (note,)),))
    assert (await ledger.submit(item)).status is Status.APPLIED
    assert await ledger.submit(item) == Outcome(Status.DUPLICATE, positions=(1,))


async def test_the_same_transfer_under_another_cause_is_refused(ledger: Ledger) -> None:
    item = paying(move(available(1), available(3), 10))
    await ledger.submit(item)
    for other in (
        dataclasses.replace(item, statements=(statement(),)),
        dataclasses.replace(item, statements=(*item.statements, statement())),
    ):
        outcome = await ledger.submit(other)
        assert outcome.codes == (Code.EXISTS_OTHER_CAUSE,)
        with pytest.raises(LedgerRefused, match="EXISTS_OTHER_CAUSE"):
            outcome.raise_for_refusal()


async def test_a_failed_id_stays_failed_after_a_top_up(ledger: Ledger, connection: Any) -> None:
    good, bad = move(available(1), available(3), 1), move(available(2), available(3), 51)
    item = paying(good, bad)
    outcome = await ledger.submit(item)
    assert outcome.codes == (Code.LINKED_FAILED, Code.EXCEEDS_CREDITS)
    with pytest.raises(InsufficientFunds):
        outcome.raise_for_refusal()
    await endow(ledger, {2: 1_000})
    assert (await ledger.submit(item)).codes == (Code.LINKED_FAILED, Code.ALREADY_FAILED)
    # its neighbour's id is not burnt, and the statement is not in the log
    assert (await ledger.submit(paying(good))).status is Status.APPLIED
    assert await connection.fetchval("SELECT count(*) FROM statements") == 3


async def test_a_broken_chain_leaves_no_trace(ledger: Ledger, connection: Any) -> None:
    held = move(available(1), available(3), 7, flags=Flag.PENDING, timeout_seconds=1_000)
    await ledger.submit(paying(held))
    note = uuid.uuid4()
    broken = Item(
        (
            move(available(1), available(3), 5),
            move(available(1), available(3), ALL, flags=Flag.POST, pending_id=held.id),
            move(available(1), available(3), 2, flags=Flag.PENDING, timeout_seconds=5),
            move(available(9), available(3), 1),
        ),
        (statement(),),
        (),
        (Change("insert", (note,)),),
    )
    assert (await ledger.submit(broken)).codes == (Code.LINKED_FAILED,) * 3 + (
        Code.EXCEEDS_CREDITS,
    )
    assert await spendable(connection, 1) == 993
    assert await connection.fetch("SELECT status FROM pending") == [(1,)]
    assert await connection.fetchval("SELECT count(*) FROM notes") == 0


async def test_post_of_a_pending_made_in_the_same_item(ledger: Ledger, connection: Any) -> None:
    held = move(available(1), available(3), 7, flags=Flag.PENDING)
    post = move(available(1), available(3), 3, flags=Flag.POST, pending_id=held.id)
    assert (await ledger.submit(paying(held, post))).amounts == (7, 3)
    assert await spendable(connection, 1) == 997


async def test_what_is_due_expires_with_the_next_batch(database: Database, connection: Any) -> None:
    now = [10**18]
    async with Ledger(database, statements={}, clock=lambda: now[0]) as ledger:
        await endow(ledger, {1: 100})
        held = move(available(1), available(2), 60, flags=Flag.PENDING, timeout_seconds=5)
        await ledger.submit(paying(held))
        assert await spendable(connection, 1) == 40
        now[0] += 6 * 10**9
        post = move(available(1), available(2), 60, flags=Flag.POST, pending_id=held.id)
        assert (await ledger.submit(paying(post))).codes == (Code.PENDING_EXPIRED,)
        assert await spendable(connection, 1) == 100
        now[0] = 1  # a clock that jumps back changes nothing: ledger time only grows
        await ledger.submit(paying(move(available(1), available(2), 1)))
    times = [row[0] for row in await connection.fetch("SELECT ts FROM transfers ORDER BY seq")]
    assert times == sorted(set(times))


async def test_guards_see_what_earlier_items_changed(ledger: Ledger, connection: Any) -> None:
    note, other = uuid.uuid4(), uuid.uuid4()
    opened = Item((), (), (Guard("absent", (note,)),), (Change("insert", (note,)),))
    closing = Item((), (), (Guard("open", (note,)),), (Change("close", (note,)),))
    blind = Item((), (), (Guard("any_open"),), (Change("insert", (other,)),))
    outcomes = await submit_all(ledger, opened, opened, closing, closing, blind)
    assert [outcome.status for outcome in outcomes] == [
        Status.APPLIED,
        Status.STALE,
        Status.APPLIED,
        Status.STALE,
        Status.STALE,
    ]
    assert outcomes[1].guard == "absent"
    with pytest.raises(Stale):
        outcomes[1].raise_for_refusal()
    assert await connection.fetchval("SELECT state FROM notes WHERE id = $1", note) == "closed"


async def test_a_stale_item_does_nothing(ledger: Ledger, connection: Any) -> None:
    item = Item(
        (move(available(1), available(3), 10),),
        (statement(),),
        (Guard("open", (uuid.uuid4(),)),),
        (Change("insert", (uuid.uuid4(),)),),
    )
    assert await ledger.submit(item) == Outcome(Status.STALE, guard="open")
    assert await spendable(connection, 1) == 1_000
    assert await connection.fetchval("SELECT count(*) FROM statements") == 1
    assert await connection.fetchval("SELECT count(*) FROM notes") == 0


async def test_changes_keep_their_order(ledger: Ledger, connection: Any) -> None:
    note = uuid.uuid4()
    first = Item(
        (),
        (),
        (),
        (Change("trail", (note, "a")), Change("insert", (note,)), Change("trail", (note, "b"))),
    )
    second = Item((), (), (), (Change("trail", (note, "c")), Change("count", (note,))))
    apart = [Item((), (), (), (Change("trail", (uuid.uuid4(), "x")),)) for _ in range(5)]
    before = ledger.batches
    await submit_all(ledger, first, *apart, second)
    assert ledger.batches == before + 1
    words = await connection.fetch("SELECT word FROM trail WHERE id = $1 ORDER BY position", note)
    assert [row[0] for row in words] == ["a", "b", "c"]
    assert await connection.fetchval("SELECT count FROM notes WHERE id = $1", note) == 1


async def test_a_failing_change_spares_the_others(ledger: Ledger, connection: Any) -> None:
    note = uuid.uuid4()
    await ledger.submit(Item((), (), (), (Change("insert", (note,)),)))
    good = [paying(move(available(1), available(5), 1)) for _ in range(10)]
    bad = Item(
        (move(available(1), available(6), 1),), (statement(),), (), (Change("insert", (note,)),)
    )
    async with asyncio.TaskGroup() as tasks:
        failing = tasks.create_task(_fails(ledger, bad))
        others = [tasks.create_task(ledger.submit(item)) for item in good]
    assert isinstance(failing.result(), Failed)
    assert {task.result().status for task in others} == {Status.APPLIED}
    assert await spendable(connection, 5) == 10
    assert await spendable(connection, 6) == 0


async def _fails(ledger: Ledger, item: Item) -> Exception | None:
    try:
        await ledger.submit(item)
    except Failed as error:
        return error
    return None


@pytest.mark.parametrize(
    ("item", "error"),
    [
        (Item((move(available(1), available(2), 1),)), BadStatement),
        (Item(), BadStatement),
        (paying(move(available(1), available(2), 1, flags=Flag.LINKED)), LedgerRefused),
        (
            paying(*[move(available(1), available(2), 1, identifier=uuid.UUID(int=7))] * 2),
            LedgerRefused,
        ),
        (paying(move(available(1), available(2), 1, timeout_seconds=-1)), LedgerRefused),
        (Item((), (), (), (Change("nothing"),)), MisConfigured),
        (Item((), (statement(),) * 2), BadStatement),
        (
            Item(
                (), (Opened(statement().statement, "0" * 64, "sha256:" + "0" * 64, bytes(65_536)),)
            ),
            BadStatement,
        ),
    ],
)
async def test_refused_at_the_door(database: Database, item: Item, error: type[Exception]) -> None:
    async with Ledger(database, statements=STATEMENTS) as ledger:
        with pytest.raises(error):
            await ledger.submit(item)
        assert ledger.batches == 0


@pytest.mark.parametrize(
    ("identifier", "code"), [(uuid.UUID(int=0), Code.ID_ZERO), (uuid.UUID(int=ALL), Code.ID_MAX)]
)
async def test_reserved_ids_are_refused(ledger: Ledger, identifier: uuid.UUID, code: Code) -> None:
    outcome = await ledger.submit(
        paying(move(available(1), available(2), 1, identifier=identifier))
    )
    assert outcome.codes == (code,)


async def test_amounts_up_to_the_last(ledger: Ledger, connection: Any) -> None:
    rest = ALL - 1_050
    await endow(ledger, {7: rest})
    assert await spendable(connection, 7) == rest
    over = await ledger.submit(paying(move(ISSUED, available(7), 1)))
    assert over.codes == (Code.OVERFLOWS_DEBITS_POSTED,)


async def test_a_lost_answer_to_commit_is_unknown_and_a_repeat_tells(
    ledger: Ledger, connection: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = database_module._commit

    async def lost(raw: Any) -> None:
        await commit(raw)
        raise Unknown("the answer to COMMIT is lost")

    item = paying(move(available(1), available(3), 10))
    with monkeypatch.context() as patched:
        patched.setattr(database_module, "_commit", lost)
        with pytest.raises(Unknown):
            await ledger.submit(item)
    assert (await ledger.submit(item)).status is Status.DUPLICATE
    assert await spendable(connection, 3) == 10


async def test_what_is_queued_is_finished_on_the_way_out(
    database: Database, connection: Any
) -> None:
    async with asyncio.TaskGroup() as tasks, Ledger(database, statements={}) as ledger:
        await endow(ledger, {1: 100})
        waiting = [
            tasks.create_task(ledger.submit(paying(move(available(1), available(2), 1))))
            for _ in range(30)
        ]
        await asyncio.sleep(0)
    assert {task.result().status for task in waiting} == {Status.APPLIED}
    with pytest.raises(Unavailable):
        await ledger.submit(paying(move(available(1), available(2), 1)))


async def test_a_caller_that_went_away_before_the_batch_moves_nothing(
    ledger: Ledger, connection: Any
) -> None:
    caller = asyncio.get_running_loop().create_task(  # cancelled below, awaited below
        ledger.submit(paying(move(available(1), available(3), 10)))
    )
    await asyncio.sleep(0)
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    await ledger.submit(paying(move(available(1), available(4), 1)))
    assert await spendable(connection, 3) in {0, 10}
    assert await spendable(connection, 1) + await spendable(connection, 3) == 999


async def test_two_engines_share_one_baton(
    database_url: str, database: Database, connection: Any
) -> None:
    other = Database(database_url)
    async with (
        Ledger(database, statements=STATEMENTS) as left,
        Ledger(other, statements=STATEMENTS) as right,
    ):
        await endow(left, dict.fromkeys(range(1, 21), 100))

        async def pay(number: int) -> None:
            for step in range(15):
                debit, credit = available(number), available(1 + (number + step) % 20)
                if debit != credit:
                    await (left, right)[step % 2].submit(paying(move(debit, credit, 3)))

        async with asyncio.TaskGroup() as tasks:
            for number in range(1, 21):
                tasks.create_task(pay(number))
    assert database.retries == other.retries == 0
    await other.close()
    await assert_sound(database, issued=2_000)
