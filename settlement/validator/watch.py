"""One log under watch: followed, replayed, cosigned; or refused for good, with the evidence published."""

import asyncio
import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from settlement.domain import checkpoint, conflict, cosignature, merkle
from settlement.domain.checkpoint import Checkpoint
from settlement.domain.errors import (
    BadCheckpoint,
    BadLog,
    BadProof,
    GridpactError,
    MisConfigured,
    Stale,
    Unreachable,
)  # fmt: skip
from settlement.domain.merkle import EMPTY_ROOT
from settlement.domain.replay import Replay
from settlement.domain.world import FRESH_MS
from settlement.validator.copying import ANEW, Copy
from settlement.validator.cosigner import Cosigner, Signer
from settlement.validator.evidence import Item, Shelf
from settlement.validator.following import Behind, Broken, Followed, Following
from settlement.validator.source import Source
from settlement.validator.tree import Head, open_head, own_head

SNAPSHOT_SECONDS: Final = 10.0
PATIENCE_SECONDS: Final = 5.0  # with validators that do not cosign what we did
CATCH_UP_SECONDS: Final = 20.0  # how long a caller of add-checkpoint waits for the replay
CATCH_UP_POLL_SECONDS: Final = 0.05
AHEAD_MS: Final = FRESH_MS  # a log whose time is further than this from ours is not cosigned
FOLLOWING: Final = "following"
AHEAD: Final = "ahead"
REFUSED: Final = "refused"
_NOTHING: Final = Checkpoint("", 0, EMPTY_ROOT)
_log = logging.getLogger(__name__)


class Answer(NamedTuple):
    """What add-checkpoint says: an HTTP status and a text."""

    status: int
    text: str
    is_size: bool = False


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """One log in `/status`."""

    origin: str
    source: str
    state: str  # following, ahead, behind, wrong-file, wrong-checkpoint, unreachable, refused
    detail: str
    shown_size: int
    replayed_size: int
    cosigned_size: int
    final_size: int
    lag: int
    published: str  # what the market said to our last line
    peers: dict[str, int]
    evidence: list[str]


