"""Final is what k of n validators cosigned: take their lines, and show checkpoints with them."""

from typing import Any, Final, NamedTuple

from settlement.domain import checkpoint as checkpoints
from settlement.domain import cosignature
from settlement.domain.errors import BadCheckpoint, NotFound
from settlement.store import cosignatures as store
from settlement.store import log
from settlement.store.database import Database, driver

SIZES_KEPT: Final = 256  # that have cosignatures; the newest ones


class Taken(NamedTuple):
    """What became of a note: its size, how many lines were good, and whether it is final now."""

    size: int
    lines: int
    final: bool


async def take(database: Database, note: str, *, log_key: str, now_ms: int) -> Taken:
    """Keep the lines of known validators under a checkpoint of ours.

    `BadCheckpoint` for another log's, for a root that we never signed, for a line that does not
    hold; `NotFound` for a size that was never signed.
    """
    head = checkpoints.verify(note, log_key)
    return await database.run(_take, note, head, now_ms)


async def _take(transaction: Any, note: str, head: checkpoints.Checkpoint, now_ms: int) -> Taken:
    connection = await driver(transaction)
    ours = await log.note(connection, head.size)
    if ours is None:
        raise NotFound(f"no checkpoint of size {head.size} was signed")
    if checkpoints.head(ours) != head:
        raise BadCheckpoint(f"the root that was signed for size {head.size} is another one")
    members, quorum = await store.validators(connection)
    good = []
    for member in members:
        lines = cosignature.lines_of(note, cosignature.parse_verifier_key(member))
        if lines:
            good.append((member, lines[-1]))
    if good:
        await store.keep(connection, head.size, good, now_ms=now_ms)
        await store.forget(connection, keep_last=SIZES_KEPT)
    final = await store.final_size(connection, members, quorum) if quorum else None
    return Taken(head.size, len(good), final is not None and final >= head.size)


async def checkpoint(database: Database, *, final: bool = False) -> str | None:
    """The newest checkpoint, or the newest final one, with its cosignatures; None if there is none."""
    return await database.look(_checkpoint, final)


async def cosigned(database: Database) -> str | None:
    """The checkpoint that validators have begun to cosign: the one for the others to cosign too."""
    return await database.look(_cosigned)


async def _cosigned(transaction: Any) -> str | None:
    connection = await driver(transaction)
    members, quorum = await store.validators(connection)
    final = await store.final_size(connection, members, quorum) if quorum else None
    size = await store.cosigned_size(connection, members, final=final or 0)
    return None if size is None else await _with_lines(connection, size)


async def _checkpoint(transaction: Any, final: bool) -> str | None:  # noqa: FBT001 - passed on
    return await noted(await driver(transaction), final=final)


async def noted(connection: Any, *, final: bool) -> str | None:
    """As `checkpoint`, on a connection."""
    size = None
    if final:
        members, quorum = await store.validators(connection)
        size = await store.final_size(connection, members, quorum) if quorum else None
        if size is None:
            return None
    return await _with_lines(connection, size)


async def _with_lines(connection: Any, size: int | None) -> str | None:
    note = await log.note(connection, size)
    if note is None:
        return None
    for line in await store.lines(connection, checkpoints.head(note).size):
        note = cosignature.add_line(note, line)
    return note


async def validators(database: Database) -> tuple[list[str], int, int]:
    """Members, quorum, and the size of the newest final checkpoint (0: none)."""
    return await database.look(_validators)


async def _validators(transaction: Any) -> tuple[list[str], int, int]:
    connection = await driver(transaction)
    members, quorum = await store.validators(connection)
    size = await store.final_size(connection, members, quorum) if quorum else None
    return members, quorum, size or 0
