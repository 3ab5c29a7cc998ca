"""`log`: a log replayed, audited whole, and its proofs checked, by what a validator or auditor runs.

`replay-unsigned` counts transfers a second of `Replay.take`, whose statements were decoded page by
page beside the clock; the reference is the ledger's pure core on the same transfers in the same pages
(chains and all, as the engine makes them), in turns with it. What the log holds is said in
`log_world.py`. Beside it, without a bar, the rate from the entries' bytes is told (`replay-bytes`).
`audit-1m` counts entries a second of `Audit` from a folder of tiles and entry bundles: a million
entries (payments), each with a signature of its own; the reference is the same pool of processes
that checks the signatures of the same entries and does nothing else, half of it before, half after.
How much the resident memory grew from 10 % to the end is told. `inclusion-verify` is the check of one
entry's path in a tree of a million, against 0.2 ms. The rest has no bar: a checkpoint, a party's exit
file among 100,000 accounts, and the load of a snapshot with as many.
Rates of one thread count that process's own time, so that a busy machine blurs them less.
"""

import asyncio
import gc
import itertools
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from settlement.domain import (
    canonical,
    checkpoint,
    evidence,
    exit_proof,
    merkle,
    moves,
    statement,
    tiles,
)  # fmt: skip
from settlement.domain.governance import State as StateStatement
from settlement.domain.ledger import Account, AccountKey, AccountName, Event, Flag, Purpose
from settlement.domain.ledger_rules import State
from settlement.domain.replay import Replay
from settlement.domain.statement import Opened
from settlement.domain.tiles import ENTRIES, TILE_BYTES, WIDTH, Tile
from settlement.validator.audit import Audit
from settlement.validator.audit_pool import Signatures, first_of
from settlement.validator.source import FolderSource
from settlement.validator.tree import parse_bundle
from tests.bench.figures import Figure, figure, options, publish, rounded, tell
from tests.bench.ledger_world import MARKET, OPERATOR
from tests.bench.log_world import BEGIN_MS, LOG_KEY, LogWorld

ACCOUNTS: Final = 100_000
CHECKS: Final = 2_000  # of one kind of proof, a round
INCLUSION_BAR_MS: Final = 0.2
LEAVES_AT_ONCE: Final = 16 * WIDTH
LINKED: Final = int(Flag.LINKED)
MIB: Final = 1 << 20
MS: Final = 1_000.0
PAGE: Final = 1_024  # entries that are decoded, replayed and given to the core in one turn
PAGE_BYTES: Final = 4_096
ROUNDS: Final = 3
TREE: Final = 1_000_000


@dataclass(frozen=True)
class Size:
    """How much is measured."""

    mixed: int = 60_000
    audited: int = TREE
    rounds: int = ROUNDS


QUICK: Final = Size(mixed=3_000, audited=20_000, rounds=1)


# ── replay ──────────────────────────────────────────────────────────────────────────────────


@contextmanager
def own_time(into: list[float]) -> Iterator[None]:
    """Adds what this process itself spent, with the collector off as in a program that tunes it."""
    gc.disable()
    began = time.process_time()
    yield
    into[0] += time.process_time() - began
    gc.enable()


@dataclass
class Rules:
    """The ledger's rules alone, on the transfers of a log."""

    ledger_key: str
    numbers: dict[AccountName, int] = field(default_factory=dict)
    accounts: dict[int, Account] = field(default_factory=dict)
    at_ns: int = BEGIN_MS * 1_000_000

    def events(self, page: Iterable[Opened]) -> list[Event]:
        """Those of a page, each statement's a chain."""
        found: list[Event] = []
        for opened in page:
            rule = moves.RULES.get(type(opened.statement))
            made = rule(opened, self.ledger_key) if rule is not None else ()
            cause = canonical.digest_bytes(opened.digest)
            chain = [
                Event(
                    move.id, self._number(move.debit), self._number(move.credit), move.amount,
                    move.pending_id, move.timeout_seconds, move.debit[3], int(move.reason),
                    move.flags | LINKED, cause,
                )
                for move in made
            ]  # fmt: skip
            if chain:
                chain[-1] = chain[-1]._replace(flags=made[-1].flags)
            found += chain
        return found

    def apply(self, events: Sequence[Event]) -> None:
        """As one batch."""
        self.at_ns += len(events)
        State(self.accounts).apply(events, self.at_ns)

    def _number(self, name: AccountName) -> int:
        number = self.numbers.setdefault(name, len(self.numbers) + 1)
        if number not in self.accounts:
            limit = int(AccountKey.of(name).limit)
            self.accounts[number] = Account(number, name[3], limit)
        return number


