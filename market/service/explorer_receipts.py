"""Logged receipts with what became of them: state, money, and the verdict that stands beside a check."""

from typing import Final
from uuid import UUID

import msgspec

from market.service.explorer import LAST, NIL, Listed, look, payload
from market.service.market import Market
from market.store import explorer as store
from market.store.rows import Connection, Row
from market.wire import explorer as wire
from settlement.domain import canonical
from settlement.domain.verdict import Conclusion

OPEN: Final = "open"


class _Concluded(msgspec.Struct):
    receipt: str
    conclusion: str


async def receipts(
    market: Market, query: wire.ReceiptQuery, *, after: str, limit: int
) -> Listed[wire.LoggedReceipt]:
    """Receipts in the log's order, or those of a job or a consumer by job and attempt."""
    if query.job is None and query.consumer is None:
        return await look(market, _in_the_log, query, after, limit)
    return await look(market, _by_job, query, after, limit)


async def _in_the_log(
    connection: Connection, query: wire.ReceiptQuery, after: str, limit: int
) -> Listed[wire.LoggedReceipt]:
    first = wire.number(*wire.parse_cursor(after, "receipts", values=1)) + 1 if after else 0
    signer = None if query.provider is None else bytes.fromhex(query.provider)
    found = await store.entry_keys(
        connection, first=first, kind="receipt", signer=signer, limit=limit
    )
    logged = {canonical.digest_text(row["digest"]): row["idx"] for row in found.rows}
    views = await _views(connection, logged)
    cursors = [wire.cursor("receipts", view.index) for view in views]
    onwards = "" if found.reached is None else wire.cursor("receipts", found.reached)
    return Listed(views, cursors, onwards)


async def _by_job(
    connection: Connection, query: wire.ReceiptQuery, after: str, limit: int
) -> Listed[wire.LoggedReceipt]:
    start = (0, NIL, NIL)
    if after:
        created, job, attempt = wire.parse_cursor(after, "job-receipts", values=3)
        start = (wire.number(created), wire.identifier(job), wire.identifier(attempt))
    jobs, more = await _jobs(connection, query, start)
    rows = await store.receipts_of(
        connection, jobs, provider=query.provider, after=start, limit=limit
    )
    logged = await store.logged(
        connection, [canonical.digest_bytes(row["receipt"]) for row in rows]
    )
    found = {canonical.digest_text(digest): index for digest, index in logged.items()}
    views = {view.digest: view for view in await _views(connection, found)}
    kept = [row for row in rows if row["receipt"] in views]
    onwards = ""
    if len(rows) == limit:
        onwards = _after(rows[-1]["created_ms"], rows[-1]["job"], rows[-1]["attempt"])
    elif more:
        onwards = _after(jobs[-1]["created_ms"], jobs[-1]["id"], LAST)
    return Listed(
        [views[row["receipt"]] for row in kept],
        [_after(row["created_ms"], row["job"], row["attempt"]) for row in kept],
        onwards,
    )


async def _jobs(
    connection: Connection, query: wire.ReceiptQuery, start: tuple[int, UUID, UUID]
) -> tuple[list[Row], bool]:
    """The jobs to look at, and whether there may be more."""
    if query.job is None:
        assert query.consumer is not None
        jobs = await store.jobs_of(connection, query.consumer, start=start[:2])
        return jobs, len(jobs) == store.JOBS_SCANNED_MAX
    job = await store.one_job(connection, UUID(query.job))
    wanted = job is not None and query.consumer in {None, job["consumer"]}
    return [job] if wanted else [], False


def _after(created_ms: int, job: UUID, attempt: UUID) -> str:
    return wire.cursor("job-receipts", created_ms, job, attempt)


async def _views(connection: Connection, logged: dict[str, int]) -> list[wire.LoggedReceipt]:
    """The receipts that the market still knows the attempts of, as the log orders them."""
    rows = await store.attempts(connection, list(logged))
    checks = [row["check_receipt"] for row in rows.values() if row["check_receipt"]]
    beside = await store.verdicts(connection, [canonical.digest_bytes(text) for text in checks])
    said = [msgspec.json.decode(payload(envelope), type=_Concluded) for envelope in beside]
    concluded = {verdict.receipt: verdict.conclusion for verdict in said}
    return [
        _view(rows[digest], index, concluded.get(digest))
        for digest, index in sorted(logged.items(), key=lambda pair: pair[1])
        if digest in rows
    ]


def _view(row: Row, index: int, concluded: str | None) -> wire.LoggedReceipt:
    verdict = {"checking": OPEN, "rejected": Conclusion.DIFFERED.value}.get(row["state"])
    return wire.LoggedReceipt(
        index=index, digest=row["receipt"], provider=row["provider"], consumer=row["consumer"],
        job=str(row["job"]), attempt=str(row["id"]), purpose=row["purpose"], first=row["first"],
        tasks=row["tasks"], wall_ms=row["wall_ms"], cpu_ms=row["cpu_ms"], protection=row["protection"],
        state=row["state"], reason=row["reason"], charge=str(int(row["charge"])),
        fee=str(int(row["fee"])), surcharge=str(int(row["surcharge"])), money=row["money"] or "",
        verdict=verdict or concluded or "", check=row["check_receipt"] or "",
    )  # fmt: skip
