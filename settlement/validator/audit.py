"""The audit: read a whole log, believe nothing of it, replay it, and say what it leads to or what is wrong.

Memory stays flat: two pieces of the log and what the replay knows.
"""

import asyncio
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from settlement.domain import cosignature, statement
from settlement.domain.errors import BadCheckpoint, BadLog, Differs, GridpactError
from settlement.domain.governance import State
from settlement.domain.ledger import Purpose
from settlement.domain.moves import MOVING
from settlement.domain.payments import Expiry, Payout
from settlement.domain.replay import Replay
from settlement.domain.settled import Charged
from settlement.domain.statement import Opened
from settlement.validator import audit_file
from settlement.validator.audit_file import Snapshot
from settlement.validator.audit_pool import Signatures, first_of
from settlement.validator.source import Source
from settlement.validator.tree import Head, SignedTree, read_head

PIECES_AHEAD: Final = 2  # whose signatures are checked while an earlier one is replayed
ALONE: Final = 4_096  # so few entries are checked here, without other processes
ACCOUNT, HELD, STANDING = "account", "held", "standing"

StateLines = Callable[[int], Awaitable[bytes | None]]
"""The lines that the market shows for its state of that size, one a line; None if it shows none."""

Progress = Callable[[int, int], None]
"""Told now and then: how many entries were replayed, of how many."""


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """The first thing that is wrong: which entry (-1: none in particular), by which rule."""

    index: int
    rule: str
    expected: str
    found: str
    path: str = ""  # of the file, if it is one
    detail: str = ""


class Provider(msgspec.Struct, frozen=True):
    """A provider's standing, as the verdicts add up."""

    provider: str
    agreed: int
    differed: int


class Report(msgspec.Struct, kw_only=True):
    """What an audit found. `finding` is None if all of it is right."""

    market: str
    source: str
    log_key: str
    size: int  # of the signed head
    root: str
    first: int  # where the replay began
    audited: int  # entries that were found right, from the log's beginning
    finding: Finding | None = None
    statements: dict[str, int] = {}
    transfers: int = 0
    parties: int = 0
    issued: str = "0"
    balances: dict[str, str] = {}
    holds: int = 0
    standings: list[Provider] = []
    stated: int = 0  # the size that the newest state statement is about
    compared: bool = False  # the market's own lines of that state were the replay's
    validators: int = 0
    quorum: int = 0
    cosignatures: int = 0
    final: bool = False
    seconds: float = 0.0


@dataclass(slots=True)
class _Piece:
    first: int
    entries: list[bytes]
    unsigned: "list[asyncio.Future[int | None]] | None"  # None: the replay checks signatures itself


