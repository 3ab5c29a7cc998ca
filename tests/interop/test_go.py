"""The market's log, checked by Go's own `note` and `tlog`: the packages behind Go's checksum database.

They come with the Go toolchain, which `make interop` fetches; without it this is skipped.
"""

import asyncio
import os
import shutil
from pathlib import Path
from typing import Final

import pytest
import pytest_asyncio

from settlement.domain import checkpoint
from settlement.domain.identity import PrivateKey
from tests.interop.served import Served, serving_log
from tests.system.running import Running

ROOT: Final = Path(__file__).resolve().parents[2]
GO: Final = ROOT / ".interop" / "go" / "go"
MODULE: Final = GO / "src" / "cmd" / "vendor" / "golang.org" / "x" / "mod"
BUILD_SECONDS: Final = 240

pytestmark = [
    pytest.mark.timeout(BUILD_SECONDS),
    pytest.mark.skipif(
        not (GO / "bin" / "go").exists(), reason="no Go toolchain: `make interop` fetches it"
    ),
]


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The client, built over the toolchain's own copy of the packages; nothing is downloaded."""
    folder = tmp_path_factory.mktemp("golang")
    shutil.copytree(MODULE, folder / "mod")
    (folder / "mod" / "go.mod").write_text("module golang.org/x/mod\n\ngo 1.24\n")
    (folder / "go.mod").write_text(
        "module client\n\ngo 1.24\n\nrequire golang.org/x/mod v0.0.0\n\nreplace golang.org/x/mod => ./mod\n"
    )
    shutil.copy(ROOT / "tests" / "interop" / "golang" / "client.go", folder)
    environment = {
        **os.environ, "GOROOT": str(GO), "GOCACHE": str(folder / "cache"), "GOPATH": str(folder / "path"),
        "GOFLAGS": "-mod=mod", "GOPROXY": "off", "GOSUMDB": "off", "GOTOOLCHAIN": "local", "CGO_ENABLED": "0",
        "GOMAXPROCS": "2",
    }  # fmt: skip

    async def build() -> int:
        process = await asyncio.create_subprocess_exec(
            str(GO / "bin" / "go"), "build", "-o", "client", ".", cwd=folder, env=environment
        )
        return await process.wait()

    with asyncio.Runner() as runner:
        assert runner.run(build()) == 0
    return folder / "client"


@pytest_asyncio.fixture
async def served(api: Running) -> Served:
    return await serving_log(api)


async def ran(program: Path, served: Served, folder: Path, *, key: str) -> tuple[int, str]:
    """The client's answer about the log and the older heads."""
    for number, note in enumerate(served.notes):
        (folder / f"{number}.note").write_text(note, newline="")
    process = await asyncio.create_subprocess_exec(
        str(program), served.url, key, str(folder),
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    said, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, said.decode()


async def test_go_verifies_all_of_it(program: Path, served: Served, tmp_path: Path) -> None:
    """Signature, tiles, every entry, every older head."""
    expected = f"{len(served.envelopes)} entries, {len(served.notes)} older heads\n"
    assert await ran(program, served, tmp_path, key=served.vkey) == (0, expected)


async def test_go_refuses_another_history(program: Path, served: Served, tmp_path: Path) -> None:
    """So that it can fail: a head over other entries under the same key, and another key."""
    key = PrivateKey(bytes([2]) * 32)  # the fixture's own log key
    assert checkpoint.verifier_key(served.origin, key) == served.vkey
    forged = checkpoint.sign(served.origin, key, size=7, root=b"\7" * 32)
    (tmp_path / "forged.note").write_text(forged, newline="")
    code, said = await ran(program, served, tmp_path, key=served.vkey)
    assert (code, said.startswith("forged.note: ")) == (1, True)
    other = checkpoint.verifier_key(served.origin, PrivateKey(b"\7" * 32))
    code, said = await ran(program, served, tmp_path, key=other)
    assert (code, "signature" in said or "verif" in said) == (1, True)
