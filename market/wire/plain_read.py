"""Plain data, the way in: bytes that anybody may have made become values of a closed set of types."""

import datetime as dt
import decimal
import importlib
import struct
from collections.abc import Callable
from typing import Any, Final

import msgpack

from market.wire.plain_write import (
    ARRAY,
    ARRAY_DIMENSIONS_MAX,
    BIG_INT,
    BIG_INT_BYTES_MAX,
    CODE_POINT_MAX,
    COMPLEX,
    DATE,
    DATETIME,
    DECIMAL,
    DECIMAL_CHARS_MAX,
    DEPTH_MAX,
    DTYPE_PATTERN,
    ELEMENTS_MAX,
    EMPTY_TEXTS,
    EXCEPTION,
    EXCEPTIONS,
    FROZENSET,
    INT64,
    ODD_KEYS_MAX,
    PAIR,
    SAFE_KEYS,
    SCALAR,
    SET,
    SIZE_BYTES_MAX,
    TIME,
    TIMEDELTA,
    TRACEBACK_CHARS_MAX,
    TUPLE,
    Refusal,
    measure,
)
from settlement.domain.errors import UnsafeResult


def decode(data: bytes, size_bytes_max: int = SIZE_BYTES_MAX) -> object:
    """The value behind bytes that anybody may have made; nothing but constructors of a fixed table is called."""
    if len(data) > size_bytes_max:
        raise UnsafeResult(f"{len(data)} bytes are more than the limit of {size_bytes_max}")
    try:
        value = _Reader().read(data)
        measure(value)
    except Refusal as refusal:
        raise UnsafeResult(f"bad plain data: {refusal.reason}") from None
    except UnsafeResult:
        raise
    except (
        ArithmeticError, AttributeError, LookupError, MemoryError, RecursionError, TypeError, ValueError, struct.error,
        SystemError,
    ) as error:  # fmt: skip
        raise UnsafeResult(f"bad plain data: {type(error).__name__}: {error}") from None
    return value


