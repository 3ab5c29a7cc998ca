"""Receipts as their consumer holds them: what they cost, their file, and its proof without a server."""

from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path

import msgspec

from market.sdk import trust
from market.sdk.client import MarketClient
from market.sdk.exits import FINAL_WAIT_MS, WAIT_MS
from market.sdk.home import at_home
from market.sdk.trust import Trusted
from market.wire.jobs import ReceiptView
from market.wire.money import Accepted
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
    final: bool = False  # enough of the validators that the reader trusts cosigned

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
            "final": "yes" if self.final else "not final",
        }


def verify_file(data: bytes, log_key: str) -> Proven:
    """Check a receipt's file against the log's key alone: signature, inclusion, checkpoint."""
    opened = evidence.verify(data, log_key)
    if not isinstance(opened.statement, receipts.Receipt):
        raise BadStatement(f"the file proves a statement of kind {opened.statement.kind}")
    return Proven(opened.statement, opened)


def verify_trusted(data: bytes, trusted: Trusted, *, final: bool = False) -> Proven:
    """As `verify_file`, and whether it is final; `final` refuses what is not."""
    proven = verify_file(data, trusted.log_key)
    note = msgspec.json.decode(data, type=evidence.Evidence).checkpoint
    if trusted.is_final(note):
        return replace(proven, final=True)
    if final:
        raise BadProof("this is not final: too few of the trusted validators cosigned")
    return proven


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
    async def fetch(self, *, final: bool = False) -> bytes:
        """The receipt's file, as soon as a checkpoint (with `final`, a final one) covers it."""
        if not self.view.receipt:
            raise NotFound("no receipt came for this attempt")
        wait_ms = FINAL_WAIT_MS if final else WAIT_MS
        return await self.client.evidence(self.view.receipt, wait_ms=wait_ms, final=final)

    @at_home
    async def save(self, path: str | Path) -> Path:
        """Write the file, after it was checked."""
        data = await self.fetch()
        self._check(data, (await self.client.market()).log_key)
        target = Path(path)
        target.write_bytes(data)
        return target

    @at_home
    async def verify(self, *, final: bool = False) -> Proven:
        """Fetch the file and check it against the pinned key of the log.

        `final`: it must stand under a checkpoint that a quorum of the pinned validators cosigned.
        """
        data, log_key = await self.fetch(final=final), (await self.client.market()).log_key
        proven = self._check(data, log_key)
        if not final:
            return proven
        return verify_trusted(data, await trust.trusted(self.client), final=True)

    @at_home
    async def accept(self) -> Accepted:
        """Take it as it is: it is settled without waiting for a check."""
        if not self.view.receipt:
            raise NotFound("no receipt came for this attempt")
        return await self.client.accept_receipt(self.view.receipt)

    def _check(self, data: bytes, log_key: str) -> Proven:
        proven = verify_file(data, log_key)
        if proven.digest != self.view.receipt:
            raise BadProof("the market proved another receipt than the one asked for")
        claim = proven.receipt
        if (claim.attempt, claim.provider) != (self.view.attempt, self.view.provider):
            raise BadReceipt("the receipt is not of the attempt and provider that were shown")
        return proven
