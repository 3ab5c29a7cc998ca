"""Plain data, the way out: values to bytes; also sent into the sandbox by content, where it stands alone.

Byte-like values (bytearray, memoryview) arrive as bytes; every other type arrives as it left, or is refused.
"""

import builtins
import datetime as dt
import decimal
import re
import struct
import sys
import traceback
from collections.abc import Callable, Iterable
from types import ModuleType
from typing import Any, Final, cast

import msgpack

try:
    from settlement.domain.errors import UnsafeResult as UnsafeResult  # noqa: PLC0414 - offered on
except ImportError:

    class UnsafeResult(ValueError):  # type: ignore[no-redef]
        """The value is not plain data, so it is not taken over."""


SIZE_BYTES_MAX: Final = 64 << 20
DEPTH_MAX: Final = 64
ELEMENTS_MAX: Final = 4_000_000
ODD_KEYS_MAX: Final = (
    16_384  # keys whose hash an attacker can compute: a table of collisions stays bearable
)
BIG_INT_BYTES_MAX: Final = 65_536
DECIMAL_CHARS_MAX: Final = 4_096
ARRAY_DIMENSIONS_MAX: Final = 32
TRACEBACK_CHARS_MAX: Final = 16_384
MESSAGE_CHARS_MAX: Final = 4_096

TUPLE, SET, FROZENSET, BIG_INT, COMPLEX = 1, 2, 3, 4, 5
DATETIME, DATE, TIME, TIMEDELTA, DECIMAL = 6, 7, 8, 9, 10
ARRAY, SCALAR, EXCEPTION = 11, 12, 13

DTYPE_PATTERN: Final = re.compile(
    r"\|[biu]1|<[iu][248]|<f[248]|<c(8|16)|<[Mm]8(\[(Y|M|W|D|h|m|s|ms|us|ns|ps|fs|as)\])?"
    r"|\|S\d{1,7}|<U\d{1,7}"
)
ADDRESS: Final = re.compile(r" at 0x[0-9a-f]{6,}>")  # in what `repr` shows; differs in every run
EMPTY_TEXTS: Final = frozenset({"|S0", "<U0"})  # a numpy scalar without any character
CODE_POINT_MAX: Final = 0x10FFFF
EXCEPTIONS: Final[dict[str, type[Exception]]] = {
    name: kind
    for name, kind in vars(builtins).items()
    if isinstance(kind, type)
    and issubclass(kind, Exception)
    and not issubclass(kind, BaseExceptionGroup)
}
SAFE_KEYS: Final = frozenset({str, bytes, int, bool, type(None)})
INT64: Final = range(-(2**63), 2**64)
_CONTAINERS: Final = frozenset({list, dict, tuple, set, frozenset})
PAIR: Final = struct.Struct("<dd")


class Refusal(Exception):
    """An object that is not plain; where it stands is found afterwards."""

    def __init__(self, culprit: object, reason: str) -> None:
        super().__init__(reason)
        self.culprit, self.reason = culprit, reason


def encode(value: object) -> bytes:
    """The value's bytes; the same value gives the same bytes, whatever order a set happens to have."""
    try:
        measure(value)
        data = _pack(value)
    except Refusal as refusal:
        told = f"{refusal.reason} at {_where(value, refusal.culprit)}"
        raise UnsafeResult(_repeatable(told)) from None
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        raise UnsafeResult(f"not plain data: {error}") from None
    if len(data) > SIZE_BYTES_MAX:
        raise UnsafeResult(f"{len(data)} bytes are more than the limit of {SIZE_BYTES_MAX}")
    return data


def encode_exception(error: BaseException) -> bytes:
    """An exception as plain data: nearest built-in class, plain arguments, and the traceback as text.

    Addresses are left out, so that a second run of the same task gives the same bytes.
    """
    return _pack(msgpack.ExtType(EXCEPTION, _exception_fields(error)))


# ── how deep, how many ──────────────────────────────────────────────────────────────────────


def _children(container: object) -> Iterable[object]:
    if type(container) is dict:
        yield from container
        yield from container.values()
    else:
        yield from cast("Iterable[object]", container)


def measure(value: object) -> None:
    """Refuse what is too deep or too many; the set of types lets flat lists pass at the speed of C."""
    if type(value) not in _CONTAINERS:
        return
    waiting: list[tuple[object, int]] = [(value, 1)]
    elements = 0
    while waiting:
        container, depth = waiting.pop()
        elements += len(container)  # type: ignore[arg-type]
        if depth > DEPTH_MAX:
            raise Refusal(container, f"more than {DEPTH_MAX} levels")
        if elements > ELEMENTS_MAX:
            raise Refusal(container, f"more than {ELEMENTS_MAX} elements")
        kinds = set(map(type, _children(container)))
        if msgpack.Timestamp in kinds or msgpack.ExtType in kinds:
            raise Refusal(container, "a raw msgpack extension")
        if not kinds.isdisjoint(_CONTAINERS):
            waiting.extend((c, depth + 1) for c in _children(container) if type(c) in _CONTAINERS)


def _where(root: object, culprit: object) -> str:
    """The path to an object within the value, for the message of a refusal."""
    waiting: list[tuple[object, str]] = [(root, "the result")]
    for _ in range(ELEMENTS_MAX):
        if not waiting:
            break
        value, path = waiting.pop()
        if value is culprit:
            return path
        if type(value) is dict:
            waiting.extend((child, f"{path}[{str(key)[:80]!r}]") for key, child in value.items())
            waiting.extend((key, f"a key of {path}") for key in value)
        elif type(value) in {list, tuple}:
            waiting.extend((child, f"{path}[{i}]") for i, child in enumerate(_children(value)))
        elif type(value) in {set, frozenset}:
            waiting.extend((child, f"a member of {path}") for child in _children(value))
    return "the result"


