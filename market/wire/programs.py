"""The code of commands and WASM modules as it travels, msgpack of fixed shape, and its limits.

A function's code is its pickle; an input of a command or a module is its bytes as they are.
"""

from typing import Final

import msgspec

from settlement.domain.errors import LimitExceeded, Malformed

ARGUMENTS_MAX: Final = 1_000
ARGUMENT_CHARS_MAX: Final = 32_768
PATTERNS_MAX: Final = 100
FUEL_MAX: Final = 2**62
WASM_MEMORY_MIB_MAX: Final = 4_096  # what 32 bits can address

_encoder: Final = msgspec.msgpack.Encoder()


class CommandCode(msgspec.Struct, frozen=True, kw_only=True):
    """A command line, its folder as a tar archive, and patterns of the files to bring back."""

    arguments: list[str]
    archive: bytes
    collect: list[str]


class WasmCode(msgspec.Struct, frozen=True, kw_only=True):
    """A module, its arguments after its name, the most fuel and memory that a call may take."""

    module: bytes
    arguments: list[str]
    fuel_max: int
    memory_mib: int


def encode(code: CommandCode | WasmCode) -> bytes:
    """The bytes whose digest the specification names; the same code gives the same bytes."""
    _check_texts(code.arguments, ARGUMENTS_MAX)
    if isinstance(code, CommandCode):
        _check_texts(code.collect, PATTERNS_MAX)
        if not code.arguments:
            raise Malformed("a command has at least one word")
    elif not 1 <= code.fuel_max <= FUEL_MAX:
        raise LimitExceeded(f"fuel is from 1 to {FUEL_MAX}")
    elif not 1 <= code.memory_mib <= WASM_MEMORY_MIB_MAX:
        raise LimitExceeded(f"a module's memory is from 1 to {WASM_MEMORY_MIB_MAX} MiB")
    return _encoder.encode(code)


def _check_texts(texts: list[str], count_max: int) -> None:
    if len(texts) > count_max:
        raise LimitExceeded(f"at most {count_max} arguments or patterns, not {len(texts)}")
    for text in texts:
        if len(text) > ARGUMENT_CHARS_MAX:
            raise LimitExceeded(f"an argument has more than {ARGUMENT_CHARS_MAX} characters")
        if "\0" in text:
            raise Malformed("an argument holds a zero byte")
