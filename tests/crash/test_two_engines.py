"""Two engines on one database answer as one ledger does, in turns and at once."""

from tests.crash import two_engines

SEED = 3
STEPS = 200


async def test_two_engines_are_one_ledger(database_url: str) -> None:
    ran = await two_engines.run(database_url, STEPS, seed=SEED)
    assert ran.steps == STEPS
    assert min(ran.restarts, ran.at_once) > 0
