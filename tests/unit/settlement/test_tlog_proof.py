"""Proof files: what is written is read, what is read is checked, every changed byte shows."""

from typing import Final

import pytest

from settlement.domain import checkpoint, merkle, tlog_proof
from settlement.domain.checkpoint import Checkpoint
from settlement.domain.errors import BadCheckpoint, BadProof
from tests.unit.settlement import logged

ENTRIES: Final = [b"entry %d" % number for number in range(11)]
NODE: Final = merkle.nodes_of([merkle.leaf_hash(entry) for entry in ENTRIES])
NOTE: Final = checkpoint.sign(
    logged.MARKET, logged.LOG, size=len(ENTRIES), root=merkle.root(ENTRIES)
)
INDEX: Final = 6
PATH: Final = merkle.inclusion(NODE, index=INDEX, size=len(ENTRIES))
FILE: Final = tlog_proof.write(index=INDEX, path=PATH, note=NOTE)
HASH: Final = "sFodV/vSp5O8n9a8QpW6PRY97tfOSW5bsc2Xl/EQi08="


def open_note(note: str) -> Checkpoint:
    return checkpoint.verify(note, logged.LOG_KEY)


def test_a_file_proves_its_entry() -> None:
    assert tlog_proof.verify(FILE, ENTRIES[INDEX], open_note).size == len(ENTRIES)
    extra = tlog_proof.write(index=INDEX, path=PATH, note=NOTE, extra=b"anything")
    assert extra.split("\n")[1] == "extra YW55dGhpbmc="
    assert tlog_proof.parse(extra).extra == b"anything"
    assert tlog_proof.verify(extra, ENTRIES[INDEX], open_note).size == len(ENTRIES)


def test_the_form_is_the_specifications() -> None:
    assert FILE.startswith("c2sp.org/tlog-proof@v1\nindex 6\n")
    assert FILE.endswith(f"\n\n{NOTE}")
    shown = f"c2sp.org/tlog-proof@v1\nindex 73894\n{HASH}\n\nexample.com/fancylog\n109482\n"
    read = tlog_proof.parse(shown)
    assert (read.index, len(read.path), read.note) == (73894, 1, "example.com/fancylog\n109482\n")


def test_another_entry_is_not_proven() -> None:
    with pytest.raises(BadProof):
        tlog_proof.verify(FILE, ENTRIES[5], open_note)


def test_every_changed_byte_is_found() -> None:
    data = FILE.encode()
    for at in range(len(data)):
        changed = bytearray(data)
        changed[at] ^= 1
        with pytest.raises((BadProof, BadCheckpoint, UnicodeDecodeError)):
            tlog_proof.verify(changed.decode(), ENTRIES[INDEX], open_note)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "c2sp.org/tlog-proof@v1\n",
        "c2sp.org/tlog-proof@v1\n\nnote\n",
        "c2sp.org/tlog-proof@v2\nindex 0\n\nnote\n",
        "c2sp.org/tlog-proof@v1\nindex 01\n\nnote\n",
        "c2sp.org/tlog-proof@v1\nindex -1\n\nnote\n",
        "c2sp.org/tlog-proof@v1\nextra !!\nindex 0\n\nnote\n",
        "c2sp.org/tlog-proof@v1\nindex 0\nextra YQ==\n\nnote\n",
        f"c2sp.org/tlog-proof@v1\nindex 0\n{HASH}\nnote\n",
        "c2sp.org/tlog-proof@v1\nindex 0\n" + f"{HASH}\n" * 64 + "\nnote\n",
        "c2sp.org/tlog-proof@v1\nindex 0\n\n" + "x" * tlog_proof.PROOF_BYTES_MAX,
    ],
)
def test_what_is_no_proof_file(text: str) -> None:
    with pytest.raises(BadProof):
        tlog_proof.parse(text)
