"""The evidence against one log that was found or taken over from others: kept for good, and published."""

import hashlib
import re
from pathlib import Path
from typing import Final

import msgspec

from settlement.domain import conflict
from settlement.domain.errors import MisConfigured
from settlement.validator import files

NAME: Final = re.compile(r"[0-9a-f]{16}-(split|difference)-[0-9a-f]{16}\.json\Z")
FILES_MAX: Final = 100  # one is enough to refuse for ever


class Item(msgspec.Struct, frozen=True):
    """One file: its name, what it is about, and what it says."""

    name: str
    origin: str
    kind: str
    index: str  # the first entry that differs; "" if the file does not name it
    detail: str


class Items(msgspec.Struct, frozen=True):
    """All that is published."""

    evidence: list[Item]


class Shelf:
    """A folder of evidence about one log."""

    def __init__(self, folder: Path, log_key: str, *, origin: str) -> None:
        self._folder, self._log_key, self._origin = folder, log_key, origin
        self._prefix = hashlib.sha256(log_key.encode()).hexdigest()[:16]
        self.items: list[Item] = []

    def load(self) -> None:
        """What is there already; a damaged file is no reason to trust the log again."""
        for path in sorted(self._folder.glob("*.json")):
            data = files.read(path)
            if data is None or not NAME.match(path.name):
                raise MisConfigured(f"{path} is not evidence")
            self.items.append(self._item(path.name, data))

    def keep(self, data: bytes) -> Item:
        """Store a file that was verified; the same file is kept once."""
        kind = conflict.kind_of(data)
        name = f"{self._prefix}-{kind}-{hashlib.sha256(data).hexdigest()[:16]}.json"
        known = next((item for item in self.items if item.name == name), None)
        if known is not None:
            return known
        item = self._item(name, data)
        if len(self.items) < FILES_MAX:
            files.write(self._folder / name, data)
            self.items.append(item)
        return item

    def read(self, name: str) -> bytes | None:
        """A file by its name."""
        if all(item.name != name for item in self.items):
            return None
        return files.read(self._folder / name)

    def _item(self, name: str, data: bytes) -> Item:
        if conflict.kind_of(data) == "split":
            first, second = conflict.verify_split(data, self._log_key)
            index = msgspec.json.decode(data, type=conflict.Split).index
            detail = f"two histories are signed, of {first.size} and of {second.size} entries"
            return Item(name, self._origin, "split", index, detail)
        found = conflict.verify_difference(data, self._log_key)
        detail = f"{found.rule}: expected {found.expected}, found {found.found}"
        return Item(name, self._origin, "difference", str(found.index), detail)
