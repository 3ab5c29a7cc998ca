"""Evidence against a log: it proves what it says, and nothing else can be made to prove it."""

from typing import Final

import pytest

from settlement.domain import checkpoint, conflict, merkle
from settlement.domain.errors import BadCheckpoint, BadProof
from settlement.domain.identity import PrivateKey
from tests.unit.settlement import logged

ENTRIES: Final = [b"entry %d" % number for number in range(20)]
FORGED: Final = [*ENTRIES[:7], b"forged", *ENTRIES[8:]]


def note(entries: list[bytes], size: int, *, key: PrivateKey = logged.LOG) -> str:
    return checkpoint.sign(logged.MARKET, key, size=size, root=merkle.root(entries[:size]))


def node(entries: list[bytes]) -> merkle.Node:
    return merkle.nodes_of([merkle.leaf_hash(entry) for entry in entries])


def split(old: int, size: int, *, first: list[bytes] = ENTRIES, second: list[bytes] = FORGED) -> bytes:  # fmt: skip
    """The head of `first` at `old`, which `second` at `size` does not begin with."""
    path = merkle.consistency(node(second), old=old, size=size)
    return conflict.make_split(
        note(first, old), note(second, size), root=merkle.root(second[:old]), path=path, index=7,
        expected="a", found="b",
    )  # fmt: skip


@pytest.mark.parametrize(("old", "size"), [(8, 9), (8, 20), (12, 12), (19, 20), (20, 20)])
def test_a_split_proves_itself(old: int, size: int) -> None:
    data = split(old, size)
    assert conflict.kind_of(data) == "split"
    first, second = conflict.verify_split(data, logged.LOG_KEY)
    assert (first.size, second.size) == (old, size)


@pytest.mark.parametrize(("old", "size"), [(7, 20), (1, 9), (20, 20), (0, 5)])
def test_heads_that_fit_are_no_split(old: int, size: int) -> None:
    second = ENTRIES if old == 20 else FORGED  # before the forged entry the two are one
    with pytest.raises(BadProof):
        conflict.verify_split(split(old, size, second=second), logged.LOG_KEY)


def test_honest_heads_can_not_be_made_a_split() -> None:
    """Whatever root and path are claimed."""
    path = merkle.consistency(node(ENTRIES), old=8, size=20)
    for root, claimed in ((merkle.root(FORGED[:8]), path), (b"\1" * 32, path), (b"\1" * 32, [])):
        data = conflict.make_split(note(ENTRIES, 8), note(ENTRIES, 20), root=root, path=claimed)
        with pytest.raises(BadProof):
            conflict.verify_split(data, logged.LOG_KEY)


def test_only_the_logs_own_signature_accuses_it() -> None:
    path = merkle.consistency(node(FORGED), old=8, size=20)
    other = PrivateKey(b"\x44" * 32)
    data = conflict.make_split(
        note(ENTRIES, 8, key=other), note(FORGED, 20), root=merkle.root(FORGED[:8]), path=path
    )
    with pytest.raises(BadCheckpoint):
        conflict.verify_split(data, logged.LOG_KEY)


def test_every_changed_byte_of_a_split() -> None:
    """The place where the two part is a hint; all else is bound."""
    data = split(8, 20)
    hints = (b'"index":"', b'"expected":"', b'"found":"')
    free = {data.index(hint) + len(hint) for hint in hints}
    for at in range(len(data)):
        changed = bytearray(data)
        changed[at] ^= 1
        if at in free:
            assert conflict.verify_split(bytes(changed), logged.LOG_KEY)
            continue
        with pytest.raises((BadProof, BadCheckpoint)):
            conflict.verify_split(bytes(changed), logged.LOG_KEY)


def test_a_difference_shows_its_entry_under_the_signed_root() -> None:
    path = merkle.inclusion(node(ENTRIES), index=5, size=20)
    data = conflict.make_difference(
        note(ENTRIES, 20), ENTRIES[5], index=5, path=path, rule="r", expected="e", found="f"
    )
    assert conflict.kind_of(data) == "difference"
    assert conflict.verify_difference(data, logged.LOG_KEY).index == 5
    wrong = conflict.make_difference(
        note(ENTRIES, 20), ENTRIES[6], index=5, path=path, rule="r", expected="e", found="f"
    )
    with pytest.raises(BadProof):
        conflict.verify_difference(wrong, logged.LOG_KEY)


@pytest.mark.parametrize("data", [b"", b"{}", b"\xff", b'{"kind":"other"}', b"[" * 100_000])
def test_what_is_no_evidence(data: bytes) -> None:
    with pytest.raises(BadProof):
        conflict.kind_of(data)
    with pytest.raises(BadProof):
        conflict.verify_split(data, logged.LOG_KEY)
    with pytest.raises(BadProof):
        conflict.verify_difference(data, logged.LOG_KEY)


def test_what_is_too_large() -> None:
    with pytest.raises(BadProof, match="at most"):
        conflict.verify_split(b" " * (conflict.CONFLICT_BYTES_MAX + 1), logged.LOG_KEY)