def replay(size: Size) -> list[Figure]:
    """The replay, the core, and the replay from bytes, in turns page by page."""
    world = LogWorld()
    entries = [opened.envelope for opened in world.mixed(size.mixed)]
    tell(f"a log of {len(entries)} entries, {sum(map(len, entries)) // len(entries)} bytes each")
    rates: dict[str, list[float]] = {"take": [], "core": [], "feed": []}
    for number in range(size.rounds):
        taken, fed, core = Replay(MARKET), Replay(MARKET), Rules(world.replay.ledger_key)
        spent = {name: [0.0] for name in rates}
        count = 0
        gc.collect()
        gc.freeze()
        for first in range(0, len(entries), PAGE):
            raw = entries[first : first + PAGE]
            page = [statement.open_any(one, market=MARKET, check_signature=False) for one in raw]
            events = core.events(page)
            count += len(events)
            with own_time(spent["take"]):
                for index, opened in enumerate(page, first):
                    taken.take(index, opened)
            with own_time(spent["core"]):
                core.apply(events)
            with own_time(spent["feed"]):
                for index, one in enumerate(raw, first):
                    fed.feed(index, one, signatures=False)
        gc.unfreeze()
        assert taken.state_root() == fed.state_root() == world.replay.state_root()
        for name, (seconds,) in spent.items():
            rates[name].append(count / seconds)
        told = ", ".join(f"{name} {each[-1]:.0f}/s" for name, each in rates.items())
        tell(f"replay, round {number + 1}: {told}; {rates['take'][-1] / rates['core'][-1]:.3f}")
    ours, reference, from_bytes = (statistics.median(each) for each in rates.values())
    return [
        _figure("replay-unsigned", ours, reference, "transfers/s", "higher"),
        _figure("replay-bytes", from_bytes, None, "transfers/s", "higher"),
    ]


# ── audit ───────────────────────────────────────────────────────────────────────────────────


