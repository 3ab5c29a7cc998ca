"""The whole story in one test: quote, order, leases, checks, receipts, charges, release, proof."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cloudpickle
import pytest

from market.sdk.client import MarketClient
from market.sdk.function import Function, MapJob, Terms
from market.sdk.packing import client_manifest
from market.wire import plain
from market.wire.jobs import JobView, ReceiptView
from settlement.domain import charge, evidence
from settlement.domain.identity import PrivateKey
from settlement.domain.payments import Release
from settlement.domain.receipt import Receipt
from settlement.domain.statement import Statement
from settlement.domain.trade import Close, Lease, Order
from settlement.domain.verdict import Conclusion, Verdict
from tests.system.fake_provider import FakeProvider
from tests.system.running import Running
from tests.system.trading import FUNDS, RATE, logged, rows, until

pytestmark = pytest.mark.system
OWED = (
    "SELECT charge FROM attempts AS a WHERE purpose = 'check' AND state = 'accepted' AND NOT EXISTS"
    " (SELECT 1 FROM charges WHERE attempt = a.id) ORDER BY received_ms LIMIT 1"
)
TASKS = 24
PRICE = "360"  # credits per slot-hour: exactly RATE micro-credits per slot-second
TERMS = Terms(max_price=PRICE, budget="150", slots=2, verify="spot", task_timeout_seconds=10.0)


def square(x: int) -> int:
    return x * x


def running_calls(function: Callable[..., Any]) -> Callable[[bytes], bytes]:
    """What a sandbox does with an input, without the sandbox."""

    def compute(body: bytes) -> bytes:
        args, kwargs = cloudpickle.loads(body)
        return plain.encode(function(*args, **kwargs))

    return compute


def of(kind: type[Any], statements: list[Statement]) -> list[Any]:
    return [statement for statement in statements if isinstance(statement, kind)]


def recomputed(view: ReceiptView, claim: Receipt) -> charge.Charge:
    """The money of one attempt, from the signed receipt and the agreed rate alone."""
    return charge.split(
        charge.gross(wall_ms=claim.usage.wall_ms, rate_microcredits=RATE),
        checked=view.purpose == "work",
    )


@dataclass(frozen=True)
class Books:
    """One finished job as its consumer can prove it: attempts, signed claims, recomputed money."""

    whole: Running
    client: MarketClient
    final: JobView
    work: list[ReceiptView]
    checks: list[ReceiptView]
    claims: dict[str, Receipt]
    statements: list[Statement]

    @classmethod
    async def of(cls, whole: Running, client: MarketClient, job: MapJob[int]) -> "Books":
        receipts = await job.receipts()
        claims = {one.view.attempt: (await one.verify()).receipt for one in receipts}
        views = [one.view for one in receipts]
        return cls(
            whole,
            client,
            await job.view(),
            [view for view in views if view.purpose == "work"],
            [view for view in views if view.purpose == "check"],
            claims,
            await logged(whole),
        )

    def price(self, view: ReceiptView) -> charge.Charge:
        return recomputed(view, self.claims[view.attempt])

    @property
    def spent(self) -> int:
        return sum(self.price(view).paid_microcredits for view in self.work)

    async def paid_checks(self) -> list[ReceiptView]:
        """Checks whose wage is paid: as far as the surcharges filled `checks`."""
        paid = {
            str(row["attempt"]) for row in await rows(self.whole, "SELECT attempt FROM charges")
        }
        return [view for view in self.checks if view.attempt in paid]


async def test_the_whole_story(whole: Running) -> None:
    assert TERMS.rate_cap_microcredits == RATE
    make = functools.partial(
        FakeProvider, whole, compute=running_calls(square), environments=(client_manifest(),)
    )
    async with (
        make(1).open() as alpha,
        make(2).open() as beta,
        whole.client(PrivateKey(b"\x31" * 32)) as client,
    ):
        both = [alpha, beta]
        await client.faucet(FUNDS)
        job = await bought(client, {one.address for one in both})
        books = await Books.of(whole, client, job)
        await checked_by_each_other(books, both)
        await charged_to_the_microcredit(books)
        await released_after_the_hold(books, both)
        await every_token_is_somewhere(books)
        await proven_offline(books, both)


async def bought(client: MarketClient, providers: set[str]) -> MapJob[int]:
    """Quote → order → leases at both → results."""
    squares = Function(client, square, TERMS)
    estimate = await squares.estimate(TASKS)
    assert (estimate.slots, estimate.rate_worst_microcredits) == (2, RATE)
    assert estimate.unit == 360
    job: MapJob[int] = await squares.map([((number,), {}) for number in range(TASKS)])
    assert int((await client.balances()).budgets) == TERMS.budget_microcredits
    outcomes = []
    while fresh := await job.take():
        outcomes += fresh
    await job.wait()
    assert sorted(outcome.index for outcome in outcomes) == list(range(TASKS))
    assert all(outcome.value() == outcome.index**2 for outcome in outcomes)
    assert {outcome.provider for outcome in outcomes} == providers
    return job


async def checked_by_each_other(books: Books, both: list[FakeProvider]) -> None:
    """Each first chunk was run again by the other, and the verdicts are in the log."""
    addresses = {one.address for one in both}
    assert {view.provider for view in books.checks} == addresses
    verdicts: list[Verdict] = of(Verdict, books.statements)
    assert [verdict.conclusion for verdict in verdicts] == [Conclusion.AGREED] * 2
    providers = {view.receipt: view.provider for view in books.work + books.checks}
    for verdict in verdicts:
        worker, checker = providers[verdict.receipt], providers[verdict.checks[0]]
        assert verdict.providers == [worker, checker]
        assert worker != checker
    standings = {view.address: view.agreed for view in await books.client.providers()}
    assert standings == dict.fromkeys(addresses, 2)


async def charged_to_the_microcredit(books: Books) -> None:
    """Each charge follows from its receipt; the rest of the budget is back."""
    for view in books.work + books.checks:
        price = books.price(view)
        assert view.state == "accepted"
        assert int(view.charge) == price.gross_microcredits > 0
        assert int(view.fee) == price.fee_microcredits
        assert int(view.surcharge) == price.surcharge_microcredits
    final, (close,) = books.final, of(Close, books.statements)
    assert (final.state, final.reason) == ("closed", "done")
    assert int(final.spent) == int(close.spent) == books.spent
    assert int(final.refunded) == TERMS.budget_microcredits - books.spent
    assert int((await books.client.balances()).available) == FUNDS - books.spent


async def released_after_the_hold(books: Books, both: list[FakeProvider]) -> None:
    """What was earned, by work and by checks, becomes the providers' own."""

    async def released() -> bool:
        owed = await rows(books.whole, OWED)
        filled = int((await books.client.ledger()).totals["checks"])
        if owed and int(owed[0]["charge"]) <= filled:
            return False  # the next round pays this wage
        return all([int((await one.client.balances()).held) == 0 for one in both])

    await until(released)
    earned = {one.address: 0 for one in both}
    for view in books.work + await books.paid_checks():
        earned[view.provider] += books.price(view).earned_microcredits
    for one in both:
        assert int((await one.client.balances()).available) == earned[one.address] > 0
    releases: list[Release] = of(Release, await logged(books.whole))
    assert sum(int(release.amount) for release in releases) == sum(earned.values())


