"""What the market says about itself in its own log: charter, state, validators; and its exits."""

from collections.abc import Callable
from typing import Any, Final

import msgspec

from market.service.market import Market, change, check_fresh, guard
from market.store import public as store
from market.store.rows import Connection
from market.wire.public import ProposalView, ValidatorsView
from settlement.domain import canonical, charge, cosignature
from settlement.domain.errors import BadStatement, Forbidden, MisConfigured, Stale
from settlement.domain.governance import STATE_LAG_MAX, Approval, Charter, State, Validators
from settlement.domain.state_lines import root
from settlement.domain.statement import Opened, open_envelope
from settlement.service import finality
from settlement.service.engine import Item, Status

PROPOSALS_SHOWN: Final = 20
CHANGE_TRIES: Final = 20  # in 5 seconds, for processes under the former terms to end
CHANGE_WAIT_SECONDS: Final = 0.25
PROPOSALS: Final = "proposals"  # what all items about them name
LAG_MAX: Final = STATE_LAG_MAX // 2  # its own batch may log entries before it


class Terms(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A charter without its time, and the key that signed it."""

    ledger_key: str
    operator: str
    log_key: str
    fee_basis_points: int
    check_basis_points: int
    hold_ms: int


async def live_by_charter(
    market: Market, connection: Connection, log_key: str, *, now_ms: Callable[[], int]
) -> None:
    """Log the charter if there is none or the terms have changed; then hold the terms.

    Every process shares a lock on them, on a connection of its own, for as long as it lives: a
    process with other terms would log charges that the charter in force does not allow.
    """
    for _ in range(CHANGE_TRIES):
        if await _is_in_force(market, log_key):
            break
        if await store.lock_terms(connection, wait_seconds=CHANGE_WAIT_SECONDS):
            await _charter(market, log_key, now_ms=now_ms())
            await store.unlock_terms(connection)
    else:
        raise MisConfigured(
            "GRIDPACT_HOLD_SECONDS or GRIDPACT_OPERATOR: other processes still run under the former"
            " terms; stop them all, then start with the new ones"
        )
    await store.share_terms(connection)
    if not await _is_in_force(market, log_key):
        raise MisConfigured(
            "the market's terms were changed by another process meanwhile; start again"
        )


async def _is_in_force(market: Market, log_key: str) -> bool:
    """Whether the last charter says just this; `MisConfigured` if it is of other keys."""
    stored, terms = await market.read(store.terms), _terms(market, log_key)
    if stored is None:
        return False
    known = canonical.decode(stored, Terms)
    if (known.ledger_key, known.log_key) != (terms.ledger_key, terms.log_key):
        raise MisConfigured(
            "GRIDPACT_KEYS_FOLDER: the log in this database was begun with other keys than these"
        )
    return known == terms


def _terms(market: Market, log_key: str) -> Terms:
    return Terms(
        market.address, market.operator, log_key, charge.FEE_BASIS_POINTS, charge.CHECK_BASIS_POINTS,
        market.hold_ms,
    )  # fmt: skip


async def _charter(market: Market, log_key: str, *, now_ms: int) -> None:
    """The log's first entry, or a new one: nobody lives by the former terms."""
    terms = _terms(market, log_key)
    charter = market.sign(
        Charter(
            v=1, kind="charter", market=market.origin, operator=terms.operator, log_key=log_key,
            fee_basis_points=terms.fee_basis_points, check_basis_points=terms.check_basis_points,
            hold_ms=terms.hold_ms, at_ms=now_ms,
        )
    )  # fmt: skip
    data = canonical.encode(terms)
    item = Item((), (charter,), (guard("charter_differs", data),), (change("charter_put", data),))
    await market.ledger.submit(item)  # STALE: another process said the same at the same time


async def state(market: Market, *, now_ms: int, entries: int = 2) -> int | None:
    """Log a state statement if the log grew so much since the last one; the size it is about.

    One entry more is nothing new: it is the last state statement itself.
    """
    size, stated = await market.read(store.log_size)
    if size < stated + entries:
        return None
    clock, lines = await market.transact(store.snapshot)
    if clock["log_size"] <= stated:
        return None
    found = root(lines)
    statement = market.sign(
        State(
            v=1, kind="state", market=market.origin, size=clock["log_size"], root=canonical.digest_text(found),
            lines=len(lines), batch=clock["batch"], ledger_ns=str(clock["ts"]), at_ms=now_ms,
        )
    )  # fmt: skip
    digest = canonical.digest_bytes(statement.digest)
    kept = b"".join(line + b"\n" for line in lines)
    put = change(
        "state_put", clock["log_size"], digest, found, now_ms, kept, store.STATE_FILES_KEPT
    )
    item = Item((), (statement,), (guard("state_newer", clock["log_size"], LAG_MAX),), (put,))
    outcome = await market.ledger.submit(item)
    return clock["log_size"] if outcome.status is Status.APPLIED else None


async def set_validators(
    market: Market, caller: str, members: list[str], quorum: int, *, now_ms: int
) -> tuple[Opened, int]:
    """The operator's wish becomes a statement of the market; the present set has to approve it."""
    if not market.operator or caller != market.operator:
        raise Forbidden("only the operator names validators")
    addresses = {cosignature.parse_verifier_key(member).address for member in members}
    count = len(members)
    if len(addresses) != count:
        raise BadStatement("a validator is named twice")
    if not (count // 2 < quorum <= count or count == quorum == 0):
        raise BadStatement(
            f"a quorum of {count} validators is between {count // 2 + 1} and {count}"
        )
    statement = market.sign(
        Validators(
            v=1,
            kind="validators",
            market=market.origin,
            members=members,
            quorum=quorum,
            at_ms=now_ms,
        )
    )
    changes = (
        change("proposal_put", statement.digest, members, quorum, now_ms),
        change("validators_first", members, quorum),
    )
    outcome = await market.ledger.submit(
        Item((), (statement,), (guard("proposals_alone", PROPOSALS),), changes)
    )
    outcome.raise_for_refusal()
    return statement, outcome.positions[0]


async def approve(market: Market, envelope: bytes) -> ValidatorsView:
    """A validator of the present set agrees to a proposed one."""
    approval, opened = open_envelope(envelope, Approval, market=market.origin)
    check_fresh(approval.at_ms, market.clock.ms(), what="approval")
    members, _, _ = await finality.validators(market.database)
    known = {cosignature.parse_verifier_key(member).address for member in members}
    if approval.validator not in known:
        raise Forbidden("only a validator of the present set approves")
    item = Item(
        (),
        (opened,),
        (guard("proposal_open", approval.statement, approval.validator, PROPOSALS),),
        (
            change("proposal_approve", approval.statement, approval.validator),
            change("proposal_settle", approval.statement),
        ),
    )
    outcome = await market.ledger.submit(item)
    if outcome.status is Status.STALE:
        raise Stale("there is no such open proposal that this validator has not approved")
    return await validators(market)


async def validators(market: Market) -> ValidatorsView:
    """Who cosigns, what is final, what is proposed."""
    members, quorum, size = await finality.validators(market.database)

    async def proposed(connection: Connection) -> list[Any]:
        return await store.proposals(connection, PROPOSALS_SHOWN)

    rows = await market.read(proposed)
    views = [
        ProposalView(
            digest=row["digest"], members=row["members"], quorum=row["quorum"],
            approvals=row["approvals"], state=row["state"], at_ms=row["at_ms"],
        )
        for row in rows
    ]  # fmt: skip
    return ValidatorsView(members=members, quorum=quorum, final_size=size, proposals=views)
