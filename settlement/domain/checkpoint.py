"""Signed tree heads as C2SP writes them: notes, verifier keys, checkpoints.

Signatures of unknown keys are ignored, since a note may be cosigned; a wrong signature of the known
key refuses the note. The log's key signs nothing but checkpoints.
"""

import base64
import hashlib
import re
from typing import Final, NamedTuple

from settlement.domain import identity
from settlement.domain.errors import BadCheckpoint, BadKey
from settlement.domain.merkle import EMPTY_ROOT, HASH_BYTES

ED25519: Final = b"\x01"  # the type of a key that signs notes
COSIGNER: Final = b"\x04"  # the type of a key that cosigns checkpoints, with the time
KEY_ID_BYTES: Final = 4
NOTE_BYTES_MAX: Final = 64 * 1024
SIGNATURES_MAX: Final = 100
SIZE_DIGITS_MAX: Final = 19
SIZE_MAX: Final = 2**63 - 1
_CHECKPOINT_LINES: Final = 3
NAME: Final = re.compile(r"[^\s+\x00-\x1f\x7f]{1,200}\Z")
_SIGNATURE_LINE: Final = re.compile(r"— ([^\s+]+) ([A-Za-z0-9+/]+={0,2})\Z")
_SIZE: Final = re.compile(r"(0|[1-9][0-9]*)\Z", re.ASCII)
_VERIFIER_KEY: Final = re.compile(r"([^\s+]+)\+([0-9a-f]{8})\+([A-Za-z0-9+/]+={0,2})\Z")


class Verifier(NamedTuple):
    """A key that may sign notes: its name, its id in signature lines, its address."""

    name: str
    key_id: bytes
    address: str


class SignatureLine(NamedTuple):
    """A line under a note: whose, which key's, and what that key made."""

    name: str
    key_id: bytes
    signature: bytes


class Checkpoint(NamedTuple):
    """What a log says of itself: whose it is, how many entries it has, and their root."""

    origin: str
    size: int
    root: bytes


def verifier_key(origin: str, key: identity.PrivateKey, *, kind: bytes = ED25519) -> str:
    """What others need to check this log: `<name>+<key id>+<base64(type ‖ key)>`."""
    typed = kind + key.public
    encoded = base64.b64encode(typed).decode()
    return f"{_name(origin)}+{key_id_of(origin, typed).hex()}+{encoded}"


def parse_verifier_key(text: str, *, kind: bytes = ED25519) -> Verifier:
    """`BadKey` unless the text is a verifier key of that kind: one that signs checkpoints."""
    matched = _VERIFIER_KEY.match(text)
    typed = unbase64(matched[3]) if matched else None
    if matched is None or typed is None or not NAME.match(matched[1]):
        raise BadKey("a verifier key reads <name>+<8 hex digits>+<base64>")
    address = typed[1:].hex()
    if typed[:1] != kind or not identity.is_address(address):
        wanted = "cosigner's key of type 04" if kind == COSIGNER else "log's Ed25519 key"
        raise BadKey(f"{matched[1]!r} is not a {wanted}")
    key_id = bytes.fromhex(matched[2])
    if key_id != key_id_of(matched[1], typed):
        raise BadKey(f"the key of {matched[1]!r} does not have the id that stands before it")
    return Verifier(matched[1], key_id, address)


def sign(origin: str, key: identity.PrivateKey, *, size: int, root: bytes) -> str:
    """The note over a tree head, with one signature."""
    assert 0 <= size <= SIZE_MAX
    assert len(root) == HASH_BYTES
    text = f"{_name(origin)}\n{size}\n{base64.b64encode(root).decode()}\n"
    return sign_note(text, origin, key)


def verify(note: str, log_key: str) -> Checkpoint:
    """The tree head, if the key that is given as a verifier key signed it under its own name."""
    verifier = parse_verifier_key(log_key)
    checkpoint = parse(open_note(note, verifier))
    if checkpoint.origin != verifier.name:
        raise BadCheckpoint(f"the checkpoint is of {checkpoint.origin!r}, not {verifier.name!r}")
    return checkpoint


