"""How much of a machine is offered, as people write it: `3.5`, `50%`, `512MiB`, `8GiB`."""

import re
from typing import Final

from settlement.domain.errors import MisConfigured

_PERCENT: Final = re.compile(r"([0-9]{1,3}(?:\.[0-9]{1,3})?)%\Z", re.ASCII)
_NUMBER: Final = re.compile(r"[0-9]{1,9}(?:\.[0-9]{1,3})?\Z", re.ASCII)
_SIZE: Final = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,3})?)(MiB|GiB|TiB)?\Z", re.ASCII)
_MIB: Final = {"MiB": 1, "GiB": 1024, "TiB": 1024 * 1024}
WHOLE_PERCENT: Final = 100
MILLI: Final = 1_000


def cpus_milli(text: str | float, whole_milli: int) -> int:
    """Thousandths of a cpu: a number of cpus, or a part of all of them."""
    said = str(text)
    part = _PERCENT.match(said)
    if part is not None:
        return _part(part[1], whole_milli)
    if not _NUMBER.match(said):
        raise MisConfigured(f"cpus: {said!r} is neither a number like 3.5 nor a part like 50%")
    return round(float(said) * MILLI)


def memory_mib(text: str | float, whole_mib: int) -> int:
    """Mebibytes: a number of them, a size with its unit, or a part of all memory."""
    said = str(text)
    part = _PERCENT.match(said)
    if part is not None:
        return _part(part[1], whole_mib)
    size = _SIZE.match(said)
    if size is None:
        raise MisConfigured(f"memory: {said!r} is neither a size like 8GiB nor a part like 50%")
    return round(float(size[1]) * _MIB[size[2] or "MiB"])


def _part(percent: str, whole: int) -> int:
    share = float(percent)
    if not 0 < share <= WHOLE_PERCENT:
        raise MisConfigured(f"{percent}% is no part of a machine: above 0% and at most 100%")
    return int(whole * share / WHOLE_PERCENT)