@dataclass(slots=True)
class Audit:
    """One audit; `run` it once. `snapshot` is there after an audit of all that is signed."""

    source: Source
    log_key: str
    ledger_key: str = ""  # that must have signed the charter, if it is known
    start: Snapshot | None = None
    to_size: int | None = None
    states: StateLines | None = None
    progress: Progress | None = None
    workers: int | None = None  # processes that check signatures; None: as many as fit
    replay: Replay = field(init=False)
    snapshot: Snapshot | None = None
    _kinds: Counter[str] = field(default_factory=Counter)
    _transfers: int = 0
    _at: bytes = b""  # the entry that is replayed

    async def run(self) -> Report:
        """BadCheckpoint or Unreachable if there is nothing to audit; all else is in the report."""
        began = time.monotonic()
        head = await read_head(self.source, self.log_key)
        origin = head.checkpoint.origin
        self.replay = self.start.replay() if self.start else Replay(origin, ledger_key=self.ledger_key)  # fmt: skip
        first = self.replay.size
        finding = await self._found(head)
        report = Report(
            market=origin, source=self.source.name, log_key=self.log_key, size=head.size,
            root=head.root.hex(), first=first, audited=self.replay.size, finding=finding,
            statements=dict(sorted(self._kinds.items())), transfers=self._transfers,
        )  # fmt: skip
        if finding is None:
            report.finding = await self._conclude(report, head)
        self._tell_lines(report)
        report.seconds = time.monotonic() - began
        return report

    async def _found(self, head: Head) -> Finding | None:
        tree = SignedTree(self.source, head.checkpoint)
        try:
            await tree.open()
            finding = await self._begins_alike(tree)
            if finding is None:
                await self._read(tree, min(head.size, self.to_size or head.size))
                if self.replay.size == head.size:
                    self.snapshot = await audit_file.take(tree, head, self.replay)
        except BadLog as error:
            return Finding(
                index=error.index, rule="the files are what the signed root says", path=error.path,
                expected=error.expected, found=error.found, detail=error.detail,
            )  # fmt: skip
        except Differs as error:
            return Finding(
                index=error.index, rule=error.rule, expected=error.expected, found=error.found,
                detail=await self._lines_differ(error),
            )  # fmt: skip
        return finding

    async def _begins_alike(self, tree: SignedTree) -> Finding | None:
        """The log still begins with what was audited before; of two histories one is a lie."""
        if self.start is None:
            return None
        old = self.start.head
        rule = "the log begins with what was audited before"
        if tree.head.size < old.size:
            return Finding(index=tree.head.size, rule=rule, expected=f"{old.size} entries", found=f"{tree.head.size} entries")  # fmt: skip
        if await tree.root_at(old.size) == old.root:
            return None
        places = audit_file.places(old.size)
        for (level, index), was in zip(places, self.start.edge, strict=True):
            now: bytes = await tree.prove(lambda node, at=(level, index): node(*at))  # type: ignore[misc]
            if now != was:
                last = ((index + 1) << level) - 1
                return Finding(
                    index=index << level, rule=rule, expected=was.hex(), found=now.hex(),
                    detail=f"an entry between {index << level} and {last} is another one now",
                )  # fmt: skip
        raise AssertionError("equal subtrees have equal roots")

    # ── reading ─────────────────────────────────────────────────────────────────────────────

    async def _read(self, tree: SignedTree, end: int) -> None:
        """Replay up to `end`; while one piece is replayed, the signatures of the next are checked."""
        ahead: deque[_Piece] = deque()
        begin = self.replay.size
        many = end - begin > ALONE
        with Signatures(self.workers) as signatures:
            if begin >= end:
                return
            async for bundles in tree.batches(begin):
                entries = [entry for bundle in bundles for entry in bundle.entries]
                first = max(begin, bundles[0].first)
                entries = entries[first - bundles[0].first : end - bundles[0].first]
                ahead.append(_Piece(first, entries, signatures.check(entries) if many else None))
                if len(ahead) > PIECES_AHEAD:
                    await self._take(ahead.popleft(), end)
                if first + len(entries) >= end:
                    break
            while ahead:
                await self._take(ahead.popleft(), end)

    async def _take(self, piece: _Piece, end: int) -> None:
        unsigned = None if piece.unsigned is None else await first_of(piece.unsigned)
        await asyncio.to_thread(self._replay, piece, unsigned)
        if self.progress is not None:
            self.progress(self.replay.size, end)

    def _replay(self, piece: _Piece, unsigned: int | None) -> None:
        """Each entry in its order; the one that is not signed is fed so that it is refused."""
        feed, check = self.replay.feed, piece.unsigned is None
        for at, entry in enumerate(piece.entries):
            self._at = entry
            opened = feed(piece.first + at, entry, signatures=check or at == unsigned)
            self._kinds[opened.statement.kind] += 1
            self._transfers += transfers_of(opened)
        assert unsigned is None, "what is not signed was refused"

    # ── the state ───────────────────────────────────────────────────────────────────────────

    async def _lines_differ(self, error: Differs) -> str:
        """If a state statement is wrong: the first account that the market says otherwise."""
        try:
            found = statement.open_any(self._at, market=self.replay.market).statement
        except GridpactError:
            return error.detail
        if not isinstance(found, State) or self.states is None or found.size > self.replay.size:
            return error.detail
        theirs = await self.states(found.size)
        if theirs is None:
            return error.detail
        apart = first_line_apart(self.replay.lines(found.size), theirs.splitlines())
        if apart is None:
            return error.detail
        ours, shown = (side or "no such line" for side in apart)
        return f"{error.detail}; the log leads to {ours}, the market shows {shown}"

    async def _conclude(self, report: Report, head: Head) -> Finding | None:
        """What can only be said of all of it: keys, cosignatures, the market's own lines."""
        replay = self.replay
        report.stated, report.quorum = replay.world.stated, replay.quorum
        report.validators = len(replay.members)
        if self.replay.size == head.size:
            named = replay.charter.log_key if replay.charter else ""
            if named != self.log_key:
                return Finding(index=-1, rule="the log names the key that signs it", expected=named, found=self.log_key)  # fmt: skip
            try:
                keys = [cosignature.parse_verifier_key(member) for member in replay.members]
                report.cosignatures = len(cosignature.cosigned(head.note, keys))
            except BadCheckpoint as error:
                return Finding(index=-1, rule="a validator's cosignature holds", expected="", found=error.detail)  # fmt: skip
            report.final = 0 < replay.quorum <= report.cosignatures
        theirs = await self.states(report.stated) if self.states and report.stated else None
        if theirs is None:
            return None
        apart = first_line_apart(replay.lines(report.stated), theirs.splitlines())
        if apart is not None:
            return Finding(
                index=-1, rule="the market's lines are what the log leads to", expected=apart[0],
                found=apart[1], path=f"v1/log/states/{report.stated}",
            )  # fmt: skip
        report.compared = True
        return None

    def _tell_lines(self, report: Report) -> None:
        """Sums over the state after the last entry that was right."""
        sums: Counter[int] = Counter()
        parties: set[str] = set()
        for line in self.replay.lines():
            fields: list[Any] = msgspec.json.decode(line)
            if fields[0] == ACCOUNT:
                sums[fields[2]] += int(fields[8]) - int(fields[7])
                parties.add(fields[1])
            elif fields[0] == HELD:
                report.holds += 1
            else:
                report.standings.append(Provider(*fields[1:]))
        report.parties = len(parties)
        report.issued = str(-sums.pop(Purpose.ISSUED, 0))
        report.balances = {Purpose(each).name.lower(): str(sums[each]) for each in sorted(sums)}


