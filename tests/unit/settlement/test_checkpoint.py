"""Notes, verifier keys and checkpoints: the published example, the form, and every refusal."""

import base64
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from settlement.domain import checkpoint
from settlement.domain.checkpoint import Checkpoint
from settlement.domain.errors import BadCheckpoint, BadKey
from settlement.domain.identity import PrivateKey
from settlement.domain.merkle import EMPTY_ROOT

ORIGIN: Final = "market.example/log"
KEY: Final = PrivateKey(b"\7" * 32)
OTHER: Final = PrivateKey(b"\x08" * 32)
ROOT: Final = bytes(range(32))
LOG_KEY: Final = checkpoint.verifier_key(ORIGIN, KEY)
NOTE: Final = checkpoint.sign(ORIGIN, KEY, size=42, root=ROOT)
TEXT: Final = NOTE.rpartition("\n\n")[0] + "\n"

# The example that the note format's own documentation signs and opens.
PUBLISHED_KEY: Final = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
PUBLISHED_TEXT: Final = (
    "If you think cryptography is the answer to your problem,\n"
    "then you don't know what your problem is.\n"
)
PUBLISHED_NOTE: Final = (
    PUBLISHED_TEXT + "\n— PeterNeumann"
    " x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n"
)


def signed(text: str, *, name: str = ORIGIN, key: PrivateKey = KEY) -> str:
    return checkpoint.sign_note(text, name, key)


def cosigned(note: str, name: str = "witness.example") -> str:
    """The note with a further signature, of a key that nobody here knows."""
    line = base64.b64encode(b"abcd" + bytes(72)).decode()
    return f"{note}— {name} {line}\n"


def test_the_published_note_opens() -> None:
    verifier = checkpoint.parse_verifier_key(PUBLISHED_KEY)
    assert checkpoint.open_note(PUBLISHED_NOTE, verifier) == PUBLISHED_TEXT
    with pytest.raises(BadCheckpoint):
        checkpoint.open_note(PUBLISHED_NOTE.replace("answer", "anvwer"), verifier)


def test_what_is_signed_is_verified() -> None:
    assert checkpoint.verify(NOTE, LOG_KEY) == Checkpoint(ORIGIN, 42, ROOT)
    assert checkpoint.head(NOTE) == Checkpoint(ORIGIN, 42, ROOT)
    assert NOTE.splitlines()[:4] == [ORIGIN, "42", base64.b64encode(ROOT).decode(), ""]


@given(st.integers(0, 2**63 - 1), st.binary(min_size=32, max_size=32))
def test_any_head_survives(size: int, root: bytes) -> None:
    root = EMPTY_ROOT if size == 0 else root
    note = checkpoint.sign(ORIGIN, KEY, size=size, root=root)
    assert checkpoint.verify(note, LOG_KEY) == Checkpoint(ORIGIN, size, root)


def test_signatures_of_unknown_keys_are_ignored() -> None:
    note = NOTE
    for number in range(20):
        note = cosigned(note, f"witness{number}.example")
    assert checkpoint.verify(note, LOG_KEY).size == 42
    # the same name with another key id, and another name with our key's id, are unknown too
    strange = base64.b64encode(b"abcd" + bytes(64)).decode()
    ours = base64.b64encode(checkpoint.parse_verifier_key(LOG_KEY).key_id + bytes(64)).decode()
    assert checkpoint.verify(f"{NOTE}— {ORIGIN} {strange}\n", LOG_KEY).size == 42
    assert checkpoint.verify(f"{NOTE}— elsewhere {ours}\n", LOG_KEY).size == 42


def test_a_wrong_signature_of_the_known_key_refuses_even_beside_a_right_one() -> None:
    wrong = base64.b64encode(checkpoint.parse_verifier_key(LOG_KEY).key_id + bytes(64)).decode()
    with pytest.raises(BadCheckpoint, match="does not hold"):
        checkpoint.verify(f"{NOTE}— {ORIGIN} {wrong}\n", LOG_KEY)


def test_another_key_refuses() -> None:
    for log_key in (
        checkpoint.verifier_key(ORIGIN, OTHER),
        checkpoint.verifier_key("other.example/log", KEY),
    ):
        with pytest.raises(BadCheckpoint, match="did not sign"):
            checkpoint.verify(NOTE, log_key)


def test_a_key_signs_checkpoints_under_its_own_name_alone() -> None:
    note = signed(TEXT.replace(ORIGIN, "other.example/log"))
    with pytest.raises(BadCheckpoint, match=r"other\.example/log"):
        checkpoint.verify(note, LOG_KEY)


