"""Many lives of ledger and escrow, drawn from one seed, on every core: each against its model."""

import multiprocessing
import os
import random
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import Final

from tests.unit.settlement.escrow_driver import EscrowDriver
from tests.unit.settlement.ledger_driver import LedgerDriver

ESCROW_STEPS: Final = 20
LEDGER_STEPS: Final = 8
PART: Final = 500  # lives that a process runs at a time


@dataclass(frozen=True, slots=True)
class Lived:
    """How many interleavings were run, and how much was said in them."""

    lives: int
    steps: int  # transfers of the ledger, statements of the escrow


def ledger_life(seed: str) -> int:
    """Transfers of one life."""
    driver = LedgerDriver(random.Random(seed))
    for _ in range(LEDGER_STEPS):
        driver.step()
    driver.finish()
    return driver.events


def escrow_life(seed: str) -> int:
    """Statements of one life, taken and refused."""
    driver = EscrowDriver(random.Random(seed))
    for _ in range(ESCROW_STEPS):
        driver.step()
    driver.finish()
    return len(driver.logged) + driver.refused


def run(what: str, lives: int, *, seed: int) -> Lived:
    """So many lives of `ledger` or `escrow`; the first that goes wrong is raised with its seed."""
    parts = [
        [f"{seed}/{what}/{number}" for number in range(first, min(first + PART, lives))]
        for first in range(0, lives, PART)
    ]
    context = multiprocessing.get_context("forkserver")
    with ProcessPoolExecutor(len(os.sched_getaffinity(0)), mp_context=context) as pool:
        return Lived(lives, sum(pool.map(_part, [what] * len(parts), parts)))


def _part(what: str, seeds: Sequence[str]) -> int:
    life = ledger_life if what == "ledger" else escrow_life
    steps = 0
    for seed in seeds:
        try:
            steps += life(seed)
        except Exception as error:
            raise AssertionError(f"{what}, seed {seed!r}: {error!r}") from error
    return steps
