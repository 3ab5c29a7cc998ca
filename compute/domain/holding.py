"""What a daemon holds, what may happen to it and what it may be told to do: the agent's words."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Final, TypeVar

from market.wire.control import (
    PROTOCOL,
    Close,
    Done,
    Drain,
    Grant,
    Hello,
    Lost,
    Ready,
    Refuse,
    Settled,
    Welcome,
    Work,
)
from settlement.domain.resources import Rates, Resources

LEASES_MAX: Final = 256
ATTEMPTS_WAITING_MAX: Final = 8  # of one lease; the market keeps at most a few ahead
ANSWERS_MAX: Final = 1_024  # that nobody has acknowledged
MEMORY_MAX: Final = 2_048  # attempts and leases that are over and remembered as such
REARMS_MAX: Final = 1  # in a row, after the machine failed under a lease
REPEAT_MS: Final = 15_000  # an answer that is not acknowledged by then is said again
FREE: Final = Rates(0, 0, 0)
DEADLINE_GRACE_MS: Final = 60_000  # clocks differ; the market closes on time, this is only a guard


class Phase(StrEnum):
    GRANTED = "granted"  # waits for the room of a lease that is being emptied
    ARMING = "arming"  # code is fetched, the sandbox is started
    ACTIVE = "active"  # warm, idle
    RUNNING = "running"  # one chunk is in the sandbox
    CLOSING = "closing"  # being killed and proven empty


@dataclass(frozen=True, slots=True)
class Held:
    """One lease on this machine, the chunk in its sandbox and those that wait for it."""

    grant: Grant
    phase: Phase = Phase.GRANTED
    running: Work | None = None
    waiting: tuple[Work, ...] = ()
    rearms: int = 0

    def works(self) -> tuple[Work, ...]:
        return self.waiting if self.running is None else (self.running, *self.waiting)

    def rested(self) -> "Held":
        """Without its running chunk; a closing lease goes on closing."""
        phase = self.phase if self.phase is Phase.CLOSING else Phase.ACTIVE
        return replace(self, phase=phase, running=None)


@dataclass(frozen=True, slots=True)
class Answer:
    """What was answered for an attempt and is kept until the market has acknowledged it."""

    lease: str
    frame: Done | Lost
    said_ms: int = 0


@dataclass(frozen=True, slots=True)
class Agent:
    """All that the brain knows. `settled` and `ended` are memories of bounded length."""

    capacity: Resources
    environment: str
    protection: str
    rates: Rates = FREE
    leases: Mapping[str, Held] = field(default_factory=dict)
    answers: Mapping[str, Answer] = field(default_factory=dict)
    settled: Mapping[str, None] = field(default_factory=dict)
    ended: Mapping[str, str] = field(default_factory=dict)
    online: bool = False
    draining: bool = False
    paused: str = ""  # why nothing new is taken for now; empty when it is
    now_ms: int = 0

    @property
    def running(self) -> int:
        """How many chunks are in sandboxes."""
        return sum(held.running is not None for held in self.leases.values())

    @property
    def idle(self) -> bool:
        """Nothing is held and no receipt waits to be acknowledged: the daemon may go."""
        unheard = any(isinstance(answer.frame, Done) for answer in self.answers.values())
        return not self.leases and not unheard

    def hello(self) -> Hello:
        return Hello(protocol=PROTOCOL, leases=list(self.leases), attempts=list(self._attempts()))

    def holds_attempt(self, attempt: str) -> bool:
        """Whether the attempt runs or waits here."""
        return any(
            attempt == work.attempt for held in self.leases.values() for work in held.works()
        )

    def taken(self) -> Resources:
        """What the leases need that are not on their way out."""
        return _total(held for held in self.leases.values() if held.phase is not Phase.CLOSING)

    def occupied(self) -> Resources:
        """What is in use on the machine just now, closing leases included."""
        return _total(held for held in self.leases.values() if held.phase is not Phase.GRANTED)

    def with_lease(self, held: Held) -> "Agent":
        return replace(self, leases={**self.leases, held.grant.lease: held})

    def without_lease(self, lease: str) -> "Agent":
        return replace(self, leases=_without(self.leases, lease))

    def with_answer(self, answer: Answer) -> "Agent":
        """Receipts are never dropped; of too many Lost the oldest goes."""
        answers = {**self.answers, answer.frame.attempt: answer}
        if len(answers) > ANSWERS_MAX:
            losses = (key for key, kept in answers.items() if isinstance(kept.frame, Lost))
            answers.pop(next(losses, ""), None)
        return replace(self, answers=answers)

    def with_settled(self, attempt: str) -> "Agent":
        return replace(
            self,
            answers=_without(self.answers, attempt),
            settled=_remembering(self.settled, attempt, None),
        )

    def with_ended(self, lease: str, reason: str) -> "Agent":
        return replace(self, ended=_remembering(self.ended, lease, reason))

    def _attempts(self) -> tuple[str, ...]:
        works = [work.attempt for held in self.leases.values() for work in held.works()]
        return tuple(dict.fromkeys([*works, *self.answers]))


def begin(
    agent: Agent, *, opened: Mapping[str, str], receipts: Mapping[str, tuple[str, Done]]
) -> Agent:
    """After a restart: what was running has died, what was signed still waits for its answer.

    Both map attempts to their leases, as the journal kept them.
    """
    for attempt, lease in opened.items():
        lost = Lost(attempt=attempt, reason="the provider's daemon was restarted")
        agent = agent.with_answer(Answer(lease, lost))
    for lease, done in receipts.values():
        agent = agent.with_answer(Answer(lease, done))
    return agent


# ── events: the market's frames, and these ──────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Armed:
    """The lease's sandbox is warm."""

    lease: str


