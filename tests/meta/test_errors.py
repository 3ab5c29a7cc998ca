"""Every error has a stable code, a sentence, a cure, a status, and its class on both sides."""

import re
from typing import Final

import msgspec
import pytest

from market.wire import problem
from settlement.domain.errors import Failed, GridpactError, Refused

CODE: Final = re.compile(r"[a-z]+(-[a-z]+)*\Z")
LOCAL: Final = frozenset({"market-changed", "log-differs"})  # what only a client concludes
CODES: Final = sorted(GridpactError.registry)


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
    assert code in problem.STATUS or code in LOCAL or issubclass(kind, Failed)  # else a 500
    returned = problem.to_error(msgspec.json.encode(document), document.status)
    assert type(returned) is kind
    assert returned.detail == "what went wrong"


def test_no_status_is_given_to_an_unknown_code() -> None:
    assert set(problem.STATUS) <= set(CODES)
