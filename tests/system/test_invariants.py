"""The rules that every system test ends with notice what they are there to notice."""

import pytest

from market.store.rows import Connection
from tests.system.fake_provider import FakeProvider
from tests.system.invariants import RULES, _broken
from tests.system.running import Running
from tests.system.trading import Buyer, bodies, until

pytestmark = pytest.mark.system

# Every rule, with a change of one row that breaks it in the books of one finished, one open job.
DAMAGE = {
    "a closed job has nothing reserved, nothing open, and its budget account is empty": (
        "UPDATE jobs SET refunded = refunded - 1 WHERE state = 'closed'"
    ),
    "the budget account of an open job holds what is not spent": (
        "UPDATE jobs SET budget = budget + 1 WHERE state <> 'closed'"
    ),
    "what is reserved are the caps of undecided attempts": "UPDATE jobs SET reserved = reserved + 1",
    "what is spent are the charges of accepted work and of vouchers": (
        "UPDATE attempts SET surcharge = surcharge + 1 WHERE state = 'accepted' AND purpose = 'work'"
    ),
    "every voucher in the log is charged, and every charge without an attempt is a voucher's": (
        "UPDATE charges SET receipt = 'sha256:' || repeat('0', 64) WHERE attempt IS NULL"
    ),
    "no time of a lease is paid twice": "UPDATE leases SET vouched_ms = vouched_ms + 9999999999999",
    "a withdrawal is a pending transfer, and decided as it says": (
        "UPDATE withdrawals SET decision = 'sha256:' || repeat('0', 64)"
    ),
    "accepted tasks are those of accepted work": (
        "UPDATE jobs SET accepted = accepted - 1 WHERE state = 'closed'"
    ),
    "each accepted task has one delivered output, and nothing else has one": (
        "UPDATE outputs SET position = NULL"
    ),
    "accepted work has one charge of what it earned, and so have paid checks, and nothing else": (
        "DELETE FROM charges"
    ),
    "intervals cover the tasks without hole or overlap": (
        "UPDATE intervals SET first = first + 1 WHERE state = 'accepted'"
    ),
    "an interval's holder is in the state that it says": (
        "UPDATE intervals SET state = 'executed' WHERE state = 'leased'"
    ),
    "work in hand stands in an interval": (
        "UPDATE intervals SET state = 'pending', attempt = NULL WHERE state = 'leased'"
    ),
    "what is in hand is in hand on a live lease": (
        "UPDATE leases SET state = 'closed' WHERE state <> 'closed'"
    ),
    "a provider that failed a job holds no lease of it": (
        "UPDATE leases SET reason = 'slashed' WHERE state <> 'closed'"
    ),
    "what a provider has in hold is what was charged and not released": (
        "UPDATE charges SET state = 'charged'"
    ),
    "a decided receipt is in the log": (
        "UPDATE attempts SET receipt = 'sha256:' || repeat('0', 64) WHERE receipt IS NOT NULL"
    ),
    "every lease and order is in the log": (
        "UPDATE leases SET statement = 'sha256:' || repeat('0', 64)"
    ),
}


class _Undone(Exception):
    """Rolls the damage back."""


async def test_each_rule_sees_its_damage(whole: Running, buyer: Buyer) -> None:
    assert DAMAGE.keys() == RULES.keys()
    async with FakeProvider(whole, 1).open() as alpha:
        await buyer.closed(await buyer.order(bodies(1)))

        async def released() -> bool:
            return int((await alpha.client.balances()).held) == 0

        await until(released)
        alpha.holds = True
        job = await buyer.order(bodies(2))
        await buyer.happened(job, "lease-active")

        async def handed() -> bool:
            return bool(await buyer.receipts(job, state="handed"))

        await until(handed)
        (lease,) = await buyer.client.leases(job)
        await buyer.client.vouch(lease, 1)
        await buyer.client.withdraw(1, "elsewhere")
        for rule, damage in DAMAGE.items():
            found: list[tuple[str, str]] = []

            async def damaged(
                connection: Connection,
                *,
                damage: str = damage,
                found: list[tuple[str, str]] = found,
            ) -> None:
                await connection.execute(damage)
                found += await _broken(connection)
                raise _Undone

            with pytest.raises(_Undone):
                await whole.market.transact(damaged)
            assert rule in {broken for broken, _ in found}
