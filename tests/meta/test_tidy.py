"""The source held to its own rules: sizes, docstrings, names, and purity of every domain."""

import ast
import re
from pathlib import Path
from typing import Final

from tests.meta import tree

FILE_LINES_MAX: Final = 400
FUNCTION_LINES_MAX: Final = 60
BANNED_WORDS: Final = frozenset(
    ["util", "utils", "helper", "helpers", "common", "misc", "base", "manager", "managers", "core"]
)
IMPURE_CALLS: Final = frozenset(
    ["now", "today", "time", "monotonic", "uuid1", "uuid4", "urandom", "print", "open"]
)
PURE_FOLDERS: Final = ("settlement/domain", "market/domain", "compute/domain", "market/wire")
WORDS: Final = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|[0-9]+")


def test_there_is_something_to_look_at() -> None:
    assert len(tree.modules(*tree.PACKAGES)) > 20


def test_every_module_says_what_it_is_for() -> None:
    silent = [tree.name(path) for path in tree.modules() if not _docstring(path)]
    assert silent == []


def test_no_file_is_too_long() -> None:
    long = {
        tree.name(path): lines
        for path in tree.modules()
        if (lines := len(path.read_text(encoding="utf-8").splitlines())) > FILE_LINES_MAX
    }
    assert long == {}


def test_no_function_is_too_long() -> None:
    long = {
        f"{tree.name(path)}:{node.name}": lines
        for path in tree.modules()
        for node in tree.functions(path)
        if (lines := (node.end_lineno or node.lineno) - node.lineno + 1) > FUNCTION_LINES_MAX
    }
    assert long == {}


def test_no_name_says_nothing() -> None:
    files = [tree.name(path) for path in tree.modules() if _words(path.stem) & BANNED_WORDS]
    classes = [
        f"{tree.name(path)}:{node.name}"
        for path in tree.modules()
        for node in ast.walk(tree.parsed(path))
        if isinstance(node, ast.ClassDef) and _words(node.name) & BANNED_WORDS
    ]
    functions = [
        f"{tree.name(path)}:{node.name}"
        for path in tree.modules()
        for node in tree.functions(path)
        if node.name.strip("_") in BANNED_WORDS
    ]
    assert files + classes + functions == []


def test_the_domain_is_pure() -> None:
    impure = [
        f"{tree.name(path)}:{getattr(node, 'lineno', 0)}"
        for path in tree.modules(*PURE_FOLDERS)
        for node in ast.walk(tree.parsed(path))
        if _is_impure(node)
    ]
    assert impure == []


def test_packages_re_export_nothing() -> None:
    full = [
        tree.name(path)
        for path in tree.modules(*tree.PACKAGES)
        if path.name == "__init__.py" and len(tree.parsed(path).body) != 1
    ]
    assert full == []


def test_every_package_has_its_paragraph() -> None:
    folders = {path.parent for path in tree.modules(*tree.PACKAGES)}
    bare = [tree.name(folder) for folder in folders if not (folder / "__init__.py").is_file()]
    assert bare == []


def test_every_test_file_tests_something() -> None:
    idle = [
        tree.name(path)
        for path in tree.modules("tests")
        if path.name.startswith("test_") and not _has_a_test(path)
    ]
    assert idle == []


def _has_a_test(path: Path) -> bool:
    machine = any(  # hypothesis state machines become tests by assignment
        isinstance(node, ast.Assign)
        and isinstance(node.targets[0], ast.Name)
        and node.targets[0].id.startswith("Test")
        for node in tree.parsed(path).body
    )
    return machine or any(node.name.startswith("test_") for node in tree.functions(path))


def _docstring(path: Path) -> str:
    return (ast.get_docstring(tree.parsed(path)) or "").strip()


def _words(text: str) -> set[str]:
    return {word.lower() for word in WORDS.findall(text)}


def _is_impure(node: ast.AST) -> bool:
    if isinstance(node, ast.AsyncFunctionDef | ast.Await | ast.AsyncFor | ast.AsyncWith):
        return True
    if not isinstance(node, ast.Call):
        return False
    called = node.func
    if isinstance(called, ast.Attribute):
        # a moment or a clock: `datetime.time(12, 0)` is data, `time.time()` is not
        owner = getattr(called.value, "id", "")
        return called.attr in IMPURE_CALLS and (called.attr != "time" or owner == "time")
    return getattr(called, "id", "") in IMPURE_CALLS
