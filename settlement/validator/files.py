"""Files that are there whole or not at all, whenever the machine stops."""

import os
import secrets
from pathlib import Path
from typing import Final

from settlement.domain.errors import MisConfigured

PUBLIC_MODE: Final = 0o644


def write(path: Path, data: bytes) -> None:
    """Replace the file in one step, durably."""
    fresh = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with fresh.open("wb") as file:
            os.fchmod(file.fileno(), PUBLIC_MODE)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        fresh.rename(path)
        _sync_folder(path.parent)
    except OSError as error:
        fresh.unlink(missing_ok=True)
        raise MisConfigured(f"{path}: {error.strerror}") from None


def read(path: Path) -> bytes | None:
    """The file, or None if there is none."""
    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise MisConfigured(f"{path}: {error.strerror}") from None


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
