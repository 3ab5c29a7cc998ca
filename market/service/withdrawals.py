"""Withdrawals: asked for by a party, decided by the operator, or free again when their time is over."""

from collections.abc import Callable
from typing import Final
from uuid import UUID

from market.service.market import Market, change, check_fresh
from market.store import money as store
from market.store.rows import Connection, Row
from market.wire.money import WithdrawalQuery, Withdrawals, WithdrawalView
from settlement.domain import amount
from settlement.domain.errors import (
    BadStatement,
    Forbidden,
    LimitExceeded,
    Malformed,
    NotFound,
    Stale,
)
from settlement.domain.identity import PrivateKey
from settlement.domain.ledger import Code, PendingState
from settlement.domain.moves import moves
from settlement.domain.payments import Expiry, Withdraw, Withdrawn
from settlement.domain.statement import Opened, open_envelope, sign
from settlement.service.engine import Item, Outcome

WAITING_MAX: Final = 100  # withdrawals of one party that nobody has decided
NANOSECONDS: Final = 1_000_000
STATES: Final = {
    PendingState.OPEN: "waiting",
    PendingState.POSTED: "paid",
    PendingState.VOIDED: "refused",
    PendingState.EXPIRED: "expired",
}
_DECIDED: Final = {
    Code.ALREADY_POSTED: "paid out",
    Code.ALREADY_VOIDED: "refused",
    Code.PENDING_EXPIRED: "not decided in time, and its tokens are free again",
}


def expirer(
    key: PrivateKey, origin: str, now_ms: Callable[[], int]
) -> Callable[[tuple[UUID, ...], int], Opened]:
    """What the ledger asks for when pending transfers ran out: the market's signed word on it."""

    def expired(transfers: tuple[UUID, ...], ledger_ns: int) -> Opened:
        return sign(
            Expiry(
                v=1, kind="expiry", market=origin, transfers=[str(transfer) for transfer in transfers],
                ledger_ns=str(ledger_ns), at_ms=now_ms(),
            ),
            key,
        )  # fmt: skip

    return expired


async def ask(market: Market, caller: str, envelope: bytes, *, now_ms: int) -> WithdrawalView:
    """Reserve tokens that are to leave; once, however often it is sent."""
    wish, opened = open_envelope(envelope, Withdraw, market=market.origin)
    if wish.party != caller:
        raise Forbidden("the withdrawal is another party's")
    wanted = amount.from_text(wish.amount)
    if not wanted or not wish.destination.strip():
        raise BadStatement("a withdrawal names an amount and where it goes")
    check_fresh(wish.at_ms, now_ms, what="withdrawal", market=market)
    if await market.read(store.waiting_withdrawals, caller) >= WAITING_MAX:
        raise LimitExceeded(f"at most {WAITING_MAX} withdrawals of a party wait at a time")
    insert = change(
        "withdrawal_insert", UUID(wish.transfer), caller, wanted, wish.destination, opened.digest, now_ms
    )  # fmt: skip
    outcome = await market.ledger.submit(
        Item(moves(opened, market.address), (opened,), changes=(insert,))
    )
    outcome.raise_for_refusal()
    return _view(await market.read(store.withdrawal, UUID(wish.transfer)))


async def decide(
    market: Market, caller: str, transfer: UUID, envelope: bytes, *, now_ms: int
) -> WithdrawalView:
    """The operator paid it out, or refuses it; the first word stands."""
    word, opened = open_envelope(envelope, Withdrawn, market=market.origin)
    if not market.operator or word.operator != market.operator or caller != market.operator:
        raise Forbidden("only the operator decides withdrawals")
    row = await market.read(store.withdrawal, transfer)
    if row is None:
        raise NotFound("no such withdrawal")
    if word.withdrawal != str(transfer) or word.party != row["party"]:
        raise BadStatement("the decision is about another withdrawal or party")
    check_fresh(word.at_ms, now_ms, what="decision", market=market)
    decided = change("withdrawal_decided", transfer, opened.digest, word.memo, now_ms)
    outcome = await market.ledger.submit(
        Item(moves(opened, market.address), (opened,), changes=(decided,))
    )
    _raise_if_decided(outcome)
    outcome.raise_for_refusal()
    return _view(await market.read(store.withdrawal, transfer))


def _raise_if_decided(outcome: Outcome) -> None:
    for code in outcome.codes:
        if code in _DECIDED:
            raise Stale(f"the withdrawal was {_DECIDED[code]}")


async def page(market: Market, caller: str, query: WithdrawalQuery) -> Withdrawals:
    """A party's own, or for the operator everybody's, in the order in which they were asked for."""
    if query.whose == "all" and (not market.operator or caller != market.operator):
        raise Forbidden("only the operator sees everybody's withdrawals")
    after = _cursor(query.after) if query.after else (-1, UUID(int=0))

    async def read(connection: Connection) -> list[Row]:
        if query.whose == "all":
            return await store.withdrawals(
                connection, waiting=query.state == "waiting", after=after, limit=query.limit
            )
        return await store.withdrawals_of(connection, caller, after=after, limit=query.limit)

    rows = await market.read(read)
    last = f"{rows[-1]['asked_ms']}.{rows[-1]['transfer']}" if len(rows) == query.limit else ""
    views = [_view(row) for row in rows]
    wanted = {"waiting"} if query.state == "waiting" else set(STATES.values())
    return Withdrawals([view for view in views if view.state in wanted], last)


async def view(market: Market, caller: str, transfer: UUID) -> WithdrawalView:
    """One withdrawal, for its party and the operator."""
    row = await market.read(store.withdrawal, transfer)
    if row is None or caller not in {row["party"], market.operator}:
        raise NotFound("no such withdrawal of yours")
    return _view(row)


def _cursor(text: str) -> tuple[int, UUID]:
    asked, _, transfer = text.partition(".")
    try:
        asked_ms, identifier = int(asked), UUID(transfer)
    except ValueError:
        raise Malformed("the cursor is not one of this list") from None
    if not 0 <= asked_ms < 2**63:
        raise Malformed("the cursor is not one of this list")
    return asked_ms, identifier


def _view(row: Row) -> WithdrawalView:
    return WithdrawalView(
        transfer=str(row["transfer"]), party=row["party"], amount=str(int(row["amount"])),
        destination=row["destination"], state=STATES[PendingState(row["status"])],
        asked_ms=row["asked_ms"], expires_ms=row["expires_at"] // NANOSECONDS,
        decided_ms=row["decided_ms"], memo=row["memo"], statement=row["statement"],
        decision=row["decision"] or "",
    )  # fmt: skip
