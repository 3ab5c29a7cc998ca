"""The ledger items of receipts: checking, accepted, agreed, differed; each one commit with its cause."""

from dataclasses import dataclass
from uuid import UUID

from market.service.market import Market, change, derived_id, guard, transfer
from market.store.bus import MATCH, job_topic, provider_topic
from market.store.rows import Row
from market.wire.control import Done
from settlement.domain import canonical, charge
from settlement.domain.ledger import AccountKey, Purpose, Reason, Transfer
from settlement.domain.receipt import Leaf, Receipt
from settlement.domain.statement import Opened
from settlement.domain.verdict import Conclusion, Verdict, conclude
from settlement.service.engine import Change, Item


@dataclass(frozen=True, slots=True)
class Delivered:
    """A receipt that matched, with the attempt's row and everything that hangs on it."""

    row: Row
    receipt: Receipt
    opened: Opened
    leaves: list[Leaf]
    frame: Done
    price: charge.Charge
    received_ms: int

    @property
    def attempt(self) -> UUID:
        return UUID(self.frame.attempt)


def checking(delivered: Delivered) -> Item:
    """The receipt enters the log; its money and results wait for a second run."""
    row, price = delivered.row, delivered.price
    return Item(
        (),
        (delivered.opened,),
        (guard("attempt_handed", delivered.attempt, row["tries"]),),
        (
            change(
                "attempt_checking", delivered.attempt, delivered.opened.digest,
                canonical.encode(delivered.leaves), delivered.received_ms, *_metered(delivered), *_money(price),
            ),
            change("interval_execute", delivered.attempt),
            change(
                "outputs_keep", delivered.attempt, delivered.receipt.first, row["job"], *_columns(delivered)
            ),
            change("job_measured", row["job"], _task_us(row, delivered.receipt.usage.wall_ms)),
            change("lease_progress", row["lease"], delivered.received_ms),
            change("event", row["job"], delivered.received_ms, "checking", _told(delivered)),
            change("leases_notify", row["job"], delivered.received_ms),
            change("notify", MATCH),
        ),
    )  # fmt: skip


def accept(market: Market, delivered: Delivered) -> Item:
    """Receipt in, money into the provider's hold, results out: one commit."""
    transfers = _charge(market, delivered.row, delivered.opened.digest, delivered.price)
    return Item(
        transfers,
        (delivered.opened,),
        (guard("attempt_handed", delivered.attempt, delivered.row["tries"]),),
        (_accepted_chunk(market, delivered),),
    )


def accept_unchecked(market: Market, delivered: Delivered, *, reason: str) -> Item:
    """As `accept`, with a verdict that says why nobody checked."""
    item = accept(market, delivered)
    verdict = _verdict(
        market, delivered.row, delivered.opened.digest, delivered.received_ms, reason=reason
    )
    return Item(item.transfers, (*item.statements, verdict), item.guards, item.changes)


def settle_unchecked(market: Market, row: Row, *, reason: str, now_ms: int) -> Item:
    """A receipt that waited for a check in vain is accepted as it stands."""
    verdict = _verdict(market, row, row["receipt"], now_ms, reason=reason)
    return Item(
        _charge(market, row, verdict.digest, _price(row)),
        (verdict,),
        (guard("attempt_checking", row["id"], row["tries"]),),
        _confirm_changes(market, row, now_ms),
    )


def agreed(market: Market, delivered: Delivered, checked: Row) -> Item:
    """Both runs gave the same: the work is paid by the budget, the check by `checks` in a round."""
    verdict = _verdict(
        market, checked, checked["receipt"], delivered.received_ms,
        checks=[delivered.opened.digest], checkers=[delivered.row["provider"]],
    )  # fmt: skip
    job = checked["job"]
    return Item(
        _charge(market, checked, verdict.digest, _price(checked)),
        (verdict, delivered.opened),
        (
            guard("attempt_checking", checked["id"], checked["tries"]),
            guard("attempt_handed", delivered.attempt, delivered.row["tries"]),
        ),
        (
            *_confirm_changes(market, checked, delivered.received_ms),
            _accepted(delivered),
            change("lease_progress", delivered.row["lease"], delivered.received_ms),
            change("provider_verdict", checked["provider"], 1, 0),
            change("provider_verdict", delivered.row["provider"], 1, 0),
            change("event", job, delivered.received_ms, "checked", f"{checked['id']} agreed"),
            change("notify", MATCH),
        ),
    )


