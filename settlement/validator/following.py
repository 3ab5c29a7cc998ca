"""Extend a verified copy by what its source serves now: one step, and what it found.

A head that does not extend the ones before is a split; an entry that breaks a rule is a difference.
Both come with evidence that others can check. Files that are merely wrong raise `BadLog`.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from settlement.domain import conflict
from settlement.domain.errors import BadLog, Differs, GridpactError
from settlement.validator.copying import Copy
from settlement.validator.source import Source
from settlement.validator.tree import Bundle, Head, SignedTree, read_head

Taker = Callable[[int, Sequence[bytes]], None]
"""Replays entries from an index on; raises `Differs` at the first that breaks a rule."""


@dataclass(frozen=True, slots=True)
class Followed:
    """The copy goes as far as this head."""

    head: Head


@dataclass(frozen=True, slots=True)
class Behind:
    """The source shows an older head than it did: not a lie by itself, but nothing to follow."""

    head: Head
    seen: int


@dataclass(frozen=True, slots=True)
class Broken:
    """The log is not to be believed any more; the evidence says why."""

    evidence: bytes
    detail: str
    index: int


Step = Followed | Behind | Broken


class Following:
    """One log, one copy. `take` gets each new entry after the root vouched for it."""

    def __init__(
        self,
        source: Source,
        log_key: str,
        copy: Copy,
        *,
        take: Taker,
        dump: Callable[[], bytes],
        save_seconds: float,
    ) -> None:
        self.source, self.copy = source, copy
        self._log_key, self._take, self._dump = log_key, take, dump
        self._save_seconds, self._saved = save_seconds, -save_seconds
        self.taking = False  # stays so if we are cancelled while the thread goes on

    async def step(self) -> Step:
        """Read the newest head and all that it adds."""
        head = await read_head(self.source, self._log_key)
        seen = self.copy.seen
        tree = SignedTree(self.source, head.checkpoint)
        if seen is not None and head.size <= seen.size:
            known = await self._known(seen, head, tree)
            if known is not None:
                return known
        await tree.open()
        if seen is not None and head.size > seen.size:
            found = await tree.root_at(seen.size)
            if found != seen.root:
                path = await tree.consistency(seen.size)
                return await self._split(seen, head, tree, root=found, path=path)
        if seen is None or head.size > seen.size:
            self.copy.see(head)
        return await self._read(tree, head)

    async def _known(self, seen: Head, head: Head, tree: SignedTree) -> Step | None:
        """What a head says that is not larger than the newest; None while entries are missing."""
        if self.copy.complete():
            split = await self.compare(head)
            if split is not None:
                return split
        if head.size < seen.size:
            return Behind(head, seen.size)
        if head.root != seen.root:
            return await self._split(seen, head, tree, root=head.root, path=[])
        return Followed(head) if self.copy.complete() else None

    async def compare(self, head: Head) -> Broken | None:
        """A head that somebody was shown, against our own copy; None while they fit or none can say."""
        seen = self.copy.seen
        if seen is None or not self.copy.complete() or head.size > self.copy.size:
            return None
        ours = self.copy.root_at(head.size)
        if ours == head.root:
            return None
        path = self.copy.consistency(head.size)
        tree = SignedTree(self.source, head.checkpoint)
        root = ours if head.size < seen.size else head.root  # of the second of the two
        return await self._split(seen, head, tree, root=root, path=path)

    async def _split(
        self, seen: Head, head: Head, tree: SignedTree, *, root: bytes, path: list[bytes]
    ) -> Broken:
        """Evidence of two heads that do not fit, with the first entry that differs if it shows."""
        try:
            await tree.open()
            apart = await self.copy.first_difference(tree)
        except GridpactError:  # the head came from elsewhere, or its tiles are not served
            apart = None
        index, expected, found = apart if apart is not None else (None, "", "")
        data = conflict.make_split(
            seen.note, head.note, root=root, path=path, index=index, expected=expected, found=found
        )
        conflict.verify_split(data, self._log_key)
        where = f"; entry {index} was {expected}, and is {found}" if apart is not None else ""
        detail = (
            f"the log signed {seen.size} entries with root {seen.root.hex()} and {head.size} with"
            f" root {head.root.hex()}, and the one does not begin with the other{where}"
        )
        return Broken(data, detail, -1 if index is None else index)

    async def _read(self, tree: SignedTree, head: Head) -> Step:
        """Take over every entry up to the head."""
        while self.copy.size < head.size:
            async for bundles in tree.batches(self.copy.size):
                broken = await self._extend(tree, head, bundles)
                if broken is not None:
                    return broken
        if self.copy.root != head.root:
            raise BadLog(f"the entries up to {head.size} do not lead to the signed root")
        return Followed(head)

    async def _extend(self, tree: SignedTree, head: Head, bundles: list[Bundle]) -> Broken | None:
        first, begin = bundles[0].first, self.copy.size
        entries = [entry for bundle in bundles for entry in bundle.entries]
        self.taking = True
        try:
            await asyncio.to_thread(self._take, begin, entries[begin - first :])
        except Differs as error:
            at = error.index if first <= error.index < first + len(entries) else begin
            data = conflict.make_difference(
                head.note,
                entries[at - first],
                index=at,
                path=await tree.inclusion(at),
                rule=error.rule,
                expected=error.expected,
                found=error.found,
            )
            return Broken(data, error.detail, error.index)
        self.copy.append(bundles)
        self.taking = False
        if time.monotonic() - self._saved >= self._save_seconds:
            self.save()
        return None

    def save(self) -> None:
        """Let a restart go on from here."""
        self.copy.save(self._dump())
        self._saved = time.monotonic()
