"""C2SP proof files (`.tlog-proof`): an entry's place in the log and the cosigned checkpoint, as text.

The entry itself is not in the file; whoever checks it brings the bytes.
"""

import base64
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from settlement.domain import checkpoint, merkle
from settlement.domain.checkpoint import Checkpoint
from settlement.domain.errors import BadProof

HEADER: Final = "c2sp.org/tlog-proof@v1"
EXTRA_BYTES_MAX: Final = 64 * 1024
PROOF_BYTES_MAX: Final = checkpoint.NOTE_BYTES_MAX + 2 * EXTRA_BYTES_MAX
_INDEX: Final = re.compile(r"index (0|[1-9][0-9]{0,18})\Z", re.ASCII)
_EXTRA: Final = "extra "


@dataclass(frozen=True, slots=True)
class TlogProof:
    """What a proof file says; `extra` is bound by nothing."""

    index: int
    path: list[bytes]
    note: str
    extra: bytes


def write(*, index: int, path: Sequence[bytes], note: str, extra: bytes = b"") -> str:
    """The file's text."""
    assert 0 <= index <= checkpoint.SIZE_MAX
    assert len(extra) <= EXTRA_BYTES_MAX
    lines = [HEADER]
    if extra:
        lines.append(_EXTRA + base64.b64encode(extra).decode())
    lines.append(f"index {index}")
    lines += [base64.b64encode(value).decode() for value in path]
    return "\n".join([*lines, "", note])


def parse(text: str) -> TlogProof:
    """`BadProof` unless the text is a proof file; nothing is said yet about what it proves."""
    if len(text) > PROOF_BYTES_MAX:
        raise BadProof(f"a proof file has at most {PROOF_BYTES_MAX} bytes")
    above, separator, note = text.partition("\n\n")
    lines = above.split("\n")
    if not separator or lines.pop(0) != HEADER:
        raise BadProof(f"a proof file begins with {HEADER}")
    extra = b""
    if lines and lines[0].startswith(_EXTRA):
        extra = _bytes(lines.pop(0).removeprefix(_EXTRA))
    matched = _INDEX.match(lines.pop(0)) if lines else None
    if matched is None:
        raise BadProof("a proof file names the entry's index")
    if len(lines) > merkle.PROOF_HASHES_MAX:
        raise BadProof(f"a path has at most {merkle.PROOF_HASHES_MAX} hashes")
    path = [_bytes(line) for line in lines]
    return TlogProof(int(matched[1]), path, note, extra)


def verify(text: str, entry: bytes, open_note: Callable[[str], Checkpoint]) -> Checkpoint:
    """The tree head that holds the entry.

    `open_note` checks the note: `Policy.verify`, or `checkpoint.verify` with a log's key.
    """
    proof = parse(text)
    head = open_note(proof.note)
    merkle.verify_inclusion(
        merkle.leaf_hash(entry),
        index=proof.index,
        size=head.size,
        path=proof.path,
        expected_root=head.root,
    )
    return head


def _bytes(text: str) -> bytes:
    data = checkpoint.unbase64(text)
    if not data:
        raise BadProof("a line of the proof file is not base64")
    return data
