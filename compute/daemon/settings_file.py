"""The settings file of a provider's home: TOML, mode 0600, written by `init`, changed by `price set`."""

import json
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from compute.daemon import files
from settlement.domain.errors import MisConfigured

SETTINGS_FILE: Final = "provider.toml"
FILE_MODE: Final = 0o600
FOLDER_MODE: Final = 0o700
OTHERS_WRITE: Final = 0o022
FILE_BYTES_MAX: Final = 64 * 1024
NOTICE: Final = (
    "# Settings of this provider, written by `gridpact provider init`. Flags and the environment\n"
    "# (GRIDPACT_PROVIDER_…) come first. Rates are micro-credits per second.\n"
)

Value = str | int | float | bool


def read(home: Path) -> dict[str, Any]:
    """What the file says; nothing if there is none."""
    path = home / SETTINGS_FILE
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            data = file.read(FILE_BYTES_MAX + 1)
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise MisConfigured(f"{path}: {error.strerror}") from None
    if mode & OTHERS_WRITE:
        raise MisConfigured(f"{path} may be changed by other users: chmod 600 it")
    if len(data) > FILE_BYTES_MAX:
        raise MisConfigured(f"{path} has more than {FILE_BYTES_MAX} bytes")
    try:
        return tomllib.loads(data.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise MisConfigured(f"{path}: {error}") from None


def write(home: Path, values: Mapping[str, Value]) -> Path:
    """Replace the file in one step."""
    path = home / SETTINGS_FILE
    try:
        home.mkdir(parents=True, exist_ok=True, mode=FOLDER_MODE)
    except OSError as error:
        raise MisConfigured(f"{path}: {error.strerror}") from None
    files.replace(path, text(values), mode=FILE_MODE)
    return path


def text(values: Mapping[str, Value]) -> str:
    """The file's bytes. The values are flat, which is the part of TOML that JSON writes as well."""
    lines = [f"{name} = {_literal(value)}" for name, value in values.items()]
    return NOTICE + "\n".join(lines) + "\n"


def _literal(value: Value) -> str:
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return json.dumps(value)
