"""The async heart of the SDK: a method for each thing a market does for a party."""

import asyncio
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Final, TypeVar
from uuid import uuid4

from market.domain.jobspec import Spec
from market.sdk.explorer import Explorer
from market.sdk.money import MoneyClient
from market.sdk.reader import MILLISECONDS, now_ms, read
from market.sdk.transport import BYTES, REQUEST_TIMEOUT_SECONDS
from market.wire import codec, jobs, public, trade
from market.wire.payload import BLOB_BYTES_MAX, Payload, inline
from settlement.domain import canonical
from settlement.domain.errors import (
    BudgetExceeded,
    DigestMismatch,
    GridpactError,
    LimitExceeded,
    Oversized,
)
from settlement.domain.payments import Issue, Payment
from settlement.domain.trade import TASKS_MAX, Order, TopUp

__all__ = ["DEADLINE_SECONDS", "MarketClient", "batches", "now_ms"]

BATCH_BYTES_MAX: Final = codec.BODY_BYTES_MAX - 64 * 1024  # the rest is for spec and order
PAYLOAD_FRAME_BYTES: Final = 140  # digest, size and names of one payload in JSON
UPLOADS_AT_ONCE: Final = 8
POLL_WAIT_MS: Final = 20_000
PAUSED_POLL_MS: Final = 500
PAUSED_SECONDS_MAX: Final = 3.0  # a shorter pause may only wait for receipts to settle
RESULTS_PAGE: Final = 500
DEADLINE_SECONDS: Final = 24 * 3_600  # of an order, when nothing else is asked for

T = TypeVar("T")