class _Reader:
    """One value's way in; it counts what all nested parts hold together."""

    def __init__(self) -> None:
        self.depth = 0
        self.elements = 0

    def read(self, data: bytes) -> Any:  # noqa: ANN401 - whatever it is
        self.depth += 1
        if self.depth > DEPTH_MAX:
            raise Refusal(data, f"more than {DEPTH_MAX} levels")
        value = msgpack.unpackb(
            data, raw=False, strict_map_key=False, ext_hook=self._extension, list_hook=self._list,
            object_pairs_hook=self._map, max_array_len=ELEMENTS_MAX, max_map_len=ELEMENTS_MAX,
        )  # fmt: skip
        self.depth -= 1
        if type(value) is msgpack.Timestamp:
            raise Refusal(value, "a raw msgpack extension")
        return value

    def _count(self, more: int) -> None:
        self.elements += more + 1
        if self.elements > ELEMENTS_MAX:
            raise Refusal(None, f"more than {ELEMENTS_MAX} elements")

    def _list(self, items: list[object]) -> list[object]:
        self._count(len(items))
        return items

    def _hashed(self, keys: list[Any]) -> None:
        self._count(len(keys))
        if set(map(type, keys)) <= SAFE_KEYS and all(k in INT64 for k in keys if type(k) is int):
            return
        if len(keys) > ODD_KEYS_MAX:
            raise Refusal(
                None,
                f"more than {ODD_KEYS_MAX} keys that are neither text, bytes nor small integers",
            )

    def _map(self, pairs: list[tuple[Any, Any]]) -> dict[Any, Any]:
        self._hashed([key for key, _ in pairs])
        mapping = dict(pairs)
        if len(mapping) != len(pairs):
            raise Refusal(None, "a key stands twice")
        return mapping

    def _members(self, data: bytes) -> list[Any]:
        members = self._items(data)
        self._hashed(members)
        if len(set(members)) != len(members) and not any(m != m for m in members):  # noqa: PLR0124 - nan
            raise Refusal(None, "a member stands twice")
        return members

    def _items(self, data: bytes) -> list[Any]:
        items = self.read(data)
        if type(items) is not list:
            raise Refusal(None, "an extension that holds no list")
        return items

    def _integers(self, data: bytes, count: int, *, last_may_be_none: bool = False) -> list[Any]:
        items = self._items(data)
        checked = items[:-1] if last_may_be_none and items and items[-1] is None else items
        if len(items) != count or any(type(item) is not int for item in checked):
            raise Refusal(None, f"an extension that does not hold {count} integers")
        return items

    def _extension(self, code: int, data: bytes) -> object:
        read = _READERS.get(code)
        if read is None:
            raise Refusal(None, f"unknown extension {code}")
        return read(self, data)

    def as_big_int(self, data: bytes) -> int:
        if len(data) > BIG_INT_BYTES_MAX:
            raise Refusal(None, f"an integer of more than {BIG_INT_BYTES_MAX} bytes")
        return int.from_bytes(data, "little", signed=True)

    def as_decimal(self, data: bytes) -> decimal.Decimal:
        if len(data) > DECIMAL_CHARS_MAX:
            raise Refusal(None, f"a decimal of more than {DECIMAL_CHARS_MAX} characters")
        return decimal.Decimal(data.decode("ascii"))

    def as_datetime(self, data: bytes) -> dt.datetime:
        *fields, fold, offset_us = self._integers(data, 9, last_may_be_none=True)
        year, month, day, hour, minute, second, microsecond = fields
        return dt.datetime(
            year, month, day, hour, minute, second, microsecond, _zone(offset_us), fold=fold
        )

    def as_date(self, data: bytes) -> dt.date:
        return dt.date(*self._integers(data, 3))

    def as_time(self, data: bytes) -> dt.time:
        *fields, fold, offset_us = self._integers(data, 6, last_may_be_none=True)
        hour, minute, second, microsecond = fields
        return dt.time(hour, minute, second, microsecond, _zone(offset_us), fold=fold)

    def as_timedelta(self, data: bytes) -> dt.timedelta:
        return dt.timedelta(*self._integers(data, 3))

    def as_array(self, data: bytes) -> object:
        kind, shape, content = self._items(data)
        if type(shape) is not list or len(shape) > ARRAY_DIMENSIONS_MAX:
            raise Refusal(None, "an array without a proper shape")
        if any(type(size) is not int or size < 0 for size in shape):
            raise Refusal(None, "an array without a proper shape")
        return _flat_array(kind, content).reshape(shape).copy()

    def as_scalar(self, data: bytes) -> object:
        kind, content = self._items(data)
        if kind in EMPTY_TEXTS and content == b"":
            return importlib.import_module("numpy").zeros(1, kind)[0]
        flat = _flat_array(kind, content)
        if len(flat) != 1:
            raise Refusal(None, "a scalar that is not one value")
        return flat[0]

    def as_exception(self, data: bytes) -> Exception:
        kind, packed, text = self._items(data)
        if kind not in EXCEPTIONS or type(packed) is not bytes or type(text) is not str:
            raise Refusal(None, "an exception that is not of a built-in class")
        error = EXCEPTIONS[kind](*self._items(packed))
        if text:
            error.add_note(text[-TRACEBACK_CHARS_MAX:])
        return error

    def as_tuple(self, data: bytes) -> tuple[Any, ...]:
        return tuple(self._items(data))

    def as_set(self, data: bytes) -> set[Any]:
        return set(self._members(data))

    def as_frozenset(self, data: bytes) -> frozenset[Any]:
        return frozenset(self._members(data))

    def as_complex(self, data: bytes) -> complex:
        return complex(*PAIR.unpack(data))


def _zone(offset_us: int | None) -> dt.timezone | None:
    return None if offset_us is None else dt.timezone(dt.timedelta(microseconds=offset_us))


def _flat_array(kind: object, content: object) -> Any:  # noqa: ANN401 - numpy's own types
    """A one-dimensional array; raw bytes must not make values that numpy itself never makes."""
    if type(kind) is not str or type(content) is not bytes or DTYPE_PATTERN.fullmatch(kind) is None:
        raise Refusal(None, "an array of a type that is not plain data")
    try:
        numpy = importlib.import_module("numpy")
    except ImportError:
        raise UnsafeResult(
            "the result holds a numpy array, and numpy is not installed here"
        ) from None
    dtype = numpy.dtype(kind)
    flat = numpy.frombuffer(content, dtype)
    if dtype.kind == "U" and len(flat) and int(flat.view("<u4").max()) > CODE_POINT_MAX:
        raise Refusal(None, "an array of text with impossible characters")
    if dtype.kind == "b" and len(flat) and int(flat.view("u1").max()) > 1:
        raise Refusal(None, "an array of truth values with other values")
    return flat


_READERS: Final[dict[int, Callable[[_Reader, bytes], object]]] = {
    TUPLE: _Reader.as_tuple, SET: _Reader.as_set, FROZENSET: _Reader.as_frozenset, BIG_INT: _Reader.as_big_int,
    COMPLEX: _Reader.as_complex, DATETIME: _Reader.as_datetime, DATE: _Reader.as_date, TIME: _Reader.as_time,
    TIMEDELTA: _Reader.as_timedelta, DECIMAL: _Reader.as_decimal, ARRAY: _Reader.as_array, SCALAR: _Reader.as_scalar,
    EXCEPTION: _Reader.as_exception,
}  # fmt: skip
