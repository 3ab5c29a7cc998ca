"""Statements, keys and items for the tests of the ledger engine."""

import itertools
import uuid
from collections.abc import Mapping
from typing import Any, Final

import asyncpg

from settlement.domain.identity import PrivateKey
from settlement.domain.ledger import AccountKey, Flag, Purpose, Reason, Transfer
from settlement.domain.payments import Issue
from settlement.domain.statement import Opened, sign
from settlement.service.audit import check_invariants
from settlement.service.engine import Item, Ledger
from settlement.store.database import Database

MARKET: Final = "market.example"
OPERATOR: Final = PrivateKey(b"\1" * 32)
ISSUED: Final = AccountKey(OPERATOR.address, Purpose.ISSUED)
_memo = itertools.count()


def party(number: int) -> str:
    """The address of a made-up party; nobody needs its key."""
    return f"{number:064x}"


def available(number: int) -> AccountKey:
    return AccountKey(party(number), Purpose.AVAILABLE)


def statement() -> Opened:
    """A statement that nothing else says."""
    said = Issue(
        v=1, kind="issue", market=MARKET, operator=OPERATOR.address, to=party(1), purpose="available",
        amount="1", transfer=str(uuid.uuid4()), memo=str(next(_memo)), at_ms=1,
    )  # fmt: skip
    return sign(said, OPERATOR)


def move(
    debit: AccountKey,
    credit: AccountKey,
    amount: int,
    *,
    flags: Flag = Flag(0),
    pending_id: uuid.UUID | None = None,
    timeout_seconds: int = 0,
    identifier: uuid.UUID | None = None,
) -> Transfer:
    return Transfer(
        identifier or uuid.uuid4(), debit, credit, amount, Reason.PAYMENT, flags, pending_id, timeout_seconds
    )  # fmt: skip


def paying(*transfers: Transfer) -> Item:
    """The transfers as one chain under a fresh cause."""
    return Item(transfers, (statement(),))


async def endow(ledger: Ledger, amounts: Mapping[int, int]) -> None:
    """Issue tokens to parties."""
    moves = [move(ISSUED, available(number), amount) for number, amount in amounts.items()]
    (await ledger.submit(paying(*moves))).raise_for_refusal()


async def assert_sound(database: Database, *, issued: int) -> None:
    async def look(transaction: Any) -> list[Any]:
        return [*await check_invariants(transaction, market=MARKET)]

    assert await database.run(look) == []
    connection = await asyncpg.connect(database.url)
    total = await connection.fetchval(
        "SELECT sum(cr_posted - dr_posted) FROM accounts WHERE purpose = 1"
    )
    await connection.close()
    assert int(total) == issued
