"""The README's promises: its commands exist, its example is short and names only what there is."""

import ast
import importlib
import os
import re
from typing import Final

from tests.meta import documents, tree

EXAMPLE_LINES_MAX: Final = 12
LINK: Final = re.compile(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)")
MAKE: Final = re.compile(r"(?:^|`)make ([a-z-]+)\b", re.MULTILINE)


def test_the_example_is_short() -> None:
    lines = [line for line in documents.sdk_example().splitlines() if line.strip()]
    assert 5 <= len(lines) <= EXAMPLE_LINES_MAX


def test_the_example_uses_only_what_the_sdk_has() -> None:
    parsed = ast.parse(documents.sdk_example())
    names = {}
    for node in ast.walk(parsed):
        if isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                module = importlib.import_module(f"{node.module}.{alias.name}")
                names[alias.asname or alias.name] = module
    assert names
    used = [
        (node.value.id, node.attr)
        for node in ast.walk(parsed)
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id in names
    ]
    assert used
    assert [pair for pair in used if not hasattr(names[pair[0]], pair[1])] == []


def test_every_make_target_in_the_documents_exists() -> None:
    makefile = documents.text_of("Makefile")
    targets = set(re.findall(r"^([a-z][a-z-]*):", makefile, re.MULTILINE)) | {"bench-"}
    for document in (documents.README, "CONTRIBUTING.md"):
        named = {name.removesuffix("NAME") for name in MAKE.findall(documents.text_of(document))}
        assert named
        assert named <= targets


def test_every_make_target_is_documented() -> None:
    makefile = documents.text_of("Makefile")
    phony = re.search(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)
    assert phony
    explained = set(re.findall(r"^([a-z][a-z-]*):.*## ", makefile, re.MULTILINE))
    assert set(phony[1].split()) == explained
    told = documents.text_of("CONTRIBUTING.md")
    assert [name for name in explained - {"help"} if f"make {name}" not in told] == []


def test_ci_runs_what_people_run() -> None:
    script = documents.text_of(".ci/run")
    assert os.access(tree.ROOT / ".ci/run", os.X_OK)
    commands = [line for line in script.splitlines() if line and not line.startswith("#")]
    assert commands == ["set -eu", 'cd "$(dirname "$0")/.."', "exec make test </dev/null"]


def test_links_inside_the_checkout_lead_somewhere() -> None:
    pages = [path for path in tree.files() if path.suffix == ".md"]
    broken = [
        f"{tree.name(page)}: {target}"
        for page in pages
        for target in LINK.findall(page.read_text(encoding="utf-8"))
        if not (page.parent / target).exists()
    ]
    assert len(pages) > 5
    assert broken == []
