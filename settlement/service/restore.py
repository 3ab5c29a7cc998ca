"""A log made anew in an empty database: its entries as they were, and the money that follows from them."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Final
from uuid import UUID

from settlement.domain import merkle
from settlement.domain.errors import Failed, Forbidden
from settlement.domain.ledger import AccountKey, Flag, Purpose, Reason, Transfer
from settlement.domain.moves import derived_id, moves
from settlement.domain.payments import Expiry
from settlement.domain.replay import Replay
from settlement.domain.statement import Opened
from settlement.domain.world import Withdrawal
from settlement.service.engine import Item, Ledger

PAGE: Final = 512  # items in the ledger's queue at once


async def restore(
    ledger: Ledger,
    replay: Replay,
    entries: AsyncIterator[Sequence[bytes]],
    *,
    market: str,
    size: int,
    root: bytes,
) -> None:
    """Feed the first `size` entries to the replay and to the ledger, in their order.

    `market` owns `fees`, `checks` and `issued` from now on. It may be repeated: what is there stays.
    `Differs` for an entry that breaks a rule, `Failed` if the ledger sees one otherwise, `Forbidden`
    at the end if the entries have another RFC 6962 root.
    """
    page: list[tuple[int, Item]] = []
    tree = merkle.Frontier()
    async for some in entries:
        for envelope in some:
            index = replay.size
            if index >= size:
                break
            waiting = dict(replay.world.withdrawals)
            opened = replay.feed(index, envelope)
            tree.append(merkle.leaf_hash(envelope))
            item = Item(_transfers(opened, market, waiting), (opened,))
            if len(page) >= PAGE or _resolves(item):
                await _submit(ledger, page)
            page.append((index, item))
    await _submit(ledger, page)
    if replay.size != size:
        raise Failed(f"the log ends after {replay.size} entries, {size} were expected")
    if tree.root() != root:
        raise Forbidden(
            f"the first {size} entries have the root {tree.root().hex()}, not {root.hex()}:"
            " this is another log, or a changed one; begin with an empty database and the right one"
        )


def _transfers(opened: Opened, market: str, waiting: dict[str, Withdrawal]) -> tuple[Transfer, ...]:
    """Those of the statement; an expiry frees what it names, as the clock did then."""
    said = opened.statement
    if not isinstance(said, Expiry):
        return moves(opened, market)
    return tuple(
        Transfer(
            derived_id(opened.digest, said.at_ms + at, 0),
            AccountKey(waiting[identifier].party, Purpose.AVAILABLE),
            AccountKey(market, Purpose.ISSUED),
            0,
            Reason.WITHDRAWAL,
            Flag.VOID,
            UUID(identifier),
        )
        for at, identifier in enumerate(said.transfers)
    )


def _resolves(item: Item) -> bool:
    """Whether it needs what an item before it made."""
    return any(transfer.pending_id is not None for transfer in item.transfers)


async def _submit(ledger: Ledger, page: list[tuple[int, Item]]) -> None:
    """All of the page at once, in its order; each statement must get its old place."""
    async with asyncio.TaskGroup() as group:
        tasks = [(index, group.create_task(ledger.submit(item))) for index, item in page]
    for index, task in tasks:
        outcome = task.result()
        outcome.raise_for_refusal()
        if outcome.positions != (index,):
            raise Failed(
                f"entry {index} came to stand at {outcome.positions}; is the database empty?"
            )
    page.clear()
