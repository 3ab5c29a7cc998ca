"""The ledger's rules against the recounting model, in lives drawn by chance.

`make test-crash` runs a hundred thousand of them.
"""

import random

from settlement.domain.ledger import Code
from tests.unit.settlement.ledger_driver import LedgerDriver

LIVES = 300
STEPS = 10
MET = {
    Code.ALREADY_FAILED, Code.ALREADY_POSTED, Code.ALREADY_VOIDED, Code.CHAIN_OPEN, Code.CREATED,
    Code.EXCEEDS_CREDITS, Code.EXCEEDS_DEBITS, Code.EXCEEDS_PENDING, Code.EXISTS, Code.EXISTS_OTHER_AMOUNT,
    Code.EXISTS_OTHER_FLAGS, Code.LINKED_FAILED, Code.PENDING_EXPIRED, Code.PENDING_NOT_FOUND,
    Code.PENDING_NOT_PENDING, Code.VOID_IN_PART,
}  # fmt: skip


def test_random_lives_end_with_nothing_pending() -> None:
    met: set[Code] = set()
    for seed in range(LIVES):
        driver = LedgerDriver(random.Random(seed))
        for _ in range(STEPS):
            driver.step()
        driver.finish()
        met |= driver.codes
    assert met >= MET
