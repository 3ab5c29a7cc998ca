"""A market in memory for tests of its clients: it verifies like the real one and runs tasks at once."""

import asyncio
import io
import time
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, redirect_stdout
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import cloudpickle
from aiohttp import web

from market.sdk.packing import client_manifest
from market.wire import codec, jobs, plain, problem, signed_request, trade
from market.wire.payload import Payload, inline
from settlement.domain import canonical
from settlement.domain.errors import (
    Forbidden,
    GridpactError,
    InsufficientFunds,
    JobEnded,
    NotFound,
    Refused,
    Stale,
    Unavailable,
)
from settlement.domain.payments import Payment
from settlement.domain.statement import open_envelope
from settlement.domain.trade import Manifest, Order, TopUp
from tests.unit.sdk.fake_pages import MARKET, PROVIDER, Pages, as_json

CHARGE = 1_000
CALLER = web.RequestKey("caller", str)


@dataclass
class Job:
    consumer: str
    order: Order
    spec: Any
    state: str = "running"
    reason: str = ""
    sealed: bool = False
    spent: int = 0
    budget: int = 0
    paused: bool = False
    inputs: list[Payload] = field(default_factory=list)
    results: list[jobs.TaskResult] = field(default_factory=list)
    receipts: list[jobs.ReceiptView] = field(default_factory=list)


