"""Batches decided from memory while the one before is being written: right, or decided anew."""

import asyncio
import time
import uuid
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest
import pytest_asyncio

from settlement.domain.errors import BadStatement, Unknown
from settlement.domain.ledger import ALL, Code, Flag, Transfer
from settlement.domain.statement import Opened
from settlement.service import memory as module
from settlement.service.engine import Item, Ledger, Outcome, Status
from settlement.store.database import Database
from tests.store.ledger_maker import assert_sound, available, endow, move, paying, statement

SECOND = 10**9


@pytest_asyncio.fixture
async def ledger(database: Database) -> AsyncIterator[Ledger]:
    """One whose memory is warm: it foresees from the first item on."""
    async with Ledger(database, statements={}) as running:
        await endow(running, {1: 1_000, 2: 1_000})
        for _ in range(2):  # accounts are opened and the window of ids is, under the baton
            await running.submit(paying(move(available(1), available(3), 1)))
        assert running._memory.window.is_open
        yield running


@pytest_asyncio.fixture
async def beside(database: Database) -> AsyncIterator[Any]:
    connection = await asyncpg.connect(database.url)
    yield connection
    await connection.close()


def ordered(number: int = 0) -> uuid.UUID:
    """A time-ordered id."""
    return uuid.UUID(int=module.id_at(time.time()) + uuid.uuid4().int % 2**64 + number)


def pay(debit: int, credit: int, amount: int, **more: Any) -> Transfer:
    return move(available(debit), available(credit), amount, identifier=ordered(), **more)


async def waits_for_lock(connection: Any) -> int:
    """The backend that waits for the baton."""
    sql = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    while (pid := await connection.fetchval(sql)) is None:  # noqa: ASYNC110 - another process's state
        await asyncio.sleep(0.01)
    return int(pid)


async def in_flight(ledger: Ledger, beside: Any, items: list[Item]) -> list[asyncio.Task[Outcome]]:
    """Submitted and on its way; it waits for the baton, which the connection beside holds."""
    loop = asyncio.get_running_loop()
    tasks = [loop.create_task(ledger.submit(item)) for item in items]
    await waits_for_lock(beside)
    return tasks


async def foreseen(ledger: Ledger, items: list[Item]) -> list[asyncio.Task[Outcome]]:
    """Decided behind the batch that is in flight: enough of them that none is waited for."""
    before = ledger._memory.clock
    tasks = [asyncio.get_running_loop().create_task(ledger.submit(item)) for item in items]
    while ledger._memory.clock == before:  # noqa: ASYNC110 - what is awaited has no event
        await asyncio.sleep(0.01)
    return tasks


async def all_of(tasks: list[asyncio.Task[Outcome]]) -> list[Outcome]:
    return [await task for task in tasks]


