"""The recorded answers of an independent ledger engine, if the machine has them."""

import gzip
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest

from settlement.domain.ledger import Account, Event

VARIABLE: Final = "GRIDPACT_LEDGER_VECTORS"
BESIDE: Final = Path(__file__).parents[3].parent / "shared" / "data" / "ledger-vectors.jsonl.gz"
MISSING: Final = (
    "ledger vectors not found: set GRIDPACT_LEDGER_VECTORS or put ledger-vectors.jsonl.gz into"
    " ../shared/data/"
)
CAUSE: Final = bytes(32)  # the recording has no causes
REPEATED: Final = 46  # carries the time of the first answer, not of the event


class Batch(NamedTuple):
    """One request and what came back."""

    events: list[Event]
    codes: list[int]
    times: list[int]
    balances: list[list[int]]
    last_ns: int


class Group(NamedTuple):
    """One empty ledger's accounts and the requests to it, in order."""

    accounts: list[Account]
    batches: list[Batch]


def groups() -> Iterator[Group]:
    """All of them; skips the calling test if the file is not there."""
    named = os.environ.get(VARIABLE)
    path = Path(named) if named else BESIDE
    if not path.is_file():
        pytest.skip(MISSING)
    group: Group | None = None
    with gzip.open(path, "rt") as file:
        for line in file:
            said = json.loads(line)
            if "accounts" in said:
                if group is not None:
                    yield group
                group = Group([Account(*row) for row in said["accounts"]], [])
                continue
            assert group is not None
            before = group.batches[-1].last_ns if group.batches else 0
            group.batches.append(_batch(said, before))
    assert group is not None
    yield group


def _batch(said: dict[str, Any], before_ns: int) -> Batch:
    events = [Event._make([*map(int, row), CAUSE]) for row in said["ev"]]
    answers = zip(said["st"], said["ts"], strict=True)
    own = {
        time + len(events) - 1 - position
        for position, (code, time) in enumerate(answers)
        if code != REPEATED
    }
    assert len(own) <= 1
    last_ns = own.pop() if own else before_ns + len(events)
    return Batch(events, said["st"], said["ts"], said["bal"], last_ns)