async def every_token_is_somewhere(books: Books) -> None:
    """And together they are nothing."""
    paid = await books.paid_checks()
    worked, wages = [books.price(view) for view in books.work], [books.price(view) for view in paid]
    earned = sum(price.earned_microcredits for price in worked + wages)
    surcharges = sum(price.surcharge_microcredits for price in worked)
    ledger = await books.client.ledger()
    assert {name: int(value) for name, value in ledger.totals.items()} == {
        "available": FUNDS - books.spent + earned,
        "held": 0, "stake": 0, "budget": 0,
        "fees": sum(price.fee_microcredits for price in worked + wages),
        "checks": surcharges - sum(wage.gross_microcredits for wage in wages),
        "issued": -FUNDS,
    }  # fmt: skip
    assert ledger.sum == "0"


async def proven_offline(books: Books, both: list[FakeProvider]) -> None:
    """The evidence needs no server but the log's key: receipts, order, leases."""
    client, order = books.client, books.final.order
    log_key = (await client.market()).log_key
    for view in books.work + books.checks:
        opened = evidence.verify(await client.evidence(view.receipt), log_key)
        assert opened.statement == books.claims[view.attempt]
    ordered = evidence.verify(await client.statement_evidence(order), log_key).statement
    assert isinstance(ordered, Order)
    assert ordered.consumer == client.address
    leases: list[Lease] = of(Lease, books.statements)
    assert {lease.provider for lease in leases} == {one.address for one in both}
    assert all(lease.order == order and lease.rate == str(RATE) for lease in leases)
    granted = {grant.statement for one in both for grant in one.grants.values()}
    assert {claim.lease for claim in books.claims.values()} == granted
    for digest in granted:
        proof = evidence.verify(await client.statement_evidence(digest), log_key)
        assert isinstance(proof.statement, Lease)
