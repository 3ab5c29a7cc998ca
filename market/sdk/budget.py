"""A cap over several jobs: no job may be opened that could spend more than what is left of it."""

import asyncio
from contextvars import ContextVar
from typing import Final, Protocol

from market.sdk.client import MarketClient
from settlement.domain.amount import format_credits, from_text
from settlement.domain.errors import BudgetExceeded

CLOSING_SECONDS_MAX: Final = 10.0  # how long a sealed job may take to give its budget back
CLOSING_POLL_SECONDS: Final = 0.1


class Sealable(Protocol):
    """A session, as far as its budget knows it."""

    @property
    def idle(self) -> bool: ...

    async def close(self) -> None: ...


class Budget:
    """Micro-credits that the jobs opened within a block may cost together.

    The market enforces it: each job's own budget is an escrow that is cut from what is left here.
    """

    def __init__(self, limit_microcredits: int) -> None:
        self.limit_microcredits = limit_microcredits
        self._spent_microcredits = 0  # by jobs that are closed
        self._reserved: dict[str, int] = {}  # the escrow of each open job
        self._sessions: list[Sealable] = []

    @property
    def left_microcredits(self) -> int:
        """What may still be put into new jobs."""
        return self.limit_microcredits - self._spent_microcredits - sum(self._reserved.values())

    def reserve(self, job: str, *, wanted_microcredits: int, least_microcredits: int) -> int:
        """The budget for a job: what it wants or what is left, but never less than one task needs."""
        left = self.left_microcredits
        if left < min(wanted_microcredits, least_microcredits) or left <= 0:
            raise BudgetExceeded(
                f"one more call may cost up to {format_credits(least_microcredits)} credits; "
                f"{format_credits(max(0, left))} of {format_credits(self.limit_microcredits)} are left"
            )
        self._reserved[job] = min(wanted_microcredits, left)
        return self._reserved[job]

    def release(self, job: str) -> None:
        """A job that was never opened costs nothing."""
        self._reserved.pop(job, None)

    @property
    def used(self) -> bool:
        """Whether any session draws on it."""
        return bool(self._sessions)

    def watch(self, session: Sealable) -> None:
        """Remember a session that draws on this budget."""
        self._sessions.append(session)

    async def free(self, client: MarketClient) -> None:
        """Seal what is idle and wait until its rest is back."""
        for session in self._sessions:
            if session.idle:
                await session.close()
        await self.settle(client, wait=True)

    async def seal_all(self) -> None:
        """The block ended: its sessions take no more calls."""
        for session in self._sessions:
            await session.close()
        self._sessions.clear()

    async def settle(self, client: MarketClient, *, wait: bool = False) -> None:
        """Ask which jobs are closed; their rest is free again. With `wait`, wait for the sealed."""
        try:
            async with asyncio.timeout(CLOSING_SECONDS_MAX):
                while True:
                    busy = await self._settle_once(client)
                    if not (wait and busy):
                        return
                    await asyncio.sleep(CLOSING_POLL_SECONDS)
        except TimeoutError:
            return  # what is still reserved stays so; the cap holds

    async def _settle_once(self, client: MarketClient) -> bool:
        """Whether a sealed job with all its tasks done has not closed yet."""
        busy = False
        for job in list(self._reserved):
            view = await client.job(job)
            if view.state == "closed":
                self._reserved.pop(job, None)
                self._spent_microcredits += from_text(view.spent)
            elif view.sealed and view.accepted == view.tasks:
                busy = True
        return busy


current: ContextVar[Budget | None] = ContextVar("gridpact_budget", default=None)
