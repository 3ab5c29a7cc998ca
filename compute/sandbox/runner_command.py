"""Inside the sandbox: runs a command line in a fresh copy of its folder, once per input.

It comes by content and stands alone, as the runner does. The input goes where the command line says:
`{input}` is its text, `{input_file}` the path of a file that holds it; else it is standard input.
`{index}` is the task's number. What a task leaves behind, processes and files alike, is gone before
the next one.
"""

import fnmatch
import hashlib
import io
import os
import shutil
import signal
import stat
import subprocess
import sys
import tarfile
import tempfile
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, Final

import msgpack

MEMBERS_MAX: Final = 10_000
FOLDER_BYTES_MAX: Final = 32 << 20
STDOUT_BYTES_MAX: Final = 16 << 20
FILES_MAX: Final = 1_000
FILES_BYTES_MAX: Final = 32 << 20
PIECE_BYTES: Final = 1 << 16
SIGNAL_BASE: Final = 128  # as shells say it: 128 + the signal's number
SEED_BYTES: Final = 4
SHARED_MEMORY: Final = Path("/dev/shm")  # noqa: S108 - the sandbox's own
ALONE: Final = (2, 1)  # our pid and our parent's, in a namespace of our own
INPUT, INPUT_FILE, INDEX = "{input}", "{input_file}", "{index}"


class Exceeded(Exception):
    """The command left more than is taken."""


class Program:
    """One lease's command."""

    def __init__(self, code: bytes, *, confined: bool) -> None:
        message = msgpack.unpackb(code)
        self.arguments: list[str] = message["arguments"]
        self.collect: list[str] = message["collect"]
        self.members = dict(members(message["archive"]))
        if confined and (os.getpid(), os.getppid()) != ALONE:
            raise RuntimeError("not alone: here the end of one task could end somebody else's work")
        self.confined = confined
        self.scratch = Path(os.environ["HOME"] if confined else tempfile.mkdtemp())
        self.home = self.scratch / "job"
        self.work = self.home / "work"

    def run(self, seed: int, index: int, body: bytes) -> dict[str, Any]:
        """Exit code, standard output and files; what it writes to standard error is the log."""
        self._fresh()
        arguments, used = self._filled(index, body)
        with tempfile.TemporaryFile(dir=self.home) as source:
            source.write(b"" if used else body)
            source.seek(0)
            process = subprocess.Popen(
                arguments,
                cwd=self.work,
                env=self._environment(seed, index),
                stdin=source,
                stdout=subprocess.PIPE,
                start_new_session=True,
            )
        ends: list[int] = []
        watcher = threading.Thread(target=self._watch, args=(process, ends))
        watcher.start()
        try:
            stdout = self._read(process)
        finally:
            watcher.join()
        code = ends[0] if ends[0] >= 0 else SIGNAL_BASE - ends[0]
        return {"exit_code": code, "files": self._files(), "stdout": stdout}

    def _watch(self, process: "subprocess.Popen[bytes]", ends: list[int]) -> None:
        """When the command ends, so does whatever it started, which may hold its output open."""
        ends.append(process.wait())
        self._end(process)

    def _end(self, process: "subprocess.Popen[bytes]") -> None:
        if self.confined:
            with suppress(ProcessLookupError):
                os.kill(-1, signal.SIGKILL)  # all of this pid namespace but its first and ourselves
        else:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)

    def _read(self, process: "subprocess.Popen[bytes]") -> bytes:
        stdout = bytearray()
        assert process.stdout is not None
        with process.stdout as pipe:
            while piece := os.read(pipe.fileno(), PIECE_BYTES):
                stdout += piece
                if len(stdout) > STDOUT_BYTES_MAX:
                    self._end(process)
                    raise Exceeded(f"the command wrote more than {STDOUT_BYTES_MAX} bytes")
        return bytes(stdout)

    def _filled(self, index: int, body: bytes) -> tuple[list[str], bool]:
        """The words of the command line, and whether the input stands in them."""
        path = self.home / "input"
        line = "\0".join(self.arguments)
        used = INPUT in line or INPUT_FILE in line
        text = body.decode() if INPUT in line else ""
        if "\0" in text:
            raise ValueError("an input that is an argument holds no zero byte")
        if INPUT_FILE in line:
            path.write_bytes(body)
        values = {INDEX: str(index), INPUT_FILE: str(path), INPUT: text}
        return [_replaced(word, values) for word in self.arguments], used

    def _environment(self, seed: int, index: int) -> dict[str, str]:
        drawn = hashlib.sha256(f"{seed}:{index}".encode()).digest()
        return {
            **os.environ,
            "GRIDPACT_INDEX": str(index),
            "GRIDPACT_SEED": str(int.from_bytes(drawn[:SEED_BYTES], "little")),
            "PATH": f"{self.home / 'bin'}:{os.environ['PATH']}",
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONPATH": str(Path(msgpack.__file__).parent.parent),
        }

    def _fresh(self) -> None:
        """Every task finds what the first one found."""
        if self.confined:
            clear(SHARED_MEMORY)
        clear(self.scratch)
        for folder in (self.work, self.home / "bin"):
            folder.mkdir(parents=True)
        for name in ("python", "python3"):
            (self.home / "bin" / name).symlink_to(sys.executable)
        for name, (mode, content) in self.members.items():
            path = self.work / name
            if content is None:
                path.mkdir(parents=True, exist_ok=True)
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
            path.chmod(mode)

    def _files(self) -> dict[str, bytes]:
        """Regular files below the folder whose name fits a pattern; links are not followed."""
        found: dict[str, bytes] = {}
        size = 0
        for name, path in sorted(_regular(self.work)):
            if not any(fnmatch.fnmatchcase(name, pattern) for pattern in self.collect):
                continue
            with path.open("rb") as file:
                content = file.read(FILES_BYTES_MAX + 1)
            size += len(content)
            if len(found) >= FILES_MAX or size > FILES_BYTES_MAX:
                told = f"{FILES_MAX} files and {FILES_BYTES_MAX} bytes"
                raise Exceeded(f"the command left more than {told} to bring back")
            found[name] = content
        return found


