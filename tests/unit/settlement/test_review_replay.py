"""What a hostile reader tried against the replay's rules and the validator's signer."""

import time
from pathlib import Path

import pytest

from settlement.domain import checkpoint, cosignature, merkle
from settlement.domain.errors import Differs
from settlement.domain.identity import PrivateKey
from settlement.domain.payments import Payment
from settlement.validator.cosigner import Cosigner, Signer
from settlement.validator.tree import open_head
from tests.unit.settlement.story import CONSUMER, LOG, LOG_KEY, ORIGIN, WORKER, fresh_story

SIGNER = Signer("seer.example/1", PrivateKey(b"\x44" * 32))
ROOT = merkle.leaf_hash(b"an entry")


def test_a_transfer_of_one_id_is_made_once() -> None:
    """Whoever signs a payment anew under its old id wants it once; the ledger refuses the second."""
    story = fresh_story()
    first = story.make(
        Payment, CONSUMER, payer=CONSUMER.address, to=WORKER.address, amount="70", memo=""
    )
    story.log("first", first)
    again = story.make(
        Payment, CONSUMER, payer=CONSUMER.address, to=WORKER.address, amount="70", memo="",
        transfer=first.statement.transfer,  # type: ignore[attr-defined]
    )  # fmt: skip
    with pytest.raises(Differs, match="one id is made once"):
        story.log("again", again)


@pytest.mark.parametrize("junk", [98, 99, 100])
def test_lines_of_strangers_do_not_stop_a_cosigner(tmp_path: Path, junk: int) -> None:
    """Anybody may bring a head with as many and as long foreign lines as a note may have."""
    note = _crowded(junk)
    cosigner = Cosigner(tmp_path, SIGNER, log_key=LOG_KEY)
    cosigner.load()
    cosigner.cosign(open_head(note.encode(), LOG_KEY), old=0, time_seconds=int(time.time()))
    assert len(cosigner.note.encode()) <= checkpoint.NOTE_BYTES_MAX
    Cosigner(tmp_path, SIGNER, log_key=LOG_KEY).load()


def test_a_full_note_does_not_stop_a_cosigner(tmp_path: Path) -> None:
    note = checkpoint.sign(ORIGIN, LOG, size=1, root=ROOT)
    room = checkpoint.NOTE_BYTES_MAX - len(note.encode())
    line = "— x " + "A" * ((room - 7) // 4 * 4) + "\n"
    note += line
    cosigner = Cosigner(tmp_path, SIGNER, log_key=LOG_KEY)
    cosigner.load()
    cosigner.cosign(open_head(note.encode(), LOG_KEY), old=0, time_seconds=int(time.time()))
    assert len(cosigner.note.encode()) <= checkpoint.NOTE_BYTES_MAX
    Cosigner(tmp_path, SIGNER, log_key=LOG_KEY).load()


def _crowded(lines: int) -> str:
    note = checkpoint.sign(ORIGIN, LOG, size=1, root=ROOT)
    text, _ = checkpoint.split_note(note)
    for number in range(min(lines, checkpoint.SIGNATURES_MAX - 1)):
        key = PrivateKey((number + 1).to_bytes(32, "big"))
        note += cosignature.sign(text, f"stranger.example/{number}", key, time_seconds=1)
    return note
