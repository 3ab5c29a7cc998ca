"""What this machine holds strangers' code with, found out by really running a sandbox."""

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

from compute.executors import ground
from settlement.domain.errors import GridpactError


@dataclass(frozen=True)
class Protection:
    """`S` with control groups, `L` without, none if no sandbox runs; and why it is not better."""

    cls: Literal["S", "L"] | None
    reasons: tuple[str, ...]


def probe(state_folder: Path) -> Protection:
    """Blocking; for `provider doctor`. The executors find out the same at their start."""
    return asyncio.run(_probe(state_folder))


async def _probe(state_folder: Path) -> Protection:
    try:
        laid = await ground.lay(state_folder)
    except GridpactError as error:
        return Protection(None, (error.detail, error.cure))
    found = cast("Literal['S', 'L']", laid.protection)
    await laid.stop()
    return Protection(found, laid.reasons)
