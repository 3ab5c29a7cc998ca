"""The exit proof: one file, no server; what it proves, and that no byte of it can be another."""

from collections.abc import Callable
from functools import cache
from typing import Any, Final

import msgspec
import pytest

from settlement.domain import (
    canonical,
    checkpoint,
    cosignature,
    evidence,
    exit_proof,
    merkle,
    policy,
)
from settlement.domain.errors import BadProof, GridpactError
from settlement.domain.exit_proof import Exit, Owned
from settlement.domain.identity import PrivateKey
from settlement.domain.policy import Policy
from tests.unit.settlement.story import (
    CHECKER,
    CONSUMER,
    LEDGER,
    LOG,
    LOG_KEY,
    ORIGIN,
    SEER,
    STRANGER,
    WORKER,
    honest_story,
)

NAMES: Final = ("one.example/1", "two.example/1", "three.example/1")
KEYS: Final = tuple(PrivateKey(bytes([number]) * 32) for number in (0x71, 0x72, 0x73))
MEMBERS: Final = [cosignature.verifier_key(*pair) for pair in zip(NAMES, KEYS, strict=True)]
TWO_OF_THREE: Final = policy.simple(LOG_KEY, MEMBERS, quorum=2)


@cache
def note_of(cosigners: int, *, name: str = "expiry") -> str:
    """The head of the log before that entry, cosigned by so many."""
    entries = honest_story().before(name).entries
    note = checkpoint.sign(ORIGIN, LOG, size=len(entries), root=merkle.root(entries))
    text = note.split("\n\n")[0] + "\n"
    for member, key in list(zip(NAMES, KEYS, strict=True))[:cosigners]:
        note = cosignature.add_line(note, cosignature.sign(text, member, key, time_seconds=1))
    return note


def proof_of(statement: str, note: str) -> bytes:
    """The evidence file of an entry of the story."""
    entries = honest_story().before("expiry").entries
    index = honest_story().index(statement)
    node = merkle.nodes_of([merkle.leaf_hash(entry) for entry in entries])
    path = merkle.inclusion(node, index=index, size=len(entries))
    return evidence.make(envelope=entries[index], index=index, path=path, note=note)


def file_of(address: str, *, cosigners: int = 0, of: str = "state two") -> bytes:
    lines = honest_story().before(of).replay.lines()
    return exit_proof.make(address, lines, proof_of(of, note_of(cosigners)))


def verify(data: bytes, *, trusted: Policy | None = None) -> Owned:
    return exit_proof.verify(data, log_key=LOG_KEY, ledger_key=LEDGER.address, policy=trusted)


def changed(data: bytes, **fields: Any) -> bytes:  # noqa: ANN401 - of the file
    form = canonical.decode(data, Exit)
    return canonical.encode(msgspec.structs.replace(form, **fields))


@pytest.mark.parametrize("key", [WORKER, CHECKER, CONSUMER, STRANGER, LEDGER, SEER])
@pytest.mark.parametrize("of", ["state", "state two"])
def test_it_proves_what_the_replay_knows(key: PrivateKey, of: str) -> None:
    owned = verify(file_of(key.address, of=of))
    replay = honest_story().before(of).replay
    fields = [msgspec.json.decode(line) for line in replay.lines()]
    mine = [line for line in fields if line[0] == "account" and line[1] == key.address]
    assert owned.available == sum(int(line[8]) for line in mine if line[2] == 1)
    assert owned.held == sum(int(line[8]) for line in mine if line[2] == 2)
    assert owned.budgets == sum(int(line[8]) for line in mine if line[2] == 4)
    assert owned.reserved == sum(int(line[5]) for line in mine if line[2] == 1)
    assert (owned.address, owned.market, owned.size) == (key.address, ORIGIN, replay.size)
    assert owned.at_ms == honest_story().time(of)
    assert not owned.final


