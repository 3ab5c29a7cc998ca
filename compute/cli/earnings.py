"""`gridpact provider earnings`: what came into the hold, what was released, by day and by job."""

from collections import defaultdict
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from compute.cli.options import JsonFlag
from compute.cli.place import acting
from market.cli.connect import ask, options_of
from market.cli.output import credits_text, print_fields, print_json, print_table, short

if TYPE_CHECKING:
    from collections.abc import Iterable

    from market.wire.explorer import LedgerTransfer, LoggedReceipt

HELD: Final = "held"
RELEASED: Final = "released"
NANOSECONDS: Final = 10**9
MS: Final = 1_000
EARNING: Final = frozenset({"charge", "check_wage"})
SHOWN: Final = 20  # rows of each table; --json has all


@dataclass
class Row:
    """Sums of a day or a job, micro-credits, the market's fee taken off."""

    chunks: int = 0
    wall_ms: int = 0
    earned: int = 0
    released: int = 0
    clawed_back: int = 0

    @property
    def held(self) -> int:
        return self.earned - self.released - self.clawed_back


def by_day(transfers: "Iterable[LedgerTransfer]", address: str) -> dict[str, Row]:
    """What moved on the account `held` of a provider, by day of the ledger, UTC."""
    rows: dict[str, Row] = defaultdict(Row)
    own = f"{address}/{HELD}"
    for transfer in transfers:
        row = rows[_day(int(transfer.at_ns))]
        amount = int(transfer.amount)
        if transfer.credit == own and transfer.reason in EARNING:
            row.earned += amount
            row.chunks += 1
        elif transfer.debit == own and transfer.reason == "release":
            row.released += amount
        elif transfer.debit == own:
            row.clawed_back += amount
    return dict(rows)


def by_job(receipts: "Iterable[LoggedReceipt]") -> dict[str, Row]:
    """What logged receipts brought, and how much of it is out of the hold."""
    rows: dict[str, Row] = defaultdict(Row)
    for receipt in receipts:
        row = rows[receipt.job]
        row.chunks += 1
        row.wall_ms += receipt.wall_ms
        if not receipt.money:
            continue
        net = int(receipt.charge) - int(receipt.fee)
        row.earned += net
        if receipt.money == RELEASED:
            row.released += net
    return dict(rows)


def earnings(
    context: typer.Context,
    json: JsonFlag = False,
    days: Annotated[int, typer.Option(min=1, max=3_650, help="How many days back.")] = 30,
) -> None:
    """What the provider of your key has earned by day and by job, what is held, what was released."""
    options = acting(options_of(context))
    options.json = options.json or json
    account, transfers, receipts = ask(options, lambda client: _read(client, days))
    per_day, per_job = by_day(transfers, account.address), by_job(receipts)
    if options.json:
        print_json({
            "account": account,
            "days": [{"day": day, **_plain(row)} for day, row in sorted(per_day.items())],
            "jobs": [{"job": job, **_plain(row)} for job, row in per_job.items()],
        })  # fmt: skip
        return
    fields = {
        "available": credits_text(account.available),
        "held": credits_text(account.held),
        "stake": credits_text(account.stake),
    }
    print_fields(account.address, fields)
    print_table(
        "By day (UTC)",
        ("day", ">chunks", ">earned", ">released", ">taken back"),
        [
            (day, row.chunks, *(credits_text(sum_) for sum_ in (row.earned, row.released, row.clawed_back)))
            for day, row in sorted(per_day.items(), reverse=True)[:SHOWN]
        ],
    )  # fmt: skip
    print_table(
        "By job",
        ("job", ">chunks", ">seconds", ">earned", ">held", ">released"),
        [
            (short(job), row.chunks, row.wall_ms / MS,
             *(credits_text(sum_) for sum_ in (row.earned, row.held, row.released)))
            for job, row in list(per_job.items())[-SHOWN:]
        ],
    )  # fmt: skip


async def _read(client: Any, days: int) -> Any:  # noqa: ANN401 - the client is loaded by then
    import time

    from market.sdk.explorer import receipts_of, transfers_of

    day_ns = 24 * 3_600 * NANOSECONDS
    since_ns = (time.time_ns() // day_ns - days + 1) * day_ns
    address = client.address
    listing = transfers_of(address, purpose=HELD, order="asc", from_ns=since_ns)
    return (
        await client.balances(),
        await client.explorer.rows(listing),
        await client.explorer.rows(receipts_of(provider=address)),
    )


async def today_microcredits(client: Any) -> int:  # noqa: ANN401 - as above
    """What came into the hold since midnight UTC."""
    _, transfers, _ = await _read(client, 1)
    return sum(row.earned for row in by_day(transfers, client.address).values())


def _plain(row: Row) -> dict[str, object]:
    return {
        "chunks": row.chunks,
        "wall_ms": row.wall_ms,
        "earned": str(row.earned),
        "released": str(row.released),
        "clawed_back": str(row.clawed_back),
    }


def _day(at_ns: int) -> str:
    return datetime.fromtimestamp(at_ns // NANOSECONDS, UTC).date().isoformat()
