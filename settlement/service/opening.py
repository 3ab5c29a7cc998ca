"""Statements opened many at a time: a few in place, a burst in another process, beside the ledger's own work.

A signature takes 60 us of a core, and whoever checks thousands a second in the process that also
decides and writes batches makes both wait for one interpreter.
"""

import asyncio
import multiprocessing
import os
from collections import deque
from collections.abc import Sequence
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor
from types import TracebackType
from typing import Final, Self

from settlement.domain import governance, payments, receipt, settled, statement, trade, verdict
from settlement.domain.errors import GridpactError
from settlement.domain.statement import Opened

# The other process starts with nothing but this module, which has to know every kind.
KINDS: Final = (governance, payments, receipt, settled, trade, verdict)
CHUNK: Final = 128  # envelopes that travel to the other process together
IN_PLACE_MAX: Final = 16  # that wait at once; below, another process would only cost time
WORKERS_MAX: Final = 8

Answer = Opened | GridpactError


def open_all(envelopes: Sequence[bytes], market: str) -> list[Answer]:
    """Each statement, or why it is none; an error is an answer, so that one does not spoil the rest."""
    answers: list[Answer] = []
    for envelope in envelopes:
        try:
            answers.append(statement.open_any(envelope, market=market))
        except GridpactError as error:
            answers.append(error)
    return answers


class Opener:
    """`async with Opener(market) as opener: opened = await opener.open(envelope)`.

    The other processes start with the first burst, and are made anew should one end.
    """

    def __init__(self, market: str, *, workers: int | None = None) -> None:
        self._market = market
        self._workers = workers or min(WORKERS_MAX, max(1, (os.cpu_count() or 1) - 1))
        self._waiting: deque[tuple[bytes, asyncio.Future[Opened]]] = deque()
        self._pool: ProcessPoolExecutor | None = None
        self._free = self._workers
        self._tasks = asyncio.TaskGroup()
        self._due = False
        self.travelled = 0  # envelopes opened elsewhere

    async def __aenter__(self) -> Self:
        await self._tasks.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._tasks.__aexit__(None, None, None)
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)

    async def open(self, envelope: bytes) -> Opened:
        """The statement, of whatever kind; the errors of `statement.open_any`."""
        answer: asyncio.Future[Opened] = asyncio.get_running_loop().create_future()
        self._waiting.append((envelope, answer))
        self._soon()
        return await answer

    async def warm(self) -> None:
        """Start the other processes now instead of with the first burst."""
        loop = asyncio.get_running_loop()
        for _ in range(self._workers):
            await loop.run_in_executor(self._processes(), open_all, [], self._market)

    def _soon(self) -> None:
        """Whoever asks in the same turn of the loop is opened together."""
        if not self._due:
            self._due = True
            asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        self._due = False
        if self._free == self._workers and len(self._waiting) <= IN_PLACE_MAX:
            self._answer(*self._take(len(self._waiting)))
            return
        while self._waiting and self._free:
            self._free -= 1
            self._tasks.create_task(self._elsewhere(*self._take(CHUNK)))

    def _take(self, count: int) -> tuple[list[bytes], list[asyncio.Future[Opened]]]:
        taken = [self._waiting.popleft() for _ in range(min(count, len(self._waiting)))]
        return [envelope for envelope, _ in taken], [answer for _, answer in taken]

    def _answer(
        self,
        envelopes: list[bytes],
        waiting: list[asyncio.Future[Opened]],
        answers: list[Answer] | None = None,
    ) -> None:
        found = open_all(envelopes, self._market) if answers is None else answers
        for one, answer in zip(waiting, found, strict=True):
            if one.done():
                continue  # whoever asked went away
            if isinstance(answer, GridpactError):
                one.set_exception(answer)
            else:
                one.set_result(answer)

    async def _elsewhere(
        self, envelopes: list[bytes], waiting: list[asyncio.Future[Opened]]
    ) -> None:
        answers: list[Answer] | None = None
        try:
            loop = asyncio.get_running_loop()
            answers = await loop.run_in_executor(
                self._processes(), open_all, envelopes, self._market
            )
            self.travelled += len(envelopes)
        except BrokenExecutor:  # it was killed: these are opened here, the next ones by a new one
            self._pool = None
        finally:
            self._free += 1
            self._soon()
        self._answer(envelopes, waiting, answers)

    def _processes(self) -> ProcessPoolExecutor:
        if self._pool is None:
            self._pool = ProcessPoolExecutor(
                self._workers, mp_context=multiprocessing.get_context("spawn")
            )
        return self._pool
