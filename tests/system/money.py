"""What the tests of money sign by hand: any field of a statement as the test wants it."""

from collections.abc import Awaitable
from typing import Any, TypeVar
from uuid import uuid4

import msgspec

from market.sdk.client import MarketClient, now_ms
from market.wire import codec, money, trade
from settlement.domain.errors import Refused
from settlement.domain.identity import PrivateKey
from settlement.domain.payments import Payee, Payout, Withdraw, Withdrawn
from settlement.domain.settled import Acceptance, Voucher
from settlement.domain.statement import Statement, sign
from tests.system.running import Running
from tests.system.trading import rows

OPERATOR = PrivateKey(bytes([3]) * 32)  # the fixture's own
ALICE, BOB, CAROL = (PrivateKey(bytes([number]) * 32) for number in (0x41, 0x42, 0x43))
TRANSFER = "00000000-0000-4000-8000-00000000000a"


T = TypeVar("T")


def signed(running: Running, kind: type[Statement], key: PrivateKey, **fields: Any) -> bytes:  # noqa: ANN401
    """A statement of the market, under any key."""
    given: dict[str, Any] = {
        "v": 1, "kind": kind.__name__.lower(), "market": running.market.origin, "at_ms": now_ms(),
    }  # fmt: skip
    return sign(kind(**(given | fields)), key).envelope


def payout(
    running: Running, *payees: tuple[str, int], key: PrivateKey = ALICE, **more: Any  # noqa: ANN401
) -> bytes:  # fmt: skip
    fields = {
        "payer": ALICE.address, "memo": "",
        "payees": [Payee(to, str(amount), str(uuid4())) for to, amount in payees],
    }  # fmt: skip
    return signed(running, Payout, key, **(fields | more))


def wish(running: Running, microcredits: int, *, key: PrivateKey = ALICE, **more: Any) -> bytes:  # noqa: ANN401
    fields = {
        "party": ALICE.address, "amount": str(microcredits), "transfer": TRANSFER, "destination": "IBAN",
    }  # fmt: skip
    return signed(running, Withdraw, key, **(fields | more))


def decision(running: Running, outcome: str, *, key: PrivateKey = OPERATOR, **more: Any) -> bytes:  # noqa: ANN401
    fields = {
        "operator": OPERATOR.address, "party": ALICE.address, "withdrawal": TRANSFER,
        "transfer": str(uuid4()), "outcome": outcome, "memo": "",
    }  # fmt: skip
    return signed(running, Withdrawn, key, **(fields | more))


def acceptance(running: Running, key: PrivateKey, **fields: Any) -> bytes:  # noqa: ANN401
    return signed(running, Acceptance, key, **({"consumer": key.address} | fields))


def voucher(
    running: Running, lease: money.LeaseView, wall_ms: int, key: PrivateKey, /, **more: Any  # noqa: ANN401
) -> bytes:  # fmt: skip
    fields = {
        "consumer": lease.consumer, "provider": lease.provider, "job": lease.job,
        "lease": lease.statement, "wall_ms": wall_ms,
    }  # fmt: skip
    return signed(running, Voucher, key, **(fields | more))


async def post(client: MarketClient, path: str, body: object) -> bytes:
    """A new request for the same statement, as after a lost answer and a lost idempotency key."""
    return await client.transport.request("POST", path, codec.encode(body))


async def send_payout(client: MarketClient, envelope: bytes) -> trade.Moved:
    data = await post(client, "/v1/payouts", money.PayMany(envelope))
    return msgspec.json.decode(data, type=trade.Moved)


async def send_wish(client: MarketClient, envelope: bytes) -> money.WithdrawalView:
    data = await post(client, "/v1/withdrawals", money.WithdrawPost(envelope))
    return msgspec.json.decode(data, type=money.WithdrawalView)


async def send_decision(
    client: MarketClient, envelope: bytes, transfer: str = TRANSFER
) -> money.WithdrawalView:
    path = f"/v1/withdrawals/{transfer}/decision"
    data = await post(client, path, money.DecisionPost(envelope))
    return msgspec.json.decode(data, type=money.WithdrawalView)


async def tried(work: Awaitable[T]) -> T | Refused:
    """What came of it, a refusal too."""
    try:
        return await work
    except Refused as error:
        return error


async def available(running: Running, key: PrivateKey) -> int:
    """What a party may spend: posted, less what is reserved."""
    found = await rows(
        running,
        "SELECT cr_posted - dr_posted - dr_pending AS left FROM accounts WHERE owner = $1 AND purpose = 1",
        bytes.fromhex(key.address),
    )
    return int(found[0]["left"]) if found else 0


async def count(running: Running, kind: str) -> int:
    """How many statements of a kind are in the log."""
    return len(await rows(running, "SELECT 1 FROM statements WHERE kind = $1", kind))