def differed(market: Market, delivered: Delivered, checked: Row, differing: list[int]) -> Item:
    """The runs differ: neither is paid, the tasks go back; who was wrong is not known from two.

    Both are barred from the job: their leases end, and whatever else they have open in it goes back.
    """
    verdict = _verdict(
        market, checked, checked["receipt"], delivered.received_ms, differing=differing,
        checks=[delivered.opened.digest], checkers=[delivered.row["provider"]],
    )  # fmt: skip
    job, why, now_ms = checked["job"], "a check differed", delivered.received_ms
    both = [checked["provider"], delivered.row["provider"]]
    return Item(
        (),
        (verdict, delivered.opened),
        (
            guard("job_there", job),  # nothing that it bars is paid in the same batch
            guard("attempt_checking", checked["id"], checked["tries"]),
            guard("attempt_handed", delivered.attempt, delivered.row["tries"]),
        ),
        (
            change("attempt_reject", checked["id"], why, checked["receipt"]),
            change("attempt_reject", delivered.attempt, why, delivered.opened.digest),
            change("interval_return", checked["id"]),
            change("job_unreserve", job, int(checked["cap"])),
            change("attempts_bar", job, both, why),
            change("leases_bar", job, both, why, now_ms),
            change("provider_verdict", checked["provider"], 0, 1),
            change("event", job, now_ms, "check-differed", f"{checked['id']} task {differing[0]}"),
            change("leases_notify", job, now_ms),
            change("notify", MATCH),
        ),
    )


def wage_only(delivered: Delivered) -> Item:
    """A check that came after the decision: logged, and paid like any check."""
    return Item(
        (),
        (delivered.opened,),
        (guard("attempt_handed", delivered.attempt, delivered.row["tries"]),),
        (
            _accepted(delivered),
            change("lease_progress", delivered.row["lease"], delivered.received_ms),
        ),
    )


def wage(market: Market, row: Row, opened: Opened, *, now_ms: int) -> Item:
    """Pay a checker from `checks`: its receipt is the cause, already in the log."""
    price = _price(row)
    held = AccountKey(row["provider"], Purpose.HELD)
    fees = market.account(Purpose.FEES)
    transfers = _transfers(
        market.account(Purpose.CHECKS),
        ("wage", held, price.earned_microcredits, Reason.CHECK_WAGE),
        ("wage-fee", fees, price.fee_microcredits, Reason.CHECK_FEE),
        cause=(row["receipt"], row["tries"]),
    )
    return Item(
        transfers,
        (opened,),
        (guard("charge_absent", row["id"], row["tries"]),),
        (
            change("provider_progress", row["provider"], row["wall_ms"], price.earned_microcredits),
            _hold(market, row["receipt"], row["id"], row["provider"], price, now_ms),
        ),
    )


def _charge(market: Market, row: Row, cause: str, price: charge.Charge) -> tuple[Transfer, ...]:
    """Budget → held, → fees, → checks; linked by the engine, ids that follow from the cause."""
    held = AccountKey(row["provider"], Purpose.HELD)
    fees, checks = market.account(Purpose.FEES), market.account(Purpose.CHECKS)
    return _transfers(
        AccountKey(row["consumer"], Purpose.BUDGET, row["job"]),
        ("charge", held, price.earned_microcredits, Reason.CHARGE),
        ("fee", fees, price.fee_microcredits, Reason.FEE),
        ("surcharge", checks, price.surcharge_microcredits, Reason.SURCHARGE),
        cause=(row["id"], cause, row["tries"]),
    )


def _transfers(
    debit: AccountKey, *parts: tuple[str, AccountKey, int, Reason], cause: tuple[object, ...]
) -> tuple[Transfer, ...]:
    """One transfer for each part (role, credit, amount, reason) that is not zero."""
    return tuple(
        transfer(derived_id(role, *cause), debit=debit, credit=to, amount=part, reason=why)
        for role, to, part, why in parts
        if part
    )


