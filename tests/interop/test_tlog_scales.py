"""A log that a market served, read and verified by a client that this project did not write.

The client is `tlog-scales`: its own HTTP, tiles, proofs and note signatures. What it is asked here is
what any reader of C2SP tlog-tiles does; what it must refuse is shown to it too.
"""

import asyncio
import hashlib
import sys
from dataclasses import replace
from typing import Final

import pytest
import pytest_asyncio
from cryptography.exceptions import InvalidSignature
from tlog_scales import tiles
from tlog_scales.backend import make_backend
from tlog_scales.reader import TilesReader
from tlog_scales.signing import NoteSignature, PlainEd25519Signer, Vkey
from tlog_scales.tlog import Checkpoint, ConsistencyProofInvalid, InclusionProofInvalid

from settlement.domain import checkpoint, cosignature, merkle, tlog_proof
from settlement.domain.identity import PrivateKey
from tests.interop.served import Served, serving_log
from tests.system.running import Running

WIDTH: Final = 256


@pytest_asyncio.fixture
async def served(api: Running) -> Served:
    return await serving_log(api)


def read_log(url: str, vkey: str) -> tuple[TilesReader, Checkpoint]:
    """What the client trusts: a checkpoint that the pinned key signed."""
    reader = TilesReader(make_backend(url))
    head = reader.get_checkpoint()
    head.verify(Vkey.from_string(vkey))
    return reader, head


def spelt(vkey: Vkey) -> str:
    """A verifier key as the client writes it."""
    return str(vkey.serialize())  # type: ignore[no-untyped-call]


async def test_signature_tiles_and_entries(served: Served) -> None:
    """Every entry out of its bundle is under the signed root; the root is that of the tiles."""

    def client() -> None:
        reader, head = read_log(served.url, served.vkey)
        assert head.origin == served.origin
        assert head.size == len(served.envelopes) > WIDTH + 40
        assert reader.calculate_root_hash() == head.root_hash
        for index, envelope in enumerate(served.envelopes):
            entry = reader.get_entry(index)
            assert entry == envelope
            proof = reader.get_inclusion_proof(index, head.size)
            proof.check(tiles.leaf_hash(entry), head.root_hash)

    await asyncio.to_thread(client)


async def test_every_older_head_is_consistent(served: Served) -> None:
    """Each checkpoint that the market ever signed is the start of its newest tree."""

    def client() -> None:
        reader, head = read_log(served.url, served.vkey)
        assert len(served.notes) > 2
        for note in served.notes:
            old = Checkpoint.from_text(note)
            old.verify(Vkey.from_string(served.vkey))
            proof = reader.get_consistency_proof(old.size, head.size)
            proof.check(old.root_hash, head.root_hash)

    await asyncio.to_thread(client)


async def test_the_client_finds_what_is_wrong(served: Served) -> None:
    """So that the tests above can fail: another key, another entry, another history."""

    def client() -> None:
        reader, head = read_log(served.url, served.vkey)
        stranger = PlainEd25519Signer(served.origin, b"\7" * 32).vkey
        forged = Vkey(stranger.name, Vkey.from_string(served.vkey).key_id, 1, stranger.pubkey)
        with pytest.raises(InvalidSignature):
            head.verify(forged)
        with pytest.raises(InvalidSignature):
            replace(head, size=head.size - 1).verify(Vkey.from_string(served.vkey))
        proof = reader.get_inclusion_proof(1, head.size)
        with pytest.raises(InclusionProofInvalid):
            proof.check(tiles.leaf_hash(served.envelopes[2]), head.root_hash)
        old = Checkpoint.from_text(served.notes[1])
        with pytest.raises(ConsistencyProofInvalid):
            reader.get_consistency_proof(old.size, head.size).check(
                hashlib.sha256(b"another root").digest(), head.root_hash
            )

    await asyncio.to_thread(client)


async def test_its_proofs_are_ours(served: Served) -> None:
    """Both ways: its proofs hold by our rules, and a key's spelling is the same."""

    def client() -> None:
        reader, head = read_log(served.url, served.vkey)
        assert spelt(Vkey.from_string(served.vkey)) == served.vkey
        for index in range(0, head.size, 7):
            path = reader.get_inclusion_proof(index, head.size).node_hashes
            leaf = merkle.leaf_hash(served.envelopes[index])
            merkle.verify_inclusion(
                leaf, index=index, size=head.size, path=path, expected_root=head.root_hash
            )
        for note in served.notes:
            old = Checkpoint.from_text(note)
            path = reader.get_consistency_proof(old.size, head.size).node_hashes
            merkle.verify_consistency(
                old=old.size, old_root=old.root_hash, size=head.size, root=head.root_hash, path=path
            )

    await asyncio.to_thread(client)


async def test_a_cosignature_of_ours_is_one_to_it(served: Served) -> None:
    """A validator's line under the market's note, as C2SP writes it."""
    key, name = PrivateKey(b"\6" * 32), "validator.example/one"
    vkey = Vkey.from_string(cosignature.verifier_key(name, key))
    text = served.notes[-1].partition("\n\n")[0] + "\n"
    line = cosignature.sign(text, name, key, time_seconds=1_700_000_000)
    head = Checkpoint.from_text(cosignature.add_line(served.notes[-1], line))
    head.verify(Vkey.from_string(served.vkey))
    head.verify(vkey)
    (signature,) = [one for one in head.signatures if vkey.match(one)]
    assert signature == NoteSignature.from_line(line.removesuffix("\n"))
    other = Checkpoint.from_text(served.notes[-2])
    with pytest.raises(InvalidSignature):
        vkey.get_verifier().verify(signature.payload, other)


async def test_its_command_line(served: Served) -> None:
    """A proof file that it makes is one to us; an entry that it checked is the market's."""
    index = len(served.envelopes) - 2
    text = await typed("gen-proof", served.url, str(index))
    head = tlog_proof.verify(
        text.decode(), served.envelopes[index], lambda note: checkpoint.verify(note, served.vkey)
    )
    assert head.size == len(served.envelopes)
    assert await typed("get-leaf", "--check", served.url, "-2") == served.envelopes[index]


async def typed(*words: str) -> bytes:
    """What the client's command prints."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tlog_scales.cli", *words, stdout=asyncio.subprocess.PIPE
    )
    said, _ = await process.communicate()
    assert process.returncode == 0
    return said


async def test_a_note_of_its_own_is_read_by_us(served: Served) -> None:
    """A head that the client signs is one that our reader takes, byte for byte."""
    seed = b"\5" * 32
    theirs = PlainEd25519Signer("log.example/other", seed)
    root = hashlib.sha256(b"root").digest()
    note = Checkpoint.make_signed("log.example/other", 77, root, [theirs]).serialize()
    key = PrivateKey(seed)
    assert checkpoint.verifier_key("log.example/other", key) == spelt(theirs.vkey)
    assert checkpoint.verify(note, spelt(theirs.vkey)) == ("log.example/other", 77, root)
    assert checkpoint.sign("log.example/other", key, size=77, root=root) == note