def parse(text: str) -> Checkpoint:
    """A tree head from a note's text, which says nothing yet about who signed it."""
    lines = text.split("\n")
    if len(lines) != _CHECKPOINT_LINES + 1 or lines[-1]:
        raise BadCheckpoint("a checkpoint has three lines")
    origin, size, encoded, _ = lines
    if not NAME.match(origin):
        raise BadCheckpoint("the checkpoint's first line is not an origin")
    if not _SIZE.match(size) or len(size) > SIZE_DIGITS_MAX or int(size) > SIZE_MAX:
        raise BadCheckpoint("the checkpoint's second line is not a size")
    root = unbase64(encoded)
    if root is None or len(root) != HASH_BYTES:
        raise BadCheckpoint("the checkpoint's third line is not a root")
    if int(size) == 0 and root != EMPTY_ROOT:
        raise BadCheckpoint("this is not the root of the empty tree")
    return Checkpoint(origin, int(size), root)


def head(note: str) -> Checkpoint:
    """The tree head of one's own stored note; whoever got it from elsewhere calls `verify`."""
    return parse(split_note(note)[0])


def sign_note(text: str, name: str, key: identity.PrivateKey) -> str:
    """A text that ends in a newline, and the name's signature under it."""
    signature = key_id_of(name, ED25519 + key.public) + key.sign(text.encode())
    return f"{text}\n— {name} {base64.b64encode(signature).decode()}\n"


def open_note(note: str, verifier: Verifier) -> str:
    """The note's text, if the verifier's key signed it; its wrong signatures refuse the note."""
    text, lines = split_note(note)
    signed = False
    for line in lines:
        found = parse_signature_line(line)
        if (found.name, found.key_id) != (verifier.name, verifier.key_id):
            continue
        if not identity.verify(verifier.address, text.encode(), found.signature):
            raise BadCheckpoint("the signature of the log's key does not hold")
        signed = True
    if not signed:
        raise BadCheckpoint("the log's key did not sign this")
    return text


def parse_signature_line(line: str) -> SignatureLine:
    """What a line under a note says; nothing is said about whether it holds."""
    matched = _SIGNATURE_LINE.match(line)
    signature = unbase64(matched[2]) if matched else None
    if matched is None or signature is None or len(signature) <= KEY_ID_BYTES:
        raise BadCheckpoint("a signature line is not in form")
    return SignatureLine(matched[1], signature[:KEY_ID_BYTES], signature[KEY_ID_BYTES:])


def split_note(note: str) -> tuple[str, list[str]]:
    """Text and signature lines: what stands before and after the last empty line."""
    try:
        size = len(note.encode())
    except UnicodeEncodeError:  # lone surrogates
        raise BadCheckpoint("a note is UTF-8 text") from None
    if size > NOTE_BYTES_MAX:
        raise BadCheckpoint(f"a note has at most {NOTE_BYTES_MAX} bytes")
    if any(sign < " " and sign != "\n" for sign in note):
        raise BadCheckpoint("a note has no control characters but newlines")
    text, separator, signatures = note.rpartition("\n\n")
    if not separator or not text or not signatures.endswith("\n"):
        raise BadCheckpoint("a note is a text, an empty line, and signature lines")
    lines = signatures.removesuffix("\n").split("\n")
    if len(lines) > SIGNATURES_MAX:
        raise BadCheckpoint(f"a note has at most {SIGNATURES_MAX} signatures")
    return text + "\n", lines


def is_line_of(line: str, verifier: Verifier) -> bool:
    """Whether a signature line says that it is of this key; not whether it holds."""
    found = parse_signature_line(line)
    return (found.name, found.key_id) == (verifier.name, verifier.key_id)


def _name(origin: str) -> str:
    if not NAME.match(origin):
        raise BadKey(f"{origin[:80]!r} can't name a log: no blanks, no plus signs")
    return origin


def key_id_of(name: str, typed_key: bytes) -> bytes:
    """The id that stands in signature lines, of a key with its type before it."""
    return hashlib.sha256(name.encode() + b"\n" + typed_key).digest()[:KEY_ID_BYTES]


def unbase64(text: str) -> bytes | None:
    """The bytes behind canonical base64, or None."""
    try:
        data = base64.b64decode(text, validate=True)
    except ValueError:
        return None
    return data if base64.b64encode(data).decode() == text else None
