"""The whole story in one test: quote, order, leases, checks, receipts, charges, release, proof."""

import functools
from collections.abc import Callable
from typing import Any
from uuid import UUID

import cloudpickle
import pytest

from market.domain.jobspec import Manifest
from market.domain.statements import Close, Lease, Order
from market.sdk.function import Function, MapJob, Terms
from market.sdk.packing import client_manifest
from market.wire import plain
from market.wire.jobs import ReceiptView
from settlement.domain import charge, evidence
from settlement.domain.identity import PrivateKey
from settlement.domain.payments import Release
from settlement.domain.receipt import Receipt
from settlement.domain.statement import Statement
from settlement.domain.verdict import Conclusion, Verdict
from tests.system.fake_provider import FakeProvider
from tests.system.running import Running
from tests.system.trading import FUNDS, RATE, logged, rows, until

pytestmark = pytest.mark.system
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


async def released(providers: list[FakeProvider]) -> bool:
    """Whether nothing is in anybody's hold any more."""
    return all([int((await one.client.balances()).held) == 0 for one in providers])


async def test_the_whole_story(whole: Running) -> None:
    assert TERMS.rate_cap_microcredits == RATE
    here: Manifest = client_manifest()
    make = functools.partial(
        FakeProvider, whole, compute=running_calls(square), environments=(here,)
    )
    async with (
        make(1).open() as alpha,
        make(2).open() as beta,
        whole.client(PrivateKey(b"\x31" * 32)) as client,
    ):
        both = [alpha, beta]
        await client.faucet(FUNDS)
        squares = Function(client, square, TERMS)

        # the price before
        estimate = await squares.estimate(TASKS)
        assert (estimate.slots, estimate.rate_worst_microcredits) == (2, RATE)
        assert estimate.unit == 360

        # order → leases at both → results
        job: MapJob[int] = await squares.map([((number,), {}) for number in range(TASKS)])
        assert int((await client.balances()).budgets) == TERMS.budget_microcredits
        outcomes = []
        while fresh := await job.take():
            outcomes += fresh
        await job.wait()
        assert sorted(outcome.index for outcome in outcomes) == list(range(TASKS))
        assert all(outcome.value() == outcome.index**2 for outcome in outcomes)
        assert {outcome.provider for outcome in outcomes} == {alpha.address, beta.address}

        # each first chunk was run again by the other, and the verdicts are in the log
        receipts = await job.receipts()
        claims = {
            proof.receipt.attempt: proof for proof in [await one.verify() for one in receipts]
        }
        statements = await logged(whole)
        work = [one.view for one in receipts if one.view.purpose == "work"]
        checks = [one.view for one in receipts if one.view.purpose == "check"]
        assert {view.provider for view in checks} == {alpha.address, beta.address}
        verdicts: list[Verdict] = of(Verdict, statements)
        assert [verdict.conclusion for verdict in verdicts] == [Conclusion.AGREED] * 2
        providers = {view.receipt: view.provider for view in work + checks}
        for verdict in verdicts:
            worker, checker = providers[verdict.receipt], providers[verdict.checks[0]]
            assert verdict.providers == [worker, checker]
            assert worker != checker
        assert {view.address: view.agreed for view in await client.providers()} == {
            alpha.address: 2,
            beta.address: 2,
        }

        # each charge follows from its receipt, to the micro-credit
        prices = {
            view.attempt: recomputed(view, claims[view.attempt].receipt) for view in work + checks
        }
        for view in work + checks:
            price = prices[view.attempt]
            assert view.state == "accepted"
            assert int(view.charge) == price.gross_microcredits > 0
            assert int(view.fee) == price.fee_microcredits
            assert int(view.surcharge) == price.surcharge_microcredits
        spent = sum(prices[view.attempt].paid_microcredits for view in work)
        final = await job.view()
        assert (final.state, final.reason) == ("closed", "done")
        assert int(final.spent) == spent == int(of(Close, statements)[0].spent)
        assert int(final.refunded) == TERMS.budget_microcredits - spent
        assert int((await client.balances()).available) == FUNDS - spent

        # wages come from `checks`, as far as the surcharges filled it; holds end; all is released
        await until(lambda: released(both))
        paid_checks = {
            row["attempt"]
            for row in await rows(whole, "SELECT attempt FROM charges")
            if str(row["attempt"]) in {view.attempt for view in checks}
        }
        wages = [prices[str(attempt)] for attempt in paid_checks]
        earned = {one.address: 0 for one in both}
        for view in work + [view for view in checks if UUID(view.attempt) in paid_checks]:
            earned[view.provider] += prices[view.attempt].earned_microcredits
        for one in both:
            assert int((await one.client.balances()).available) == earned[one.address] > 0
        releases: list[Release] = of(Release, await logged(whole))
        assert sum(int(release.amount) for release in releases) == sum(earned.values())

        # every token is somewhere, and together they are nothing
        totals = (await client.ledger()).totals
        surcharges = sum(prices[view.attempt].surcharge_microcredits for view in work)
        fees = sum(prices[view.attempt].fee_microcredits for view in work)
        wage_fees = sum(wage.fee_microcredits for wage in wages)
        assert {name: int(value) for name, value in totals.items()} == {
            "available": FUNDS - spent + sum(earned.values()),
            "held": 0, "stake": 0, "budget": 0,
            "fees": fees + wage_fees,
            "checks": surcharges - sum(wage.gross_microcredits for wage in wages),
            "issued": -FUNDS,
        }  # fmt: skip
        assert (await client.ledger()).sum == "0"

        # the evidence needs no server: receipts, order, leases, verdicts, close
        log_key = (await client.market()).log_key
        for view in work + checks:
            opened = evidence.verify(await client.evidence(view.receipt), log_key)
            assert opened.statement == claims[view.attempt].receipt
        ordered = evidence.verify(await client.statement_evidence(final.order), log_key).statement
        assert isinstance(ordered, Order)
        assert ordered.consumer == client.address
        leases: list[Lease] = of(Lease, statements)
        assert {lease.provider for lease in leases} == {alpha.address, beta.address}
        assert all(lease.order == final.order and lease.rate == str(RATE) for lease in leases)
        assert {claim.receipt.lease for claim in claims.values()} == {
            grant.statement for one in both for grant in one.grants.values()
        }
