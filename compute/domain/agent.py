"""The daemon's brain: what a message or a happening changes, and what is to be done about it.

Any message may come twice, late, or for a lease that nobody knows. Whatever the order: an attempt
is run at most once and answered with one Done or Lost, repeated until it is acknowledged.
"""

from dataclasses import replace
from typing import assert_never

from compute.domain.holding import (
    ANSWERS_MAX,
    ATTEMPTS_WAITING_MAX,
    DEADLINE_GRACE_MS,
    LEASES_MAX,
    REARMS_MAX,
    REPEAT_MS,
    Agent,
    Answer,
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
    Held,
    Leave,
    Open,
    Pause,
    Phase,
    Reprice,
    Resume,
    Run,
    Send,
    Tick,
    Unarmed,
)
from market.domain.jobspec import protects
from market.wire.control import (
    Close,
    Done,
    Drain,
    Grant,
    Lost,
    Ready,
    Refuse,
    Settled,
    Welcome,
    Work,
)
from settlement.domain.resources import slot_rate

Step = tuple[Agent, tuple[Command, ...]]

LEAVING = "the provider is leaving"


def step(agent: Agent, event: Event) -> Step:
    """One event: the next state and the commands, in the order in which they are to be done."""
    match event:
        case Welcome() | Grant() | Work() | Close() | Settled():
            return _hear(agent, event)
        case Armed() | Unarmed() | Finished() | Failed() | Emptied():
            return _happen(agent, event)
        case Disconnected():
            return replace(agent, online=False), ()
        case Leave() | Pause() | Resume() | Reprice():
            return _obey(agent, event)
        case Tick():
            return _tick(agent, event)
        case _:
            assert_never(event)


def _hear(agent: Agent, frame: Welcome | Grant | Work | Close | Settled) -> Step:
    match frame:
        case Welcome():
            return _welcome(agent, frame)
        case Grant():
            return _grant(agent, frame)
        case Work():
            return _work(agent, frame)
        case Close():
            return _close(agent, frame)
        case Settled():
            return agent.with_settled(frame.attempt), (Forget(frame.attempt),)
        case _:
            assert_never(frame)


def _happen(agent: Agent, event: Armed | Unarmed | Finished | Failed | Emptied) -> Step:
    held = agent.leases.get(event.lease)
    match event:
        case Armed():
            return _armed(agent, held)
        case Unarmed():
            return _unarmed(agent, held, event)
        case Finished():
            return _finished(agent, held, event)
        case Failed():
            return _failed(agent, held, event)
        case Emptied():
            return _emptied(agent, held)
        case _:
            assert_never(event)


def _obey(agent: Agent, event: Leave | Pause | Resume | Reprice) -> Step:
    """What the owner wants."""
    match event:
        case Leave():
            return _leave(agent, event)
        case Pause():
            return _pause(agent, event)
        case Resume():
            return replace(agent, paused=""), ()
        case Reprice():
            return replace(agent, rates=event.rates), ()
        case _:
            assert_never(event)


# ── what the market says ────────────────────────────────────────────────────────────────────


def _welcome(agent: Agent, welcome: Welcome) -> Step:
    """The market's list of leases wins; whatever it may have missed is said again."""
    agent = replace(agent, online=True)
    listed = frozenset(welcome.leases)
    commands: tuple[Command, ...] = ()
    if agent.draining or agent.paused:
        commands += (Send(Drain()),)
    for lease, held in agent.leases.items():
        if lease not in listed:
            agent, more = _end(agent, held, "the market has closed it")
            commands += more
        elif held.phase in (Phase.ACTIVE, Phase.RUNNING):
            commands += (Send(Ready(lease=lease)),)
    for attempt, answer in agent.answers.items():
        commands += (Send(answer.frame),)
        if isinstance(answer.frame, Lost) and answer.lease not in listed:
            # a lease that is gone has no attempts left, so that nobody would acknowledge it
            agent = agent.with_settled(attempt)
            commands += (Forget(attempt),)
        else:
            agent = agent.with_answer(replace(answer, said_ms=agent.now_ms))
    return agent, commands


def _grant(agent: Agent, grant: Grant) -> Step:
    held = agent.leases.get(grant.lease)
    if held is not None:
        armed = held.phase in (Phase.ACTIVE, Phase.RUNNING)
        return agent, _say(agent, Ready(lease=grant.lease)) if armed else ()
    reason = agent.ended.get(grant.lease) or _unfit(agent, grant)
    if reason:
        refuse = Refuse(lease=grant.lease, reason=reason)
        return agent.with_ended(grant.lease, reason), _say(agent, refuse)
    return _arm_waiting(agent.with_lease(Held(grant)))


