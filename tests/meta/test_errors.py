"""Every error has a stable code, a sentence, a cure, a status, and its row in the documents."""

import re
from typing import Final

import msgspec
import pytest

from docs.reference import generate
from market.wire import problem
from settlement.domain.errors import Failed, GridpactError, Refused
from tests.meta.tree import ROOT

CODE: Final = re.compile(r"[a-z]+(-[a-z]+)*\Z")
CODES: Final = sorted(GridpactError.registry)


def test_the_page_is_what_the_code_says() -> None:
    written = (ROOT / "docs/reference/errors.md").read_text(encoding="utf-8")
    assert written == generate.errors_page(), "run `make docs`"


@pytest.mark.parametrize("code", CODES)
def test_every_error_explains_itself(code: str) -> None:
    kind = GridpactError.registry[code]
    assert CODE.match(code)
    assert issubclass(kind, Refused | Failed)
    assert (kind.__doc__ or "").strip().endswith(".")
    assert kind.cure.endswith(".")


@pytest.mark.parametrize("code", CODES)
def test_every_error_keeps_its_class_over_the_wire(code: str) -> None:
    kind = GridpactError.registry[code]
    document = problem.from_error(kind("what went wrong"))
    assert code in problem.STATUS or issubclass(kind, Failed)  # a failure is a 500
    returned = problem.to_error(msgspec.json.encode(document), document.status)
    assert type(returned) is kind
    assert returned.detail == "what went wrong"


def test_no_status_is_given_to_an_unknown_code() -> None:
    assert set(problem.STATUS) <= set(CODES)
