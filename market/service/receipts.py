"""Receipts: verified against what the market handed out, checked by a second run, settled."""

from typing import Final
from uuid import UUID

import msgspec

from market.domain.attempt import AttemptState, Purpose
from market.domain.jobspec import Spec, protects
from market.domain.lease import LeaseEnd
from market.service import leases, settle
from market.service.jobs import finish, is_checked
from market.service.market import Market
from market.service.settle import Delivered
from market.store import blobs, work
from market.store import control as store
from market.store.rows import Connection, Row
from market.wire.control import Done, Settled
from settlement.domain import amount, canonical, charge
from settlement.domain.errors import BadReceipt, InsufficientFunds, NotFound, Refused
from settlement.domain.ledger import LEDGER_CREDITS
from settlement.domain.receipt import (
    STATUS_OK,
    Leaf,
    Receipt,
    inputs_digest,
    outputs_digest,
    tasks_root,
)
from settlement.domain.statement import of_kind
from settlement.domain.verdict import compare
from settlement.service.engine import Item, Status

WALL_SLACK_MS: Final = 3_600_000  # a run may end late; longer ones are no measurements


async def receive(market: Market, provider: str, frame: Done, *, now_ms: int) -> Settled:
    """One Done frame: the answer says what became of it; a repeat gets the same answer."""
    attempt = UUID(frame.attempt)
    row = await market.read(store.attempt, attempt)
    if row is None or row["provider"] != provider:
        return _answer(frame, AttemptState.REJECTED, "no such attempt of yours")
    if row["state"] != AttemptState.HANDED:
        return _answer(frame, AttemptState(row["state"]), row["reason"])
    answer = await _decide(market, row, frame, now_ms)
    if answer.state == AttemptState.HANDED:  # a voucher came in between, or a failure: once more
        row = await market.read(store.attempt, attempt)
        if row["state"] == AttemptState.HANDED:
            answer = await _decide(market, row, frame, now_ms)
    return answer


async def _decide(market: Market, row: Row, frame: Done, now_ms: int) -> Settled:
    try:
        delivered = await _verify(market, row, frame, now_ms)
    except Refused as error:  # of the receipt; a failure of ours is no fault of the provider's
        reason = f"{error.code}: {error.detail}"
        await market.transact(_refuse, row, reason, now_ms)
        return _answer(frame, AttemptState.REJECTED, reason)
    if row["purpose"] == Purpose.CHECK:
        state = await _receive_check(market, delivered)
    else:
        state = await _receive_work(market, delivered)
    if state is AttemptState.HANDED:  # the state moved on meanwhile: answer what stands
        row = await market.read(store.attempt, row["id"])
        return _answer(frame, AttemptState(row["state"]), row["reason"])
    await finish(market, row["job"], now_ms=now_ms)
    return _answer(frame, state, "")


def _answer(frame: Done, state: AttemptState, reason: str) -> Settled:
    return Settled(attempt=frame.attempt, state=state.value, reason=reason)


async def _verify(market: Market, row: Row, frame: Done, now_ms: int) -> Delivered:
    """Everything a receipt says is compared with what the market knows; nothing is believed."""
    opened = await market.opener.open(frame.receipt)
    receipt = of_kind(opened, Receipt)
    expected = {
        "lease": row["lease_digest"], "order": row["order_digest"], "job": str(row["job"]),
        "spec": row["spec_digest"], "attempt": frame.attempt, "purpose": row["purpose"],
        "provider": row["provider"], "consumer": row["consumer"], "first": row["first"],
        "tasks": row["tasks"],
    }  # fmt: skip
    for field, value in expected.items():
        if getattr(receipt, field) != value:
            raise BadReceipt(f"the receipt's {field} is not what was handed out")
    if receipt.env.digest != row["environment"]:
        raise BadReceipt("the receipt names another environment")
    spec = msgspec.json.decode(row["spec"], type=Spec)
    if receipt.usage.wall_ms > row["window_ms"] + WALL_SLACK_MS:
        raise BadReceipt(f"a run of {receipt.usage.wall_ms} ms is longer than its window allows")
    _verify_run(spec, receipt, frame.leaves)
    await _verify_leaves(market, row, receipt, frame)
    price = _price(row, spec, receipt, since_ms=row["handed_ms"], now_ms=now_ms)
    claimed = amount.from_text(receipt.price.amount)
    if claimed > price.gross_microcredits:
        raise BadReceipt(
            f"the claim of {claimed} is above the charge of {price.gross_microcredits}"
        )
    since_ms = _unpaid_since_ms(row)
    price = _price(row, spec, receipt, since_ms=since_ms, now_ms=now_ms)
    return Delivered(row, receipt, opened, frame.leaves, frame, price, now_ms, since_ms)


def _price(row: Row, spec: Spec, receipt: Receipt, *, since_ms: int, now_ms: int) -> charge.Charge:
    return charge.charge(
        wall_ms=receipt.usage.wall_ms, clock_ms=now_ms - since_ms, window_ms=row["window_ms"],
        rate_microcredits=int(row["rate"]), checked=is_checked(spec) and row["purpose"] == Purpose.WORK,
    )  # fmt: skip


