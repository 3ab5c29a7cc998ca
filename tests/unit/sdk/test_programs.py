"""Commands and modules as they leave the consumer, and what is believed of what comes back."""

import io
import os
import tarfile
from pathlib import Path

import pytest

from market.sdk import archive, results
from market.sdk.client import MarketClient
from market.sdk.command import Command, input_bytes
from market.sdk.function import Terms
from market.sdk.results import CommandResult, WasmResult
from market.sdk.wasm import Wasm
from market.wire import programs
from settlement.domain.errors import (
    LimitExceeded,
    Malformed,
    NotFound,
    TaskFailed,
    UnsafeResult,
)


def folder(root: Path) -> Path:
    (root / "inner").mkdir(parents=True)
    (root / "b.txt").write_text("b")
    (root / "inner" / "run").write_text("#!/bin/sh\n")
    (root / "inner" / "run").chmod(0o700)
    (root / "same").symlink_to("b.txt")
    (root / ".git").mkdir()
    (root / ".git" / "config").write_text("a token")
    return root


def unpacked(packed: bytes) -> dict[str, tuple[int, bytes]]:
    with tarfile.open(fileobj=io.BytesIO(packed)) as tar:
        members = tar.getmembers()
        assert all((m.uid, m.gid, m.mtime, m.uname) == (0, 0, 0, "") for m in members)
        files = {m.name: tar.extractfile(m) for m in members}
        return {m.name: (m.mode, f.read() if (f := files[m.name]) else b"") for m in members}


def test_the_same_folder_is_the_same_archive(tmp_path: Path) -> None:
    one, other = folder(tmp_path / "one"), folder(tmp_path / "other")
    os.utime(other / "b.txt", (1, 1))
    packed = archive.pack(one)
    assert packed == archive.pack(other)
    assert unpacked(packed) == {
        "b.txt": (0o644, b"b"),
        "inner": (0o755, b""),
        "inner/run": (0o755, b"#!/bin/sh\n"),
        "same": (0o644, b"b"),
    }
    (other / "b.txt").write_text("c")
    assert packed != archive.pack(other)
    assert unpacked(archive.pack(None)) == {}


def test_nothing_from_outside_travels(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (tmp_path / "secret").write_text("x")
    for name, target in (("out", "../secret"), ("up", ".."), ("gone", "nowhere"), ("dir", ".")):
        (root / name).symlink_to(target)
        with pytest.raises(Malformed, match=f"{name} is a link"):
            archive.pack(root)
        (root / name).unlink()
    os.mkfifo(root / "pipe")
    with pytest.raises(Malformed, match="pipe is neither"):
        archive.pack(root)
    (root / "pipe").unlink()
    (root / "odd\nname").touch()
    with pytest.raises(Malformed, match="not a name"):
        archive.pack(root)
    with pytest.raises(NotFound):
        archive.pack(root / "nothing")


def test_a_folder_has_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in "abc":
        (tmp_path / name).write_bytes(b"x" * 10)
    monkeypatch.setattr(archive, "FILES_MAX", 2)
    with pytest.raises(LimitExceeded):
        archive.pack(tmp_path)
    monkeypatch.setattr(archive, "FILES_MAX", 3)
    archive.pack(tmp_path)
    monkeypatch.setattr(archive, "BYTES_MAX", 29)
    with pytest.raises(LimitExceeded):
        archive.pack(tmp_path)


def test_inputs_travel_as_bytes() -> None:
    assert [input_bytes(value) for value in (b"\xff", "é", 3, {"a": [1]})] == [
        b"\xff", "é".encode(), b"3", b'{"a": [1]}',
    ]  # fmt: skip
    with pytest.raises(Malformed):
        input_bytes(object())


def test_code_has_limits() -> None:
    def command(*words: str, collect: tuple[str, ...] = ()) -> bytes:
        made = programs.CommandCode(arguments=list(words), archive=b"", collect=list(collect))
        return programs.encode(made)

    assert command("a") == command("a") != command("b")
    for words in ((), ("zero\0",)):
        with pytest.raises(Malformed):
            command(*words)
    with pytest.raises(LimitExceeded):
        command(*["a"] * (programs.ARGUMENTS_MAX + 1))
    with pytest.raises(LimitExceeded):
        command("a" * (programs.ARGUMENT_CHARS_MAX + 1))
    for fuel, memory in ((0, 1), (programs.FUEL_MAX + 1, 1), (1, 0), (1, 4097)):
        with pytest.raises(LimitExceeded):
            programs.encode(
                programs.WasmCode(module=b"", arguments=[], fuel_max=fuel, memory_mib=memory)
            )


async def test_what_is_no_module_is_refused_before_anything_is_sent(client: MarketClient) -> None:
    with pytest.raises(Malformed, match="no WASM module"):
        Wasm(client, b"\0asm\x0d\0\1\0", Terms()).code.pack()  # a component
    assert Wasm(client, "a/b.wasm", Terms()).code.name == "b.wasm"
    assert Command(client, ["python", "x.py"], Terms()).code.name == "python x.py"


def test_results_have_their_forms() -> None:
    command = results.read("command", {"exit_code": 1, "stdout": b"x", "files": {"a/b": b""}})
    assert command == CommandResult(1, b"x", {"a/b": b""})
    with pytest.raises(TaskFailed, match="exit code 1"):
        command.check()
    wasm = results.read("wasm", {"exit_code": 0, "stdout": b"x", "fuel": 3, "trap": ""})
    assert wasm == WasmResult(0, b"x", 3, "")
    assert wasm.check().text == "x"
    with pytest.raises(TaskFailed, match="unreachable"):
        WasmResult(0, b"", 3, "unreachable").check()
    assert results.read("function", [1]) == [1]


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("command", None),
        ("command", {"exit_code": -1, "stdout": b"", "files": {}}),
        ("command", {"exit_code": True, "stdout": b"", "files": {}}),
        ("command", {"exit_code": 0, "stdout": "", "files": {}}),
        ("command", {"exit_code": 0, "stdout": b"", "files": {"a": "text"}}),
        *(
            ("command", {"exit_code": 0, "stdout": b"", "files": {name: b""}})
            for name in ("/etc/x", "../x", "a/../b", "a//b", "", "./a", "a\\b", "a\nb", 3)
        ),
        ("wasm", {"exit_code": 0, "stdout": b"", "fuel": -1, "trap": ""}),
        ("wasm", {"exit_code": 0, "stdout": b"", "fuel": 1}),
    ],
)
def test_a_hostile_result_is_no_result(kind: str, value: object) -> None:
    with pytest.raises(UnsafeResult):
        results.read(kind, value)  # type: ignore[arg-type]


def test_files_are_saved_below_the_folder(tmp_path: Path) -> None:
    saved = CommandResult(0, b"", {"out/a": b"1"}).save(tmp_path)
    assert saved == [tmp_path / "out" / "a"]
    assert saved[0].read_bytes() == b"1"
