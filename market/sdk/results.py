"""What commands and WASM modules leave behind, read from plain data that a provider made."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from market.domain.kind import Kind
from settlement.domain.errors import TaskFailed, UnsafeResult

EXIT_CODE_MAX: Final = 2**32 - 1
OUTPUT_CHARS_SHOWN: Final = 2_000


@dataclass(frozen=True, slots=True)
class CommandResult:
    """How a command ended: 128 + n where signal n ended it; `files` are those asked for."""

    exit_code: int
    stdout: bytes
    files: Mapping[str, bytes]

    @property
    def text(self) -> str:
        """Standard output as text."""
        return self.stdout.decode(errors="replace")

    def check(self) -> "CommandResult":
        """Itself; `TaskFailed` where the exit code is not 0."""
        if self.exit_code != 0:
            said = self.text[-OUTPUT_CHARS_SHOWN:]
            raise TaskFailed(f"the command ended with exit code {self.exit_code}: {said}")
        return self

    def save(self, folder: str | Path) -> list[Path]:
        """Write the files below a folder."""
        root = Path(folder)
        written = []
        for name, content in self.files.items():
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
            written.append(path)
        return written


@dataclass(frozen=True, slots=True)
class WasmResult:
    """How a module ended: by its exit code, or by a trap. `fuel` is the same on every machine."""

    exit_code: int
    stdout: bytes
    fuel: int
    trap: str

    @property
    def text(self) -> str:
        """Standard output as text."""
        return self.stdout.decode(errors="replace")

    def check(self) -> "WasmResult":
        """Itself; `TaskFailed` where it trapped or the exit code is not 0."""
        if self.trap or self.exit_code != 0:
            how = self.trap or f"exit code {self.exit_code}"
            raise TaskFailed(f"the module ended with {how} after {self.fuel} fuel")
        return self


def read(kind: Kind, value: object) -> Any:  # noqa: ANN401 - whatever a function returned
    """A decoded result in the form of its kind; the provider may have sent anything."""
    if kind == "function":
        return value
    fields: dict[object, object] = value if isinstance(value, dict) else {}
    exit_code, stdout = fields.get("exit_code"), fields.get("stdout")
    if type(exit_code) is int and 0 <= exit_code <= EXIT_CODE_MAX and isinstance(stdout, bytes):
        files, fuel, trap = fields.get("files"), fields.get("fuel"), fields.get("trap")
        if kind == "command" and isinstance(files, dict) and all(map(_is_file, files.items())):
            return CommandResult(exit_code, stdout, files)
        if kind == "wasm" and type(fuel) is int and fuel >= 0 and isinstance(trap, str):
            return WasmResult(exit_code, stdout, fuel, trap)
    raise UnsafeResult(f"this is not what a job of the kind {kind} leaves")


def _is_file(item: tuple[object, object]) -> bool:
    """A name that stays below whatever folder it is put in, and bytes."""
    name, content = item
    if not isinstance(name, str) or not isinstance(content, bytes) or not name.isprintable():
        return False
    return "\\" not in name and not {"", ".", ".."}.intersection(name.split("/"))
