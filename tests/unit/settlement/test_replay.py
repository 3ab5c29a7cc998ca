"""The replay as a machine: in one go or in pieces, from any snapshot, back in time, and never half a step."""

import random
from itertools import pairwise
from typing import Any, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from settlement.domain import charge, checkpoint, replay_charges
from settlement.domain import replay as replays
from settlement.domain.errors import Differs
from settlement.domain.governance import Approval, Validators
from settlement.domain.ledger import Purpose
from settlement.domain.receipt import Price
from settlement.domain.replay import Replay
from settlement.domain.reputation import Standing
from settlement.domain.settled import Voucher
from settlement.domain.world import FRESH_MS, Claim
from tests.unit.settlement.escrow_driver import EscrowDriver
from tests.unit.settlement.escrow_speech import ABOUT
from tests.unit.settlement.story import (
    CHECKER,
    CONSUMER,
    JOB,
    LEDGER,
    NEXT,
    ORIGIN,
    RATE,
    SEER,
    SEER_KEY,
    STEP_MS,
    STRANGER,
    WALL_MS,
    WORKER,
    fresh_story,
    honest_story,
)

STEPS: Final = 60


def life(seed: int, steps: int = STEPS) -> EscrowDriver:
    """A market's life at random: what was logged, and a replay that took it."""
    driver = EscrowDriver(random.Random(seed))
    for _ in range(steps):
        driver.step()
    return driver


@given(seed=st.integers(0, 2**32), data=st.data())
@settings(deadline=None, max_examples=40)
def test_in_pieces_as_in_one_go(seed: int, data: st.DataObject) -> None:
    """Stopped anywhere and loaded again, as often as one likes."""
    driver = life(seed)
    cuts = data.draw(st.sets(st.integers(0, len(driver.logged)), max_size=6))
    replay = Replay(ABOUT)
    for index, opened in enumerate(driver.logged):
        if index in cuts:
            dump = replay.dump()
            replay = Replay.load(dump)
            assert replay.dump() == dump
        replay.take(index, opened)
    assert replay.dump() == driver.replay.dump()
    assert replay.state_root() == driver.replay.state_root()


@given(seed=st.integers(0, 2**32))
@settings(deadline=None, max_examples=25)
def test_the_past_is_there(seed: int) -> None:
    """The lines after fewer entries are those that stood there; also from a snapshot."""
    driver = life(seed)
    replay = Replay(ABOUT)
    captured = [replay.lines()]
    for index, opened in enumerate(driver.logged):
        replay.take(index, opened)
        captured.append(replay.lines())
    again = Replay.load(replay.dump())
    for size, lines in enumerate(captured):
        assert replay.lines(size) == lines
        assert again.lines(size) == lines


@given(seed=st.integers(0, 2**32))
@settings(deadline=None, max_examples=25)
def test_a_refusal_leaves_no_trace(seed: int) -> None:
    """Whatever is refused at random: before and after, the whole dump is the same."""
    driver = life(seed, steps=10)
    refused = 0
    for _ in range(STEPS):
        before, size, known = driver.replay.dump(), driver.replay.size, driver.refused
        driver.step()
        if driver.refused > known and driver.replay.size == size:
            refused += 1
            assert driver.replay.dump() == before
    assert refused


def test_the_whole_story() -> None:
    replay = Replay(ORIGIN, ledger_key=LEDGER.address)
    for index, entry in enumerate(honest_story().entries):
        replay.feed(index, entry)
        assert replay.size == index + 1
    assert replay.dump() == honest_story().replay.dump()


def test_without_signatures_it_is_the_same() -> None:
    replay = Replay(ORIGIN)
    for index, entry in enumerate(honest_story().entries):
        replay.feed(index, entry, signatures=False)
    assert replay.dump() == honest_story().replay.dump()