def batches(payloads: Sequence[Payload]) -> list[Sequence[Payload]]:
    """Cut inputs into requests that stay below the limits on tasks and bytes."""
    cut: list[Sequence[Payload]] = []
    start, size = 0, 0
    for index, payload in enumerate(payloads):
        cost = PAYLOAD_FRAME_BYTES + (len(payload.body) * 4 // 3 + 4 if payload.body else 0)
        if index > start and (
            index - start >= jobs.APPEND_TASKS_MAX or size + cost > BATCH_BYTES_MAX
        ):
            cut.append(payloads[start:index])
            start, size = index, 0
        size += cost
    cut.append(payloads[start:])
    return cut


class MarketClient(MoneyClient):
    """One party at one market; use it inside `async with`."""

    @property
    def explorer(self) -> Explorer:
        """The public ledger and log, list by list."""
        return Explorer(self.transport)

    # ── money ───────────────────────────────────────────────────────────────────────────────

    async def balances(self) -> trade.AccountView:
        data = await self.transport.request("GET", f"/v1/accounts/{self.address}")
        return read(data, trade.AccountView)

    async def transfers(self, *, after: int = 0, limit: int = 100) -> trade.Transfers:
        data = await self.transport.request(
            "GET",
            f"/v1/accounts/{self.address}/transfers",
            query={"after": after, "limit": limit},
        )
        return read(data, trade.Transfers)

    async def pay(self, to: str, amount_microcredits: int, *, memo: str = "") -> trade.Moved:
        """Move available tokens to another party."""
        payment = Payment(
            v=1,
            kind="payment",
            market=(await self.market()).market,
            payer=self.address,
            to=to,
            amount=str(amount_microcredits),
            transfer=str(uuid4()),
            memo=memo,
            at_ms=now_ms(),
        )
        return read(
            await self._write("POST", "/v1/payments", trade.Pay(self._sign(payment))), trade.Moved
        )

    async def issue(
        self, to: str, amount_microcredits: int, *, purpose: str = "available", memo: str = ""
    ) -> trade.Moved:
        """New tokens, by the operator's key alone: for a party, or for the market's `checks`."""
        statement = Issue(
            v=1,
            kind="issue",
            market=(await self.market()).market,
            operator=self.address,
            to=to,
            purpose=purpose,
            amount=str(amount_microcredits),
            transfer=str(uuid4()),
            memo=memo,
            at_ms=now_ms(),
        )
        body = trade.IssuePost(self._sign(statement))
        return read(await self._write("POST", "/v1/issues", body), trade.Moved)

    async def validators(self) -> public.ValidatorsView:
        """Who cosigns the log, how far it is final, and which sets are proposed."""
        return read(await self.transport.request("GET", "/v1/validators"), public.ValidatorsView)

    async def set_validators(self, members: Sequence[str], quorum: int) -> trade.Moved:
        """Name validators (verifier keys of type 04), by the operator's key; a present set approves."""
        body = public.SetValidators(list(members), quorum)
        return read(await self._write("POST", "/v1/validators", body), trade.Moved)

    async def faucet(self, amount_microcredits: int) -> trade.Moved:
        """Tokens out of nothing, on a development stack only."""
        body = trade.Faucet(str(amount_microcredits))
        return read(await self._write("POST", "/v1/faucet", body), trade.Moved)

    # ── blobs ───────────────────────────────────────────────────────────────────────────────

    async def put_blob(self, body: bytes) -> str:
        """Store bytes under their digest."""
        if len(body) > BLOB_BYTES_MAX:
            raise Oversized(f"{len(body)} bytes; a blob has at most {BLOB_BYTES_MAX}")
        digest = canonical.digest(body)
        await self.transport.request("PUT", f"/v1/blobs/{digest}", body, content_type=BYTES)
        return digest

    async def get_blob(self, digest: str) -> bytes:
        """The bytes behind a digest, checked."""
        data = await self.transport.request("GET", f"/v1/blobs/{digest}")
        if canonical.digest(data) != digest:
            raise DigestMismatch(f"the market sent other bytes than {digest}")
        return data

    async def content(self, payload: Payload) -> bytes:
        """The bytes of a payload, wherever they are, checked."""
        payload.check()
        if payload.body is not None:
            return payload.body
        return await self.get_blob(payload.digest)

    async def payloads(self, bodies: Sequence[bytes]) -> list[Payload]:
        """Payloads for some inputs; the large ones are uploaded first, each content once."""
        made = [inline(body) for body in bodies]
        large = {
            payload.digest: body
            for payload, body in zip(made, bodies, strict=True)
            if payload.body is None
        }
        waiting = list(large.values())

        async def upload() -> None:
            while waiting:
                await self.put_blob(waiting.pop())

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(min(UPLOADS_AT_ONCE, len(waiting))):
                    group.create_task(upload())
        except* GridpactError as errors:
            raise _first(errors) from None
        return made

    # ── jobs ────────────────────────────────────────────────────────────────────────────────

    async def quote(self, request: jobs.QuoteRequest) -> jobs.Quote:
        return read(await self._write("POST", "/v1/quotes", request), jobs.Quote)

    async def submit(  # noqa: PLR0913 - an order's terms
        self,
        spec: Spec,
        inputs: Sequence[Payload] = (),
        *,
        function: bytes | None = None,
        slots: int,
        rate_cap_microcredits: int,
        budget_microcredits: int,
        sealed: bool = True,
        tasks_max: int | None = None,
        deadline_seconds: float = DEADLINE_SECONDS,
        job: str | None = None,
    ) -> jobs.JobView:
        """Order a job: upload its code, sign the order, send all its inputs.

        `sealed=False` leaves the job open, so that `append` can add up to `tasks_max` tasks.
        """
        if function is not None and await self.put_blob(function) != spec.function:
            raise DigestMismatch("the specification names another function")
        parts = batches(inputs)
        view = await self._order(
            spec,
            parts[0],
            sealed=sealed and len(parts) == 1,
            tasks=tasks_max or (len(inputs) if sealed and inputs else TASKS_MAX),
            slots=slots,
            rate_cap_microcredits=rate_cap_microcredits,
            budget_microcredits=budget_microcredits,
            deadline_seconds=deadline_seconds,
            job=job or str(uuid4()),
        )
        first = len(parts[0])
        for number, part in enumerate(parts[1:], start=2):
            view = await self.append(view.id, first, part, sealed=sealed and number == len(parts))
            first += len(part)
        return view

    async def _order(  # noqa: PLR0913 - an order's terms
        self,
        spec: Spec,
        inputs: Sequence[Payload],
        *,
        sealed: bool,
        tasks: int,
        slots: int,
        rate_cap_microcredits: int,
        budget_microcredits: int,
        deadline_seconds: float,
        job: str,
    ) -> jobs.JobView:
        if tasks > TASKS_MAX:
            raise LimitExceeded(f"a job has at most {TASKS_MAX} tasks, not {tasks}")
        at_ms = now_ms()
        order = Order(
            v=1,
            kind="order",
            market=(await self.market()).market,
            consumer=self.address,
            job=job,
            spec=spec.digest(),
            tasks=tasks,
            slots=slots,
            rate_cap=str(rate_cap_microcredits),
            budget=str(budget_microcredits),
            transfer=str(uuid4()),
            deadline_ms=at_ms + int(deadline_seconds * MILLISECONDS),
            at_ms=at_ms,
        )
        body = jobs.Submit(self._sign(order), spec, list(inputs), sealed)
        return read(await self._write("POST", "/v1/jobs", body), jobs.JobView)

    async def append(
        self, job: str, first: int, inputs: Sequence[Payload], *, sealed: bool = False
    ) -> jobs.JobView:
        """Add tasks to an open job; `first` is the index of the first of them."""
        body = jobs.Append(first, list(inputs), sealed)
        return read(await self._write("POST", f"/v1/jobs/{job}/tasks", body), jobs.JobView)

    async def top_up(self, job: str, amount_microcredits: int) -> jobs.JobView:
        """Add to a job's budget, so that a paused one goes on."""
        statement = TopUp(
            v=1,
            kind="topup",
            market=(await self.market()).market,
            consumer=self.address,
            job=job,
            amount=str(amount_microcredits),
            transfer=str(uuid4()),
            at_ms=now_ms(),
        )
        body = jobs.TopUpRequest(self._sign(statement))
        return read(await self._write("POST", f"/v1/jobs/{job}/budget", body), jobs.JobView)

    async def cancel(self, job: str) -> jobs.JobView:
        """End a job now; what ran is paid, the rest of the budget comes back."""
        return read(await self._write("POST", f"/v1/jobs/{job}/cancel", None), jobs.JobView)

    async def job(self, job: str) -> jobs.JobView:
        return read(await self.transport.request("GET", f"/v1/jobs/{job}"), jobs.JobView)

    async def list_jobs(self, *, after: str = "", limit: int = 100) -> jobs.JobList:
        data = await self.transport.request(
            "GET", "/v1/jobs", query={"after": after, "limit": limit}
        )
        return read(data, jobs.JobList)

    async def results(
        self, job: str, *, after: int = 0, limit: int = RESULTS_PAGE, wait_ms: int = 0
    ) -> jobs.Results:
        """One page of accepted results; with `wait_ms` it waits for something new."""
        return await self._follow(f"/v1/jobs/{job}/results", jobs.Results, after, limit, wait_ms)

    async def stream(self, job: str, *, after: int = 0) -> AsyncGenerator[jobs.Results]:
        """Pages of results until the job is closed and all of them were given.

        A job that stays paused for want of budget raises `BudgetExceeded`; top it up and go on.
        """
        paused_at: float | None = None
        while True:
            wait_ms = POLL_WAIT_MS if paused_at is None else PAUSED_POLL_MS
            page = await self.results(job, after=after, wait_ms=wait_ms)
            now = time.monotonic()
            if page.results or not page.paused:
                paused_at = None
            elif paused_at is None:
                paused_at = now
            elif now - paused_at > PAUSED_SECONDS_MAX:
                raise BudgetExceeded(f"job {job} has used up its budget and waits for a top-up")
            yield page
            if page.state == "closed" and not page.results:
                return
            after = page.next

    async def events(
        self, job: str, *, after: int = 0, limit: int = RESULTS_PAGE, wait_ms: int = 0
    ) -> jobs.Events:
        return await self._follow(f"/v1/jobs/{job}/events", jobs.Events, after, limit, wait_ms)

    async def receipts(self, job: str) -> list[jobs.ReceiptView]:
        """Every attempt of a job with its receipt and its money."""
        found: list[jobs.ReceiptView] = []
        after = ""
        while True:
            data = await self.transport.request(
                "GET",
                f"/v1/jobs/{job}/receipts",
                query={"after": after, "limit": jobs.PAGE_MAX}
                if after
                else {"limit": jobs.PAGE_MAX},
            )
            page = read(data, jobs.Receipts)
            found += page.receipts
            if not page.next or not page.receipts:
                return found
            after = page.next

    async def _follow(self, path: str, kind: type[T], after: int, limit: int, wait_ms: int) -> T:
        query: Mapping[str, int] = {"after": after, "limit": limit, "wait_ms": wait_ms}
        data = await self.transport.request(
            "GET",
            path,
            query=query,
            timeout_seconds=REQUEST_TIMEOUT_SECONDS + wait_ms / MILLISECONDS,
        )
        return read(data, kind)


def _first(errors: BaseExceptionGroup[GridpactError]) -> GridpactError:
    error = errors.exceptions[0]
    return _first(error) if isinstance(error, BaseExceptionGroup) else error
