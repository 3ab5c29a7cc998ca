"""The evidence file: it proves its statement by the log's key alone, and every byte counts."""

import base64
import json
from collections.abc import Callable
from typing import Any, Final

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from settlement.domain import checkpoint, evidence
from settlement.domain.errors import (
    BadCheckpoint,
    BadKey,
    BadProof,
    BadSignature,
    BadStatement,
    Refused,
    WrongMarket,
)
from settlement.domain.identity import PrivateKey
from settlement.domain.receipt import Leaf
from tests.unit.settlement.logged import (
    DIGEST,
    LEAVES,
    LOG_KEY,
    MARKET,
    payment,
    proven,
    receipt,
)

OTHER: Final = PrivateKey(b"\x09" * 32)
FILE: Final = proven(receipt(), index=3, size=6)


def changed(data: bytes, change: Callable[[dict[str, Any]], None]) -> bytes:
    """The file with its fields changed, in canonical form."""
    fields = json.loads(data)
    change(fields)
    return msgspec.json.encode(fields, order="sorted")


@pytest.mark.parametrize(("index", "size"), [(0, 1), (0, 2), (1, 2), (5, 6), (255, 256), (7, 300)])
def test_a_statement_is_proven_wherever_it_stands(index: int, size: int) -> None:
    for opened in (receipt(), payment()):
        assert evidence.verify(proven(opened, index=index, size=size), LOG_KEY) == opened


def test_the_tasks_may_come_along() -> None:
    data = proven(receipt(), index=3, size=6, leaves=LEAVES)
    assert evidence.verify(data, LOG_KEY) == receipt()
    for leaves in (LEAVES[:2], [*LEAVES, LEAVES[0]], [Leaf(1, DIGEST, DIGEST, "ok")]):
        with pytest.raises(BadProof, match="not those of the receipt"):
            evidence.verify(proven(receipt(), index=3, size=6, leaves=leaves), LOG_KEY)
    with pytest.raises(BadProof, match="only a receipt"):
        evidence.verify(proven(payment(), index=3, size=6, leaves=LEAVES), LOG_KEY)


@pytest.mark.parametrize(
    "data",
    [FILE, proven(payment(), index=0, size=1), proven(receipt(), index=2, size=3, leaves=LEAVES)],
    ids=["receipt", "alone", "with tasks"],
)
def test_every_flipped_byte_is_refused(data: bytes) -> None:
    evidence.verify(data, LOG_KEY)
    survived = []
    for at in range(len(data)):
        for mask in (0x01, 0x20, 0x80):
            flipped = bytearray(data)
            flipped[at] ^= mask
            try:
                evidence.verify(bytes(flipped), LOG_KEY)
            except Refused:
                continue
            survived.append((at, mask))
    assert survived == []


@given(st.data())
def test_every_cut_insertion_and_exchange_is_refused(data: st.DataObject) -> None:
    begin = data.draw(st.integers(0, len(FILE)))
    end = data.draw(st.integers(begin, min(len(FILE), begin + 8)))
    middle = data.draw(st.binary(max_size=8))
    other = FILE[:begin] + middle + FILE[end:]
    if other != FILE:
        with pytest.raises(Refused):
            evidence.verify(other, LOG_KEY)


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_nonsense_is_refused(data: bytes) -> None:
    with pytest.raises(BadProof):
        evidence.verify(data, LOG_KEY)


def _set(name: str, value: object) -> Callable[[dict[str, Any]], None]:
    return lambda fields: fields.__setitem__(name, value)


@pytest.mark.parametrize(
    "change",
    [
        _set("version", 2),
        _set("index", 2),
        _set("index", 6),
        _set("index", -1),
        _set("index", 2**53),
        _set("proof", []),
        _set("proof", ["A" * 44]),
        _set("proof", [base64.b64encode(bytes(33)).decode()] * 2),
        _set("proof", [base64.b64encode(bytes(32)).decode()] * 64),
        _set("further", 1),
        lambda fields: fields.pop("leaves"),
        lambda fields: fields["proof"].reverse(),
        lambda fields: fields["proof"].append(fields["proof"][0]),
        lambda fields: fields["proof"].__setitem__(0, fields["proof"][0][:-2] + "\x7f="),
    ],
)
def test_a_changed_field_is_refused(change: Callable[[dict[str, Any]], None]) -> None:
    with pytest.raises(BadProof):
        evidence.verify(changed(FILE, change), LOG_KEY)


def test_the_same_content_in_another_form_is_refused() -> None:
    fields = json.loads(FILE)
    twice = FILE.replace(
        b'"index":3', b'"index":2,"index":3'
    )  # the last one wins in a loose reader
    for data in (
        FILE + b"\n",
        b" " + FILE,
        json.dumps(fields).encode(),
        json.dumps(dict(reversed(fields.items())), separators=(",", ":")).encode(),
        FILE.replace(b'"version"', b'"\\u0076ersion"'),
        FILE.replace(b"\xe2\x80\x94", b"\\u2014"),
        twice,
    ):
        assert data != FILE
        with pytest.raises(BadProof, match="not in form"):
            evidence.verify(data, LOG_KEY)


def test_a_hash_is_written_in_one_way_alone() -> None:
    """The last letter of 32 bytes in base64 has two bits without meaning."""
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    for bits in (1, 2, 3):

        def loosen(fields: dict[str, Any], bits: int = bits) -> None:
            text = fields["proof"][0]
            fields["proof"][0] = text[:-2] + alphabet[alphabet.index(text[-2]) + bits] + "="

        with pytest.raises(BadProof, match="not canonical"):
            evidence.verify(changed(FILE, loosen), LOG_KEY)


def test_another_log_is_refused() -> None:
    with pytest.raises(BadCheckpoint):
        evidence.verify(FILE, checkpoint.verifier_key(MARKET, OTHER))
    with pytest.raises(BadCheckpoint):
        evidence.verify(proven(receipt(), index=3, size=6, key=OTHER), LOG_KEY)
    with pytest.raises(BadKey):
        evidence.verify(FILE, "no key")


def test_a_cosigned_checkpoint_proves_as_well() -> None:
    line = f"— witness.example {base64.b64encode(b'abcd' + bytes(72)).decode()}\n"
    cosigned = changed(FILE, lambda f: f.__setitem__("checkpoint", f["checkpoint"] + line))
    assert evidence.verify(cosigned, LOG_KEY) == receipt()


def test_a_log_that_holds_nonsense_proves_nothing() -> None:
    """Inclusion is not enough: the statement's own form, signature and market count."""
    good = receipt()
    envelope = json.loads(good.envelope)
    envelope["signatures"][0]["sig"] = base64.b64encode(bytes(64)).decode()
    unsigned = msgspec.json.encode(envelope, order="sorted")
    wrong: list[tuple[bytes, type[Refused]]] = [
        (unsigned, BadSignature),
        (b"a third entry", BadStatement),
        (good.envelope + b" ", BadStatement),
        (receipt(market="elsewhere").envelope, WrongMarket),
    ]
    for entry, error in wrong:
        logged = msgspec.structs.replace(good, envelope=entry)
        with pytest.raises(error):
            evidence.verify(proven(logged, index=3, size=6), LOG_KEY)


def test_too_large_a_file_is_not_even_read() -> None:
    with pytest.raises(BadProof, match="at most"):
        evidence.verify(bytes(evidence.EVIDENCE_BYTES_MAX + 1), LOG_KEY)
