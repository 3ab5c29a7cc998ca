"""What the owner of the machine may tell a running daemon, and how it looks from inside."""

import asyncio
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Final, assert_never

from compute.daemon import console
from compute.daemon.loop import Daemon
from compute.daemon.offering import Offering
from compute.daemon.slots import now_ms
from compute.domain.holding import Held, Pause, Reprice, Resume
from settlement.domain.errors import BadTransition, GridpactError
from settlement.domain.resources import Rates

LOG: Final = logging.getLogger(__name__)

PAUSED: Final = "the provider is paused"
WANTED_BACK: Final = "the owner wants the machine back"
BUSY_ELSEWHERE: Final = "the owner works on the machine"
EMPTY_SECONDS: Final = 10.0  # until the answer says that something still runs


@dataclass
class Owner:
    """Carries out the owner's words; one at a time, in the order in which they come."""

    daemon: Daemon
    offering: Offering
    leave: Callable[[], None]
    since_ms: int = field(default_factory=now_ms)
    _turn: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def answer(self, request: console.Request) -> console.Answer:
        """Do what is asked; a refusal is an answer too."""
        if isinstance(request, console.Status):
            return self.snapshot()
        try:
            if isinstance(request, console.Yield):  # waits for nobody
                return await self.give_way(WANTED_BACK)
            async with self._turn:
                return await self._do(request)
        except GridpactError as error:
            return console.Refused(code=error.code, detail=error.detail)

    async def _do(
        self, request: console.Drain | console.Pause | console.Resume | console.SetPrice
    ) -> console.Ok:
        match request:
            case console.Drain():
                self.leave()
                return console.Ok(said="draining")
            case console.Pause():
                self._alive()
                self.daemon.happen(Pause(PAUSED))
                return console.Ok(said="paused")
            case console.Resume():
                return await self.resume()
            case console.SetPrice():
                return await self._price(request)
            case _:
                assert_never(request)

    async def give_way(self, reason: str) -> console.Ok:
        """End every sandbox and take nothing new; answers when nothing of them is left."""
        leases = frozenset(self.daemon.agent.leases)
        self.daemon.happen(Pause(reason, now=True))
        LOG.warning("%s: %d leases end at once", reason, len(leases))
        began_ms = now_ms()
        empty = await self.daemon.emptied(leases, EMPTY_SECONDS)
        LOG.warning("%s after %d ms", "empty" if empty else "not empty", now_ms() - began_ms)
        return console.Ok(said="yielded", ended=len(leases), empty=empty)

    async def resume(self) -> console.Ok:
        """Take work again. A market that cannot be reached now gets the offer as soon as it can."""
        self._alive()
        self.daemon.happen(Resume())
        self.offering.withdraw()  # the market forgets that we were away with the next offer
        if self.daemon.agent.online:
            await self.offering.renew(now_ms())
        return console.Ok(said="serving")

    async def _price(self, request: console.SetPrice) -> console.Ok:
        self._alive()
        before = self.offering.terms
        rates = Rates(
            *(
                now if wanted is None else wanted
                for wanted, now in (
                    (request.cpu, before.rates.cpu),
                    (request.gib, before.rates.gib),
                    (request.gpu, before.rates.gpu),
                )
            )
        )
        self.offering.terms = replace(before, rates=rates)
        if self.daemon.agent.paused or not self.daemon.agent.online:
            self.offering.withdraw()  # posted with the next offer
        else:
            try:
                await self.offering.renew(now_ms())
            except GridpactError:
                self.offering.terms = before
                raise
        self.daemon.happen(Reprice(rates))
        return console.Ok(said=f"cpu {rates.cpu}, gib {rates.gib}, gpu {rates.gpu}")

    def _alive(self) -> None:
        if self.daemon.agent.draining:
            raise BadTransition("the daemon is draining: it will end, start it again instead")

    def snapshot(self) -> console.Snapshot:
        """All that the owner may want to see, without a question to the market."""
        agent, tally, terms = self.daemon.agent, self.daemon.tally, self.offering.terms
        now = now_ms()
        return console.Snapshot(
            name=terms.name,
            address=self.offering.provider.key.address,
            market=self.offering.provider.market,
            pid=os.getpid(),
            state=self._state(),
            reason=agent.paused,
            connected=agent.online,
            protection=agent.protection,
            capacity=agent.capacity,
            taken=agent.taken(),
            rates=agent.rates,
            leases=[_line(lease, held) for lease, held in agent.leases.items()],
            running=agent.running,
            unacknowledged=len(agent.answers),
            chunks=tally.chunks,
            tasks=tally.tasks,
            lost=tally.lost,
            rejected=tally.rejected,
            earned_today=str(tally.today_microcredits(now)),
            earned=str(tally.earned_microcredits),
            since_ms=self.since_ms,
        )

    def _state(self) -> console.State:
        agent = self.daemon.agent
        if agent.draining:
            return "draining"
        if agent.paused:
            return "paused"
        return "serving" if agent.online else "connecting"


def _line(lease: str, held: Held) -> console.LeaseLine:
    return console.LeaseLine(
        lease=lease,
        job=held.grant.job,
        phase=held.phase.value,
        slot=held.grant.slot,
        rate=held.grant.rate,
        chunks=len(held.works()),
        deadline_ms=held.grant.deadline_ms,
    )