@pytest.mark.parametrize(
    "text",
    [
        TEXT + "extension\n",
        f"{ORIGIN}\n42\n",
        TEXT.replace("42", "042"),
        TEXT.replace("42", "+42"),
        TEXT.replace("42", "-1"),
        TEXT.replace("42", "\uff14\uff12"),
        TEXT.replace("42", ""),
        TEXT.replace("42", str(2**63)),
        TEXT.replace("42", "9" * 4_400),  # more digits than int() reads
        TEXT.replace("42", "0"),  # with a root that is not the empty tree's
        TEXT.replace("=\n", "\n"),
        TEXT.replace("8=\n", "9=\n"),  # the same bytes, but not as they are written
        f"{ORIGIN}\n42\n{base64.b64encode(bytes(31)).decode()}\n",
        TEXT.replace("\n", "\r\n"),
        TEXT.replace(ORIGIN, "a b"),
        TEXT.replace(ORIGIN, "a+b"),
        "\n" + TEXT,
    ],
)
def test_a_signed_text_that_is_no_checkpoint_is_refused(text: str) -> None:
    with pytest.raises(BadCheckpoint):
        checkpoint.verify(signed(text), LOG_KEY)


@pytest.mark.parametrize(
    "note",
    [
        "",
        "\n",
        "\n\n",
        TEXT,
        TEXT + "\n",
        NOTE.removesuffix("\n"),
        NOTE + "\n",
        NOTE.replace("— ", "- "),
        NOTE.replace("— ", "—  "),
        NOTE.replace("=\n", "\n"),
        NOTE + "no signature line\n",
        NOTE + "— short YWJjZA==\n",
        NOTE + "— witness not*base64\n",
        NOTE.replace("\n", "\r\n"),
        NOTE.replace("42", "4\x002"),
        NOTE.replace("42", "4\ud8002"),
        cosigned(NOTE) * 2,
        NOTE + "— w YWJjZGU=\n" * 100,
        NOTE + "— " + "w" * 65_536 + " YWJjZGU=\n",
    ],
)
def test_a_note_that_is_not_in_form_is_refused(note: str) -> None:
    with pytest.raises(BadCheckpoint):
        checkpoint.verify(note, LOG_KEY)


@pytest.mark.parametrize("sign", ["\0", "\t", "\r", "\x1f"])
def test_a_note_has_no_control_characters(sign: str) -> None:
    verifier = checkpoint.parse_verifier_key(LOG_KEY)
    assert checkpoint.open_note(signed("any text\n"), verifier) == "any text\n"
    with pytest.raises(BadCheckpoint, match="control"):
        checkpoint.open_note(signed(f"any{sign}text\n"), verifier)


def test_every_flipped_byte_of_a_note_is_refused() -> None:
    data = NOTE.encode()
    for at in range(len(data)):
        for mask in (1, 0x20, 0x80):
            changed = bytearray(data)
            changed[at] ^= mask
            try:
                note = changed.decode()
            except UnicodeDecodeError:
                continue
            with pytest.raises(BadCheckpoint):
                checkpoint.verify(note, LOG_KEY)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a+b",
        LOG_KEY + "\n",
        LOG_KEY.replace("+", " ", 1),
        LOG_KEY.upper(),
        LOG_KEY[:-1],
        LOG_KEY.replace("market", "narket"),  # the id no longer fits
        f"{ORIGIN}+00000000+{LOG_KEY.rpartition('+')[2]}",
        f"{ORIGIN}+00000000+{base64.b64encode(checkpoint.ED25519 + KEY.public[:31]).decode()}",
        f"{ORIGIN}+00000000+*",
    ],
)
def test_a_verifier_key_that_is_not_in_form_is_refused(text: str) -> None:
    with pytest.raises(BadKey):
        checkpoint.verify(NOTE, text)


def test_a_cosigner_is_no_log() -> None:
    name = "witness.example"
    typed = b"\x04" + KEY.public
    key_id = checkpoint.key_id_of(name, typed).hex()
    with pytest.raises(BadKey, match=r"not a log.s Ed25519 key"):
        checkpoint.parse_verifier_key(f"{name}+{key_id}+{base64.b64encode(typed).decode()}")


@pytest.mark.parametrize("origin", ["", "a b", "a+b", "a\nb", "a\0b", "\u00a0", "n" * 201])
def test_what_cannot_name_a_log(origin: str) -> None:
    with pytest.raises(BadKey):
        checkpoint.verifier_key(origin, KEY)
    with pytest.raises(BadKey):
        checkpoint.sign(origin, KEY, size=1, root=ROOT)
