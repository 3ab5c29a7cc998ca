"""What is too old when its batch comes is not logged, whoever found it fresh before."""

from settlement.domain.identity import PrivateKey
from settlement.domain.payments import Issue
from settlement.domain.statement import Opened, sign
from settlement.service.engine import Item, Ledger, Status
from settlement.service.freshness import AGE_MS_MAX, Freshness
from settlement.store.database import Database
from tests.store.ledger_maker import MARKET

OPERATOR = PrivateKey(b"\1" * 32)
NOW_MS = 1_800_000_000_000


def said(at_ms: int) -> Opened:
    return sign(
        Issue(
            v=1, kind="issue", market=MARKET, operator=OPERATOR.address, to=OPERATOR.address,
            purpose="available", amount="1", transfer=f"00000000-0000-7000-8000-{at_ms % 10**12:012d}",
            memo="", at_ms=at_ms,
        ),
        OPERATOR,
    )  # fmt: skip


def ledger(database: Database, freshness: Freshness) -> Ledger:
    made = Ledger(database, statements={}, clock=lambda: NOW_MS * 1_000_000)
    made.freshness = freshness
    return made


async def statuses(database: Database, freshness: Freshness, *ages_ms: int) -> list[Status]:
    async with ledger(database, freshness) as open_ledger:
        items = [Item((), (said(NOW_MS - age_ms),)) for age_ms in ages_ms]
        return [(await open_ledger.submit(item)).status for item in items]


async def test_an_old_statement_is_stale_and_leaves_no_trace(database: Database) -> None:
    found = await statuses(database, Freshness(AGE_MS_MAX), 0, AGE_MS_MAX, AGE_MS_MAX + 1)
    assert found == [Status.APPLIED, Status.APPLIED, Status.STALE]


async def test_what_was_logged_in_time_is_answered_for_ever(database: Database) -> None:
    """A repeat is no new statement."""
    async with ledger(database, Freshness()) as open_ledger:
        item = Item((), (said(NOW_MS - 10 * AGE_MS_MAX),))
        assert (await open_ledger.submit(item)).status is Status.APPLIED
        open_ledger.freshness = Freshness(AGE_MS_MAX)
        assert (await open_ledger.submit(item)).status is Status.DUPLICATE


async def test_after_a_takeover_old_ones_are_taken_for_a_time(database: Database) -> None:
    old_ms = 3_600_000
    grace = Freshness(AGE_MS_MAX, NOW_MS - old_ms, NOW_MS + AGE_MS_MAX)
    assert await statuses(database, grace, old_ms, old_ms + 1) == [Status.APPLIED, Status.STALE]
    over = Freshness(AGE_MS_MAX, NOW_MS - old_ms, NOW_MS + AGE_MS_MAX - 1)
    assert await statuses(database, over, old_ms - 1) == [Status.STALE]
