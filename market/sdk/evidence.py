"""Receipts as their consumer holds them: what they cost, their file, and its proof without a server."""

from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

from market.sdk.client import MarketClient
from market.sdk.home import at_home
from market.wire.jobs import ReceiptView
from settlement.domain import evidence, statement
from settlement.domain import receipt as receipts
from settlement.domain.amount import DECIMALS_MAX, from_text
from settlement.domain.errors import BadProof, BadReceipt, BadStatement, NotFound


def credits_of(amount_microcredits: int) -> Decimal:
    """Micro-credits as an exact number of credits."""
    return Decimal(amount_microcredits).scaleb(-DECIMALS_MAX)


@dataclass(frozen=True, slots=True)
class Proven:
    """A receipt that the log's key vouches for, and the digest that names it."""

    receipt: receipts.Receipt
    opened: statement.Opened

    @property
    def digest(self) -> str:
        return self.opened.digest

    def fields(self) -> dict[str, str | int]:
        """What a person wants to know of it."""
        claim = self.receipt
        return {
            "receipt": self.digest,
            "market": claim.market,
            "job": claim.job,
            "purpose": claim.purpose,
            "provider": claim.provider,
            "consumer": claim.consumer,
            "tasks": f"{claim.first} … {claim.first + claim.tasks - 1}",
            "status": claim.status,
            "wall_ms": claim.usage.wall_ms,
            "cpu_ms": claim.usage.cpu_ms,
            "claimed_microcredits": claim.price.amount,
            "protection": claim.protection,
            "environment": claim.env.digest,
            "inputs": claim.inputs,
            "outputs": claim.outputs,
            "tasks_root": claim.tasks_root,
        }


def verify_file(data: bytes, log_key: str) -> Proven:
    """Check a receipt's file against the log's key alone: signature, inclusion, checkpoint."""
    opened = evidence.verify(data, log_key)
    if not isinstance(opened.statement, receipts.Receipt):
        raise BadStatement(f"the file proves a statement of kind {opened.statement.kind}")
    return Proven(opened.statement, opened)


class Receipt:
    """One attempt of a job, with the provider's signed claim when there is one."""

    def __init__(self, client: MarketClient, view: ReceiptView) -> None:
        self.client = client
        self.view = view

    def __repr__(self) -> str:
        return f"Receipt({self.view.receipt or 'none yet'}, {self.view.state})"

    @property
    def digest(self) -> str:
        return self.view.receipt

    @property
    def cost_microcredits(self) -> int:
        """What the consumer paid for it, once it was charged."""
        if not self.view.money:
            return 0
        return from_text(self.view.charge) + from_text(self.view.surcharge)

    @property
    def cost(self) -> Decimal:
        """The same in credits."""
        return credits_of(self.cost_microcredits)

    @at_home
    async def fetch(self) -> bytes:
        """The receipt's file, as soon as a checkpoint covers it."""
        if not self.view.receipt:
            raise NotFound("no receipt came for this attempt")
        return await self.client.evidence(self.view.receipt)

    @at_home
    async def save(self, path: str | Path) -> Path:
        """Write the file, after it was checked."""
        data = await self.fetch()
        self._check(data, (await self.client.market()).log_key)
        target = Path(path)
        target.write_bytes(data)
        return target

    @at_home
    async def verify(self) -> Proven:
        """Fetch the file and check it against the pinned key of the log."""
        return self._check(await self.fetch(), (await self.client.market()).log_key)

    def _check(self, data: bytes, log_key: str) -> Proven:
        proven = verify_file(data, log_key)
        if proven.digest != self.view.receipt:
            raise BadProof("the market proved another receipt than the one asked for")
        claim = proven.receipt
        if (claim.attempt, claim.provider) != (self.view.attempt, self.view.provider):
            raise BadReceipt("the receipt is not of the attempt and provider that were shown")
        return proven
