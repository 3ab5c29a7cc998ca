"""Another process becomes the market, from a mirrored log, because a quorum of its validators says so.

Money, holds, standings and validators go on as the final checkpoint has them. Open jobs end and are
refunded: their code and inputs were never in the log. What the old market promised later than that
checkpoint is void, but parties may hand in their own statements again for a time.
"""

from collections.abc import AsyncIterator, Sequence
from typing import Final
from uuid import UUID

from market.service.market import Market
from market.service.public import Terms
from market.store import public
from market.store import takeover as store
from market.store.rows import Connection
from settlement.domain import canonical, checkpoint, cosignature
from settlement.domain.checkpoint import Checkpoint
from settlement.domain.errors import BadCheckpoint, BadStatement, Failed, Forbidden
from settlement.domain.governance import Approval, Takeover
from settlement.domain.identity import PrivateKey
from settlement.domain.moves import derived_id, moves
from settlement.domain.payments import Withdraw
from settlement.domain.replay import Replay
from settlement.domain.statement import Opened, open_envelope, sign
from settlement.domain.trade import Close, JobEnd
from settlement.domain.world import FRESH_MS
from settlement.service.engine import Item
from settlement.service.restore import restore

GRACE_MS: Final = 24 * 3_600_000
AHEAD_MS: Final = FRESH_MS  # a log whose time is further ahead than this is not gone on with


def propose(
    head: Checkpoint, key: PrivateKey, log_key: str, *, grace_ms: int, log_ms: int, now_ms: int
) -> Opened:
    """The statement that the validators of the old log are asked to approve.

    `log_ms` is the old log's own time, as its replay tells: nothing could be said after a time
    that is far ahead, by anybody, until it is there.
    """
    if log_ms - now_ms > AHEAD_MS:
        minutes = AHEAD_MS // 60_000
        raise BadCheckpoint(
            f"the log's time {log_ms} ms is over {minutes} minutes ahead of this machine's"
        )
    return sign(
        Takeover(
            v=1, kind="takeover", market=head.origin, size=head.size, root=canonical.digest_text(head.root),
            ledger_key=key.address, log_key=log_key, grace_ms=grace_ms, at_ms=now_ms,
        ),
        key,
    )  # fmt: skip


def approve(
    envelope: bytes, note: str, member: str, key: PrivateKey, *, market: str, now_ms: int
) -> Opened:
    """A validator's approval; only of a tree that it cosigned itself (`member`: its verifier key)."""
    said, opened = open_envelope(envelope, Takeover, market=market)
    head = checkpoint.head(note)
    if (head.size, canonical.digest_text(head.root)) != (said.size, said.root):
        raise Forbidden(
            f"the takeover is from {said.size} entries, the checkpoint is of {head.size}"
        )
    if not cosignature.lines_of(note, cosignature.parse_verifier_key(member)):
        raise Forbidden("this validator did not cosign that checkpoint")
    return sign(
        Approval(
            v=1, kind="approval", market=said.market, validator=key.address, statement=opened.digest,
            at_ms=now_ms,
        ),
        key,
    )  # fmt: skip


async def begin(
    market: Market,
    entries: AsyncIterator[Sequence[bytes]],
    takeover: bytes,
    approvals: Sequence[bytes],
    *,
    now_ms: int,
) -> Replay:
    """Fill the empty database and become the market; it may be repeated until it is done.

    `Forbidden` before anything of the takeover is logged if the entries are not those that it names.
    """
    said, opened = open_envelope(takeover, Takeover, market=market.origin)
    if said.ledger_key != market.address:
        raise Forbidden("the takeover names another key than this market's")
    replay = Replay(market.origin)
    await restore(
        market.ledger, replay, entries, market=market.address, size=said.size,
        root=canonical.digest_bytes(said.root),
    )  # fmt: skip
    for envelope in await market.read(store.tail, said.size):  # of a run that ended early
        replay.feed(replay.size, envelope)
    for statement in (opened, *_opened(approvals, market.origin)):
        taken = statement.digest in replay.world.seen  # by a run that ended early
        if not taken and replay.ledger_key != market.address:
            await _log(market, replay, statement)
    if replay.ledger_key != market.address:
        raise Forbidden(f"{replay.quorum} validators have to approve, {len(approvals)} did")
    await market.transact(_rows, market, replay)
    await _close_jobs(market, replay, now_ms)
    _, lines = await market.transact(public.snapshot)
    if lines != replay.lines():
        raise Failed("the restored accounts are not what the log leads to; start anew")
    return replay


def _opened(envelopes: Sequence[bytes], origin: str) -> list[Opened]:
    return [open_envelope(envelope, Approval, market=origin)[1] for envelope in envelopes]


async def _log(market: Market, replay: Replay, statement: Opened) -> None:
    """Into the log and through the replay, at the same place."""
    index = replay.size
    replay.take(index, statement)
    item = Item(moves(statement, market.address), (statement,))
    outcome = await market.ledger.submit(item)
    outcome.raise_for_refusal()
    if outcome.positions != (index,):
        raise BadStatement(f"the statement stands at {outcome.positions} already, not at {index}")


async def _rows(connection: Connection, market: Market, replay: Replay) -> None:
    world = replay.world
    assert world.charter is not None
    held = [
        (receipt, provider, amount, at_ms)
        for provider, mine in world.held.items()
        for receipt, (amount, at_ms) in mine.items()
    ]
    await store.put_charges(connection, held)
    await store.put_standings(
        connection,
        [(name, standing.agreed, standing.differed) for name, standing in world.standings.items()],
    )
    await store.put_withdrawals(connection, await _waiting(connection, replay))
    await store.put_validators(connection, world.members, world.quorum)
    terms = Terms(
        market.address, world.charter.operator, world.charter.log_key, world.charter.fee_basis_points,
        world.charter.check_basis_points, world.charter.hold_ms,
    )  # fmt: skip
    await store.put_charter(
        connection, canonical.encode(terms), grace_from_ms=world.grace_from_ms,
        grace_until_ms=world.grace_until_ms,
    )  # fmt: skip


async def _waiting(
    connection: Connection, replay: Replay
) -> list[tuple[UUID, str, int, str, str, int]]:
    """The rows of withdrawals that nobody decided; where to is in their statements only."""
    found = []
    for name, waiting in replay.world.withdrawals.items():
        transfer = UUID(name)
        pending = replay.world.ledger.transfers[transfer.int]
        envelope = await store.envelope(connection, pending.cause)
        assert envelope is not None  # it was restored
        wish, opened = open_envelope(envelope, Withdraw, market=replay.market)
        found.append(
            (
                transfer,
                waiting.party,
                pending.amount,
                wish.destination,
                opened.digest,
                waiting.at_ms,
            )
        )
    return found


async def _close_jobs(market: Market, replay: Replay, now_ms: int) -> None:
    """What the old market was doing ends here, and its budgets go back."""
    for name, job in sorted(replay.world.jobs.items()):
        statement = market.sign(
            Close(
                v=1, kind="close", market=market.origin, job=name, consumer=job.consumer, order=job.order,
                end=JobEnd.FAILED, accepted=job.accepted, spent=str(job.spent),
                transfer=str(derived_id(job.order, now_ms, 0)), at_ms=now_ms,
            )
        )  # fmt: skip
        await _log(market, replay, statement)
