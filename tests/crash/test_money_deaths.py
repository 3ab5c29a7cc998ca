"""Vouchers and the receipt after them: dead at whichever round trip, each is paid once or not at all.

The other stories of money take as long, and leave it to `make test-crash`.
"""

from tests.crash.money_stories import VOUCHING
from tests.crash.points import Server, every_point


async def test_a_death_at_every_round_trip(server: Server) -> None:
    counted = await every_point(VOUCHING, server)
    assert counted.points > counted.moved > 0
