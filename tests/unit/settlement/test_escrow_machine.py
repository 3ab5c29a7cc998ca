"""The escrow's state machine against a model, in random orders: late, early, again, slightly wrong.

`make test-crash` runs a hundred thousand such lives; here are a few, and Hypothesis looks for more.
"""

import random

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from settlement.domain.errors import Differs
from settlement.domain.payments import Expiry
from settlement.domain.verdict import Verdict, conclude
from tests.unit.settlement.escrow_driver import EscrowDriver
from tests.unit.settlement.escrow_model import WEEK_MS
from tests.unit.settlement.escrow_speech import ABOUT, MARKET

LIVES = 300
STEPS = 40


def test_random_lives_end_with_nothing_in_escrow() -> None:
    taken = refused = 0
    kinds: set[str] = set()
    for seed in range(LIVES):
        driver = EscrowDriver(random.Random(seed))
        for _ in range(STEPS):
            driver.step()
        driver.finish()
        taken += len(driver.logged)
        refused += driver.refused
        kinds |= {opened.statement.kind for opened in driver.logged}
    assert taken > refused > LIVES
    assert len(kinds) == 18  # all that move money or decide about it


def worked(driver: EscrowDriver) -> str:
    """A life until there is a receipt; its digest."""
    while not driver.model.claims:
        driver.step()
    return next(iter(driver.model.claims))


def test_a_run_is_no_check_of_itself() -> None:
    driver = EscrowDriver(random.Random(1))
    receipt = worked(driver)
    said = driver.model.claims[receipt].said
    for checks, differing in (([receipt], 0), ([receipt], 1)):
        verdict = Verdict(
            v=1, kind="verdict", market=said.market, job=said.job, receipt=receipt, checks=checks,
            providers=[said.provider, said.provider], comparator="bytes", reason="",
            conclusion=conclude(list(range(differing))), differing=differing, first_differing=0,
            at_ms=driver.speech.now,
        )  # fmt: skip
        with pytest.raises(Differs, match="different runs"):
            driver.replay.take(driver.replay.size, driver.speech.signed(verdict, MARKET))
    assert receipt in driver.replay.world.claims


def test_a_reservation_ends_once() -> None:
    driver = EscrowDriver(random.Random(1))
    driver._must(driver.speech.withdraw())
    (identifier,) = driver.model.leaving
    driver.speech.now += WEEK_MS
    ends = Expiry(
        v=1, kind="expiry", market=ABOUT, transfers=[identifier] * 2,
        ledger_ns=str(driver.speech.now * 1_000_000), at_ms=driver.speech.now,
    )  # fmt: skip
    with pytest.raises(Differs, match="ends once"):
        driver.replay.take(driver.replay.size, driver.speech.signed(ends, MARKET))
    driver.finish()


class EscrowMachine(RuleBasedStateMachine):
    """As above, with Hypothesis in the place of chance, so that it can make a failure small."""

    @initialize(chance=st.randoms(use_true_random=False))
    def start(self, chance: random.Random) -> None:
        self.driver = EscrowDriver(chance)

    @rule()
    def step(self) -> None:
        self.driver.step()

    def teardown(self) -> None:
        if hasattr(self, "driver"):
            self.driver.finish()


EscrowMachine.TestCase.settings = settings(max_examples=25, stateful_step_count=30, deadline=None)
TestEscrowMachine = EscrowMachine.TestCase
