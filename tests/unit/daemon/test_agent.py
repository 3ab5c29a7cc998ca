"""The daemon's brain, case by case."""

import pytest

from compute.domain.agent import LEAVING, step
from compute.domain.holding import (
    ATTEMPTS_WAITING_MAX,
    DEADLINE_GRACE_MS,
    REPEAT_MS,
    Agent,
    Arm,
    Armed,
    Command,
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
    begin,
)
from market.wire.control import Close, Drain, Lost, Ready, Refuse, Settled, Welcome
from settlement.domain.resources import Resources
from tests.unit.daemon import makers
from tests.unit.daemon.makers import MARKET, grant, identifier, work

LEASE = identifier(1)
ATTEMPT = identifier(11)


def play(agent: Agent, *events: Event) -> tuple[Agent, tuple[Command, ...]]:
    """The state after all events, and the commands of the last one."""
    commands: tuple[Command, ...] = ()
    for event in events:
        agent, commands = step(agent, event)
    return agent, commands


def welcome(*leases: str) -> Welcome:
    return Welcome(market=MARKET, protocol=1, leases=list(leases))


@pytest.fixture
def online() -> Agent:
    return play(makers.agent(), welcome())[0]


@pytest.fixture
def active(online: Agent) -> Agent:
    return play(online, grant(1), Armed(LEASE))[0]


@pytest.fixture
def running(active: Agent) -> Agent:
    return play(active, work(11, 1))[0]


def test_a_lease_from_grant_to_receipt(online: Agent) -> None:
    agent, commands = play(online, grant(1))
    assert commands == (Arm(grant(1)),)
    agent, commands = play(agent, Armed(LEASE))
    assert commands == (Send(Ready(lease=LEASE)),)
    agent, commands = play(agent, work(11, 1))
    assert commands == (Open(ATTEMPT, LEASE), Run(grant(1), work(11, 1)))
    done = makers.done(ATTEMPT)
    agent, commands = play(agent, Finished(LEASE, done))
    assert commands == (Send(done),)
    assert agent.leases[LEASE].phase is Phase.ACTIVE
    agent, commands = play(agent, Settled(attempt=ATTEMPT, state="accepted", reason=""))
    assert commands == (Forget(ATTEMPT),)
    assert not agent.answers


def test_repeated_grants_and_works_change_nothing(running: Agent) -> None:
    assert play(running, grant(1)) == (running, (Send(Ready(lease=LEASE)),))
    assert play(running, work(11, 1)) == (running, ())
    arming, _ = play(play(makers.agent(), welcome())[0], grant(1))
    assert play(arming, grant(1)) == (arming, ())


def test_an_answered_attempt_is_answered_again_and_not_run_again(running: Agent) -> None:
    done = makers.done(ATTEMPT)
    agent, _ = play(running, Finished(LEASE, done))
    assert play(agent, work(11, 1)) == (agent, (Send(done),))
    agent, _ = play(agent, Settled(attempt=ATTEMPT, state="accepted", reason=""))
    assert play(agent, work(11, 1)) == (agent, ())


def test_work_waits_for_its_turn(active: Agent) -> None:
    agent, commands = play(active, work(11, 1), work(12, 1))
    assert commands == (Open(identifier(12), LEASE),)
    agent, commands = play(agent, Finished(LEASE, makers.done(ATTEMPT)))
    assert Run(grant(1), work(12, 1)) in commands
    assert agent.running == 1


def test_work_may_come_before_the_sandbox_is_warm(online: Agent) -> None:
    agent, commands = play(online, grant(1), work(11, 1))
    assert commands == (Open(ATTEMPT, LEASE),)
    _, commands = play(agent, Armed(LEASE))
    assert commands == (Send(Ready(lease=LEASE)), Run(grant(1), work(11, 1)))


def test_too_much_waiting_work_goes_back(running: Agent) -> None:
    agent = running
    for number in range(ATTEMPTS_WAITING_MAX):
        agent, _ = play(agent, work(20 + number, 1))
    _, commands = play(agent, work(99, 1))
    assert _lost(commands) == [identifier(99)]