async def submit_all(ledger: Ledger, *items: Item) -> list[Outcome]:
    """Together, in this order."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(ledger.submit(item)) for item in items]
    return [task.result() for task in tasks]


async def test_what_is_decided_builds_on_what_is_in_flight(
    ledger: Ledger, beside: Any, database: Database
) -> None:
    """Balances, a pending transfer and a repeat, all from a batch that is not committed yet."""
    hold = pay(1, 2, 100, flags=Flag.PENDING, timeout_seconds=1_000)
    emptied = pay(1, 3, ALL, flags=Flag.BALANCING_DEBIT)
    known = paying(hold, emptied)
    before = ledger.foreseen
    async with beside.transaction():
        await beside.execute("SELECT FROM clock FOR UPDATE")
        first = await in_flight(ledger, beside, [known])
        broke = paying(pay(1, 2, 1))
        post = paying(pay(1, 2, ALL, flags=Flag.POST, pending_id=hold.id))
        others = [paying(pay(3, 2, 1)) for _ in range(32)]
        second = await foreseen(ledger, [broke, post, known, *others])
    outcomes = await all_of(first + second)
    assert [outcome.status for outcome in outcomes[:4]] == [
        Status.APPLIED, Status.REFUSED, Status.APPLIED, Status.DUPLICATE,
    ]  # fmt: skip
    assert outcomes[1].codes == (Code.EXCEEDS_CREDITS,)
    assert outcomes[2].amounts == (100,)
    assert outcomes[3].positions == outcomes[0].positions
    assert ledger.foreseen > before
    await assert_sound(database, issued=2_000)


async def test_nothing_is_left_of_what_was_built_on_a_batch_that_came_to_nothing(
    ledger: Ledger, beside: Any, database: Database
) -> None:
    """Somebody else has the baton first: both batches are decided anew, on what he left."""
    first = paying(pay(1, 3, ALL, flags=Flag.BALANCING_DEBIT))
    second = [paying(pay(3, 2, 900))] + [paying(pay(2, 1, 1)) for _ in range(32)]
    before = ledger.foreseen
    async with beside.transaction():
        row = await beside.fetchrow("SELECT * FROM clock FOR UPDATE")
        tasks = await in_flight(ledger, beside, [first])
        tasks += await foreseen(ledger, second)
        await beside.execute(
            "INSERT INTO batches (number, seq_first, seq_last, ts_last, events) VALUES ($1, $2, $3, $4, 0)",
            row["batch"] + 1, row["seq"] + 1, row["seq"], row["ts"],
        )  # fmt: skip
        await beside.execute("UPDATE clock SET batch = batch + 1")
    outcomes = await all_of(tasks)
    assert {outcome.status for outcome in outcomes} == {Status.APPLIED}
    assert ledger.foreseen == before
    await assert_sound(database, issued=2_000)


async def test_the_writers_connection_is_cut(
    ledger: Ledger, beside: Any, database: Database
) -> None:
    """Its batch is unknown, and the one behind it is decided on what is really there."""
    first = paying(pay(1, 3, ALL, flags=Flag.BALANCING_DEBIT))
    second = [paying(pay(1, 2, 500))] + [paying(pay(2, 1, 1)) for _ in range(32)]
    async with beside.transaction():
        await beside.execute("SELECT FROM clock FOR UPDATE")
        tasks = await in_flight(ledger, beside, [first])
        behind = await foreseen(ledger, second)
        await beside.execute("SELECT pg_terminate_backend($1)", await waits_for_lock(beside))
        with pytest.raises(Unknown):
            await tasks[0]
    outcomes = await all_of(behind)
    assert {outcome.status for outcome in outcomes} == {Status.APPLIED}
    again = await ledger.submit(first)  # it never happened, so 1,000 - 2 - 500 + 32 are there
    assert (again.status, again.amounts) == (Status.APPLIED, (530,))
    await assert_sound(database, issued=2_000)


async def test_a_statement_that_is_logged_already_is_found_when_it_was_not_expected(
    database: Database,
) -> None:
    """Another process logged it: the writing is refused, and under the baton all is told."""
    said, more = statement(), statement()
    other = Database(database.url)
    async with Ledger(database, statements={}) as left:
        async with Ledger(other, statements={}) as right:
            assert (await right.submit(Item((), (said,)))).positions == (0,)
        await endow(left, {1: 10})
        for _ in range(2):
            await left.submit(paying(pay(1, 2, 1)))
        left._memory.digests.clear()
        outcome, other_one = await submit_all(left, Item((), (said,)), Item((), (more,)))
        assert outcome == Outcome(Status.DUPLICATE, positions=(0,))
        assert other_one.status is Status.APPLIED
    await other.close()
    await assert_sound(database, issued=10)


async def test_ids_that_memory_let_go_of_are_asked_for(
    ledger: Ledger, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "IDS_MAX", 8)
    items = [paying(pay(1, 2, 1)) for _ in range(40)]
    for item in items:
        assert (await ledger.submit(item)).status is Status.APPLIED
    failed = paying(pay(7, 2, 1))
    await ledger.submit(failed)
    for item in items[::7]:
        assert (await ledger.submit(item)).status is Status.DUPLICATE
    assert (await ledger.submit(failed)).codes == (Code.ALREADY_FAILED,)
    window = ledger._memory.window
    assert len(window._young) + len(window._old) <= 18
    await assert_sound(database, issued=2_000)


@pytest.mark.parametrize("as_text", [False, True])
async def test_transfers_under_a_cause_that_is_logged(
    ledger: Ledger, database: Database, as_text: bool
) -> None:
    said = statement()
    cause: bytes | str = said.digest if as_text else bytes.fromhex(said.digest[7:])
    item = Item((pay(1, 2, 5), pay(2, 3, 5)), cause=cause)
    with pytest.raises(BadStatement, match="logged cause"):
        await ledger.submit(item)
    await ledger.submit(Item((), (said,)))
    ledger._memory.forget()  # a process that never saw it logged
    outcome = await ledger.submit(item)
    assert outcome == Outcome(Status.APPLIED, (Code.CREATED,) * 2, (5, 5))
    assert (await ledger.submit(item)).status is Status.DUPLICATE
    apart = Item((pay(7, 2, 5), pay(2, 3, 5)), cause=cause, apart=True)
    assert (await ledger.submit(apart)).codes == (Code.EXCEEDS_CREDITS, Code.CREATED)
    await assert_sound(database, issued=2_000)


async def test_a_cause_logged_beside_it_counts(ledger: Ledger, database: Database) -> None:
    """In whichever batch, before or with it: the log's order tells."""
    said = statement()
    logged, moved = await submit_all(
        ledger, Item((), (said,)), Item((pay(1, 2, 5),), cause=said.digest)
    )
    assert logged.status is moved.status is Status.APPLIED
    await assert_sound(database, issued=2_000)


