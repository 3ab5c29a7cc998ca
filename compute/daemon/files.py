"""A file of the provider's that is replaced in one step, and is whole whenever the machine stops."""

import os
import secrets
from pathlib import Path

from settlement.domain.errors import MisConfigured


def replace(path: Path, text: str, *, mode: int) -> None:
    """Write the text, durably; nobody ever reads half of it, nor with other rights than `mode`."""
    fresh = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            os.fchmod(descriptor, mode)  # whatever the mask says
            file.write(text)
            file.flush()
            os.fsync(descriptor)
        fresh.rename(path)
    except OSError as error:
        fresh.unlink(missing_ok=True)
        raise MisConfigured(f"{path}: {error.strerror}") from None