# ── out ─────────────────────────────────────────────────────────────────────────────────────


def _pack(value: object) -> bytes:
    packed = msgpack.packb(value, default=_extend, strict_types=True, use_bin_type=True)
    assert isinstance(packed, bytes)
    return packed


def _extend(value: object) -> msgpack.ExtType:
    """The packer asks here about every exact type that it does not know."""
    write = _WRITERS.get(type(value))
    if write is not None:
        code, data = write(value)
        return msgpack.ExtType(code, data)
    if isinstance(value, Exception):
        return msgpack.ExtType(EXCEPTION, _exception_fields(value))
    numpy = sys.modules.get("numpy")  # a numpy value cannot be here unless numpy is loaded
    if numpy is not None and (type(value) is numpy.ndarray or isinstance(value, numpy.generic)):
        return _numpy_extension(numpy, value)
    kind = type(value)
    raise Refusal(value, f"{kind.__module__}.{kind.__qualname__} is not plain data, found")


def _sorted_members(value: Iterable[object]) -> bytes:
    members = sorted(map(_pack, value))
    header = msgpack.Packer().pack_array_header(len(members))
    return bytes(header) + b"".join(members)


def _big_int(value: int) -> bytes:
    length = value.bit_length() // 8 + 1
    if length > BIG_INT_BYTES_MAX:
        raise Refusal(value, f"an integer of more than {BIG_INT_BYTES_MAX} bytes")
    return value.to_bytes(length, "little", signed=True)


def _offset_us(value: dt.datetime | dt.time) -> int | None:
    if value.tzinfo is None:
        return None
    if type(value.tzinfo) is not dt.timezone:
        raise Refusal(
            value, f"the time zone {value.tzinfo!r} is not a fixed offset; use UTC, found"
        )
    offset = value.tzinfo.utcoffset(None)
    return offset // dt.timedelta(microseconds=1)


def _clock(value: dt.datetime | dt.time) -> list[int | None]:
    return [
        value.hour,
        value.minute,
        value.second,
        value.microsecond,
        value.fold,
        _offset_us(value),
    ]


_WRITERS: Final[dict[type, Callable[[Any], tuple[int, bytes]]]] = {
    tuple: lambda v: (TUPLE, _pack(list(v))),
    set: lambda v: (SET, _sorted_members(v)),
    frozenset: lambda v: (FROZENSET, _sorted_members(v)),
    int: lambda v: (BIG_INT, _big_int(v)),
    complex: lambda v: (COMPLEX, PAIR.pack(v.real, v.imag)),
    dt.datetime: lambda v: (DATETIME, _pack([v.year, v.month, v.day, *_clock(v)])),
    dt.date: lambda v: (DATE, _pack([v.year, v.month, v.day])),
    dt.time: lambda v: (TIME, _pack(_clock(v))),
    dt.timedelta: lambda v: (TIMEDELTA, _pack([v.days, v.seconds, v.microseconds])),
    decimal.Decimal: lambda v: (DECIMAL, str(v).encode()),
}


def _numpy_extension(
    numpy: ModuleType,
    value: Any,  # noqa: ANN401 - an array or a scalar
) -> msgpack.ExtType:
    kind = value.dtype.newbyteorder("<")
    if value.dtype.fields is not None or DTYPE_PATTERN.fullmatch(kind.str) is None:
        raise Refusal(value, f"numpy dtype {value.dtype} is not plain data, found")
    array = numpy.ascontiguousarray(value, dtype=kind)
    if isinstance(value, numpy.generic):
        content = array.tobytes() if kind.itemsize else b""
        return msgpack.ExtType(SCALAR, _pack([kind.str, content]))
    return msgpack.ExtType(ARRAY, _pack([kind.str, list(value.shape), array.tobytes()]))


def _exception_fields(error: BaseException) -> bytes:
    kind = next(
        (k.__name__ for k in type(error).__mro__ if EXCEPTIONS.get(k.__name__) is k), "RuntimeError"
    )
    arguments: list[object]
    try:
        arguments = [_repeatable(a) if type(a) is str else a for a in error.args]
        packed = _pack(arguments)
        measure(arguments)
        if kind != type(error).__name__:
            raise ValueError(kind)  # a foreign class says its name in the message
        EXCEPTIONS[kind](*arguments)  # some want arguments of a certain form, which raises
    except Exception:  # noqa: BLE001 - the user's own class may do anything here
        packed = _pack([_sentence(error, named=kind != type(error).__name__)])
    return _pack([kind, packed, _text(error)])


def _repeatable(text: str) -> str:
    return ADDRESS.sub(" at 0x...>", text)


def _sentence(error: BaseException, *, named: bool) -> str:
    try:
        message = str(error)
    except Exception:  # noqa: BLE001 - see above
        message = "(no message)"
    whole = f"{type(error).__qualname__}: {message}" if named else message
    return _repeatable(whole).encode(errors="replace").decode()[:MESSAGE_CHARS_MAX]


def _text(error: BaseException) -> str:
    if error.__traceback__ is not None:
        lines = traceback.format_exception(error)
    else:
        lines = [str(note) for note in getattr(error, "__notes__", ())]
    whole = _repeatable("".join(lines))
    return whole.encode(errors="replace").decode()[-TRACEBACK_CHARS_MAX:]
