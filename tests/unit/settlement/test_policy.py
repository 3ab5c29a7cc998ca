"""Trust policies: the specification's example, quorums of groups, and every line that is refused."""

from itertools import combinations
from typing import Final

import pytest

from settlement.domain import checkpoint, cosignature, policy
from settlement.domain.errors import BadCheckpoint, Malformed
from settlement.domain.identity import PrivateKey
from tests.unit.settlement import logged
from tests.unit.settlement.test_cosignature import PUBLIC_LOG, PUBLIC_NOTE, PUBLIC_WITNESSES

NAMES: Final = ("X1", "X2", "X3", "Y1", "Y2", "Y3")
KEYS: Final = {name: PrivateKey(bytes([number + 64]) * 32) for number, name in enumerate(NAMES)}
VKEYS: Final = {name: cosignature.verifier_key(f"{name}.example", KEYS[name]) for name in NAMES}
NOTE: Final = checkpoint.sign(logged.MARKET, logged.LOG, size=3, root=b"\7" * 32)
EXAMPLE: Final = f"""\
# two groups
log {logged.LOG_KEY}

witness X1 {VKEYS["X1"]}
witness X2 {VKEYS["X2"]}
  witness\tX3 {VKEYS["X3"]} https://x3.example/
group X-witnesses 2 X1 X2 X3

witness Y1 {VKEYS["Y1"]}
witness Y2 {VKEYS["Y2"]}
witness Y3 {VKEYS["Y3"]}
group Y-witnesses any Y1 Y2 Y3

group X-and-Y all X-witnesses Y-witnesses
quorum X-and-Y
"""


def note_by(*names: str) -> str:
    text, note = checkpoint.split_note(NOTE)[0], NOTE
    for name in names:
        line = cosignature.sign(text, f"{name}.example", KEYS[name], time_seconds=1)
        note = cosignature.add_line(note, line)
    return note


def test_every_subset_of_the_example() -> None:
    read = policy.parse(EXAMPLE)
    assert read.urls == {"X3": "https://x3.example/"}
    for count in range(len(NAMES) + 1):
        for names in combinations(NAMES, count):
            enough = sum(name[0] == "X" for name in names) >= 2 and "Y" in {n[0] for n in names}
            if enough:
                assert read.verify(note_by(*names)).size == 3
            else:
                with pytest.raises(BadCheckpoint, match="quorum"):
                    read.verify(note_by(*names))


def test_a_simple_policy_is_k_of_n() -> None:
    read = policy.simple(logged.LOG_KEY, [VKEYS["X1"], VKEYS["X2"], VKEYS["X3"]], quorum=2)
    assert read.verify(note_by("X1", "X3")).origin == logged.MARKET
    with pytest.raises(BadCheckpoint):
        read.verify(note_by("X1", "Y1"))
    assert policy.simple(logged.LOG_KEY, [], quorum=0).verify(NOTE).size == 3


def test_public_witnesses_meet_a_policy() -> None:
    assert policy.simple(PUBLIC_LOG, PUBLIC_WITNESSES, quorum=4).verify(PUBLIC_NOTE).size > 0


def test_another_log_is_not_known() -> None:
    other = checkpoint.sign("other.example/log", logged.LOG, size=3, root=b"\7" * 32)
    with pytest.raises(BadCheckpoint, match="knows no log"):
        policy.parse(EXAMPLE).verify(other)


W: Final = "witness a " + VKEYS["X1"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "quorum missing\n",
        "quorum none\nquorum none\n",
        f"{W}\nquorum b\n",
        f"{W}\n{W}\nquorum a\n",
        f"{W}\nwitness b {VKEYS['X1']}\nquorum a\n",
        f"witness none {VKEYS['X1']}\nquorum none\n",
        f"witness a {logged.LOG_KEY}\nquorum a\n",
        f"log {VKEYS['X1']}\nquorum none\n",
        f"log {logged.LOG_KEY}\nlog {logged.LOG_KEY}\nquorum none\n",
        f"{W}\ngroup g 2 a\nquorum g\n",
        f"{W}\ngroup g 0 a\nquorum g\n",
        f"{W}\ngroup g 01 a\nquorum g\n",
        f"{W}\ngroup g some a\nquorum g\n",
        f"{W}\ngroup g any\nquorum g\n",
        f"{W}\ngroup g any a a\nquorum g\n",
        f"{W}\ngroup g any a\ngroup h any a\nquorum h\n",
        f"{W}\ngroup a any a\nquorum a\n",
        f"{W}\ngroup g any none\nquorum g\n",
        "group g any a\nquorum g\n",
        "quorum none extra\n",
        "log\nquorum none\n",
        "unknown line\nquorum none\n",
        "quorum none\x00\n",
        "quorum none\r\n",
    ],
)
def test_what_is_no_policy(text: str) -> None:
    with pytest.raises(Malformed):
        policy.parse(text)