class Watch:
    """`round` makes one step; `add_checkpoint` answers those who come with a head of their own."""

    def __init__(self, folder: Path, source: Source, log_key: str, signer: Signer) -> None:
        self.log_key, self.origin = log_key, checkpoint.parse_verifier_key(log_key).name
        self.copy = Copy(folder, entries=False)
        self.cosigner = Cosigner(folder, signer, log_key=log_key)
        self.shelf = Shelf(folder / "evidence", log_key, origin=self.origin)
        self.replay = Replay(self.origin)
        self.following = Following(
            source,
            log_key,
            self.copy,
            take=self._take,
            dump=self._dump,
            save_seconds=SNAPSHOT_SECONDS,
        )
        self.state, self.detail, self.published = FOLLOWING, "", ""
        self.shown_size = self.final_size = 0
        self.others: dict[str, Head] = {}  # the newest heads that peers were shown
        self.candidate: Head | None = None  # the newest head that others cosigned
        self._cosigned_at = -PATIENCE_SECONDS
        self._poked = asyncio.Event()
        self._turn = asyncio.Lock()

    def load(self) -> None:
        """Go on from the folder."""
        self.copy.load()
        self.cosigner.load()
        self.shelf.load()
        if self.copy.extra:
            self.replay = Replay.load(self.copy.extra)
            self.copy.extra = b""
        if self.replay.size != self.copy.size or self.replay.market not in {"", self.origin}:
            raise MisConfigured(f"the snapshot of {self.origin} does not fit its tiles: {ANEW}")
        if self.cosigner.note and self.cosigner.last.size > (self.copy.seen or _NOTHING).size:
            self.copy.see(own_head(self.cosigner.note))
        if self.shelf.items:
            self._refuse(self.shelf.items[-1])

    @property
    def refused(self) -> bool:
        return self.state == REFUSED

    # ── following ───────────────────────────────────────────────────────────────────────────

    async def round(self) -> None:
        """One look at the source, and our line under what it shows if all of it is right."""
        async with self._turn:
            if self.refused:
                return
            try:
                await self._round()
            except BadLog as error:
                self._stand("wrong-file", error)
            except (BadCheckpoint, BadProof) as error:
                self._stand("wrong-checkpoint", error)
            except Unreachable as error:
                self._stand("unreachable", error)

    async def _round(self) -> None:
        step = await self.following.step()
        match step:
            case Broken():
                self.accuse(step.evidence, step.detail)
            case Behind():
                self.shown_size = step.head.size
                text = f"the log showed {step.seen} entries before, and now {step.head.size}"
                self._stand("behind", BadCheckpoint(text))
            case Followed():
                self.shown_size = step.head.size
                for head in [*self.others.values(), *self._candidates()]:
                    broken = await self.following.compare(head)
                    if broken is not None:
                        self.accuse(broken.evidence, broken.detail)
                        return
                self._cosign(step.head)

    def _cosign(self, head: Head) -> None:
        """Everything up to the head was replayed; a bad line of a known validator refuses it."""
        for shown in (head, *self._candidates()):
            final = cosignature.is_final(shown.note, self.replay.members, quorum=self.replay.quorum)
            if final and shown.size <= self.copy.size:
                self.final_size = max(self.final_size, shown.size)
        ahead = self._ahead()
        if ahead:
            self._stand(AHEAD, BadCheckpoint(ahead))
            return
        if self.state != FOLLOWING:
            _log.info("%s: following again", self.origin)
        self.state, self.detail = FOLLOWING, ""
        chosen = self._choose(head)
        if chosen is not None and chosen.size > self.cosigner.last.size:
            at = int(time.time())
            self.cosigner.cosign(chosen, old=self.cosigner.last.size, time_seconds=at)
            self._cosigned_at = time.monotonic()
            _log.info("%s: cosigned %d entries", self.origin, chosen.size)

    def _ahead(self) -> str:
        """What is said of a log whose times run ahead of our clock; nothing while they do not.

        No evidence against anybody: either clock may be wrong. Once ours is there, all goes on.
        """
        time_ms = self.replay.world.time_ms
        if time_ms - time.time_ns() // 1_000_000 <= AHEAD_MS:
            return ""
        minutes = AHEAD_MS // 60_000
        return f"the log's time {time_ms} ms is over {minutes} minutes ahead of this machine's"

    def _candidates(self) -> list[Head]:
        return [self.candidate] if self.candidate is not None else []

    def _choose(self, head: Head) -> Head | None:
        """What to cosign: the head that others began with, so that it gets enough lines; else ours.

        The next one is begun when that is final, or when nobody makes it so for a while.
        """
        begun, last = self.candidate, self.cosigner.last.size
        if begun is None or self.cosigner.signer.verifier_key not in self.replay.members:
            return head
        if begun.size > self.copy.size:
            return None  # newer than what we read: the next round has it
        if begun.size > last:
            return begun if self.copy.root_at(begun.size) == begun.root else None
        waited = time.monotonic() - self._cosigned_at
        final = cosignature.is_final(begun.note, self.replay.members, quorum=self.replay.quorum)
        return head if final or waited >= PATIENCE_SECONDS else None

    def _take(self, first: int, entries: Sequence[bytes]) -> None:
        """Replay, in a thread. What a step that failed later on had taken is not taken twice."""
        for index, entry in enumerate(entries, start=first):
            if index >= self.replay.size:
                self.replay.feed(index, entry)

    def _dump(self) -> bytes:
        return self.replay.dump()

    def save(self) -> None:
        """Let a restart go on from here, unless the replay is in the middle of a batch."""
        if not self.refused and not self.following.taking:
            self.following.save()

    def _stand(self, state: str, error: GridpactError) -> None:
        if (state, error.detail) != (self.state, self.detail):
            _log.warning("%s: %s: %s", self.origin, state, error.detail)
        self.state, self.detail = state, error.detail

    # ── refusing ────────────────────────────────────────────────────────────────────────────

    def accuse(self, evidence: bytes, detail: str) -> None:
        """Keep the evidence, and cosign nothing of this log any more."""
        item = self.shelf.keep(evidence)
        _log.error("%s: refused from now on: %s", self.origin, detail)
        self._refuse(item)
        self.detail = detail

    def _refuse(self, item: Item) -> None:
        self.state, self.detail = REFUSED, item.detail

    def hear(self, peer: str, note: bytes) -> None:
        """A head that a peer was shown; compared as soon as our copy goes so far."""
        self.others[peer] = open_head(note, self.log_key)

    def hear_evidence(self, peer: str, data: bytes) -> None:
        """A split that a peer found proves itself; `BadProof` if it does not."""
        first, second = conflict.verify_split(data, self.log_key)
        sizes = f"{first.size} and {second.size}"
        self.accuse(data, f"{peer} shows two histories of {sizes} entries that the log signed")

    # ── answering ───────────────────────────────────────────────────────────────────────────

    def poke(self) -> None:
        """Look at the source now."""
        self._poked.set()

    async def wait(self, seconds: float) -> None:
        """Until somebody pokes, or so long."""
        try:
            async with asyncio.timeout(seconds):
                await self._poked.wait()
        except TimeoutError:
            pass
        self._poked.clear()

    async def add_checkpoint(self, old: int, path: list[bytes], note: bytes) -> Answer:
        """C2SP tlog-witness; our line also says that every entry was replayed."""
        try:
            head = open_head(note, self.log_key)
        except BadCheckpoint as error:
            return Answer(403, error.detail)
        if old > head.size:
            return Answer(400, f"{head.size} entries do not extend {old}")
        last = self.cosigner.last
        if old != last.size:
            return Answer(409, str(last.size), is_size=True)
        try:
            merkle.verify_consistency(
                old=old, old_root=last.root, size=head.size, root=head.root, path=path
            )
        except BadProof as error:
            self.others["add-checkpoint"] = head  # perhaps a split: the next round compares
            self.poke()
            return Answer(422, error.detail)
        return await self._add(head, old)

    async def _add(self, head: Head, old: int) -> Answer:
        if not await self._caught_up(head.size):
            return Answer(503, f"{head.size} entries are not replayed yet: {self.detail}")
        broken = None if self.refused else await self.following.compare(head)
        if broken is not None:
            self.accuse(broken.evidence, broken.detail)
        if self.refused:
            return Answer(422, f"this log is refused: {self.detail}")
        if self.copy.root_at(head.size) != head.root:
            return Answer(422, f"the replay has another root for {head.size} entries")
        ahead = self._ahead()
        if ahead:
            return Answer(503, ahead)
        try:
            line = self.cosigner.cosign(head, old=old, time_seconds=int(time.time()))
        except Stale:
            return Answer(409, str(self.cosigner.last.size), is_size=True)
        return Answer(200, line)

    async def _caught_up(self, size: int) -> bool:
        """Whether the replay goes so far, at the latest after a while; or never will."""
        deadline = time.monotonic() + CATCH_UP_SECONDS
        while not self.refused and (self.copy.size < size or not self.copy.complete()):
            if time.monotonic() >= deadline:
                return False
            self.poke()
            await asyncio.sleep(CATCH_UP_POLL_SECONDS)
        return True

    def status(self) -> Status:
        """How it stands."""
        return Status(
            origin=self.origin,
            source=self.following.source.name,
            state=self.state,
            detail=self.detail,
            shown_size=self.shown_size,
            replayed_size=self.copy.size,
            cosigned_size=self.cosigner.last.size,
            final_size=self.final_size,
            lag=max(0, self.shown_size - self.copy.size),
            published=self.published,
            peers={peer: head.size for peer, head in sorted(self.others.items())},
            evidence=[item.name for item in self.shelf.items],
        )