class FakeMarket(Pages):
    """`async with market.serve() as url`. `troubles` are answers to give before the real one."""

    def __init__(self) -> None:
        super().__init__()
        self.jobs: dict[str, Job] = {}
        self.blobs: dict[str, bytes] = {}
        self.troubles: list[GridpactError | str] = []
        self.seen: list[tuple[str, str, str]] = []  # method, path, idempotency key
        self.answers: dict[tuple[str, str], web.Response] = {}
        self.hold_results = asyncio.Event()
        self.hold_results.set()
        self.changed = asyncio.Condition()
        self.authority = ""

    @asynccontextmanager
    async def serve(self) -> AsyncIterator[str]:
        app = web.Application(middlewares=[self._middleware], client_max_size=1 << 27)
        for path, handler in self._routes().items():
            method, _, rest = path.partition(" ")
            app.router.add_route(method, rest, handler)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port = runner.addresses[0][1]
        self.authority = f"127.0.0.1:{port}"
        try:
            yield f"http://{self.authority}"
        finally:
            await runner.cleanup()

    def _routes(self) -> dict[str, Callable[[web.Request], Awaitable[web.StreamResponse]]]:
        return {
            "GET /v1/market": self.market,
            "GET /readyz": self.ready,
            "GET /v1/offers": self.offers,
            "GET /v1/providers": self.providers,
            "GET /v1/environments": self.list_environments,
            "GET /v1/ledger": self.ledger,
            "GET /checkpoint": self.checkpoint,
            "GET /v1/receipts/{digest}/evidence": self.receipt_evidence,
            "GET /v1/accounts/{address}": self.account,
            "GET /v1/accounts/{address}/transfers": self.transfers,
            "POST /v1/payments": self.pay,
            "POST /v1/faucet": self.faucet,
            "PUT /v1/blobs/{digest}": self.put_blob,
            "GET /v1/blobs/{digest}": self.get_blob,
            "POST /v1/quotes": self.quote,
            "POST /v1/jobs": self.submit,
            "GET /v1/jobs": self.list_jobs,
            "GET /v1/jobs/{id}": self.show,
            "POST /v1/jobs/{id}/tasks": self.append,
            "POST /v1/jobs/{id}/budget": self.top_up,
            "POST /v1/jobs/{id}/cancel": self.cancel,
            "GET /v1/jobs/{id}/results": self.results,
            "GET /v1/jobs/{id}/receipts": self.receipts,
            "GET /v1/jobs/{id}/events": self.events,
        }

    @web.middleware
    async def _middleware(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        key = request.headers.get("Idempotency-Key", "")
        self.seen.append((request.method, request.path, key))
        try:
            await self._authenticate(request)
            if self.troubles:
                trouble = self.troubles.pop(0)
                if isinstance(trouble, GridpactError):
                    raise trouble
                if trouble == "lose the answer":
                    self.answers[(request[CALLER], key)] = _kept(await handler(request))
                assert request.transport is not None
                request.transport.abort()
                raise ConnectionResetError
            known = self.answers.get((request.get(CALLER, ""), key)) if key else None
            if known is not None:
                return web.Response(body=known.body, status=known.status)
            return await handler(request)
        except GridpactError as error:
            document = problem.from_error(error)
            return web.Response(
                body=codec.encode(document),
                status=document.status,
                content_type=problem.CONTENT_TYPE,
            )

    async def _authenticate(self, request: web.Request) -> None:
        open_reads = ("/v1/market", "/v1/offers", "/v1/providers", "/v1/environments", "/v1/ledger")
        if request.method == "GET" and (
            request.path in (*open_reads, "/checkpoint", "/readyz")
            or request.path.endswith("/evidence")
        ):
            return
        received = signed_request.Request(
            request.method,
            request.headers["Host"],
            request.rel_url.raw_path,
            f"?{request.rel_url.raw_query_string}" if request.rel_url.raw_query_string else "",
            {name.lower(): value for name, value in request.headers.items()},
        )
        caller = signed_request.verify(
            received, authorities=frozenset({self.authority}), now=int(time.time())
        )
        if request.method != "GET":
            signed_request.verify_body(received, await request.read())
        request[CALLER] = caller.address

    # ── accounts ────────────────────────────────────────────────────────────────────────────

    async def account(self, request: web.Request) -> web.Response:
        address = request.match_info["address"]
        if address != request[CALLER]:
            raise Forbidden
        budgets = sum(
            job.budget - job.spent
            for job in self.jobs.values()
            if job.consumer == address and job.state != "closed"
        )
        available = str(self.funds.get(address, 0))
        return as_json(trade.AccountView(address, available, "0", "0", str(budgets)))

    async def transfers(self, request: web.Request) -> web.Response:
        row = trade.TransferView(
            sequence=1, id=str(uuid4()), debit="market/issued",
            credit=f"{request[CALLER]}/available", amount="5000000", reason="issue",
            cause="sha256:" + "1" * 64, ts_ns="1",
        )  # fmt: skip
        return as_json(trade.Transfers([row], 1))

    # ── money and blobs ─────────────────────────────────────────────────────────────────────

    async def pay(self, request: web.Request) -> web.Response:
        body = codec.decode(await request.read(), trade.Pay)
        payment, opened = open_envelope(body.payment, Payment, market=MARKET)
        self._take(payment.payer, int(payment.amount))
        self.funds[payment.to] = self.funds.get(payment.to, 0) + int(payment.amount)
        return as_json(trade.Moved(opened.digest, 7, "applied"))

    async def faucet(self, request: web.Request) -> web.Response:
        body = codec.decode(await request.read(), trade.Faucet)
        caller = request[CALLER]
        self.funds[caller] = self.funds.get(caller, 0) + int(body.amount)
        return as_json(trade.Moved("sha256:" + "2" * 64, 1, "applied"))

    def _take(self, party: str, amount: int) -> None:
        if self.funds.get(party, 0) < amount:
            raise InsufficientFunds(f"{self.funds.get(party, 0)} of {amount} are there")
        self.funds[party] -= amount

    async def put_blob(self, request: web.Request) -> web.Response:
        data = await request.read()
        assert canonical.digest(data) == request.match_info["digest"]
        self.blobs[request.match_info["digest"]] = data
        return web.Response(status=201)

    async def get_blob(self, request: web.Request) -> web.Response:
        digest = request.match_info["digest"]
        if digest not in self.blobs:
            raise NotFound(f"no blob {digest}")
        return web.Response(body=self.blobs[digest])

    # ── jobs ────────────────────────────────────────────────────────────────────────────────

    async def quote(self, request: web.Request) -> web.Response:
        codec.decode(await request.read(), jobs.QuoteRequest)
        offer = jobs.QuotedOffer(PROVIDER, "alpha", "210", 2, [])
        return as_json(jobs.Quote(2, "210", "220", 1_000, [offer]))

    async def submit(self, request: web.Request) -> web.Response:
        body = codec.decode(await request.read(), jobs.Submit)
        order, _ = open_envelope(body.order, Order, market=MARKET)
        if order.consumer != request[CALLER] or order.spec != body.spec.digest():
            raise Refused("the order is not the caller's, or of another specification")
        if body.spec.function not in self.blobs:
            raise NotFound("the function was not uploaded")
        self._take(order.consumer, int(order.budget))
        job = Job(order.consumer, order, body.spec, budget=int(order.budget))
        self.jobs[order.job] = job
        await self._add(job, body.inputs, sealed=body.sealed)
        return as_json(self._view(order.job), status=201)

    async def append(self, request: web.Request) -> web.Response:
        body = codec.decode(await request.read(), jobs.Append)
        job = self._job(request)
        if job.sealed or job.state == "closed":
            raise JobEnded("the job takes no more tasks")
        if body.first != len(job.inputs):
            raise Stale(f"the next index is {len(job.inputs)}")
        await self._add(job, body.inputs, sealed=body.sealed)
        return as_json(self._view(request.match_info["id"]))

    async def _add(self, job: Job, inputs: list[Payload], *, sealed: bool) -> None:
        for payload in inputs:
            payload.check()
            job.inputs.append(payload)
            self._run(job, len(job.inputs) - 1)
        job.sealed = sealed
        if sealed and len(job.results) == len(job.inputs):
            self._close(job, "done")
        async with self.changed:
            self.changed.notify_all()

    def _close(self, job: Job, reason: str) -> None:
        if job.state != "closed":
            self.funds[job.consumer] = self.funds.get(job.consumer, 0) + job.budget - job.spent
            job.state, job.reason = "closed", reason

    def _run(self, job: Job, index: int) -> None:
        if job.spent + CHARGE > job.budget:
            job.paused = True
            return
        payload = job.inputs[index]
        body = payload.body if payload.body is not None else self.blobs[payload.digest]
        args, kwargs = cloudpickle.loads(body)
        printed, status = io.StringIO(), "ok"
        try:
            with redirect_stdout(printed):
                value = cloudpickle.loads(self.blobs[job.spec.function])(*args, **kwargs)
            output = plain.encode(value)
        except MemoryError:
            status, output = "oom", b""
        except GridpactError as error:
            status, output = "unsafe_result", plain.encode(ValueError(error.detail))
        except Exception as error:  # noqa: BLE001 - whatever the task raises is its result
            traceback.clear_frames(error.__traceback__)
            status, output = "error", plain.encode_exception(error)
        sent = inline(output)
        if sent.body is None:
            self.blobs[sent.digest] = output
        attempt = str(uuid4())
        job.spent += CHARGE
        job.results.append(
            jobs.TaskResult(
                index=index, status=status, output=sent, log=printed.getvalue(),
                attempt=attempt, provider=PROVIDER,
            )
        )  # fmt: skip
        job.receipts.append(
            jobs.ReceiptView(
                attempt=attempt, receipt=canonical.digest(attempt.encode()), purpose="work",
                state="accepted", reason="", provider=PROVIDER, provider_name="alpha",
                first=index, tasks=1, wall_ms=5, cpu_ms=4, protection="S", charge="900", fee="45",
                surcharge="100", money="charged",
            )
        )  # fmt: skip

    async def top_up(self, request: web.Request) -> web.Response:
        body = codec.decode(await request.read(), jobs.TopUpRequest)
        statement, _ = open_envelope(body.top_up, TopUp, market=MARKET)
        job = self._job(request)
        self._take(statement.consumer, int(statement.amount))
        job.budget += int(statement.amount)
        job.paused = False
        for index in range(len(job.results), len(job.inputs)):
            self._run(job, index)
        if job.sealed and len(job.results) == len(job.inputs):
            self._close(job, "done")
        return as_json(self._view(statement.job))

    async def cancel(self, request: web.Request) -> web.Response:
        assert await request.read() == b""
        self._close(self._job(request), "cancelled")
        return as_json(self._view(request.match_info["id"]))

    def _job(self, request: web.Request) -> Job:
        job = self.jobs.get(request.match_info["id"])
        if job is None or job.consumer != request[CALLER]:
            raise NotFound(f"no job {request.match_info['id']}")
        return job

    def _view(self, name: str) -> jobs.JobView:
        job = self.jobs[name]
        return jobs.JobView(
            id=name, name=job.spec.name, state=job.state, reason=job.reason,
            order="sha256:" + "3" * 64, order_state="open", tasks=len(job.inputs),
            accepted=len(job.results), sealed=job.sealed, slots=job.order.slots, leases=1,
            paused=job.paused, rate_cap=job.order.rate_cap, budget=str(job.budget),
            spent=str(job.spent),
            refunded=str(job.budget - job.spent if job.state == "closed" else 0),
            verify=job.spec.verify, environment=job.spec.environment, created_ms=1,
            deadline_ms=job.order.deadline_ms, closed_ms=2 if job.state == "closed" else 0,
        )  # fmt: skip

    async def show(self, request: web.Request) -> web.Response:
        self._job(request)
        return as_json(self._view(request.match_info["id"]))

    async def list_jobs(self, request: web.Request) -> web.Response:
        own = [name for name, job in self.jobs.items() if job.consumer == request[CALLER]]
        return as_json(jobs.JobList([self._view(name) for name in own], ""))

    async def results(self, request: web.Request) -> web.Response:
        query = codec.convert(dict(request.query), trade.Follow)
        job = self._job(request)
        await self.hold_results.wait()
        deadline = time.monotonic() + query.wait_ms / 1_000
        while len(job.results) <= query.after and job.state != "closed" and not job.paused:
            left = deadline - time.monotonic()
            if left <= 0:
                break
            async with self.changed:
                try:
                    await asyncio.wait_for(self.changed.wait(), left)
                except TimeoutError:
                    break
        page = job.results[query.after : query.after + query.limit]
        return as_json(
            jobs.Results(
                page, query.after + len(page), job.state, job.reason, len(job.results),
                len(job.inputs), job.paused,
            )
        )  # fmt: skip

    async def receipts(self, request: web.Request) -> web.Response:
        return as_json(jobs.Receipts(self._job(request).receipts, ""))

    async def events(self, request: web.Request) -> web.Response:
        self._job(request)
        return as_json(jobs.Events([jobs.Event(1, 5, "submitted", "")], 1))


def _kept(response: web.StreamResponse) -> web.Response:
    assert isinstance(response, web.Response)
    return response


def unavailable(times: int) -> list[GridpactError | str]:
    return [Unavailable("busy") for _ in range(times)]


def other_python() -> jobs.EnvironmentView:
    """An environment that this interpreter cannot send code to."""
    manifest = Manifest(dict(client_manifest().packages), "3.12")
    return jobs.EnvironmentView(manifest.digest(), manifest, 1)
