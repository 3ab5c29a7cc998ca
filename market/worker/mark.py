"""What the log's key signed last, kept beside it: a database restored from a backup must not sign again."""

from pathlib import Path
from typing import Final

from settlement.domain import canonical
from settlement.domain.checkpoint import Checkpoint
from settlement.domain.errors import GridpactError, MisConfigured
from settlement.validator import files

NAME: Final = "log.mark"


class FileMark:
    """One line: origin, size, root. Written before a checkpoint is stored, so it is never behind."""

    def __init__(self, keys_folder: Path) -> None:
        self._path = keys_folder / NAME

    def read(self) -> Checkpoint | None:
        """The largest head that was ever signed here; none before the first."""
        data = files.read(self._path)
        if data is None:
            return None
        try:
            origin, size, root = data.decode().split()
            return Checkpoint(origin, int(size), canonical.digest_bytes(root))
        except (ValueError, GridpactError):
            raise MisConfigured(f"{self._path} does not say what the log signed last") from None

    def write(self, head: Checkpoint) -> None:
        """Durably."""
        files.write(
            self._path, f"{head.origin} {head.size} {canonical.digest_text(head.root)}\n".encode()
        )