def test_work_for_an_unknown_lease_is_lost(online: Agent) -> None:
    _, commands = play(online, work(11, 5))
    assert _lost(commands) == [ATTEMPT]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"spec_digest": identifier(1)}, "specification"),
        ({"of": makers.spec(environment="sha256:" + "0" * 64)}, "environment"),
        ({"of": makers.spec(protection="G")}, "sandbox"),
        ({"of": makers.spec(slot=Resources(3_000, 1, 0))}, "room"),
        ({"slot": Resources(1, 1, 0)}, "slot"),
        ({"rate": "9"}, "rate"),
    ],
)
def test_a_grant_that_does_not_fit_is_refused(
    online: Agent, change: dict[str, object], reason: str
) -> None:
    agent, commands = play(online, grant(1, **change))  # type: ignore[arg-type]
    assert not agent.leases
    refuse = commands[0]
    assert isinstance(refuse, Send)
    assert isinstance(refuse.frame, Refuse)
    assert reason in refuse.frame.reason


def test_room_is_counted(online: Agent) -> None:
    agent, _ = play(online, grant(1), grant(2))
    _, commands = play(agent, grant(3))
    assert _refused(commands) == [identifier(3)]


def test_a_grant_waits_for_the_room_of_a_closing_lease(active: Agent) -> None:
    agent, _ = play(active, grant(2), Close(lease=LEASE, reason="idle"), grant(3))
    assert agent.leases[identifier(3)].phase is Phase.GRANTED
    agent, commands = play(agent, Emptied(LEASE))
    assert commands == (Arm(grant(3)),)
    assert LEASE not in agent.leases


def test_closing_a_grant_that_was_never_armed_starts_nothing(active: Agent) -> None:
    agent, _ = play(active, grant(2), Close(lease=LEASE, reason="idle"), grant(3))
    agent, commands = play(agent, Close(lease=identifier(3), reason="cancelled"))
    assert commands == ()
    assert play(agent, Emptied(LEASE))[1] == ()


def test_close_kills_and_answers_for_what_ran(running: Agent) -> None:
    agent, commands = play(running, work(12, 1), Close(lease=LEASE, reason="cancelled"))
    assert _lost(commands) == [identifier(12)]
    assert Empty(LEASE) in commands
    assert play(agent, Close(lease=LEASE, reason="cancelled")) == (agent, ())
    agent, commands = play(agent, Emptied(LEASE))
    assert _lost(commands) == [ATTEMPT]
    assert play(agent, Emptied(LEASE)) == (agent, ())


def test_a_receipt_that_comes_while_closing_is_sent(running: Agent) -> None:
    agent, _ = play(running, Close(lease=LEASE, reason="done"))
    done = makers.done(ATTEMPT)
    agent, commands = play(agent, Finished(LEASE, done))
    assert commands == (Send(done),)
    assert play(agent, Emptied(LEASE))[1] == ()


def test_a_late_grant_for_a_closed_lease_is_refused(active: Agent) -> None:
    agent, _ = play(active, Close(lease=LEASE, reason="done"), Emptied(LEASE))
    _, commands = play(agent, grant(1))
    assert _refused(commands) == [LEASE]


def test_a_slot_that_fails_is_armed_once_more_then_given_up(running: Agent) -> None:
    agent, commands = play(running, Failed(LEASE, ATTEMPT, "gone", slot_lost=True))
    assert _lost(commands) == [ATTEMPT]
    assert commands[-1] == Arm(grant(1), again=True)
    agent, commands = play(
        agent,
        Armed(LEASE),
        work(12, 1),
        Failed(LEASE, identifier(12), "gone", slot_lost=True),
    )
    assert _refused(commands) == [LEASE]
    assert commands[-1] == Empty(LEASE)


def test_a_receipt_makes_good_for_an_earlier_failure(running: Agent) -> None:
    agent, commands = play(
        running,
        Failed(LEASE, ATTEMPT, "gone", slot_lost=True),
        Armed(LEASE),
        work(12, 1),
        Finished(LEASE, makers.done(identifier(12))),
        work(13, 1),
        Failed(LEASE, identifier(13), "gone", slot_lost=True),
    )
    assert commands[-1] == Arm(grant(1), again=True)
    assert agent.leases[LEASE].phase is Phase.ARMING


def test_bad_input_costs_only_the_attempt(running: Agent) -> None:
    agent, commands = play(running, work(12, 1), Failed(LEASE, ATTEMPT, "digest", slot_lost=False))
    assert _lost(commands) == [ATTEMPT]
    assert Run(grant(1), work(12, 1)) in commands
    assert agent.running == 1


