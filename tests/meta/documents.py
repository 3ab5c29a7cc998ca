"""Marked blocks of the documents, for the tests that run, compare or recompute them."""

import json
import re
from typing import Final, cast

from tests.meta.tree import ROOT

README: Final = "README.md"
SDK_EXAMPLE: Final = "sdk-example"
_MARKED: Final = re.compile(
    r"<!-- (?P<name>[a-z0-9: .-]+) -->\n+```(?P<kind>[a-z]*)\n(?P<text>.*?)```", re.DOTALL
)


def text_of(document: str) -> str:
    """A document by its path in the checkout."""
    return (ROOT / document).read_text(encoding="utf-8")


def marked(document: str) -> dict[str, str]:
    """The fenced blocks that follow a comment with a name, by that name."""
    found = [(match["name"], match["text"]) for match in _MARKED.finditer(text_of(document))]
    names = [name for name, _ in found]
    assert len(set(names)) == len(names), f"a name stands twice in {document}"
    return dict(found)


def sdk_example() -> str:
    """The README's Python example. The system test runs it against a market of its own."""
    return marked(README)[SDK_EXAMPLE]


def vectors() -> dict[str, dict[str, object]]:
    """The test vectors of docs/protocol.md, by name."""
    return {
        name.removeprefix("vector: "): cast("dict[str, object]", json.loads(text))
        for name, text in marked("docs/protocol.md").items()
        if name.startswith("vector: ")
    }


def diagrams() -> dict[str, str]:
    """The state diagrams of docs/architecture.md, by the module whose table they draw."""
    return {
        name.removeprefix("states: "): text
        for name, text in marked("docs/architecture.md").items()
        if name.startswith("states: ")
    }
