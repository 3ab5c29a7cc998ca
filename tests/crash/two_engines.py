"""Two engines on one database, in turns and at once, with clocks of their own and sudden ends.

Each item goes to either engine; what it answers is what the recounting model says, which hears the
same transfers in the same order. Items that are sent at once do not depend on one another's order.
"""

import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from settlement.domain.ledger import ALL, AccountKey, Code, Event, Flag, Limit, Transfer
from settlement.service.audit import Difference, check_invariants
from settlement.service.engine import Item, Ledger, Outcome, Status
from settlement.store.database import Database, driver
from tests.store.ledger_maker import ISSUED, MARKET, available, move, paying
from tests.unit.settlement.ledger_model import SECOND_NS, Model

AGAIN_ONE_IN: Final = 5
AT_ONCE_ONE_IN: Final = 10
FUNDS: Final = 200
NAMES: Final = (ISSUED, *(available(number) for number in range(1, 6)))
NUMBERS: Final = {key: number for number, key in enumerate(NAMES, start=1)}
RESTART_ONE_IN: Final = 25
SKEW_SECONDS: Final = 5
START_NS: Final = 2_000_000_000 * SECOND_NS


@dataclass
class Ran:
    """What was done."""

    steps: int = 0
    restarts: int = 0
    at_once: int = 0


class Engine:
    """One process: a pool, a ledger, a clock."""

    def __init__(self, url: str, clock: "Clock", skew_ns: int) -> None:
        self.database = Database(url, pool_size=4)
        self.ledger = Ledger(self.database, statements={}, clock=lambda: clock.now_ns + skew_ns)

    async def open(self) -> None:
        await self.ledger.__aenter__()

    async def close(self) -> None:
        await self.ledger.__aexit__(None, None, None)
        await self.database.close()


@dataclass
class Clock:
    """The time that both engines see, each with its skew."""

    now_ns: int = START_NS


