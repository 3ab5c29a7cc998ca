"""Shapes of offers, providers, accounts, payments, receipts and the service itself."""

from typing import Annotated

import msgspec

from settlement.domain.resources import Rates, Resources
from settlement.domain.statement import Address, Amount, Count, Digest, Identifier, TimeMs


class OfferPut(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A provider's signed offer (envelope); it replaces the one before."""

    offer: bytes


class OfferView(msgspec.Struct, frozen=True, kw_only=True):
    provider: Address
    name: str
    digest: Digest
    capacity: Resources
    free: Resources
    rates: Rates
    hourly: Amount  # micro-credits for one cpu and one GiB, an hour
    protection: str
    environments: list[Digest]
    reputation: float  # mean of the posterior, for display
    checks: Count
    connected: bool
    expires_ms: TimeMs


class Offers(msgspec.Struct, frozen=True):
    offers: list[OfferView]


class ProviderView(msgspec.Struct, frozen=True, kw_only=True):
    address: Address
    name: str
    connected: bool
    draining: bool
    agreed: Count
    differed: Count
    reputation: float
    receipts: Count
    chunks: Count
    seconds: float
    earned: Amount
    leases: Count
    protection: str


class Providers(msgspec.Struct, frozen=True):
    providers: list[ProviderView]


class AccountView(msgspec.Struct, frozen=True):
    """Posted balances of a party, micro-credits; of what is available, `reserved` waits to leave."""

    address: Address
    available: Amount
    held: Amount
    stake: Amount
    budgets: Amount
    reserved: Amount = "0"


class TransferView(msgspec.Struct, frozen=True, kw_only=True):
    sequence: Count
    id: Identifier
    debit: str  # owner/purpose
    credit: str
    amount: Amount
    reason: str
    cause: Digest
    ts_ns: str


class Transfers(msgspec.Struct, frozen=True):
    transfers: list[TransferView]
    next: Count


class Pay(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A signed payment (envelope)."""

    payment: bytes


class IssuePost(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The operator's signed issue (envelope)."""

    issue: bytes


class Faucet(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Tokens for the caller, on a development stack only."""

    amount: Amount


class Moved(msgspec.Struct, frozen=True):
    """A statement that moved money: its place in the log."""

    statement: Digest
    index: Count
    status: str


class LedgerView(msgspec.Struct, frozen=True, kw_only=True):
    """Totals by purpose (signed decimal strings); `sum` over all accounts is 0."""

    totals: dict[str, str]
    sum: str
    accounts: Count
    transfers: Count
    statements: Count
    checkpoint_size: Count


class MarketView(msgspec.Struct, frozen=True, kw_only=True):
    """Who this market is: what a client pins on first use."""

    market: str
    version: str
    log_key: str  # C2SP verifier key
    ledger_key: Address  # signs leases, verdicts, releases, closes
    operator: Address
    devstack: bool
    fee_basis_points: Count
    check_basis_points: Count
    hold_ms: Count


class Version(msgspec.Struct, frozen=True):
    name: str
    version: str
    protocol: Count


class Health(msgspec.Struct, frozen=True):
    status: str
    checks: dict[str, str]


class Page(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Cursor and size of a page."""

    after: Annotated[str, msgspec.Meta(max_length=100)] = ""
    limit: Annotated[int, msgspec.Meta(ge=1, le=1_000)] = 100


class Follow(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A cursor that waits up to `wait_ms` for something new."""

    after: Annotated[int, msgspec.Meta(ge=0, le=2**53 - 1)] = 0
    limit: Annotated[int, msgspec.Meta(ge=1, le=1_000)] = 500
    wait_ms: Annotated[int, msgspec.Meta(ge=0, le=30_000)] = 0
