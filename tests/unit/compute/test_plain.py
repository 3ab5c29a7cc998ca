"""Plain data: every allowed value comes back the same, nothing else goes out, no bytes do harm."""

import datetime as dt
import decimal
import math
import random
import struct
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import msgpack
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from market.wire import plain, plain_write
from settlement.domain.errors import UnsafeResult

OFFSETS = st.integers(-86_399, 86_399).map(lambda s: dt.timezone(dt.timedelta(seconds=s)))
ZONES = st.none() | st.just(dt.UTC) | OFFSETS
HASHABLE = (
    st.none()
    | st.booleans()
    | st.integers(-(2**200), 2**200)
    | st.floats(allow_nan=False)
    | st.text(max_size=20)
    | st.binary(max_size=20)
    | st.complex_numbers(allow_nan=False)
    | st.dates()
    | st.timedeltas()
    | st.decimals(allow_nan=False)
)
ARRAYS = npst.arrays(
    dtype=st.one_of(
        npst.boolean_dtypes(),
        npst.integer_dtypes(),
        npst.floating_dtypes(sizes=(16, 32, 64)),
        npst.complex_number_dtypes(sizes=(64, 128)),
        npst.unicode_string_dtypes(max_len=5),
        npst.byte_string_dtypes(max_len=5),
        npst.datetime64_dtypes(),
    ),
    shape=npst.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4),
)
LEAVES = (
    HASHABLE
    | st.floats()
    | st.times(timezones=ZONES)
    | st.datetimes(timezones=ZONES)
    | ARRAYS
    | npst.floating_dtypes(sizes=(32, 64)).map(lambda kind: kind.type(1.5))
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=4).map(tuple),
        st.dictionaries(HASHABLE, inner, max_size=4),
        st.frozensets(HASHABLE, max_size=4),
        st.sets(HASHABLE, max_size=4),
    ),
    max_leaves=12,
)


def same(left: object, right: object) -> bool:
    """Equal in type and value, nan and arrays included."""
    if type(left) is not type(right):
        return False
    if isinstance(left, np.ndarray):
        assert isinstance(right, np.ndarray)
        kinds = left.dtype.newbyteorder("<") == right.dtype.newbyteorder("<")
        return (
            kinds
            and left.shape == right.shape
            and left.astype("<" + left.dtype.str[1:]).tobytes() == right.tobytes()
        )
    if isinstance(left, list | tuple):
        assert isinstance(right, list | tuple)
        return len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, dict):
        assert isinstance(right, dict)
        return same(list(left.items()), list(right.items()))
    if isinstance(left, float) and math.isnan(left):
        return isinstance(right, float) and math.isnan(right)
    return left == right


@given(VALUES)
def test_every_plain_value_comes_back_the_same(value: object) -> None:
    data = plain.encode(value)
    back = plain.decode(data)
    assert same(value, back)
    assert plain.encode(back) == data


@given(st.sets(HASHABLE, max_size=8), st.randoms())
def test_a_set_has_one_form_whatever_its_order(value: set[object], order: random.Random) -> None:
    members = list(value)
    order.shuffle(members)
    assert plain.encode(set(members)) == plain.encode(value)


@given(st.binary(max_size=200))
def test_random_bytes_are_a_value_or_refused(data: bytes) -> None:
    with suppress(UnsafeResult):
        plain.encode(plain.decode(data))


@given(VALUES, st.data())
def test_damaged_bytes_are_a_value_or_refused(value: object, data: st.DataObject) -> None:
    good = bytearray(plain.encode(value))
    place = data.draw(st.integers(0, len(good) - 1))
    good[place] = data.draw(st.integers(0, 255))
    with suppress(UnsafeResult):
        plain.decode(bytes(good))


class Strange:
    """A class of the user's own."""