def members(archive: bytes) -> Iterator[tuple[str, tuple[int, bytes | None]]]:
    """Names below the folder with mode and content; whatever is no plain file or folder is refused."""
    size = count = 0
    with tarfile.open(fileobj=io.BytesIO(archive), mode="r:") as tar:
        for member in tar:
            count += 1
            size += member.size
            parts = member.name.split("/")
            if "\0" in member.name or {"", ".", ".."}.intersection(parts):
                raise ValueError(
                    f"the archive names {member.name!r}, which is not below its folder"
                )
            if not (member.isdir() or member.isreg()) or member.issparse():
                raise ValueError(f"{member.name!r} in the archive is no plain file or folder")
            if count > MEMBERS_MAX or size > FOLDER_BYTES_MAX:
                raise ValueError(
                    f"the archive has over {MEMBERS_MAX} files or {FOLDER_BYTES_MAX} bytes"
                )
            file: IO[bytes] | None = tar.extractfile(member) if member.isreg() else None
            yield member.name, (member.mode & 0o755 | 0o600, file.read() if file else None)


def clear(folder: Path) -> None:
    """Empty a folder, whatever modes the things in it have."""
    for place, names, _ in os.walk(folder):
        for name in names:  # before they are entered
            path = Path(place, name)
            if not path.is_symlink():
                path.chmod(stat.S_IRWXU)
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def _regular(root: Path) -> Iterator[tuple[str, Path]]:
    for folder, _, names in os.walk(root):
        for name in names:
            path = Path(folder, name)
            if stat.S_ISREG(path.lstat().st_mode):
                yield path.relative_to(root).as_posix(), path


def _replaced(word: str, values: dict[str, str]) -> str:
    """Each token once; what stands in an input is not looked at again."""
    for token, value in values.items():
        if token in word:
            rest = {other: text for other, text in values.items() if other != token}
            return value.join(_replaced(part, rest) for part in word.split(token))
    return word
