"""Routes of jobs, their results and blobs."""

import asyncio
import contextlib
import os
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final, TypeVar
from uuid import UUID

from market.domain.job import JobState
from market.http.endpoint import Access, Call, Endpoint, Text
from market.http.state import CLOSING
from market.service import jobs, matching
from market.store import blobs
from market.store import jobs as store
from market.store.bus import job_topic, wait
from market.store.rows import Connection, Row
from market.wire.jobs import (
    Append,
    Event,
    Events,
    JobList,
    JobView,
    Quote,
    QuoteRequest,
    Receipts,
    ReceiptView,
    Results,
    Submit,
    TaskResult,
    TopUpRequest,
)  # fmt: skip
from market.wire.payload import Payload
from market.wire.trade import Follow, Page
from settlement.domain import canonical
from settlement.domain.errors import DigestMismatch, Forbidden, LimitExceeded, Malformed, NotFound

NIL: Final = UUID(int=0)
FAR_MS: Final = 2**53
BLOBS_BYTES_MAX: Final = 4 * 1024**3  # stored for one party

T = TypeVar("T")


async def quote(call: Call, body: QuoteRequest) -> Quote:
    """What would match now, at which rates; the matcher's own predicates."""
    return await matching.quote(call.market, call.address, body, now_ms=call.now_ms)


async def submit_job(call: Call, body: Submit) -> JobView:
    """Submit a job: the signed order moves its budget, the job waits for a match."""
    return await jobs.submit(call.market, call.address, body, now_ms=call.now_ms)


async def list_jobs(call: Call, query: Page) -> JobList:
    """The caller's jobs, newest first."""
    created, job = (FAR_MS, UUID(int=2**128 - 1)) if not query.after else _cursor(query.after)

    async def read(connection: Connection) -> list[Row]:
        return await store.page(connection, call.address, after=(created, job), limit=query.limit)

    rows = await call.market.read(read)
    last = f"{rows[-1]['created_ms']}.{rows[-1]['id']}" if len(rows) == query.limit else ""
    return JobList([jobs.to_view(row) for row in rows], last)


def _cursor(text: str) -> tuple[int, UUID]:
    created, _, job = text.partition(".")
    try:
        return int(created), UUID(job)
    except ValueError:
        raise Malformed("the cursor is not one of this list") from None


async def show_job(call: Call, job: UUID) -> JobView:
    """One job of the caller's."""
    return await jobs.view(call.market, call.address, job)


async def append_tasks(call: Call, job: UUID, body: Append) -> JobView:
    """More tasks for an open job, or the word that no more will come."""
    return await jobs.append(call.market, call.address, job, body, now_ms=call.now_ms)


async def top_up_job(call: Call, job: UUID, body: TopUpRequest) -> JobView:
    """More budget for a job, by the consumer's signed statement."""
    return await jobs.top_up(call.market, call.address, job, body.top_up, now_ms=call.now_ms)


async def cancel_job(call: Call, job: UUID) -> JobView:
    """Stop a job; the rest of its budget returns."""
    return await jobs.cancel(call.market, call.address, job, now_ms=call.now_ms)


async def job_results(call: Call, job: UUID, query: Follow) -> Results:
    """Accepted results after a cursor; waits for new ones up to `wait_ms`, or until the job ends."""

    async def read(connection: Connection) -> Results | None:
        row = await _own(connection, call, job)
        rows = await store.results(connection, job, after=query.after, limit=query.limit)
        if not rows and row["state"] != JobState.CLOSED and not row["paused"]:
            return None
        return _results(row, rows, query.after)

    found = await _follow(call, job, query.wait_ms, read)
    if found is not None:
        return found

    async def last(connection: Connection) -> Results:
        return _results(await _own(connection, call, job), [], query.after)

    return await call.market.read(last)


def _results(row: Row, rows: list[Row], after: int) -> Results:
    results = [
        TaskResult(
            index=found["index"], status=found["status"],
            output=Payload(found["digest"], found["size"], found["body"]), log=found["log"],
            attempt=str(found["attempt"]), provider=found["provider"],
        )
        for found in rows
    ]  # fmt: skip
    return Results(
        results, rows[-1]["position"] if rows else after, row["state"], row["reason"], row["accepted"],
        row["tasks"], row["paused"],
    )  # fmt: skip


async def job_events(call: Call, job: UUID, query: Follow) -> Events:
    """The job's history after a cursor; waits for more up to `wait_ms`."""

    async def read(connection: Connection) -> Events | None:
        row = await _own(connection, call, job)
        rows = await store.events(connection, job, after=query.after, limit=query.limit)
        if not rows and row["state"] != JobState.CLOSED:
            return None
        events = [
            Event(found["position"], found["at_ms"], found["kind"], found["detail"])
            for found in rows
        ]
        return Events(events, events[-1].position if events else query.after)

    return await _follow(call, job, query.wait_ms, read) or Events([], query.after)