class OwnError(ValueError):
    """An exception class of the user's own."""


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (Strange(), "Strange is not plain data, found at the result"),
        ({"a": [1, (2, Strange())]}, "at the result['a'][1][1]"),
        (len, "builtin_function_or_method"),
        (np.array([object()]), "dtype object"),
        (np.zeros(1, [("a", "i4")]), "dtype"),
        (np.ma.masked_array([1], [True]), "MaskedArray"),
        ("\ud800", "surrogates"),
        (dt.datetime(2026, 1, 1, tzinfo=type("Zone", (dt.tzinfo,), {})()), "fixed offset"),
    ],
)  # fmt: skip
def test_what_is_not_plain_is_refused_by_name_and_place(value: object, told: str) -> None:
    with pytest.raises(UnsafeResult) as refusal:
        plain.encode(value)
    assert told in refusal.value.detail


def test_an_integer_has_a_size_limit() -> None:
    with pytest.raises(UnsafeResult):
        plain.encode(1 << 8 * plain_write.BIG_INT_BYTES_MAX)


def nested(levels: int) -> list[object]:
    value: list[object] = []
    for _ in range(levels):
        value = [value]
    return value


def test_a_value_without_end_is_refused() -> None:
    endless: list[object] = []
    endless += [endless, endless]
    for value in (endless, nested(plain_write.DEPTH_MAX + 1)):
        with pytest.raises(UnsafeResult):
            plain.encode(value)


def extension(code: int, *fields: object) -> bytes:
    packed: bytes = msgpack.packb(msgpack.ExtType(code, msgpack.packb(list(fields))))
    return packed


def tuples(levels: int) -> bytes:
    data = b"\x90"
    for _ in range(levels):
        data = bytes(msgpack.packb(msgpack.ExtType(plain_write.TUPLE, b"\x91" + data)))
    return data


HOSTILE: dict[str, Callable[[], bytes]] = {
    "nothing": lambda: b"",
    "trailing bytes": lambda: b"\x01\x01",
    "a list that claims 4 thousand million items": lambda: b"\xdd\xff\xff\xff\xff",
    "bytes that claim 4 GiB": lambda: b"\xc6\xff\xff\xff\xff",
    "too deep": lambda: b"\x91" * (plain_write.DEPTH_MAX + 2) + b"\x90",
    "far too deep": lambda: b"\x91" * 100_000 + b"\x90",
    "tuples too deep": lambda: tuples(plain_write.DEPTH_MAX + 2),
    "too many empty lists": lambda: (
        b"\xdd"
        + struct.pack(">I", plain_write.ELEMENTS_MAX + 1)
        + b"\x90" * (plain_write.ELEMENTS_MAX + 1)
    ),
    "an unknown extension": lambda: extension(77),
    "msgpack's own time": lambda: b"\xd6\xff\x00\x00\x00\x01",
    "a key twice": lambda: b"\x82\x01\x01\x01\x02",
    "a key that cannot be one": lambda: b"\x81\x90\x01",
    "keys with one hash": lambda: bytes(
        msgpack.packb(
            msgpack.ExtType(
                plain_write.SET,
                b"\xdd"
                + struct.pack(">I", plain_write.ODD_KEYS_MAX + 1)
                + b"".join(
                    bytes(plain.encode(2**64 + i * (2**61 - 1)))
                    for i in range(plain_write.ODD_KEYS_MAX + 1)
                ),
            )
        )
    ),
    "an array of objects": lambda: extension(plain_write.ARRAY, "|O", [1], bytes(8)),
    "an array of structures": lambda: extension(plain_write.ARRAY, "<i4,<i4", [1], bytes(8)),
    "an array of half the size": lambda: extension(plain_write.ARRAY, "<f8", [4], bytes(16)),
    "an array of negative size": lambda: extension(plain_write.ARRAY, "<f8", [-1], bytes(16)),
    "an array of endless dimensions": lambda: extension(
        plain_write.ARRAY, "<f8", [1] * 33, bytes(8)
    ),
    "text with impossible characters": lambda: extension(
        plain_write.ARRAY, "<U1", [1], b"\xff" * 4
    ),
    "a truth value of 7": lambda: extension(plain_write.ARRAY, "|b1", [1], b"\x07"),
    "an exception of another class": lambda: extension(
        plain_write.EXCEPTION, "SystemExit", b"\x90", ""
    ),
    "an exception with wrong arguments": lambda: extension(
        plain_write.EXCEPTION, "UnicodeDecodeError", b"\x90", ""
    ),
    "a month of 13": lambda: extension(plain_write.DATE, 2026, 13, 1),
    "a date of text": lambda: extension(plain_write.DATE, "2026", 1, 1),
    "a decimal of words": lambda: bytes(
        msgpack.packb(msgpack.ExtType(plain_write.DECIMAL, b"ten"))
    ),
    "a huge integer": lambda: bytes(
        msgpack.packb(
            msgpack.ExtType(plain_write.BIG_INT, bytes(plain_write.BIG_INT_BYTES_MAX + 1))
        )
    ),
    "half a complex number": lambda: bytes(
        msgpack.packb(msgpack.ExtType(plain_write.COMPLEX, bytes(8)))
    ),
}


