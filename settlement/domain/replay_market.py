"""Rules of the statements about the market itself: charter, validators, state, takeover."""

from typing import Final

from settlement.domain import canonical, charge, cosignature, statement
from settlement.domain import checkpoint as checkpoints
from settlement.domain.errors import BadKey
from settlement.domain.governance import (
    STATE_LAG_MAX,
    Approval,
    Charter,
    State,
    Takeover,
    Validators,
)
from settlement.domain.ledger import AccountKey, Purpose
from settlement.domain.replay_rules import Effect, Rule, Wrong, first_of
from settlement.domain.state_lines import root
from settlement.domain.statement import Opened
from settlement.domain.world import Proposal, World


def _charter(world: World, said: Charter, opened: Opened) -> Wrong:  # noqa: ARG001 - as every rule
    try:
        name = checkpoints.parse_verifier_key(said.log_key).name
    except BadKey as error:
        return ("a charter names the log's key", "a verifier key", error.detail)
    return first_of(
        ("the log's key is named like the market", world.market, name),
        ("a log keeps its key", world.charter.log_key if world.charter else said.log_key, said.log_key),
        ("the fee is what charges are computed with", charge.FEE_BASIS_POINTS, said.fee_basis_points),
        ("so is the surcharge for checks", charge.CHECK_BASIS_POINTS, said.check_basis_points),
    )  # fmt: skip


def _chartered(world: World, said: Charter, opened: Opened) -> None:
    world.ledger_key, world.charter = opened.signer, said


def _validators(world: World, said: Validators, opened: Opened) -> Wrong:  # noqa: ARG001 - as every rule
    try:
        addresses = {cosignature.parse_verifier_key(member).address for member in said.members}
    except BadKey as error:
        return ("validators are named by their keys", "verifier keys", error.detail)
    count = len(said.members)
    return first_of(
        ("a validator counts once", count, len(addresses)),
        ("a quorum is more than half of the validators", True, count // 2 < said.quorum <= count or not (count or said.quorum)),
    )  # fmt: skip


def _proposed(world: World, said: Validators, opened: Opened) -> None:
    if world.members:
        world.proposals[opened.digest] = Proposal(opened.envelope)
    else:
        world.members, world.quorum = tuple(said.members), said.quorum


def _takeover(world: World, said: Takeover, opened: Opened) -> Wrong:  # noqa: ARG001 - as every rule
    try:
        name = checkpoints.parse_verifier_key(said.log_key).name
    except BadKey as error:
        return ("a takeover names the log's new key", "a verifier key", error.detail)
    return first_of(
        ("the log's key is named like the market", world.market, name),
        ("a market without validators can't be taken over", True, bool(world.members)),
        ("a takeover goes on from where the log ends", world.size, said.size),
    )


def _claimed(world: World, said: Takeover, opened: Opened) -> None:  # noqa: ARG001 - as every effect
    world.proposals[opened.digest] = Proposal(opened.envelope)


def _approval(world: World, said: Approval, opened: Opened) -> Wrong:  # noqa: ARG001 - as every rule
    proposal = world.proposals.get(said.statement)
    addresses = {cosignature.parse_verifier_key(member).address for member in world.members}
    return first_of(
        ("an approval is for what was proposed", True, proposal is not None),
        ("an approval is a validator's", True, said.validator in addresses),
        ("a validator approves once", False, bool(proposal and said.validator in proposal.approvals)),
    )  # fmt: skip


def _approved(world: World, said: Approval, opened: Opened) -> None:  # noqa: ARG001 - as every effect
    proposal = world.proposals[said.statement]
    proposal.approvals.append(said.validator)
    if len(proposal.approvals) < world.quorum:
        return
    what = statement.open_any(proposal.envelope, market=world.market).statement
    world.proposals.clear()  # what else was proposed was for the set and the key before
    if isinstance(what, Validators):
        world.members, world.quorum = tuple(what.members), what.quorum
    elif isinstance(what, Takeover):
        _hand_over(world, what)


def _hand_over(world: World, said: Takeover) -> None:
    """The market's own accounts go on under the new key, and its log key with them."""
    for purpose in (Purpose.FEES, Purpose.CHECKS, Purpose.ISSUED):
        old, new = AccountKey(world.ledger_key, purpose), AccountKey(said.ledger_key, purpose)
        world.rename(old, new)
    world.grace_from_ms, world.grace_until_ms = world.fresh_ms, said.at_ms + said.grace_ms
    world.ledger_key = said.ledger_key
    assert world.charter is not None
    world.charter = Charter(
        **{name: getattr(world.charter, name) for name in Charter.__struct_fields__}
        | {"log_key": said.log_key}
    )


def _state(world: World, said: State, opened: Opened) -> Wrong:  # noqa: ARG001 - as every rule
    wrong = first_of(
        ("a state is of the past", True, said.size <= world.size),
        ("a state is of the near past", True, said.size >= world.size - STATE_LAG_MAX),
        ("states follow one another", True, said.size >= world.stated),
    )
    if wrong:
        return wrong
    lines = world.lines(said.size)
    return first_of(
        ("the state is what the log leads to", canonical.digest_text(root(lines)), said.root),
        ("the state has as many lines as the log leads to", len(lines), said.lines),
    )


def _stated(world: World, said: State, opened: Opened) -> None:  # noqa: ARG001 - as every effect
    world.stated = said.size
    world.trim(said.size)


RULES: Final[dict[type, Rule]] = {
    Charter: _charter,
    Validators: _validators,
    Takeover: _takeover,
    Approval: _approval,
    State: _state,
}
EFFECTS: Final[dict[type, Effect]] = {
    Charter: _chartered,
    Validators: _proposed,
    Takeover: _claimed,
    Approval: _approved,
    State: _stated,
}
