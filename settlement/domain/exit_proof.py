"""One file that proves what a party owns: its state lines, their paths to a logged state, a signed head.

Whoever holds the file needs neither the market nor its goodwill: line → state root → state
statement → log → checkpoint, and with the validators' keys that a quorum of them stands for it.
"""

import base64
from collections.abc import Sequence
from typing import Annotated, Final, NamedTuple

import msgspec

from settlement.domain import canonical, checkpoint, merkle
from settlement.domain import evidence as evidence_files
from settlement.domain.errors import BadProof, Malformed
from settlement.domain.evidence import Hash
from settlement.domain.governance import State
from settlement.domain.ledger import Purpose
from settlement.domain.policy import Policy
from settlement.domain.statement import Address, Count

EXIT_BYTES_MAX: Final = 16 * 1024 * 1024
LINES_MAX: Final = 10_000
_ACCOUNT: Final = "account"


class Proven(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One state line with its place under the state root."""

    line: str
    index: Count
    proof: Annotated[list[Hash], msgspec.Meta(max_length=merkle.PROOF_HASHES_MAX)]


class Exit(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`state` is the evidence file of the state statement, as text."""

    version: Annotated[int, msgspec.Meta(ge=1, le=1)]
    address: Address
    lines: Annotated[list[Proven], msgspec.Meta(max_length=LINES_MAX)]
    state: str


class Owned(NamedTuple):
    """What the file proves: balances of a party after the log's first `size` entries."""

    address: str
    market: str
    size: int
    at_ms: int
    available: int
    held: int
    stake: int
    budgets: int
    reserved: int  # of available: withdrawals that are not decided
    final: bool  # a quorum of the validators that were named cosigned


def make(address: str, lines: Sequence[bytes], state_evidence: bytes) -> bytes:
    """The file of one party out of all lines of a state, in their order."""
    wanted = [
        index
        for index, line in enumerate(lines)
        if address.encode() in line and _of(line) == address
    ]
    nodes = merkle.nodes_of([merkle.leaf_hash(line) for line in lines])
    proven = [
        Proven(
            line=lines[index].decode(), index=index,
            proof=[
                base64.b64encode(value).decode()
                for value in merkle.inclusion(nodes, index=index, size=len(lines))
            ],
        )
        for index in wanted
    ]  # fmt: skip
    return canonical.encode(
        Exit(version=1, address=address, lines=proven, state=state_evidence.decode())
    )


def verify(data: bytes, *, log_key: str, ledger_key: str, policy: Policy | None = None) -> Owned:
    """What the party owns, if every link holds. BadProof, BadCheckpoint, BadStatement otherwise.

    `policy` names the validators that the reader trusts; without one nothing is final.
    """
    if len(data) > EXIT_BYTES_MAX:
        raise BadProof(f"an exit file has at most {EXIT_BYTES_MAX} bytes")
    try:
        said = canonical.decode(data, Exit)
        note = canonical.decode(said.state.encode(), evidence_files.Evidence).checkpoint
    except Malformed as error:
        raise BadProof(f"the exit file is not in form: {error.detail}") from None
    opened = evidence_files.verify(said.state.encode(), log_key)
    state = opened.statement
    if not isinstance(state, State) or opened.signer != ledger_key:
        raise BadProof("the statement is not a state that the market signed")
    seen = set()
    for proven in said.lines:
        line = proven.line.encode()
        merkle.verify_inclusion(
            merkle.leaf_hash(line), index=proven.index, size=state.lines,
            path=[evidence_files.hash_of(text) for text in proven.proof],
            expected_root=canonical.digest_bytes(state.root),
        )  # fmt: skip
        if _of(line) != said.address or proven.index in seen:
            raise BadProof("a line is another party's, or is there twice")
        seen.add(proven.index)
    final = policy is not None and policy.is_final(note)
    return _added(said, state, checkpoint.head(note).origin, final=final)


def _added(said: Exit, state: State, market: str, *, final: bool) -> Owned:
    sums = dict.fromkeys(Purpose, 0)
    reserved = 0
    for proven in said.lines:
        fields = msgspec.json.decode(proven.line)
        if fields[0] != _ACCOUNT:
            continue
        sums[Purpose(fields[2])] += int(fields[8]) - int(fields[7])
        reserved += int(fields[5]) if fields[2] == Purpose.AVAILABLE else 0
    return Owned(
        said.address, market, state.size, state.at_ms, sums[Purpose.AVAILABLE], sums[Purpose.HELD],
        sums[Purpose.STAKE], sums[Purpose.BUDGET], reserved, final,
    )  # fmt: skip


def _of(line: bytes) -> str:
    """Whose line it is; `BadProof` for what is no state line."""
    try:
        fields = msgspec.json.decode(line, type=list[str | int])
        owner = fields[1]
    except (msgspec.DecodeError, IndexError, UnicodeDecodeError):
        raise BadProof("that is no line of a state") from None
    if not isinstance(owner, str) or canonical.encode(fields) != line:
        raise BadProof("that is no line of a state")
    return owner