def _unpaid_since_ms(row: Row) -> int:
    """What vouchers have paid of a lease's time, no receipt is paid for again."""
    handed_ms: int = row["handed_ms"]
    if not row["vouched_ms"] or row["purpose"] != Purpose.WORK:
        return handed_ms
    paid_until_ms: int = row["granted_ms"] + row["receipted_ms"] + row["vouched_ms"]
    return max(handed_ms, paid_until_ms)


def _verify_run(spec: Spec, receipt: Receipt, leaves: list[Leaf]) -> None:
    if not protects(receipt.protection, spec.protection):
        raise BadReceipt(f"the job wants protection {spec.protection}, not {receipt.protection}")
    if receipt.finished_ms < receipt.started_ms:
        raise BadReceipt("the run ended before it started")
    if (receipt.status == STATUS_OK) != all(leaf.status == STATUS_OK for leaf in leaves):
        raise BadReceipt("the status is not that of the leaves")
    if receipt.price.ledger != LEDGER_CREDITS:
        raise BadReceipt("the claim is in another currency")


async def _verify_leaves(market: Market, row: Row, receipt: Receipt, frame: Done) -> None:
    if len(frame.leaves) != receipt.tasks or len(frame.outputs) != receipt.tasks:
        raise BadReceipt("leaves and outputs must be one for each task")
    digests = row["inputs"]
    for offset, (leaf, output) in enumerate(zip(frame.leaves, frame.outputs, strict=True)):
        if leaf.index != receipt.first + offset or leaf.input != digests[offset]:
            raise BadReceipt(f"leaf {offset} names another task or input")
        output.output.check()
        if leaf.output != output.output.digest:
            raise BadReceipt(f"leaf {offset} names another output than the one delivered")
    if receipt.tasks_root != tasks_root(frame.leaves):
        raise BadReceipt("the root is not that of the leaves")
    if receipt.inputs != inputs_digest(frame.leaves) or receipt.outputs != outputs_digest(
        frame.leaves
    ):
        raise BadReceipt("a manifest's digest is not that of the leaves")
    large = [output.output.digest for output in frame.outputs if output.output.body is None]
    if large and await market.read(blobs.missing, large, row["provider"]):
        raise NotFound("an output's blob was not uploaded")


async def _refuse(connection: Connection, row: Row, reason: str, now_ms: int) -> None:
    """A receipt that does not hold ends the provider's part in the job: nobody pays for guesses."""
    await work.lock_job(connection, row["job"])
    if not await store.reject(connection, row["id"], reason):
        return
    for lease in await store.leases_in(connection, row["job"], row["provider"]):
        await leases.end(connection, row["provider"], lease, LeaseEnd.SLASHED, reason, now_ms)


async def _receive_work(market: Market, delivered: Delivered) -> AttemptState:
    row = delivered.row
    needs_check, why = await _needs_check(market, row, delivered.received_ms)
    if needs_check:
        item = settle.checking(delivered)
    elif why:
        item = settle.accept_unchecked(market, delivered, reason=why)
    else:
        item = settle.accept(market, delivered)
    return await _submit(
        market, delivered, item, AttemptState.CHECKING if needs_check else AttemptState.ACCEPTED
    )


async def _needs_check(market: Market, row: Row, now_ms: int) -> tuple[bool, str]:
    """The first form of `spot`: every receipt of a provider in a job until one has passed."""
    spec = msgspec.json.decode(row["spec"], type=Spec)
    if spec.verify == "none" or not row["first_receipt"]:
        return False, ""
    if row["job_state"] != "running":
        return False, "the job has ended"
    if await market.read(_checkable, row, now_ms):
        return True, ""
    return False, "no second provider is there"


async def _checkable(connection: Connection, row: Row, now_ms: int) -> bool:
    return await store.other_providers(
        connection, row["job"], row["provider"], environment=row["environment"], now_ms=now_ms
    )


async def _receive_check(market: Market, delivered: Delivered) -> AttemptState:
    """Compare with the run that it checks; both settle in one item, or both are refused."""
    checked = await market.read(store.attempt, delivered.row["checks"])
    if (
        checked["state"] != AttemptState.CHECKING
    ):  # decided without us meanwhile: still worth its wage
        return await _submit(market, delivered, settle.wage_only(delivered), AttemptState.ACCEPTED)
    leaves = canonical.decode(checked["leaves"], list[Leaf])
    differing = compare(leaves, delivered.leaves)
    if differing:
        item = settle.differed(market, delivered, checked, differing)
        return await _submit(market, delivered, item, AttemptState.REJECTED)
    return await _submit(
        market, delivered, settle.agreed(market, delivered, checked), AttemptState.ACCEPTED
    )


async def _submit(
    market: Market, delivered: Delivered, item: Item, state: AttemptState
) -> AttemptState:
    """HANDED means that the state had moved on and nothing was done."""
    outcome = await market.ledger.submit(item)
    if outcome.status is Status.STALE:
        return AttemptState.HANDED
    try:
        outcome.raise_for_refusal()
    except InsufficientFunds:
        await market.transact(store.bump_tries, delivered.attempt)
        raise
    return state