@pytest.mark.parametrize("name", list(HOSTILE))
def test_hostile_bytes_are_refused(name: str) -> None:
    with pytest.raises(UnsafeResult):
        plain.decode(HOSTILE[name]())


def test_the_size_has_a_limit() -> None:
    assert plain.decode(plain.encode(b"1234"), size_bytes_max=6) == b"1234"
    with pytest.raises(UnsafeResult):
        plain.decode(plain.encode(b"12345"), size_bytes_max=6)


def caught(raise_it: Callable[[], object]) -> BaseException:
    try:
        raise_it()
    except Exception as error:  # noqa: BLE001 - whatever it is
        return error
    raise AssertionError("nothing was raised")


@pytest.mark.parametrize("shown", [lambda thing: thing, str])
def test_a_failure_gives_the_same_bytes_in_every_run(shown: Callable[[object], object]) -> None:
    things = [object(), object()]
    assert str(things[0]) != str(things[1])
    failures = [plain.encode_exception(ValueError(shown(thing))) for thing in things]
    assert failures[0] == failures[1]
    assert "object at 0x...>" in str(plain.decode(failures[0]))


def test_a_builtin_exception_keeps_class_arguments_and_traceback() -> None:
    error = plain.decode(plain.encode_exception(caught(lambda: dict[str, int]()["missing"])))
    assert isinstance(error, KeyError)
    assert error.args == ("missing",)
    assert "Traceback" in error.__notes__[0]
    assert "KeyError: 'missing'" in error.__notes__[0]


def test_a_foreign_exception_becomes_its_nearest_builtin() -> None:
    def fail() -> None:
        raise OwnError("a reason")

    error = plain.decode(plain.encode_exception(caught(fail)))
    assert type(error) is ValueError
    assert str(error) == "OwnError: a reason"


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), GeneratorExit()])
def test_what_ends_a_program_comes_back_as_a_runtime_error(error: BaseException) -> None:
    back = plain.decode(plain.encode_exception(error))
    assert type(back) is RuntimeError
    assert type(error).__name__ in str(back)


def test_an_exception_with_arguments_that_are_not_plain_keeps_its_message() -> None:
    back = plain.decode(plain.encode_exception(ValueError(Strange())))
    assert type(back) is ValueError
    assert "Strange" in str(back)


def test_special_decimals_keep_their_form() -> None:
    for text in ("NaN", "-Infinity", "1E+3", "0.10"):
        value = plain.decode(plain.encode(decimal.Decimal(text)))
        assert str(value) == text


def test_the_writer_works_alone_and_refuses_by_a_class_of_its_own(tmp_path: Path) -> None:
    lone = tmp_path / "lone.py"
    lone.write_bytes(Path(plain_write.__file__).read_bytes())
    program = (
        "import sys; sys.path.insert(0, sys.argv[1]); import lone\n"
        "print(lone.encode((1, 2)).hex(), issubclass(lone.UnsafeResult, ValueError))\n"
        "try: lone.encode(object())\n"
        "except lone.UnsafeResult as refusal: print(refusal)\n"
        "print('settlement' in sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", program, str(tmp_path)],
        capture_output=True, text=True, check=True, cwd=tmp_path, env={"PYTHONSAFEPATH": "1"},
    )  # fmt: skip
    lines = done.stdout.splitlines()
    if lines[2] == "True":  # installed beside: then it uses the one error tree
        assert lines[0].endswith("False")
    assert lines[0].startswith(plain.encode((1, 2)).hex())
    assert "builtins.object is not plain data" in lines[1]