@pytest.mark.parametrize("cause", ["sha256:5a", b"short"])
async def test_a_cause_that_is_no_digest(ledger: Ledger, cause: bytes | str) -> None:
    with pytest.raises(BadStatement):
        await ledger.submit(Item((pay(1, 2, 5),), cause=cause))


async def test_statements_stand_in_the_order_in_which_transfers_were_decided(
    ledger: Ledger, beside: Any, database: Database
) -> None:
    """Whoever replays the log in its order finds the same answers; refused ones leave no trace."""
    items = [paying(pay(1 + n % 2, 3 + n % 3, 150), pay(3 + n % 3, 1, 1)) for n in range(40)]
    outcomes = await submit_all(ledger, *items)
    assert {outcome.status for outcome in outcomes} == {Status.APPLIED, Status.REFUSED}
    rows = await beside.fetch(
        "SELECT s.idx FROM transfers AS t JOIN statements AS s ON s.digest = t.cause ORDER BY t.seq"
    )
    positions = [row[0] for row in rows]
    assert positions == sorted(positions)
    await assert_sound(database, issued=2_000)


async def test_what_ran_out_is_told_first_in_its_batch(database: Database, beside: Any) -> None:
    """With traffic and without; each pending transfer once, at the ledger time of its release."""
    now = [10**18]
    told: list[tuple[tuple[uuid.UUID, ...], int, Opened]] = []

    def expired(ids: tuple[uuid.UUID, ...], at_ns: int) -> Opened:
        told.append((ids, at_ns, statement()))
        return told[-1][2]

    async with Ledger(database, statements={}, clock=lambda: now[0], expired=expired) as ledger:
        await endow(ledger, {1: 100})
        held = [pay(1, 2, 10, flags=Flag.PENDING, timeout_seconds=n) for n in (5, 5, 20)]
        for transfer in held:
            await ledger.submit(paying(transfer))
        assert await ledger.expire() == 0
        now[0] += 6 * SECOND
        item = paying(pay(1, 2, 80))  # with what both release it is there
        assert (await ledger.submit(item)).codes == (Code.CREATED,)
        now[0] += 20 * SECOND
        assert await ledger.expire() == 1
        assert await ledger.expire() == 0
    assert [set(ids) for ids, _, _ in told] == [{held[0].id, held[1].id}, {held[2].id}]
    assert told[0][1] < told[1][1] <= now[0]
    digests = [row[0] for row in await beside.fetch("SELECT digest FROM statements ORDER BY idx")]
    expected = [told[0][2].digest, item.statements[0].digest, told[1][2].digest]
    assert [f"sha256:{digest.hex()}" for digest in digests[4:]] == expected
    await assert_sound(database, issued=100)
