"""Statements opened in bursts: the same answers as one by one, whoever opens them and whatever dies."""

import asyncio
import contextlib
import os
import signal
from collections.abc import Sequence

import pytest

from settlement.domain.errors import BadSignature, BadStatement, GridpactError, WrongMarket
from settlement.domain.statement import Opened
from settlement.service import opening
from settlement.service.opening import IN_PLACE_MAX, Opener
from tests.store.ledger_maker import MARKET, statement

BURST = 3 * opening.CHUNK


async def all_of(opener: Opener, envelopes: Sequence[bytes]) -> list[Opened | GridpactError]:
    """Each answer or error, asked for at once."""

    async def ask(envelope: bytes) -> Opened | GridpactError:
        try:
            return await opener.open(envelope)
        except GridpactError as error:
            return error

    async with asyncio.TaskGroup() as tasks:
        asked = [tasks.create_task(ask(envelope)) for envelope in envelopes]
    return [task.result() for task in asked]


def bytes_of(made: Sequence[Opened]) -> list[bytes]:
    return [one.envelope for one in made]


async def test_a_few_are_opened_in_place() -> None:
    made = [statement() for _ in range(IN_PLACE_MAX)]
    async with Opener(MARKET) as opener:
        found = await all_of(opener, bytes_of(made))
    assert found == made
    assert opener.travelled == 0


async def test_a_burst_travels_and_comes_back_the_same() -> None:
    made = [statement() for _ in range(BURST)]
    async with Opener(MARKET) as opener:
        found = await all_of(opener, bytes_of(made))
        assert found == made
        assert opener.travelled == BURST
        later = statement()
        assert await opener.open(later.envelope) == later
        assert opener.travelled == BURST  # a single one stays


async def test_each_gets_its_own_error() -> None:
    made = [statement() for _ in range(BURST)]
    other = made[1].envelope.replace(made[1].signer.encode(), made[2].signer.encode()[::-1])
    wrong = {0: b"{}", 1: other}
    async with Opener(MARKET) as opener:
        answers = await all_of(opener, [wrong.get(at, one.envelope) for at, one in enumerate(made)])
    assert isinstance(answers[0], BadStatement)
    assert isinstance(answers[1], BadSignature)
    assert answers[2:] == made[2:]
    async with Opener("other.example") as opener:
        with pytest.raises(WrongMarket):
            await opener.open(made[0].envelope)


async def test_nothing_is_lost_when_the_other_process_is_killed() -> None:
    made = [statement() for _ in range(BURST)]
    async with Opener(MARKET, workers=1) as opener:
        await opener.warm()
        assert opener._pool is not None
        (victim,) = opener._pool._processes
        os.kill(victim, signal.SIGKILL)
        assert await all_of(opener, bytes_of(made)) == made
        assert await all_of(opener, bytes_of(made)) == made
        assert opener._pool is not None
        assert victim not in opener._pool._processes


async def test_whoever_goes_away_stops_nobody() -> None:
    made = [statement() for _ in range(BURST)]
    async with Opener(MARKET, workers=1) as opener, asyncio.TaskGroup() as tasks:
        asked = [tasks.create_task(opener.open(one.envelope)) for one in made]
        await asyncio.sleep(0)
        asked[5].cancel()
        for at, task in enumerate(asked):
            with contextlib.suppress(asyncio.CancelledError):
                assert await task == made[at]
