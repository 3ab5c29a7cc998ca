"""Whatever arrives in whatever order: one run at most, one answer exactly, until it is heard."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from compute.domain.agent import step
from compute.domain.holding import (
    Agent,
    Arm,
    Armed,
    Disconnected,
    Emptied,
    Empty,
    Event,
    Failed,
    Finished,
    Forget,
    Leave,
    Open,
    Phase,
    Run,
    Send,
    Tick,
    Unarmed,
)
from market.wire.control import Close, Done, Lost, Settled, Welcome
from settlement.domain.resources import Resources
from tests.unit.daemon import makers
from tests.unit.daemon.makers import MARKET, grant, identifier, work

LEASES = st.integers(1, 4)
ATTEMPTS = st.integers(11, 18)
PICK = st.integers(0, 1_000)


def lease_of(attempt: int) -> int:
    """An attempt belongs to one lease for ever."""
    return 1 + attempt % 4


class Orders(RuleBasedStateMachine):
    """The market is free to say anything; the machine answers only what it was told to do."""

    def __init__(self) -> None:
        super().__init__()
        self.agent: Agent = makers.agent()
        self.arming: list[str] = []
        self.in_sandbox: list[tuple[str, str]] = []  # lease, attempt
        self.emptying: list[str] = []
        self.runs: dict[str, int] = {}
        self.opened: set[str] = set()
        self.heard: dict[str, Done | Lost] = {}
        self.forgotten: set[str] = set()
        self.now_ms = 0

    def feed(self, event: Event) -> None:
        self.agent, commands = step(self.agent, event)
        for command in commands:
            match command:
                case Arm():
                    assert command.grant.lease not in self.arming
                    self.arming.append(command.grant.lease)
                case Run():
                    attempt = command.work.attempt
                    assert attempt in self.opened
                    assert command.grant.lease not in [lease for lease, _ in self.in_sandbox]
                    self.runs[attempt] = self.runs.get(attempt, 0) + 1
                    self.in_sandbox.append((command.grant.lease, attempt))
                case Empty():
                    assert command.lease not in self.emptying
                    self.emptying.append(command.lease)
                case Open():
                    assert command.attempt not in self.opened
                    self.opened.add(command.attempt)
                case Forget():
                    self.forgotten.add(command.attempt)
                case Send():
                    assert self.agent.online
                    self.hear(command)

    def hear(self, command: Send) -> None:
        frame = command.frame
        if isinstance(frame, Done | Lost):
            assert self.heard.setdefault(frame.attempt, frame) == frame

    # ── the market

    @rule(lease=LEASES)
    def granted(self, lease: int) -> None:
        if self.agent.online:
            self.feed(grant(lease))

    @rule(attempt=ATTEMPTS)
    def worked(self, attempt: int) -> None:
        if self.agent.online:
            self.feed(work(attempt, lease_of(attempt)))

    @rule(lease=LEASES)
    def closed(self, lease: int) -> None:
        if self.agent.online:
            self.feed(Close(lease=identifier(lease), reason="done"))

    @rule(attempt=ATTEMPTS)
    def settled(self, attempt: int) -> None:
        if self.agent.online and identifier(attempt) in self.heard:
            self.feed(Settled(attempt=identifier(attempt), state="accepted", reason=""))

    @rule(leases=st.sets(LEASES))
    def welcomed(self, leases: set[int]) -> None:
        self.feed(Disconnected())
        self.feed(Welcome(market=MARKET, protocol=1, leases=[identifier(n) for n in leases]))

    @rule()
    def cut(self) -> None:
        self.feed(Disconnected())

    # ── the machine

    @precondition(lambda self: self.arming)
    @rule(pick=PICK, works=st.booleans())
    def armed(self, pick: int, works: bool) -> None:
        lease = self.arming.pop(pick % len(self.arming))
        self.feed(Armed(lease) if works else Unarmed(lease, "no"))

    @precondition(lambda self: self.in_sandbox)
    @rule(pick=PICK, end=st.sampled_from(["done", "bad", "lost"]))
    def ended(self, pick: int, end: str) -> None:
        lease, attempt = self.in_sandbox.pop(pick % len(self.in_sandbox))
        if end == "done":
            self.feed(Finished(lease, makers.done(attempt)))
        else:
            self.feed(Failed(lease, attempt, end, slot_lost=end == "lost"))

    @precondition(lambda self: self.emptying)
    @rule(pick=PICK)
    def emptied(self, pick: int) -> None:
        lease = self.emptying.pop(pick % len(self.emptying))
        self.in_sandbox = [pair for pair in self.in_sandbox if pair[0] != lease]
        self.arming = [name for name in self.arming if name != lease]
        self.feed(Emptied(lease))

    @rule(step_ms=st.integers(1, 20_000))
    def ticked(self, step_ms: int) -> None:
        self.now_ms += step_ms
        self.feed(Tick(self.now_ms))

    @precondition(lambda self: len(self.opened) > 3)
    @rule(now=st.booleans())
    def left(self, now: bool) -> None:
        self.feed(Leave(now=now))

    # ── what holds

    @invariant()
    def runs_once(self) -> None:
        assert all(count == 1 for count in self.runs.values())

    @invariant()
    def every_attempt_is_held_or_answered(self) -> None:
        for attempt in self.opened:
            held = self.agent.holds_attempt(attempt)
            answered = attempt in self.agent.answers
            over = attempt in self.agent.settled
            assert held or answered or over
            assert not (held and answered)

    @invariant()
    def nothing_is_forgotten_unheard(self) -> None:
        for attempt in self.forgotten & self.opened:
            assert attempt in self.heard

    @invariant()
    def room_is_never_exceeded(self) -> None:
        assert self.agent.occupied().fits(self.agent.capacity)

    @invariant()
    def closing_leases_are_being_emptied(self) -> None:
        closing = {k for k, held in self.agent.leases.items() if held.phase is Phase.CLOSING}
        assert closing == set(self.emptying)

    def teardown(self) -> None:
        """However it went: leaving ends everything, and nothing is left unanswered."""
        self.feed(Leave(now=True))
        for lease in list(self.emptying):
            self.emptied(self.emptying.index(lease))
        assert not self.agent.leases
        assert self.agent.occupied() == Resources(0, 0, 0)
        self.feed(Disconnected())
        self.feed(Welcome(market=MARKET, protocol=1, leases=[]))
        for attempt in self.opened:
            assert attempt in self.heard


TestOrders = Orders.TestCase
TestOrders.settings = settings(max_examples=150, stateful_step_count=60, deadline=None)