def test_the_amounts_by_hand() -> None:
    worker = verify(file_of(WORKER.address, of="state"))
    assert (worker.available, worker.held) == (0, 2 * 950)  # twice 2.5 s at 400, less a fee of 5 %
    consumer = verify(file_of(CONSUMER.address, of="state"))
    assert consumer.budgets == 5_000_000 - 2 * 1_100  # with a surcharge of 10 %
    assert consumer.available == 45_000_000
    assert verify(file_of(STRANGER.address)).reserved == 900


@pytest.mark.parametrize("cosigners", [0, 1, 2, 3])
def test_final_is_what_a_quorum_cosigned(cosigners: int) -> None:
    data = file_of(WORKER.address, cosigners=cosigners)
    assert verify(data, trusted=TWO_OF_THREE).final == (cosigners >= 2)
    assert not verify(data).final
    assert not verify(data, trusted=policy.simple(LOG_KEY, MEMBERS, quorum=0)).final


@pytest.mark.parametrize("bit", [1, 0x20])
def test_every_byte(bit: int) -> None:
    data = file_of(CHECKER.address)
    for at in range(len(data)):
        broken = bytearray(data)
        broken[at] ^= bit
        with pytest.raises(GridpactError):
            verify(bytes(broken))


@pytest.mark.parametrize("bit", [1, 0x20])
def test_every_byte_of_a_final_one(bit: int) -> None:
    """A line that is no known validator's any more does not count; then it is final no longer."""
    data = file_of(CHECKER.address, cosigners=2)
    assert verify(data, trusted=TWO_OF_THREE).final
    for at in range(len(data)):
        broken = bytearray(data)
        broken[at] ^= bit
        try:
            owned = verify(bytes(broken), trusted=TWO_OF_THREE)
        except GridpactError:
            continue
        assert not owned.final
        assert "— ".encode() in broken[at - 40 : at + 40]


def test_every_length() -> None:
    data = file_of(CHECKER.address)
    for length in range(0, len(data), 5):
        with pytest.raises(GridpactError):
            verify(data[:length])
    with pytest.raises(BadProof):
        verify(data + b" ")


Change = Callable[[bytes], bytes]


def _lines(data: bytes) -> list[exit_proof.Proven]:
    return canonical.decode(data, Exit).lines


@pytest.mark.parametrize(
    "lie",
    [
        lambda data: changed(data, address=STRANGER.address),
        lambda data: changed(data, lines=_lines(data) + _lines(file_of(STRANGER.address))),
        lambda data: changed(data, lines=[*_lines(data), _lines(data)[0]]),
        lambda data: changed(data, lines=[msgspec.structs.replace(_lines(data)[0], index=0)]),
        lambda data: changed(data, lines=_lines(file_of(WORKER.address, of="state"))),
        lambda data: changed(data, state=proof_of("payment", note_of(0)).decode()),
        lambda data: changed(data, state=""),
        lambda data: changed(data, lines=[msgspec.structs.replace(line, line="[]") for line in _lines(data)]),
        lambda data: changed(data, lines=[msgspec.structs.replace(line, line="{") for line in _lines(data)]),
    ],
    ids=["other party", "other's line", "line twice", "other place", "older lines", "no state", "no evidence", "no line", "no list"],
)  # fmt: skip
def test_a_file_that_was_put_together(lie: Change) -> None:
    with pytest.raises(GridpactError):
        verify(lie(file_of(WORKER.address)))


def test_other_keys() -> None:
    data = file_of(WORKER.address)
    with pytest.raises(BadProof, match="not a state that the market signed"):
        exit_proof.verify(data, log_key=LOG_KEY, ledger_key=STRANGER.address)
    other = checkpoint.verifier_key(ORIGIN, STRANGER)
    with pytest.raises(GridpactError):
        exit_proof.verify(data, log_key=other, ledger_key=LEDGER.address)


def test_whoever_owns_nothing_proves_nothing() -> None:
    owned = verify(file_of(SEER.address))
    assert (owned.available, owned.held, owned.stake, owned.budgets) == (0, 0, 0, 0)


def test_a_file_that_is_too_large() -> None:
    with pytest.raises(BadProof, match="at most"):
        verify(b" " * (exit_proof.EXIT_BYTES_MAX + 1))
