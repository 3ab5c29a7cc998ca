"""docs/reference is what `make docs` writes; every setting and route says what it is for."""

import re

import pytest

from docs.reference import generate
from tests.meta import tree


@pytest.mark.parametrize("page", sorted(generate.PAGES))
def test_the_page_is_what_the_code_says(page: str) -> None:
    written = (generate.FOLDER / page).read_text(encoding="utf-8")
    assert written == generate.PAGES[page](), "run `make docs`"


@pytest.mark.parametrize("page", sorted(generate.PAGES))
def test_every_row_says_something(page: str) -> None:
    rows = [line for line in generate.PAGES[page]().splitlines() if line.startswith("| `")]
    assert rows
    assert [row for row in rows if re.search(r"\|\s*(None)?\s*\|$", row)] == []


def test_every_variable_for_everywhere_is_read_somewhere() -> None:
    sources = "".join(path.read_text(encoding="utf-8") for path in tree.modules(*tree.PACKAGES))
    assert [name for name in generate.EVERYWHERE if f'"{name}"' not in sources] == []
