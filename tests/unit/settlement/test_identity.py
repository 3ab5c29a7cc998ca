"""Keys: one verifier, whose answers on odd encodings every validator must share."""

from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from settlement.domain import identity
from settlement.domain.errors import BadKey
from settlement.domain.identity import PrivateKey

KEY: Final = PrivateKey(bytes(range(32)))
ORDER: Final = 2**252 + 27742317777372353535851937790883648493  # of the base point
PRIME: Final = 2**255 - 19
MESSAGE: Final = b"message"
# RFC 8032, 7.1, test 2
SEED: Final = "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb"
ADDRESS: Final = "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c"
SIGNED: Final = (
    "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
    "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"
)


def test_rfc_8032() -> None:
    key = PrivateKey.from_hex(SEED)
    assert key.address == ADDRESS
    assert key.sign(b"\x72").hex() == SIGNED
    assert identity.verify(ADDRESS, b"\x72", bytes.fromhex(SIGNED))


@given(st.binary(max_size=64), st.integers(0, 511))
def test_any_flipped_bit_fails(message: bytes, bit: int) -> None:
    signature = bytearray(KEY.sign(message))
    assert identity.verify(KEY.address, message, bytes(signature))
    signature[bit // 8] ^= 1 << bit % 8
    assert not identity.verify(KEY.address, message, bytes(signature))
    assert not identity.verify(KEY.address, message + b"\0", KEY.sign(message))


def little(number: int) -> bytes:
    return number.to_bytes(32, "little")


SMALL_ORDER: Final = [
    little(0),
    little(1),
    little(PRIME - 1),
    bytes.fromhex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"),
    bytes.fromhex("c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a"),
]
NOT_CANONICAL: Final = [little(PRIME), little(PRIME + 1), little(PRIME | 1 << 255)]


@pytest.mark.parametrize("public", [*SMALL_ORDER, *NOT_CANONICAL])
@pytest.mark.parametrize("point", [little(1), *SMALL_ORDER])
def test_keys_for_which_anything_would_be_signed_are_refused(public: bytes, point: bytes) -> None:
    assert not identity.verify(public.hex(), MESSAGE, point + little(0))


@pytest.mark.parametrize("point", [*SMALL_ORDER, *NOT_CANONICAL])
def test_odd_points_in_a_signature_are_refused(point: bytes) -> None:
    assert not identity.verify(KEY.address, MESSAGE, point + KEY.sign(MESSAGE)[32:])


def test_a_signature_has_one_form() -> None:
    signature = KEY.sign(MESSAGE)
    scalar = int.from_bytes(signature[32:], "little")
    for other in (scalar + ORDER, scalar + 2 * ORDER):
        assert not identity.verify(KEY.address, MESSAGE, signature[:32] + little(other))


@pytest.mark.parametrize(
    ("address", "signature"),
    [
        ("", b""),
        (ADDRESS.upper(), bytes.fromhex(SIGNED)),
        (ADDRESS + "\n", bytes.fromhex(SIGNED)),
        (ADDRESS[:-2], bytes.fromhex(SIGNED)),
        (ADDRESS, bytes.fromhex(SIGNED)[:-1]),
        (ADDRESS, bytes.fromhex(SIGNED) + b"\0"),
        ("g" * 64, bytes.fromhex(SIGNED)),
    ],
)
def test_malformed_is_false_and_never_raises(address: str, signature: bytes) -> None:
    assert identity.verify(address, b"\x72", signature) is False


def test_a_key_goes_to_its_file_and_back_and_never_into_a_log() -> None:
    assert PrivateKey.from_hex(KEY.to_hex() + "\n").address == KEY.address
    assert KEY.to_hex() not in repr(KEY)
    assert repr(KEY) == f"PrivateKey({KEY.address[:8]}…)"


@pytest.mark.parametrize("text", ["", "00", "zz" * 32, "00" * 33])
def test_other_key_files_are_refused(text: str) -> None:
    with pytest.raises(BadKey):
        PrivateKey.from_hex(text)
