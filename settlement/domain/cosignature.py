"""Cosignatures as C2SP writes them (tlog-cosignature, type 04): who else saw this checkpoint, and when.

A line of an unknown key is ignored; a line of a known key that does not hold refuses the note.
"""

import base64
from collections.abc import Iterable
from typing import Final, NamedTuple

from settlement.domain import checkpoint, identity
from settlement.domain.checkpoint import COSIGNER, Verifier
from settlement.domain.errors import BadCheckpoint, BadKey

HEADER: Final = "cosignature/v1"
TIME_BYTES: Final = 8
TIME_MAX: Final = 2**63 - 1
COSIGNATURE_BYTES: Final = TIME_BYTES + identity.SIGNATURE_BYTES


class Cosigned(NamedTuple):
    """One cosignature that holds: whose, and at which second."""

    cosigner: Verifier
    time_seconds: int


def verifier_key(name: str, key: identity.PrivateKey) -> str:
    """What others need to check this cosigner: a verifier key of type 04."""
    return checkpoint.verifier_key(name, key, kind=COSIGNER)


def parse_verifier_key(text: str) -> Verifier:
    """`BadKey` unless the text is a verifier key of type 04."""
    return checkpoint.parse_verifier_key(text, kind=COSIGNER)


def message(text: str, time_seconds: int) -> bytes:
    """The bytes that a cosigner signs for a checkpoint's text."""
    return f"{HEADER}\ntime {time_seconds}\n{text}".encode()


def sign(text: str, name: str, key: identity.PrivateKey, *, time_seconds: int) -> str:
    """The line under a checkpoint's text, with its newline."""
    assert 0 <= time_seconds <= TIME_MAX
    cosigner = parse_verifier_key(verifier_key(name, key))
    signature = key.sign(message(text, time_seconds))
    data = cosigner.key_id + time_seconds.to_bytes(TIME_BYTES, "big") + signature
    return f"— {name} {base64.b64encode(data).decode()}\n"


def verify(text: str, line: str, cosigner: Verifier) -> Cosigned | None:
    """The line's cosignature; None if it is of another key; `BadCheckpoint` if it does not hold."""
    found = checkpoint.parse_signature_line(line.removesuffix("\n"))
    if (found.name, found.key_id) != (cosigner.name, cosigner.key_id):
        return None
    if len(found.signature) != COSIGNATURE_BYTES:
        raise BadCheckpoint(f"the cosignature of {cosigner.name!r} has the wrong length")
    at = int.from_bytes(found.signature[:TIME_BYTES], "big")
    signature = found.signature[TIME_BYTES:]
    if at > TIME_MAX or not identity.verify(cosigner.address, message(text, at), signature):
        raise BadCheckpoint(f"the cosignature of {cosigner.name!r} does not hold")
    return Cosigned(cosigner, at)


def cosigned(note: str, cosigners: Iterable[Verifier]) -> dict[Verifier, Cosigned]:
    """The cosignature of each of these cosigners, its newest if it has several.

    Cosigners that share a public key count once: the signature does not bind their name.
    """
    text, lines = checkpoint.split_note(note)
    found: dict[Verifier, Cosigned] = {}
    addresses: dict[str, Verifier] = {}
    for cosigner in cosigners:
        for line in lines:
            one = verify(text, line, cosigner)
            if one is None or addresses.setdefault(cosigner.address, cosigner) != cosigner:
                continue
            if cosigner not in found or found[cosigner].time_seconds < one.time_seconds:
                found[cosigner] = one
    return found


def count(note: str, cosigner_keys: Iterable[str]) -> int:
    """How many distinct ones of these verifier keys of type 04 cosigned the note."""
    return len(cosigned(note, [parse_verifier_key(key) for key in cosigner_keys]))


def is_final(note: str, cosigner_keys: Iterable[str], *, quorum: int) -> bool:
    """Whether at least `quorum` of the keys cosigned; nothing is final by a quorum of none."""
    return quorum > 0 and count(note, cosigner_keys) >= quorum


def add_line(note: str, line: str) -> str:
    """The note with one more line; of one key the line that is given replaces those before."""
    fresh = checkpoint.parse_signature_line(line.removesuffix("\n"))
    text, lines = checkpoint.split_note(note)
    kept = [
        each
        for each in lines
        if checkpoint.parse_signature_line(each)[:2] != (fresh.name, fresh.key_id)
    ]
    if len(kept) >= checkpoint.SIGNATURES_MAX:
        raise BadCheckpoint(f"a note has at most {checkpoint.SIGNATURES_MAX} signatures")
    return "\n".join([text, *kept, line.removesuffix("\n"), ""])


def lines_of(note: str, cosigner: Verifier) -> list[str]:
    """The lines of one cosigner, with their newlines, each of which holds."""
    text, lines = checkpoint.split_note(note)
    return [f"{line}\n" for line in lines if verify(text, line, cosigner) is not None]


def check_name(name: str) -> str:
    """The name, if it can stand in a signature line."""
    if not checkpoint.NAME.match(name):
        raise BadKey(f"{name[:80]!r} can't name a cosigner: no blanks, no plus signs")
    return name