def _unfit(agent: Agent, grant: Grant) -> str:
    """Why this machine will not serve the grant; empty when it will."""
    taken = agent.taken()
    checks = (
        (agent.draining, LEAVING),
        (bool(agent.paused), agent.paused),
        (
            grant.spec.digest() != grant.spec_digest,
            "the specification is not the one of its digest",
        ),
        (grant.spec.environment != agent.environment, "the environment is not on this machine"),
        (
            int(grant.rate) < slot_rate(grant.slot, agent.rates),
            "the rate is below the one that is offered",
        ),
        (grant.slot != grant.spec.slot, "the slot is not the one of the specification"),
        (
            not protects(agent.protection, grant.spec.protection),
            "no sandbox of the class asked for",
        ),
        (not taken.plus(grant.slot).fits(agent.capacity), "no room is left on this machine"),
        (len(agent.leases) >= LEASES_MAX, f"more than {LEASES_MAX} leases"),
    )
    return next((reason for failed, reason in checks if failed), "")


def _work(agent: Agent, work: Work) -> Step:
    if work.attempt in agent.settled or agent.holds_attempt(work.attempt):
        return agent, ()
    answer = agent.answers.get(work.attempt)
    if answer is not None:
        return agent, _say(agent, answer.frame)
    held = agent.leases.get(work.lease)
    reason = _unworkable(agent, held, work)
    if held is None or reason:
        return _answer(agent, Answer(work.lease, Lost(attempt=work.attempt, reason=reason)))
    opened = Open(work.attempt, work.lease)
    agent, commands = _next(agent, replace(held, waiting=(*held.waiting, work)))
    return agent, (opened, *commands)


def _unworkable(agent: Agent, held: Held | None, work: Work) -> str:
    if held is None or held.phase is Phase.CLOSING:
        return "there is no such lease on this machine"
    checks = (
        (agent.draining, LEAVING),
        (not work.inputs, "a chunk without tasks"),
        (
            len(held.waiting) >= ATTEMPTS_WAITING_MAX,
            f"more than {ATTEMPTS_WAITING_MAX} chunks wait",
        ),
        (len(agent.answers) >= ANSWERS_MAX, f"more than {ANSWERS_MAX} answers are unacknowledged"),
    )
    return next((reason for failed, reason in checks if failed), "")


def _close(agent: Agent, close: Close) -> Step:
    held = agent.leases.get(close.lease)
    reason = f"the market has closed it: {close.reason[:200]}"
    if held is None:
        return agent.with_ended(close.lease, reason), ()
    return _end(agent, held, reason)


# ── what happens on the machine ─────────────────────────────────────────────────────────────


def _armed(agent: Agent, held: Held | None) -> Step:
    if held is None or held.phase is not Phase.ARMING:
        return agent, ()
    ready = _say(agent, Ready(lease=held.grant.lease))
    agent, commands = _next(agent, replace(held, phase=Phase.ACTIVE))
    return agent, (*ready, *commands)


def _unarmed(agent: Agent, held: Held | None, event: Unarmed) -> Step:
    if held is None or held.phase is not Phase.ARMING:
        return agent, ()
    return _end(agent, held, event.reason, refuse=True)


def _finished(agent: Agent, held: Held | None, event: Finished) -> Step:
    attempt = event.done.attempt
    if attempt in agent.settled:
        commands: tuple[Command, ...] = (Forget(attempt),)
    elif attempt in agent.answers:
        commands = ()
    else:
        agent, commands = _answer(agent, Answer(event.lease, event.done))
    if held is None or held.running is None or held.running.attempt != attempt:
        return agent, commands
    agent, more = _next(agent, replace(held.rested(), rearms=0))
    return agent, (*commands, *more)


def _failed(agent: Agent, held: Held | None, event: Failed) -> Step:
    if held is None or held.running is None or held.running.attempt != event.attempt:
        return agent, ()
    agent, commands = _lose(agent, held, (held.running,), event.reason)
    rested = held.rested()
    if not event.slot_lost or rested.phase is Phase.CLOSING:
        agent, more = _next(agent, rested)
    elif rested.rearms < REARMS_MAX and not agent.draining:
        again = replace(rested, phase=Phase.ARMING, rearms=rested.rearms + 1)
        agent, more = agent.with_lease(again), (Arm(again.grant, again=True),)
    else:
        agent, more = _end(agent.with_lease(rested), rested, event.reason, refuse=True)
    return agent, (*commands, *more)


def _emptied(agent: Agent, held: Held | None) -> Step:
    if held is None or held.phase is not Phase.CLOSING:
        return agent, ()
    running = () if held.running is None else (held.running,)
    reason = agent.ended.get(held.grant.lease, "the lease was closed")
    agent, commands = _lose(agent, held, running, reason)
    agent, more = _arm_waiting(agent.without_lease(held.grant.lease))
    return agent, (*commands, *more)