def _accepted_chunk(market: Market, delivered: Delivered) -> Change:
    row, price, wall_ms = delivered.row, delivered.price, delivered.receipt.usage.wall_ms
    at_ms = delivered.received_ms
    return change(
        "chunk_accept", delivered.attempt, delivered.opened.digest, at_ms, *_metered(delivered),
        *_money(price), row["job"], row["first"], row["tasks"], price.paid_microcredits,
        int(row["cap"]), _task_us(row, wall_ms), row["lease"], row["provider"],
        price.earned_microcredits, at_ms + market.hold_ms, *_columns(delivered), _told(delivered),
        job_topic(row["job"]),
    )  # fmt: skip


def _confirm_changes(market: Market, row: Row, now_ms: int) -> tuple[Change, ...]:
    """A receipt that was checking becomes accepted."""
    price = _price(row)
    told = f"{row['id']} tasks {row['first']}+{row['tasks']}"
    return (
        change("attempt_confirm", row["id"]),
        change("interval_accept", row["id"]),
        change("outputs_deliver", row["id"]),
        _progress(row, price, row["wall_ms"], now_ms),
        change("provider_progress", row["provider"], row["wall_ms"], price.earned_microcredits),
        _hold(market, row["receipt"], row["id"], row["provider"], price, now_ms),
        change("event", row["job"], now_ms, "accepted", told),
        change("notify", job_topic(row["job"])),
        change("notify", provider_topic(row["provider"])),
    )


def _accepted(delivered: Delivered) -> Change:
    return change(
        "attempt_accept", delivered.attempt, delivered.opened.digest, delivered.received_ms,
        *_metered(delivered), *_money(delivered.price),
    )  # fmt: skip


def _task_us(row: Row, wall_ms: int) -> int:
    measured: int = wall_ms * 1_000 // row["tasks"]
    return measured


def _progress(row: Row, price: charge.Charge, wall_ms: int, now_ms: int) -> Change:
    return change(
        "job_progress",
        row["job"],
        row["tasks"],
        price.paid_microcredits,
        int(row["cap"]),
        now_ms,
        _task_us(row, wall_ms),
    )


def _hold(
    market: Market, receipt: str, attempt: UUID, provider: str, price: charge.Charge, now_ms: int
) -> Change:
    return change(
        "charge_insert",
        receipt,
        attempt,
        provider,
        price.earned_microcredits,
        now_ms + market.hold_ms,
    )


def _columns(
    delivered: Delivered,
) -> tuple[list[str], list[str], list[int], list[bytes | None], list[str]]:
    """The outputs as the table's columns: status, digest, size, body, log."""
    outputs = delivered.frame.outputs
    return (
        [leaf.status for leaf in delivered.leaves],
        [output.output.digest for output in outputs],
        [output.output.size for output in outputs],
        [output.output.body for output in outputs],
        [output.log.replace("\0", "") for output in outputs],
    )


def _metered(delivered: Delivered) -> tuple[int, int, str]:
    usage = delivered.receipt.usage
    return usage.wall_ms, usage.cpu_ms, delivered.receipt.protection


def _money(price: charge.Charge) -> tuple[int, int, int]:
    return price.gross_microcredits, price.fee_microcredits, price.surcharge_microcredits


def _price(row: Row) -> charge.Charge:
    return charge.Charge(int(row["charge"]), int(row["fee"]), int(row["surcharge"]))


def _told(delivered: Delivered) -> str:
    row = delivered.row
    return f"{delivered.attempt} tasks {row['first']}+{row['tasks']} by {row['provider'][:8]}"


def _verdict(
    market: Market, checked: Row, receipt: str, now_ms: int, *, differing: list[int] | None = None,
    checks: list[str] | None = None, checkers: list[str] | None = None, reason: str = "",
) -> Opened:  # fmt: skip
    """A verdict on a checked attempt; without checks it says why nobody checked."""
    wrong = differing or []
    return market.sign(
        Verdict(
            v=1, kind="verdict", market=market.origin, job=str(checked["job"]), receipt=receipt,
            checks=checks or [], providers=[checked["provider"], *(checkers or [])], comparator="bytes",
            conclusion=conclude(wrong) if checks else Conclusion.UNCHECKED, differing=len(wrong),
            first_differing=wrong[0] if wrong else checked["tasks"], reason=reason, at_ms=now_ms,
        )
    )  # fmt: skip