def test_every_entry_of_the_story_is_taken_once() -> None:
    """At the end of the story, and after a load, nothing of it can be said again."""
    for again in (fresh_story().replay, Replay.load(honest_story().replay.dump())):
        before = again.dump()
        for entry in honest_story().entries:
            with pytest.raises(Differs):
                again.feed(again.size, entry)
        assert again.dump() == before


def test_what_is_old_is_refused_when_it_was_forgotten() -> None:
    """The digests that are kept need not go back further than what is fresh."""
    story = fresh_story()
    world = story.replay.world
    world.seen = {name: at for name, at in world.seen.items() if at >= world.time_ms - FRESH_MS}
    assert len(world.seen) < len(story.said) / 2
    for entry in honest_story().entries:
        with pytest.raises(Differs):
            story.replay.feed(story.replay.size, entry)


def test_memory_is_swept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither digests nor the past grow with the log; and the sweep changes no outcome."""
    monkeypatch.setattr(replays, "SEEN_SWEEP", 4)
    monkeypatch.setattr(replays, "STATE_LAG_MAX", 6)
    replay = Replay(ORIGIN)
    for index, entry in enumerate(honest_story().entries):
        replay.feed(index, entry, signatures=False)
    assert replay.lines() == honest_story().replay.lines()
    assert len(replay.world.seen) < len(honest_story().replay.world.seen)
    assert replay.lines(replay.size - 3) == honest_story().before("approval").replay.lines()


# ── who rules ───────────────────────────────────────────────────────────────────────────────


def test_the_charter_names_the_market() -> None:
    replay = honest_story().before("takeover").replay
    assert (replay.market, replay.ledger_key) == (ORIGIN, LEDGER.address)
    assert replay.charter is not None
    assert (list(replay.members), replay.quorum) == ([SEER_KEY], 1)


def test_a_takeover_hands_the_accounts_over() -> None:
    before = honest_story().before("takeover").replay
    after = honest_story().replay
    assert after.ledger_key == NEXT.address
    moved = [
        line.replace(LEDGER.address.encode(), NEXT.address.encode()) for line in before.lines()
    ]
    paid = honest_story().before("payment two").replay.lines()
    assert sorted(moved) == paid


@pytest.mark.parametrize("last", ["approval two", "payment two"])
def test_the_old_market_has_nothing_to_say_after_a_takeover(last: str) -> None:
    story = fresh_story() if last == "payment two" else honest_story().before("payment two")
    for key, taken in ((LEDGER, False), (NEXT, True)):
        other = Replay.load(story.replay.dump())
        entry = story.bent("state", size=other.size, key=key, at_ms=story.now_ms,
            root="sha256:" + other.state_root().hex(), lines=len(other.lines()))  # fmt: skip
        if taken:
            other.feed(other.size, entry.envelope)
        else:
            with pytest.raises(Differs, match="signs with its own key"):
                other.feed(other.size, entry.envelope)


def test_a_proposal_is_in_force_with_the_quorums_approval_only() -> None:
    story = honest_story().before("validators two")
    wanted = story.bent("validators two", members=[SEER_KEY, _key(STRANGER)], quorum=2)
    story.log("wanted", wanted)
    assert (list(story.replay.members), story.replay.quorum) == ([SEER_KEY], 1)
    story.log("yes", story.bent("approval", statement=wanted.digest))
    assert (len(story.replay.members), story.replay.quorum) == (2, 2)


def _key(key: Any) -> str:  # noqa: ANN401 - a private key
    from settlement.domain import cosignature

    return cosignature.verifier_key("second.example/1", key)


# ── to the millisecond ──────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("over_ms", [0, 1])
def test_a_lease_is_paid_to_the_millisecond(over_ms: int) -> None:
    """Receipts, vouchers before, and this one: together no more than the lease has lasted."""
    story = honest_story().before("topup")
    lease = story.replay.world.leases[story.said["lease"].digest]
    paid_ms = 2 * WALL_MS + 1_700
    assert (lease.worked_ms, lease.vouched_ms) == (2 * WALL_MS, 1_700)
    received_ms = story.now_ms + 2 * STEP_MS  # the voucher is said, then charged
    more_ms = received_ms - lease.at_ms - paid_ms + over_ms
    voucher = story.say(
        "voucher three", Voucher, CONSUMER, consumer=CONSUMER.address, provider=WORKER.address,
        job=JOB, lease=story.said["lease"].digest, wall_ms=1_700 + more_ms,
    )  # fmt: skip
    charged = story.charge(voucher, wall_ms=more_ms, handed_ms=lease.at_ms)
    assert received_ms == charged.statement.received_ms  # type: ignore[attr-defined]
    if not over_ms:
        story.log("charged three vouchers", charged)
        return
    with pytest.raises(Differs, match="a lease is paid for the time that it lasts"):
        story.replay.feed(story.replay.size, charged.envelope)


@pytest.mark.parametrize("more", [0, 1])
def test_a_receipt_may_ask_for_what_vouchers_brought(more: int) -> None:
    """Its price is for all of its time, of which vouchers paid a part."""
    story = honest_story().before("topup")
    story.now_ms += 10 * WALL_MS
    asked = charge.gross(wall_ms=WALL_MS + 1_700, rate_microcredits=RATE) + more
    work = story.log("late", story.receipt(WORKER, "lease", 15, 5, price=Price(str(asked), 1)))
    charged = story.charge(work)
    if not more:
        story.log("charged late", charged)
        return
    with pytest.raises(Differs, match="a provider is paid at least what it asks"):
        story.replay.feed(story.replay.size, charged.envelope)


@given(chunks=st.lists(st.tuples(st.integers(0, 30), st.integers(1, 6)), max_size=25))
@settings(deadline=None)
def test_paid_tasks_are_a_set(chunks: list[tuple[int, int]]) -> None:
    """Kept as intervals that are joined, which must say what a set of tasks would."""
    done: list[tuple[int, int]] = []
    paid: set[int] = set()
    for first, tasks in chunks:
        claim = Claim("work", "", "", "", "", 0, 0, 0, 0, first, tasks)
        mine = set(range(first, first + tasks))
        assert replay_charges._overlaps(done, claim) == bool(paid & mine)
        if not paid & mine:
            replay_charges._add(done, first, first + tasks)
            paid |= mine
        assert paid == {task for begin, end in done for task in range(begin, end)}
        assert done == sorted(done)
        assert all(left[1] < right[0] for left, right in pairwise(done))


def test_what_is_over_is_forgotten() -> None:
    """Of a closed job nothing stays but what may still be paid, not even its empty account."""
    world = honest_story().before("release").replay.world
    assert (world.jobs, world.leases, world.claims) == ({}, {}, {})
    assert not [key for key in world.numbers if key.purpose is Purpose.BUDGET]
    assert not honest_story().replay.world.withdrawals


def test_standings_are_what_verdicts_say() -> None:
    """One agreed check counts for both; of one that differed the checked run carries it."""
    assert honest_story().replay.standings == {
        WORKER.address: Standing(agreed=1, differed=1),
        CHECKER.address: Standing(agreed=1),
    }
    assert not honest_story().before("verdict").replay.standings


def test_a_change_ends_all_other_proposals() -> None:
    """They were meant for the set that stood then."""
    story = honest_story().before("approval")
    other = story.say("other", Validators, LEDGER, members=[], quorum=0)
    story.log("approval", honest_story().said["approval"])
    assert story.replay.world.proposals == {}
    with pytest.raises(Differs, match="an approval is for what was proposed"):
        story.say("yes", Approval, SEER, validator=SEER.address, statement=other.digest)


def test_a_takeover_names_the_logs_new_key() -> None:
    charter = honest_story().replay.charter
    assert charter is not None
    assert charter.log_key == checkpoint.verifier_key(ORIGIN, NEXT)


def test_a_state_ends_the_past_before_it() -> None:
    story = honest_story().before("voucher")
    assert min(undo[0] for undo in honest_story().replay.world.undo) >= story.replay.world.stated
    assert not story.replay.world.undo