def _leave(agent: Agent, event: Leave) -> Step:
    """What runs may end, what waits goes back; with `now` nothing is waited for."""
    commands = () if agent.draining else _say(agent, Drain())
    agent = replace(agent, draining=True)
    for held in agent.leases.values():
        if event.now or held.phase is not Phase.RUNNING:
            agent, more = _end(agent, held, LEAVING, refuse=True)
        else:
            agent, more = _lose(agent, held, held.waiting, LEAVING)
            agent = agent.with_lease(replace(held, waiting=()))
        commands += more
    return agent, commands


def _pause(agent: Agent, event: Pause) -> Step:
    """Nothing new; chunks of leases that stand go on, unless all is to end now."""
    commands = () if agent.draining else _say(agent, Drain())
    agent = replace(agent, paused=event.reason)
    for held in agent.leases.values() if event.now else ():
        agent, more = _end(agent, held, event.reason, refuse=True)
        commands += more
    return agent, commands


def _tick(agent: Agent, tick: Tick) -> Step:
    """Time passes: leases end by themselves, and an answer that was not heard is said again."""
    agent = replace(agent, now_ms=tick.now_ms)
    commands: tuple[Command, ...] = ()
    for held in agent.leases.values():
        if (
            held.phase is not Phase.CLOSING
            and held.grant.deadline_ms + DEADLINE_GRACE_MS < tick.now_ms
        ):
            agent, more = _end(agent, held, "its deadline has passed", refuse=True)
            commands += more
    if agent.online:
        for attempt, answer in agent.answers.items():
            if answer.said_ms + REPEAT_MS > tick.now_ms:
                continue
            commands += (Send(answer.frame),)
            if isinstance(answer.frame, Lost) and answer.lease not in agent.leases:
                agent = agent.with_settled(attempt)  # said twice, and nobody can need it any more
                commands += (Forget(attempt),)
            else:
                agent = agent.with_answer(replace(answer, said_ms=tick.now_ms))
    return agent, commands


# ── shared moves ────────────────────────────────────────────────────────────────────────────


def _say(agent: Agent, frame: Ready | Refuse | Done | Lost | Drain) -> tuple[Command, ...]:
    """Nothing is said before Welcome; what matters is said again after it."""
    return (Send(frame),) if agent.online else ()


def _answer(agent: Agent, answer: Answer) -> Step:
    return agent.with_answer(replace(answer, said_ms=agent.now_ms)), _say(agent, answer.frame)


def _lose(agent: Agent, held: Held, works: tuple[Work, ...], reason: str) -> Step:
    """Every one of these attempts that has no answer yet is Lost."""
    commands: tuple[Command, ...] = ()
    for work in works:
        if work.attempt in agent.answers:
            continue
        if work.attempt in agent.settled:
            commands += (Forget(work.attempt),)
            continue
        lost = Lost(attempt=work.attempt, reason=reason)
        agent, more = _answer(agent, Answer(held.grant.lease, lost))
        commands += more
    return agent, commands


def _next(agent: Agent, held: Held) -> Step:
    """Give an idle lease its next chunk; a draining one ends as soon as it is idle."""
    if held.phase is not Phase.ACTIVE:
        return agent.with_lease(held), ()
    if agent.draining:
        return _end(agent.with_lease(held), held, LEAVING, refuse=True)
    waiting = tuple(work for work in held.waiting if work.attempt not in agent.settled)
    if not waiting:
        return agent.with_lease(replace(held, waiting=())), ()
    first, *rest = waiting
    running = replace(held, phase=Phase.RUNNING, running=first, waiting=tuple(rest))
    return agent.with_lease(running), (Run(held.grant, first),)


def _end(agent: Agent, held: Held, reason: str, *, refuse: bool = False) -> Step:
    """Close a lease: what waits is lost, what runs is killed, and the emptied slot is reported."""
    lease = held.grant.lease
    if held.phase is Phase.CLOSING:
        return agent, ()
    agent, commands = _lose(agent.with_ended(lease, reason), held, held.waiting, reason)
    if refuse:
        commands += _say(agent, Refuse(lease=lease, reason=reason))
    if held.phase is Phase.GRANTED:  # nothing was started for it
        return agent.without_lease(lease), commands
    agent = agent.with_lease(replace(held, phase=Phase.CLOSING, waiting=()))
    return agent, (*commands, Empty(lease))


def _arm_waiting(agent: Agent) -> Step:
    """A grant may come before the lease whose room it takes is empty; then it waits."""
    commands: tuple[Command, ...] = ()
    for held in agent.leases.values():
        if held.phase is Phase.GRANTED and agent.occupied().plus(held.grant.slot).fits(
            agent.capacity
        ):
            agent = agent.with_lease(replace(held, phase=Phase.ARMING))
            commands += (Arm(held.grant),)
    return agent, commands
