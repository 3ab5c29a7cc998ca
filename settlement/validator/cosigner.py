"""What this validator put its name to: one size and root a log, stored before anybody sees the line."""

from pathlib import Path
from typing import Final

from settlement.domain import checkpoint, cosignature
from settlement.domain.checkpoint import Checkpoint
from settlement.domain.errors import MisConfigured, Stale
from settlement.domain.identity import PrivateKey
from settlement.domain.merkle import EMPTY_ROOT
from settlement.validator import files
from settlement.validator.tree import Head

COSIGNED_FILE: Final = "cosigned"


class Signer:
    """The validator's key under its name."""

    def __init__(self, name: str, key: PrivateKey) -> None:
        self.name, self._key = cosignature.check_name(name), key
        self.verifier_key = cosignature.verifier_key(name, key)
        self.verifier = cosignature.parse_verifier_key(self.verifier_key)

    def line(self, text: str, *, time_seconds: int) -> str:
        """Our line under a checkpoint's text."""
        return cosignature.sign(text, self.name, self._key, time_seconds=time_seconds)


class Cosigner:
    """Of one log. No await between the comparison and the file, so two calls never cross."""

    def __init__(self, folder: Path, signer: Signer, *, log_key: str) -> None:
        self._path, self.signer = folder / COSIGNED_FILE, signer
        self._log = checkpoint.parse_verifier_key(log_key)
        self.note = ""  # the last that was cosigned, with our line
        self.last = Checkpoint(self._log.name, 0, EMPTY_ROOT)
        self._time_seconds = 0

    def load(self) -> None:
        """What was cosigned before; another validator's file is refused."""
        data = files.read(self._path)
        if data is None:
            return
        note = data.decode()
        found = cosignature.cosigned(note, [self.signer.verifier]).get(self.signer.verifier)
        if found is None:
            raise MisConfigured(f"{self._path} was cosigned by another key: use another folder")
        self.note, self.last = note, checkpoint.head(note)
        self._time_seconds = found.time_seconds

    def cosign(self, head: Head, *, old: int, time_seconds: int) -> str:
        """Our line, if `old` is what was cosigned last; `Stale` otherwise. Sizes never shrink."""
        if old != self.last.size:
            raise Stale(f"the last cosigned size is {self.last.size}")
        assert head.checkpoint.origin == self._log.name
        assert head.size > old or (head.size, head.root) == (old, self.last.root)
        text, lines = checkpoint.split_note(head.note)
        at = max(time_seconds, self._time_seconds)
        line = self.signer.line(text, time_seconds=at)
        # the log's line and ours, no stranger's: those could be more than a note may hold
        theirs = next(each for each in lines if checkpoint.is_line_of(each, self._log))
        note = f"{text}\n{theirs}\n{line}"
        files.write(self._path, note.encode())
        self.note, self.last, self._time_seconds = note, head.checkpoint, at
        return line
