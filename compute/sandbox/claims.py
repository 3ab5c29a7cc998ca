"""User ids that only one live slot of a machine holds at a time, whoever's daemon it belongs to.

A claim is an abstract socket by the id's name: the kernel frees it when its holder ends.
"""

import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from settlement.domain.errors import NoSandbox

UID_FIRST: Final = 61_000
UID_COUNT: Final = 4_000
STRIDE: Final = 61  # neighbours in time start far apart


@dataclass(frozen=True)
class Claim:
    """One id, held until released."""

    uid: int
    holder: socket.socket

    def release(self) -> None:
        """Let another slot have it."""
        self.holder.close()


def _candidates() -> Iterator[int]:
    start = os.getpid() * STRIDE
    for step in range(UID_COUNT):
        yield UID_FIRST + (start + step) % UID_COUNT


def claim() -> Claim:
    """A free id of the range."""
    for uid in _candidates():
        holder = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            holder.bind(f"\0gridpact-uid-{uid}")
        except OSError:
            holder.close()
        else:
            return Claim(uid, holder)
    raise NoSandbox(f"all {UID_COUNT} user ids from {UID_FIRST} are in use")
