"""Recomputes money and log from what is stored, and lists every difference."""

from typing import Any, Final, NamedTuple

from settlement.domain import canonical, checkpoint, merkle, statement
from settlement.domain.errors import GridpactError
from settlement.store import audit as store
from settlement.store import log
from settlement.store.database import driver

PAGE_ENTRIES: Final = 1_024


class Difference(NamedTuple):
    """A rule that does not hold, and where."""

    rule: str
    where: str


async def check_invariants(transaction: Any, *, market: str) -> list[Difference]:
    """Everything that is wrong with the ledger and the log; nothing, if all is well.

    One look: run it in a transaction that sees one state (`SET TRANSACTION … REPEATABLE READ` is
    set here, so it must be the first work of its transaction).
    """
    connection = await driver(transaction)
    await connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
    found = [Difference(*pair) for pair in await store.broken(connection)]
    return found + await _log_differences(connection, market)


async def _log_differences(connection: Any, market: str) -> list[Difference]:
    """Every envelope opened again, and every stored checkpoint's root made again from them."""
    found: list[Difference] = []
    heads = await store.heads(connection)
    tree = merkle.Frontier()
    size, _ = await log.sizes(connection)
    _compare(heads, tree, found)
    while tree.size < size:
        rows = await store.statements(connection, first=tree.size, count=PAGE_ENTRIES)
        if not rows:
            break  # a gap, which the rules have named
        for row in rows:
            found += _opened(row, market)
            tree.append(merkle.leaf_hash(row["envelope"]))
            _compare(heads, tree, found)
    found += [
        Difference("a checkpoint covers logged entries only", f"checkpoint {left}")
        for left in heads
    ]
    return found


def _compare(
    heads: dict[int, tuple[bytes, str]], tree: merkle.Frontier, found: list[Difference]
) -> None:
    stored = heads.pop(tree.size, None)
    if stored is None:
        return
    root, note = stored
    try:
        signed = checkpoint.head(note)
    except GridpactError:
        signed = None
    if signed is None or (signed.size, signed.root, root) != (tree.size, root, tree.root()):
        where = f"checkpoint {tree.size}"
        found.append(Difference("a checkpoint's root is that of the entries", where))


def _opened(row: Any, market: str) -> list[Difference]:
    where = f"entry {row['idx']}"
    try:
        opened = statement.open_any(row["envelope"], market=market)
    except GridpactError as error:
        return [Difference(f"an entry is a signed statement ({error.code})", where)]
    told = (row["digest"], row["signer"].hex(), row["kind"])
    if told != (canonical.digest_bytes(opened.digest), opened.signer, opened.statement.kind):
        return [Difference("an entry's columns say what its envelope says", where)]
    return []
