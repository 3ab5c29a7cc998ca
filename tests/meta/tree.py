"""What the meta tests read: the files of this checkout, without what tools leave behind."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]
PACKAGES: Final = ("settlement", "market", "compute")
SOURCES: Final = (*PACKAGES, "migrations", "tests", "docs")
FOLDERS: Final = (*SOURCES, ".ci")
_LEFT_BEHIND: Final = "__pycache__"


def files() -> list[Path]:
    """Every file that belongs to the project: the root's own, and those below its folders."""
    found = [path for path in ROOT.iterdir() if path.is_file() and not _ignored(path)]
    for folder in FOLDERS:
        found += [
            path
            for path in (ROOT / folder).rglob("*")
            if path.is_file() and _LEFT_BEHIND not in path.parts
        ]
    return sorted(found)


def _ignored(path: Path) -> bool:
    return path.name.startswith(".") and path.name != ".gitignore"


def modules(*folders: str) -> list[Path]:
    """Every Python file below the folders, all sources by default."""
    wanted = tuple(ROOT / folder for folder in folders or SOURCES)
    return [
        path
        for path in files()
        if path.suffix == ".py" and any(path.is_relative_to(folder) for folder in wanted)
    ]


def name(path: Path) -> str:
    """The path as people write it: relative to the checkout."""
    return path.relative_to(ROOT).as_posix()


@cache
def parsed(path: Path) -> ast.Module:
    """The module's syntax tree."""
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Every function of a module, also nested ones."""
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node