class Pair:
    """Two engines, the model, and one source of chance."""

    def __init__(self, url: str, seed: int) -> None:
        self._url, self._chance, self._clock = url, random.Random(seed), Clock()
        limits = {n: Limit.CREDITS if key is ISSUED else Limit.DEBITS for key, n in NUMBERS.items()}
        self._model = Model(limits)
        self._engines: list[Engine] = []
        self._said: list[Item] = []
        self.ran = Ran()

    async def run(self, steps: int) -> Ran:
        for skew in (0, -SKEW_SECONDS * SECOND_NS):
            self._engines.append(Engine(self._url, self._clock, skew))
            await self._engines[-1].open()
        try:
            for party in NAMES[1:4]:
                await self._step(paying(move(ISSUED, party, FUNDS)))
            while self.ran.steps < steps:
                self._clock.now_ns += self._chance.choice((0, 1, SECOND_NS, 20 * SECOND_NS))
                await self._some()
                self.ran.steps += 1
            await self._check()
        finally:
            for engine in self._engines:
                await engine.close()
        return self.ran

    async def _some(self) -> None:
        chance = self._chance
        if not chance.randrange(RESTART_ONE_IN):
            await self._restart(chance.randrange(2))
        if not chance.randrange(AT_ONCE_ONE_IN):
            await self._at_once()
        elif self._said and not chance.randrange(AGAIN_ONE_IN):
            await self._step(chance.choice(self._said))
        else:
            item = paying(*self._transfers())
            self._said.append(item)
            await self._step(item)

    async def _restart(self, which: int) -> None:
        """One process ends, another begins: with an empty memory, and a clock that is off anew."""
        await self._engines[which].close()
        skew = self._chance.randint(-SKEW_SECONDS, SKEW_SECONDS) * SECOND_NS
        self._engines[which] = Engine(self._url, self._clock, skew)
        await self._engines[which].open()
        self.ran.restarts += 1

    async def _step(self, item: Item) -> None:
        """One item through either engine, and through the model at the time that the ledger had."""
        outcome = await self._chance.choice(self._engines).ledger.submit(item)
        expected, at_ns = await self._foretold(item)
        found = _told(outcome)
        assert found == expected, f"{found} is not {expected} for {item} at {at_ns}"

    async def _foretold(self, item: Item) -> tuple[str, int]:
        """What the model answers; repeats of the same item are the first answer again."""
        at_ns = await self._ledger_time()
        cause = item.statements[0].digest.encode()
        known = [self._model.happened.get(transfer.id.int) for transfer in item.transfers]
        if all(one is not None and one.event.cause == cause for one in known):
            return "stands", at_ns
        events = _events(item.transfers, cause)
        codes = self._model.run(events, at_ns)
        return ("stands" if set(codes) == {Code.CREATED} else "refused"), at_ns

    async def _ledger_time(self) -> int:
        found: int = await self._engines[0].database.look(_read, "SELECT ts FROM clock")
        return found

    async def _at_once(self) -> None:
        """Both engines busy with payments whose order does not matter: each debits what it has."""
        party = self._chance.choice(NAMES[1:4])
        free = self._spendable(party)
        items = [
            paying(move(party, self._chance.choice(NAMES[4:]), 1)) for _ in range(min(free, 12))
        ]
        async with asyncio.TaskGroup() as tasks:
            sent = [
                tasks.create_task(self._engines[number % 2].ledger.submit(item))
                for number, item in enumerate(items)
            ]
        assert {one.result().status for one in sent} <= {Status.APPLIED}
        for item in items:
            assert (await self._foretold(item))[0] == "stands"
            self._said.append(item)
        self.ran.at_once += len(items)

    def _spendable(self, key: AccountKey) -> int:
        debits_pending, debits, _, credits_ = self._model.balance(NUMBERS[key])
        return credits_ - debits - debits_pending

    def _transfers(self) -> list[Transfer]:
        return [self._transfer() for _ in range(self._chance.choice((1, 1, 1, 2, 3)))]

    def _transfer(self) -> Transfer:
        chance = self._chance
        held = [one for one in self._model.happened.values() if one.event.flags & Flag.PENDING]
        if held and chance.randrange(3) == 0:
            one = chance.choice(held).event
            flag = chance.choice((Flag.POST, Flag.VOID))
            amount = chance.choice((ALL, 1, 5)) if flag is Flag.POST else 0
            debit, credit = NAMES[one.debit - 1], NAMES[one.credit - 1]
            return move(debit, credit, amount, flags=flag, pending_id=UUID(int=one.id))
        debit, credit = chance.sample(NAMES[1:], 2)
        flags = chance.choice((Flag(0), Flag(0), Flag.PENDING, Flag.BALANCING_DEBIT))
        seconds = chance.choice((0, 30)) if flags & Flag.PENDING else 0
        return move(
            debit, credit, chance.choice((0, 1, 7, 60, 150)), flags=flags, timeout_seconds=seconds
        )

    async def _check(self) -> None:
        """The books balance, and every account is the model's once what is due has run out."""
        database = self._engines[0].database
        assert await database.run(_broken) == []
        at_ns = await self._ledger_time()
        self._model.run([], at_ns)
        for key, number in NUMBERS.items():
            sums = await database.look(_counters, key)
            assert sums == self._model.balance(number), key


async def _read(transaction: AsyncConnection, sql: str) -> int:
    found: int = await (await driver(transaction)).fetchval(sql)
    return found


async def _broken(transaction: AsyncConnection) -> list[Difference]:
    return [*await check_invariants(transaction, market=MARKET)]


async def _counters(transaction: AsyncConnection, key: AccountKey) -> tuple[int, ...]:
    row = await (await driver(transaction)).fetchrow(
        "SELECT dr_pending, dr_posted, cr_pending, cr_posted FROM accounts WHERE owner = $1 AND purpose = $2",
        bytes.fromhex(key.owner),
        int(key.purpose),
    )
    return tuple(map(int, row)) if row is not None else (0, 0, 0, 0)


def _told(outcome: Outcome) -> str:
    return "stands" if outcome.status in (Status.APPLIED, Status.DUPLICATE) else "refused"


def _events(transfers: Sequence[Transfer], cause: bytes) -> list[Event]:
    """The item as one chain in the model's terms."""
    last = len(transfers) - 1
    return [
        Event(
            one.id.int, NUMBERS[one.debit], NUMBERS[one.credit], one.amount,
            0 if one.pending_id is None else one.pending_id.int, one.timeout_seconds, 1, 1,
            one.flags | Flag.LINKED if at < last else one.flags, cause,
        )
        for at, one in enumerate(transfers)
    ]  # fmt: skip


async def run(url: str, steps: int, *, seed: int) -> Ran:
    """So many steps on an empty database."""
    return await Pair(url, seed).run(steps)
