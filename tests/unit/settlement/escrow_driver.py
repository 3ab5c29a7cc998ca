"""Replay and model hear the same parties talk at random: right, slightly wrong, late, again.

They must agree on what may stand, and on every account after each statement.
"""

import random
from typing import Final

from settlement.domain import checkpoint
from settlement.domain.errors import Differs
from settlement.domain.identity import PrivateKey
from settlement.domain.ledger import Purpose
from settlement.domain.replay import Replay
from settlement.domain.statement import Opened, Statement
from tests.unit.settlement.escrow_model import WEEK_MS, EscrowModel, Purse
from tests.unit.settlement.escrow_speech import (
    ABOUT,
    HOLD_MS,
    MARKET,
    PARTIES,
    PROVIDERS,
    WALLS_MS,
    Speech,
)

AGAIN_ONE_IN: Final = 8
FUNDS: Final = 20_000
LATE_ONE_IN: Final = 6
LOG_KEY: Final = checkpoint.verifier_key(ABOUT, PrivateKey(b"\7" * 32))
PAUSES_MS: Final = (1, 500, 1_000, 1_000, 5_000, HOLD_MS, 700_000)
WRONG_ONE_IN: Final = 5


class EscrowDriver:
    """One market's life, a step at a time."""

    def __init__(self, chance: random.Random) -> None:
        self.replay, self.model = Replay(ABOUT), EscrowModel(MARKET)
        self.chance = chance
        self.speech = Speech(self.model, chance)
        self.logged: list[Opened] = []
        self.late: list[Opened] = []  # said, and not delivered yet
        self.refused = 0
        self._must(self.speech.charter(LOG_KEY))
        for party in PARTIES:
            self._must(self.speech.issue(party, FUNDS))
        for _ in PROVIDERS:
            self._must(self.speech.offer())

    def step(self) -> None:
        """Time passes, somebody says something, something is delivered."""
        chance, speech = self.chance, self.speech
        speech.now += chance.choice(PAUSES_MS)
        if not chance.randrange(AGAIN_ONE_IN):
            self.deliver(chance.choice(self.logged))
            return
        said = speech.anything()
        if said is not None:
            wrong = not chance.randrange(WRONG_ONE_IN)
            opened = speech.say(speech.bent(said) if wrong else said)
            if chance.randrange(LATE_ONE_IN):
                self.deliver(opened)
            else:
                self.late.append(opened)
        if self.late and not chance.randrange(LATE_ONE_IN):
            self.deliver(self.late.pop(chance.randrange(len(self.late))))

    def deliver(self, opened: Opened) -> None:
        """To both; they must agree, and a refusal must leave no trace."""
        world = self.replay.world
        before = (world.size, world.time_ms)
        expected = self.model.take(opened.statement, opened.signer, opened.digest)
        told = ""
        try:
            self.replay.take(self.replay.size, opened)
        except Differs as differs:
            told = str(differs)
            assert (world.size, world.time_ms) == before, f"{told}, and yet it left a trace"
        assert expected == (not told), f"{told or 'taken'}: {opened.statement}"
        if expected:
            self.logged.append(opened)
        else:
            self.refused += 1
        self.check()

    def check(self) -> None:
        """Every account of the replay is the model's purse; the sum is zero; nothing is negative."""
        world, total = self.replay.world, 0
        found: dict[Purse, int] = {}
        for key, number in world.numbers.items():
            account = world.ledger.accounts[number]
            balance = account.credits_posted - account.debits_posted
            total += balance
            if balance:
                purpose = str(key.job) if key.job is not None else key.purpose.name.lower()
                found[key.owner, purpose] = balance
            assert min(account.debits_pending, account.credits_pending) >= 0
            assert key.purpose is Purpose.ISSUED or balance >= account.debits_pending
        assert total == 0
        assert found == {purse: left for purse, left in self.model.money.items() if left}
        assert self.model.held == {
            (provider, receipt): sums
            for provider, mine in world.held.items()
            for receipt, sums in mine.items()
        }

    def finish(self) -> None:
        """All that is open ends in order; then nothing is left in any escrow."""
        model, speech = self.model, self.speech
        speech.now = max(speech.now, model.time_ms) + 2 * max(WALLS_MS)
        for job in list(model.jobs):
            self._must(speech.close(job))
        self._must(speech.issue("checks", 1_000_000))
        greedy = set()  # asks more than its lease's rate gives: it is never paid
        for name, claim in list(model.claims.items()):
            charged = speech.charged(name)
            if claim.price > int(charged.gross):
                greedy.add(name)
            else:
                self._must(charged)
        for identifier in list(model.leaving):
            speech.now += WEEK_MS
            ends = speech.expiry(identifier)
            assert ends is not None
            ends.transfers[:] = [identifier]
            self._must(ends)
        speech.now += HOLD_MS + WEEK_MS
        for provider in sorted({owner for owner, _ in model.held}):
            self._must(speech.release(provider))
        world = self.replay.world
        assert world.claims.keys() == greedy
        assert not any((world.jobs, world.leases, world.held, world.withdrawals))
        assert not world.ledger.pending
        for key, number in world.numbers.items():
            account = world.ledger.accounts[number]
            assert account.debits_pending == account.credits_pending == 0
            assert account.spendable == 0 or key.purpose not in (Purpose.BUDGET, Purpose.HELD)

    def _must(self, said: Statement) -> None:
        taken = len(self.logged)
        self.deliver(self.speech.signed(said, said.signer() or MARKET))
        assert len(self.logged) == taken + 1, said
