"""The market's log, checked from the command line of `aics-tlog`, over HTTP and with a witness.

It needs a newer Python than this project; `make interop` fetches it where there is one, and without
it this is skipped.
"""

import asyncio
import base64
import time
from pathlib import Path
from typing import Final

import pytest
import pytest_asyncio

from settlement.domain import checkpoint, cosignature
from settlement.domain.identity import PrivateKey
from tests.interop.served import Served, serving_log
from tests.system.running import Running

PROGRAM: Final = Path(__file__).resolve().parents[2] / ".interop" / "aics" / "bin" / "aics-tlog"
WITNESS: Final = PrivateKey(b"\6" * 32)
NAME: Final = "validator.example/one"

pytestmark = pytest.mark.skipif(
    not PROGRAM.exists(), reason="no aics-tlog: `make interop` fetches it where Python 3.12 is"
)


@pytest_asyncio.fixture
async def served(api: Running) -> Served:
    return await serving_log(api)


async def typed(*words: str) -> int:
    """A command's exit code."""
    process = await asyncio.create_subprocess_exec(
        str(PROGRAM), *words, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL
    )
    return await process.wait()


async def test_it_verifies_the_log(served: Served, tmp_path: Path) -> None:
    """Head, entries, older heads; and nothing of it under another log's key."""
    stranger = checkpoint.verifier_key(served.origin, PrivateKey(b"\7" * 32))
    for key, expected in ((served.vkey, 0), (stranger, 1)):
        trusting = ("--tiles", served.url, "--log-key", key, "--origin", served.origin)
        assert await typed("verify-checkpoint", *trusting) == expected
        for index in (0, 1, 255, 256, len(served.envelopes) - 1):
            assert await typed("verify-inclusion", *trusting, "--index", str(index)) == expected
        for number, note in enumerate(served.notes[:3]):
            path = tmp_path / f"{number}.note"
            path.write_text(note, newline="")
            asked = ("verify-consistency", *trusting, "--old-checkpoint", str(path))
            assert await typed(*asked) == expected


async def test_it_counts_our_cosignatures(served: Served, tmp_path: Path) -> None:
    """A validator's line makes its quorum of one; without the line there is none."""
    note = served.notes[-1]
    text = note.partition("\n\n")[0] + "\n"
    line = cosignature.sign(text, NAME, WITNESS, time_seconds=int(time.time()))
    path = tmp_path / "head.note"
    witness = ("--witness-key", cosignature.verifier_key(NAME, WITNESS), "--quorum", "1")
    for written, expected in (
        (cosignature.add_line(note, line), 0),
        (note, 1),
        (spoilt(note, line), 1),
    ):
        path.write_text(written, newline="")
        asked = ("verify-checkpoint", "--note", str(path), "--log-key", served.vkey, *witness)
        assert await typed(*asked) == expected


def spoilt(note: str, line: str) -> str:
    """The cosigned note with one bit of the cosignature turned."""
    head, _, encoded = line.rstrip("\n").rpartition(" ")
    data = bytearray(base64.b64decode(encoded))
    data[-1] ^= 1
    return cosignature.add_line(note, f"{head} {base64.b64encode(bytes(data)).decode()}\n")