def transfers_of(opened: Opened) -> int:
    """How many transfers a statement made; an expiry gives back without one."""
    said = opened.statement
    if isinstance(said, Charged):
        parts = (int(said.gross) - int(said.fee), int(said.fee), int(said.surcharge))
        return sum(part > 0 for part in parts)
    if isinstance(said, Payout):
        return len(said.payees)
    return int(type(said) in MOVING and not isinstance(said, Expiry))


def first_line_apart(ours: Sequence[bytes], theirs: Sequence[bytes]) -> tuple[str, str] | None:
    """The first account, hold or standing that two states say otherwise: our line and theirs."""
    mine, other = {_about(line): line for line in ours}, {_about(line): line for line in theirs}
    for about in sorted(mine.keys() | other.keys()):
        if mine.get(about) != other.get(about):
            left, right = mine.get(about, b""), other.get(about, b"")
            return left.decode(errors="replace"), right.decode(errors="replace")
    if list(ours) == list(theirs):
        return None
    return "each line once, in order", "the same lines, otherwise ordered"


def _about(line: bytes) -> str:
    """What a line is about, without what it says of it."""
    try:
        fields: list[Any] = msgspec.json.decode(line, type=list)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return line.decode(errors="replace")
    kept = {ACCOUNT: 5, HELD: 3, STANDING: 2}.get(str(fields[0]) if fields else "", len(fields))
    return " ".join(str(each) for each in fields[:kept])
