"""A small log held in memory, and the receipt and payments that stand in it."""

from typing import Final

from settlement.domain import checkpoint, evidence, merkle
from settlement.domain.identity import PrivateKey
from settlement.domain.payments import Payment
from settlement.domain.receipt import (
    Environment,
    Leaf,
    Price,
    Receipt,
    Usage,
    inputs_digest,
    outputs_digest,
    tasks_root,
)  # fmt: skip
from settlement.domain.statement import Opened, sign

MARKET: Final = "market.example/log"
LOG: Final = PrivateKey(b"\3" * 32)
LOG_KEY: Final = checkpoint.verifier_key(MARKET, LOG)
PROVIDER: Final = PrivateKey(b"\4" * 32)
CONSUMER: Final = PrivateKey(b"\5" * 32)
DIGEST: Final = "sha256:" + "5a" * 32
LEAVES: Final = [Leaf(number, DIGEST, DIGEST, "ok") for number in range(7, 10)]


def identifier(number: int) -> str:
    return f"00000000-0000-4000-8000-{number:012x}"


def payment(number: int = 1, *, market: str = MARKET) -> Opened:
    said = Payment(
        v=1, kind="payment", market=market, payer=CONSUMER.address, to=PROVIDER.address,
        amount="2500000", transfer=identifier(number), memo="für Rechenzeit", at_ms=number,
    )  # fmt: skip
    return sign(said, CONSUMER)


def receipt(number: int = 1, *, leaves: list[Leaf] | None = None, market: str = MARKET) -> Opened:
    rows = LEAVES if leaves is None else leaves
    said = Receipt(
        v=1, kind="receipt", market=market, lease=DIGEST, order=DIGEST, job=identifier(1),
        spec=DIGEST, attempt=identifier(number), purpose="work", provider=PROVIDER.address,
        consumer=CONSUMER.address, first=rows[0].index, tasks=len(rows), tasks_root=tasks_root(rows),
        inputs=inputs_digest(rows), outputs=outputs_digest(rows), env=Environment(DIGEST, "e", 1),
        protection="S", started_ms=1, finished_ms=2, status="ok", usage=Usage(1, 0, 1, 0, 1),
        price=Price("1500", 1), nonce="0f" * 16,
    )  # fmt: skip
    return sign(said, PROVIDER)


def proven(
    opened: Opened, *, index: int, size: int, key: PrivateKey = LOG, leaves: list[Leaf] | None = None
) -> bytes:  # fmt: skip
    """The evidence file of a statement at that place of a log of other entries."""
    entries = [b"entry %d" % number for number in range(size)]
    entries[index] = opened.envelope
    hashes = [merkle.leaf_hash(entry) for entry in entries]
    node = merkle.nodes_of(hashes)
    note = checkpoint.sign(MARKET, key, size=size, root=merkle.tree_root(node, size))
    path = merkle.inclusion(node, index=index, size=size)
    return evidence.make(envelope=opened.envelope, index=index, path=path, note=note, leaves=leaves)