async def job_receipts(call: Call, job: UUID, query: Page) -> Receipts:
    """Every attempt of the job with its receipt and its money."""
    try:
        after = UUID(query.after) if query.after else NIL
    except ValueError:
        raise Malformed("the cursor is not one of this list") from None

    async def read(connection: Connection) -> list[Row]:
        await _own(connection, call, job)
        return await store.attempts(connection, job, after=after, limit=query.limit)

    rows = await call.market.read(read)
    last = str(rows[-1]["id"]) if len(rows) == query.limit else ""
    return Receipts([_receipt(row) for row in rows], last)


def _receipt(row: Row) -> ReceiptView:
    return ReceiptView(
        attempt=str(row["id"]), receipt=row["receipt"] or "", purpose=row["purpose"], state=row["state"],
        reason=row["reason"], provider=row["provider"], provider_name=row["provider_name"],
        first=row["first"], tasks=row["tasks"], wall_ms=row["wall_ms"], cpu_ms=row["cpu_ms"],
        protection=row["protection"], charge=str(int(row["charge"])), fee=str(int(row["fee"])),
        surcharge=str(int(row["surcharge"])), money=row["money"] or "",
    )  # fmt: skip


async def _own(connection: Connection, call: Call, job: UUID) -> Row:
    row = await store.read(connection, job)
    if row is None or row["consumer"] != call.address:
        raise NotFound("no such job of yours")
    return row


async def _follow(
    call: Call, job: UUID, wait_ms: int, read: Callable[[Any], Awaitable[T | None]]
) -> T | None:
    """Read; if nothing is there, wait for a wake-up and read again, until the time is over."""
    deadline = time.monotonic() + wait_ms / 1_000
    async with call.market.bus.listen(job_topic(job)) as changed:
        while True:
            found = await call.market.read(read)
            left = deadline - time.monotonic()
            if found is not None or left <= 0 or call.request.app[CLOSING].flag:
                return found
            await wait(changed, min(left, 1.0))


async def put_blob(call: Call, digest: str, body: bytes) -> Payload:
    """Upload bytes under their digest."""
    if canonical.digest(body) != digest:
        raise DigestMismatch
    used = await call.market.read(blobs.stored_bytes, call.address)
    if used + len(body) > BLOBS_BYTES_MAX:
        raise LimitExceeded(f"a party stores at most {BLOBS_BYTES_MAX} bytes")
    await asyncio.to_thread(_write, call.edge.blobs, digest, body)

    async def keep(connection: Connection) -> None:
        await blobs.keep(connection, digest, call.address, size=len(body), now_ms=call.now_ms)

    await call.market.transact(keep)
    return Payload(digest, len(body))


def _blob_path(folder: Path, digest: str) -> Path:
    name = digest.removeprefix("sha256:")
    return folder / name[:2] / name


def _write(folder: Path, digest: str, body: bytes) -> None:
    """Atomic: a blob is whole under its name, or not there."""
    path = _blob_path(folder, digest)
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(body)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            Path(temporary).unlink()
        raise


async def get_blob(call: Call, digest: str) -> Text:
    """Bytes by digest: the owner's, a leased provider's inputs, a consumer's results."""
    if not await call.market.read(blobs.readable, digest, call.address):
        raise Forbidden("this blob is not for this key")
    try:
        body = await asyncio.to_thread(_blob_path(call.edge.blobs, digest).read_bytes)
    except FileNotFoundError:
        raise NotFound("the blob is gone") from None
    return Text(body, "application/octet-stream", immutable=True)


ENDPOINTS: Final = (
    Endpoint("POST", "/v1/quotes", quote, Access.WRITE),
    Endpoint("POST", "/v1/jobs", submit_job, Access.WRITE, status=201),
    Endpoint("GET", "/v1/jobs", list_jobs, Access.READ),
    Endpoint("GET", "/v1/jobs/{job}", show_job, Access.READ),
    Endpoint("POST", "/v1/jobs/{job}/tasks", append_tasks, Access.WRITE),
    Endpoint("POST", "/v1/jobs/{job}/budget", top_up_job, Access.WRITE),
    Endpoint("POST", "/v1/jobs/{job}/cancel", cancel_job, Access.WRITE),
    Endpoint("GET", "/v1/jobs/{job}/results", job_results, Access.READ),
    Endpoint("GET", "/v1/jobs/{job}/events", job_events, Access.READ),
    Endpoint("GET", "/v1/jobs/{job}/receipts", job_receipts, Access.READ),
    Endpoint("PUT", "/v1/blobs/{digest}", put_blob, Access.WRITE, status=201, raw=True),
    Endpoint("GET", "/v1/blobs/{digest}", get_blob, Access.READ),
)
