"""The ledger items of receipts: checking, accepted, agreed, differed; each one commit with its cause."""

from dataclasses import dataclass
from uuid import UUID

import msgspec

from market.domain.jobspec import Spec
from market.service.market import Market, change, guard
from market.store.bus import MATCH, job_topic, provider_topic
from market.store.rows import Row
from market.wire.control import Done
from settlement.domain import canonical, charge
from settlement.domain.amount import to_text
from settlement.domain.moves import moves
from settlement.domain.receipt import Leaf, Receipt
from settlement.domain.settled import CHECK, WORK, Charged
from settlement.domain.statement import Opened
from settlement.domain.verdict import Conclusion, Verdict, conclude
from settlement.service.engine import Change, Guard, Item


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
    unpaid_since_ms: int  # when it was handed out; later by what vouchers have paid of its time

    @property
    def attempt(self) -> UUID:
        return UUID(self.frame.attempt)


def checking(delivered: Delivered) -> Item:
    """The receipt enters the log; its money and results wait for a second run."""
    row, price = delivered.row, delivered.price
    return Item(
        (),
        (delivered.opened,),
        (_payable(delivered),),
        (
            *_unpaid_since(delivered),
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
    return _accept(market, delivered, ())


def _accept(market: Market, delivered: Delivered, verdicts: tuple[Opened, ...]) -> Item:
    charged = _charge_of(market, delivered)
    return Item(
        moves(charged, market.address),
        (delivered.opened, *verdicts, charged),
        (_payable(delivered),),
        (*_unpaid_since(delivered), _accepted_chunk(market, delivered)),
        cause=charged.digest,
    )


def accept_unchecked(market: Market, delivered: Delivered, *, reason: str) -> Item:
    """As `accept`, with a verdict that says why nobody checked."""
    verdict = _verdict(
        market, delivered.row, delivered.opened.digest, delivered.received_ms, reason=reason
    )
    return _accept(market, delivered, (verdict,))


def settle_unchecked(market: Market, row: Row, *, reason: str, now_ms: int) -> Item:
    """A receipt that waited for a check in vain is accepted as it stands."""
    now_ms = max(now_ms, row["received_ms"])  # by another host's clock, perhaps
    verdict = _verdict(market, row, row["receipt"], now_ms, reason=reason)
    charged = _charge_again(market, row, now_ms)
    return Item(
        moves(charged, market.address),
        (verdict, charged),
        (guard("attempt_checking", row["id"], row["tries"]),),
        _confirm_changes(market, row, now_ms),
        cause=charged.digest,
    )


def settle_accepted(market: Market, row: Row, acceptance: Opened, *, now_ms: int) -> Item:
    """The consumer took the receipt as it is, signed: no check is waited for."""
    item = settle_unchecked(market, row, reason="its consumer accepted it", now_ms=now_ms)
    return Item(
        item.transfers, (acceptance, *item.statements), item.guards, item.changes, cause=item.cause
    )


def agreed(market: Market, delivered: Delivered, checked: Row) -> Item:
    """Both runs gave the same: the work is paid by the budget, the check by `checks` in a round."""
    verdict = _verdict(
        market, checked, checked["receipt"], delivered.received_ms,
        checks=[delivered.opened.digest], checkers=[delivered.row["provider"]],
    )  # fmt: skip
    job = checked["job"]
    charged = _charge_again(market, checked, delivered.received_ms)
    return Item(
        moves(charged, market.address),
        (delivered.opened, verdict, charged),
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
        cause=charged.digest,
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
        (delivered.opened, verdict),
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


def wage(market: Market, row: Row, *, now_ms: int) -> Item:
    """Pay a checker from `checks`: its receipt is in the log already."""
    price = _price(row)
    now_ms = max(now_ms, row["received_ms"])  # by another host's clock, perhaps
    charged = _charge_again(market, row, now_ms)
    return Item(
        moves(charged, market.address),
        (charged,),
        (guard("charge_absent", row["id"], row["tries"]),),
        (
            change("provider_progress", row["provider"], row["wall_ms"], price.earned_microcredits),
            _hold(market, row["receipt"], row["id"], row["provider"], price, now_ms),
        ),
    )


def _charge_of(market: Market, delivered: Delivered) -> Opened:
    """The charge of a receipt that was just received."""
    row = delivered.row
    return _charged(
        market, row, delivered.price, receipt=delivered.opened.digest, at_ms=delivered.received_ms,
        wall_ms=delivered.receipt.usage.wall_ms, handed_ms=delivered.unpaid_since_ms,
        received_ms=delivered.received_ms,
    )  # fmt: skip


def _charge_again(market: Market, row: Row, now_ms: int) -> Opened:
    """The charge of a receipt whose price was computed when it came."""
    return _charged(
        market, row, _price(row), receipt=row["receipt"], at_ms=now_ms, wall_ms=row["wall_ms"],
        handed_ms=row["handed_ms"], received_ms=row["received_ms"],
    )  # fmt: skip


def _charged(
    market: Market, row: Row, price: charge.Charge, *, receipt: str, at_ms: int, wall_ms: int, handed_ms: int,
    received_ms: int,
) -> Opened:  # fmt: skip
    work = row["purpose"] == WORK
    checked = work and spec_of(row).verify != "none"
    return market.sign(
        Charged(
            v=1, kind="charged", market=market.origin, receipt=receipt, role=WORK if work else CHECK,
            job=str(row["job"]), provider=row["provider"], consumer=row["consumer"], wall_ms=wall_ms,
            handed_ms=handed_ms, received_ms=received_ms, window_ms=row["window_ms"],
            rate=to_text(int(row["rate"])),
            surcharge_basis_points=charge.CHECK_BASIS_POINTS if checked else 0,
            gross=to_text(price.gross_microcredits), fee=to_text(price.fee_microcredits),
            surcharge=to_text(price.surcharge_microcredits), release_ms=at_ms + market.hold_ms,
            at_ms=at_ms,
        )
    )  # fmt: skip


def _payable(delivered: Delivered) -> Guard:
    row = delivered.row
    return guard("attempt_payable", delivered.attempt, row["tries"], row["vouched_ms"])


def _unpaid_since(delivered: Delivered) -> tuple[Change, ...]:
    """Kept where vouchers have moved it, for whoever counts the lease's time again."""
    since_ms = delivered.unpaid_since_ms
    if since_ms == delivered.row["handed_ms"]:
        return ()
    return (change("attempt_unpaid_since", delivered.attempt, since_ms),)


def spec_of(row: Row) -> Spec:
    """The specification of the job that a row was joined with."""
    return msgspec.json.decode(row["spec"], type=Spec)


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