def write_log(folder: Path, entries: Iterable[Opened]) -> int:
    """A log's static files, as a mirror keeps them; how many entries there are."""
    stored: dict[tuple[int, int], bytes] = {}
    size, root = 0, merkle.EMPTY_ROOT
    pages = iter(entries)
    while some := [opened.envelope for opened in itertools.islice(pages, LEAVES_AT_ONCE)]:
        for at in range(0, len(some), WIDTH):
            bundle = some[at : at + WIDTH]
            place = Tile(ENTRIES, (size + at) // WIDTH, len(bundle))
            _write(folder, place, tiles.bundle(bundle))
        growth = tiles.grow(stored, size, [merkle.leaf_hash(entry) for entry in some])
        size, root = size + len(some), growth.root
        stored |= growth.tiles
        for level, index in [place for place in stored if len(stored[place]) == TILE_BYTES]:
            _write(folder, Tile(level, index), stored.pop((level, index)))
    for (level, index), data in stored.items():
        _write(folder, Tile(level, index, len(data) // merkle.HASH_BYTES), data)
    note = checkpoint.sign(MARKET, OPERATOR, size=size, root=root)
    (folder / "checkpoint").write_text(note, encoding="utf-8")
    return size


def _write(folder: Path, tile: Tile, data: bytes) -> None:
    path = folder / "tile" / tiles.path_of(tile)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


async def check_alone(folder: Path, first: int, end: int) -> float:
    """The seconds that the signatures of these entries take, read from the same files."""
    began = time.perf_counter()
    ahead: list[Any] = []
    with Signatures() as signatures:
        for begin in range(first, end, LEAVES_AT_ONCE):
            some: list[bytes] = []
            for at in range(begin, min(begin + LEAVES_AT_ONCE, end), WIDTH):
                tile = Tile(ENTRIES, at // WIDTH, min(WIDTH, end - at))
                some += parse_bundle((folder / "tile" / tiles.path_of(tile)).read_bytes()) or []
            ahead.append(signatures.check(some))
            if len(ahead) > 1:
                assert await first_of(ahead.pop(0)) is None
        for last in ahead:
            assert await first_of(last) is None
    return time.perf_counter() - began


def resident_mib() -> float:
    """The memory that this process has now."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * PAGE_BYTES / MIB


async def audit(size: Size, folder: Path) -> Figure:
    """The whole audit between two halves of its reference."""
    began = time.perf_counter()
    total = write_log(folder, LogWorld().plain(size.audited))
    tell(f"{total} entries signed and written in {time.perf_counter() - began:.0f} s")
    gc.collect()
    half = total // 2 // LEAVES_AT_ONCE * LEAVES_AT_ONCE
    seconds = await check_alone(folder, 0, half)
    memory: list[tuple[int, float]] = []
    work = Audit(
        FolderSource(folder), LOG_KEY,
        progress=lambda done, _: memory.append((done, resident_mib())),
    )  # fmt: skip
    began, spent = time.perf_counter(), time.process_time()
    report = await work.run()
    ours = time.perf_counter() - began
    assert report.finding is None
    assert report.audited == total
    seconds += await check_alone(folder, half, total)
    early = max(mib for done, mib in memory if done <= max(total // 10, memory[0][0]))
    late = max(mib for _, mib in memory)
    tell(
        f"audit: {total / ours:.0f}/s ({time.process_time() - spent:.0f} of {ours:.0f} s in its own"
        f" process), signatures alone {total / seconds:.0f}/s, {seconds / ours:.3f};"
        f" memory {early:.0f} MiB at 10 %, {late:.0f} MiB at most: {late - early:+.1f} MiB"
    )
    return _figure("audit-1m", total / ours, total / seconds, "entries/s", "higher")


# ── proofs ──────────────────────────────────────────────────────────────────────────────────


def each_ms(work: Callable[[], object], rounds: int) -> float:
    """The milliseconds of one call: the best round's median."""
    found = []
    for _ in range(rounds):
        spent = []
        for _ in range(CHECKS // 10):
            began = time.perf_counter()
            for _ in range(10):
                work()
            spent.append((time.perf_counter() - began) / 10)
        found.append(statistics.median(spent))
    return min(found) * MS


def inclusion(size: Size) -> Figure:
    """Paths of random entries in a tree of a million."""
    chance = random.Random(1)
    leaves = [merkle.leaf_hash(number.to_bytes(8, "big")) for number in range(TREE)]
    node = merkle.nodes_of(leaves)
    root = merkle.tree_root(node, TREE)
    asked = [chance.randrange(TREE) for _ in range(64)]
    proofs = itertools.cycle(
        [(index, merkle.inclusion(node, index=index, size=TREE)) for index in asked]
    )

    def check() -> None:
        index, path = next(proofs)
        leaf = merkle.leaf_hash(index.to_bytes(8, "big"))
        merkle.verify_inclusion(leaf, index=index, size=TREE, path=path, expected_root=root)

    ours = each_ms(check, size.rounds)
    return _figure("inclusion-verify", ours, INCLUSION_BAR_MS, "ms", "lower")


def files(size: Size) -> list[Figure]:
    """A checkpoint, an exit file and a snapshot, with so many accounts."""
    world = LogWorld()
    charter = next(world.plain(1))
    books, owners = world.replay.world, [f"{number:064x}" for number in range(ACCOUNTS)]
    for owner in owners:
        books.account((owner, int(Purpose.AVAILABLE), "", 1)).credits_posted = 10**9
    lines = world.replay.lines()
    said = StateStatement(
        v=1, kind="state", market=MARKET, size=1, lines=len(lines), batch=0, ledger_ns="0",
        root=canonical.digest_text(merkle.root(lines)), at_ms=BEGIN_MS + 1_000,
    )  # fmt: skip
    state = statement.sign(said, OPERATOR)
    leaves = [merkle.leaf_hash(one.envelope) for one in (charter, state)]
    note = checkpoint.sign(MARKET, OPERATOR, size=2, root=merkle.root_of_leaves(leaves))
    proof = evidence.make(envelope=state.envelope, index=1, path=[leaves[0]], note=note)
    file = exit_proof.make(owners[ACCOUNTS // 2], lines, proof)
    key, dump = OPERATOR.address, world.replay.dump()
    owned = exit_proof.verify(file, log_key=LOG_KEY, ledger_key=key)
    assert owned.available == 10**9
    exits = each_ms(lambda: exit_proof.verify(file, log_key=LOG_KEY, ledger_key=key), size.rounds)
    heads = each_ms(lambda: checkpoint.verify(note, LOG_KEY), size.rounds)
    began = time.perf_counter()
    assert Replay.load(dump).state_root() == world.replay.state_root()
    loads = time.perf_counter() - began
    tell(f"a snapshot with {ACCOUNTS} accounts has {len(dump) / MIB:.1f} MiB")
    return [
        _figure("exit-verify", exits, None, "ms", "lower"),
        _figure("checkpoint-verify", heads, None, "ms", "lower"),
        _figure("snapshot-load-100k-accounts", loads, None, "s", "lower"),
    ]


def _figure(case: str, ours: float, reference: float | None, unit: str, better: Any) -> Figure:  # noqa: ANN401 - one of two words
    return figure("log", case, ours=rounded(ours), reference=reference, unit=unit, better=better)


def main() -> int:
    """One figure a case."""
    chosen = options(__doc__)
    size = QUICK if chosen.quick else Size()
    found = replay(size)
    with tempfile.TemporaryDirectory(prefix="gp-") as name:
        found.append(asyncio.run(audit(size, Path(name))))
    found += [inclusion(size), *files(size)]
    publish(found, record=chosen.record)
    return 0


if __name__ == "__main__":
    sys.exit(main())
