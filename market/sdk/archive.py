"""A folder as one tar archive: the same content gives the same bytes, and nothing outside gets in."""

import io
import os
import stat
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from settlement.domain.errors import LimitExceeded, Malformed, NotFound

LEFT_OUT: Final = frozenset({".git", ".hg", ".svn", ".venv", "__pycache__"})
FILES_MAX: Final = 10_000
BYTES_MAX: Final = 32 << 20
FOLDER_MODE: Final = 0o755
FILE_MODE: Final = 0o644
PROGRAM_MODE: Final = 0o755


def pack(folder: str | Path | None) -> bytes:
    """Files and folders below it, sorted, without owners and times; of None, nothing.

    A link to a file inside travels as that file; any other link, a device, a socket or a pipe is
    refused by name. `LEFT_OUT` names what stays at home.
    """
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        if folder is not None:
            _fill(tar, Path(folder).resolve())
    return buffer.getvalue()


def _fill(tar: tarfile.TarFile, root: Path) -> None:
    if not root.is_dir():
        raise NotFound(f"{root} is not a folder")
    size = 0
    for count, (name, path) in enumerate(_walk(root), start=1):
        member, content = _member(name, path, root)
        size += len(content)
        if count > FILES_MAX or size > BYTES_MAX:
            raise LimitExceeded(f"{root} has over {FILES_MAX} files or {BYTES_MAX} bytes")
        tar.addfile(member, io.BytesIO(content))


def _walk(root: Path) -> Iterator[tuple[str, Path]]:
    for folder, folders, files in os.walk(root):
        folders[:] = sorted(name for name in folders if name not in LEFT_OUT)
        for name in sorted([*folders, *files]):
            path = Path(folder, name)
            yield path.relative_to(root).as_posix(), path


def _member(name: str, path: Path, root: Path) -> tuple[tarfile.TarInfo, bytes]:
    if not name.isprintable():
        raise Malformed(f"{name!r} is not a name that can travel")
    member = tarfile.TarInfo(name)
    real = path.resolve()
    if path.is_symlink() and not (real.is_relative_to(root) and real.is_file()):
        raise Malformed(f"{name} is a link to {real}, which is no file inside the folder")
    mode = real.stat().st_mode
    if stat.S_ISDIR(mode):
        member.type, member.mode = tarfile.DIRTYPE, FOLDER_MODE
        return member, b""
    if not stat.S_ISREG(mode):
        raise Malformed(f"{name} is neither a file nor a folder")
    if real.stat().st_size > BYTES_MAX:
        raise LimitExceeded(f"{name} has more than {BYTES_MAX} bytes")
    content = real.read_bytes()
    member.size = len(content)
    member.mode = PROGRAM_MODE if mode & stat.S_IXUSR else FILE_MODE
    return member, content
