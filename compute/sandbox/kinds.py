"""The parts of the runner that only some jobs need, as they are sent into the sandbox."""

import functools
from pathlib import Path
from typing import Final

import msgpack

from market.domain.kind import Kind

FOLDER: Final = Path(__file__).parent


@functools.cache
def equipment(kind: Kind, *, confined: bool) -> bytes:
    """The module for a kind, by content; `confined` says that it is alone with its processes."""
    name = f"runner_{kind}"
    source = (FOLDER / f"{name}.py").read_bytes()
    packed: bytes = msgpack.packb({"name": name, "source": source, "confined": confined})
    return packed