def test_a_sandbox_that_does_not_start_refuses_the_lease(online: Agent) -> None:
    _, commands = play(online, grant(1), work(11, 1), Unarmed(LEASE, "no cgroup"))
    assert _lost(commands) == [ATTEMPT]
    assert _refused(commands) == [LEASE]


def test_offline_nothing_is_said_and_welcome_says_it(running: Agent) -> None:
    done = makers.done(ATTEMPT)
    agent, commands = play(running, Disconnected(), Finished(LEASE, done))
    assert commands == ()
    agent, commands = play(agent, welcome(LEASE))
    assert commands == (Send(Ready(lease=LEASE)), Send(done))
    assert play(agent, Disconnected(), welcome(LEASE))[1] == commands


def test_welcome_closes_what_the_market_no_longer_has(running: Agent) -> None:
    agent, commands = play(running, Disconnected(), welcome())
    assert commands == (Empty(LEASE),)
    assert agent.leases[LEASE].phase is Phase.CLOSING


def test_a_lost_attempt_of_a_gone_lease_is_said_once_more_and_forgotten(online: Agent) -> None:
    agent, _ = play(online, work(11, 5), Disconnected())
    agent, commands = play(agent, welcome())
    assert _lost(commands) == [ATTEMPT]
    assert commands[-1] == Forget(ATTEMPT)
    assert not agent.answers


def test_an_unacknowledged_receipt_is_repeated_by_time(running: Agent) -> None:
    done = makers.done(ATTEMPT)
    agent, commands = play(running, Tick(1), Finished(LEASE, done), Tick(REPEAT_MS))
    assert commands == ()
    _, commands = play(agent, Tick(REPEAT_MS + 1))
    assert commands == (Send(done),)


def test_a_deadline_ends_the_lease_by_itself(active: Agent) -> None:
    late = makers.FAR_MS + DEADLINE_GRACE_MS
    assert play(active, Tick(late))[1] == ()
    _, commands = play(active, Tick(late + 1))
    assert _refused(commands) == [LEASE]
    assert commands[-1] == Empty(LEASE)


def test_leaving_lets_run_what_runs(running: Agent) -> None:
    agent, _ = play(running, grant(2), Armed(identifier(2)), work(12, 1))
    agent, commands = play(agent, Leave())
    assert commands[0] == Send(Drain())
    assert _lost(commands) == [identifier(12)]
    assert _refused(commands) == [identifier(2)]
    assert agent.leases[LEASE].phase is Phase.RUNNING
    agent, commands = play(agent, Emptied(identifier(2)), Finished(LEASE, makers.done(ATTEMPT)))
    assert commands[-1] == Empty(LEASE)
    agent, _ = play(agent, Emptied(LEASE))
    assert not agent.idle  # the receipt is not acknowledged yet
    agent, _ = play(agent, Settled(attempt=ATTEMPT, state="accepted", reason=""))
    assert agent.idle


def test_leaving_takes_nothing_new(online: Agent) -> None:
    agent, _ = play(online, Leave())
    _, commands = play(agent, grant(1))
    assert commands == (Send(Refuse(lease=LEASE, reason=LEAVING)),)
    assert play(agent, Disconnected(), welcome())[1] == (Send(Drain()),)


def test_leaving_now_waits_for_nothing(running: Agent) -> None:
    agent, commands = play(running, Leave(), Leave(now=True))
    assert Empty(LEASE) in commands
    agent, commands = play(agent, Emptied(LEASE))
    assert _lost(commands) == [ATTEMPT]
    assert agent.idle


def test_after_a_restart_the_dead_are_lost_and_receipts_repeated() -> None:
    done = makers.done(identifier(12))
    agent = begin(
        makers.agent(),
        opened={ATTEMPT: LEASE},
        receipts={identifier(12): (LEASE, done)},
    )
    assert set(agent.hello().attempts) == {ATTEMPT, identifier(12)}
    agent, commands = play(agent, welcome(LEASE))
    assert _lost(commands) == [ATTEMPT]
    assert Send(done) in commands
    agent, commands = play(agent, grant(1))
    assert commands == (Arm(grant(1)),)


def _lost(commands: tuple[Command, ...]) -> list[str]:
    return [c.frame.attempt for c in commands if isinstance(c, Send) and isinstance(c.frame, Lost)]


def _refused(commands: tuple[Command, ...]) -> list[str]:
    return [c.frame.lease for c in commands if isinstance(c, Send) and isinstance(c.frame, Refuse)]