@dataclass(frozen=True, slots=True)
class Unarmed:
    """The lease's sandbox could not be started."""

    lease: str
    reason: str


@dataclass(frozen=True, slots=True)
class Finished:
    """A chunk was run and its receipt is signed and in the journal."""

    lease: str
    done: Done


@dataclass(frozen=True, slots=True)
class Failed:
    """A chunk brought no receipt; `slot_lost` says that its sandbox went with it."""

    lease: str
    attempt: str
    reason: str
    slot_lost: bool


@dataclass(frozen=True, slots=True)
class Emptied:
    """Nothing of the lease runs any more."""

    lease: str


@dataclass(frozen=True, slots=True)
class Disconnected:
    """The market cannot be heard."""


@dataclass(frozen=True, slots=True)
class Leave:
    """The daemon is asked to end; with `now` it does not wait for what runs."""

    now: bool = False


@dataclass(frozen=True, slots=True)
class Pause:
    """The owner wants nothing new to be taken; with `now` the machine is given back at once."""

    reason: str
    now: bool = False


@dataclass(frozen=True, slots=True)
class Resume:
    """The owner lets the machine work again."""


@dataclass(frozen=True, slots=True)
class Reprice:
    """Grants from now on are held against these rates; leases that run keep theirs."""

    rates: Rates


@dataclass(frozen=True, slots=True)
class Tick:
    """The time, milliseconds since 1970."""

    now_ms: int


Event = (
    Welcome
    | Grant
    | Work
    | Close
    | Settled
    | Armed
    | Unarmed
    | Finished
    | Failed
    | Emptied
    | Disconnected
    | Leave
    | Pause
    | Resume
    | Reprice
    | Tick
)


# ── commands ────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Send:
    """To the market, if it is connected."""

    frame: Ready | Refuse | Done | Lost | Drain


@dataclass(frozen=True, slots=True)
class Arm:
    """Fetch the lease's code and start its sandbox; `again` after the machine failed under it."""

    grant: Grant
    again: bool = False


@dataclass(frozen=True, slots=True)
class Run:
    """Run one chunk in the lease's sandbox and sign its receipt."""

    grant: Grant
    work: Work


@dataclass(frozen=True, slots=True)
class Empty:
    """Kill whatever the lease runs and prove it gone."""

    lease: str


@dataclass(frozen=True, slots=True)
class Open:
    """Journal: the attempt was taken over."""

    attempt: str
    lease: str


@dataclass(frozen=True, slots=True)
class Forget:
    """Journal: the attempt's answer was acknowledged."""

    attempt: str


Command = Send | Arm | Run | Empty | Open | Forget


# ── small parts ─────────────────────────────────────────────────────────────────────────────

V = TypeVar("V")


def _without(mapping: Mapping[str, V], key: str) -> Mapping[str, V]:
    return {name: value for name, value in mapping.items() if name != key}


def _remembering(mapping: Mapping[str, V], key: str, value: V) -> Mapping[str, V]:
    """With one more; the oldest goes when there are too many."""
    kept = {**mapping, key: value}
    if len(kept) > MEMORY_MAX:
        kept.pop(next(iter(kept)))
    return kept


def _total(leases: Iterable[Held]) -> Resources:
    total = Resources(0, 0, 0)
    for held in leases:
        total = total.plus(held.grant.slot)
    return total
