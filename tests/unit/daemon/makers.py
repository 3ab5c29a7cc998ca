"""Frames and agents for the tests of the daemon."""

from typing import Final

from compute.domain.holding import Agent
from market.domain.jobspec import Spec
from market.wire.control import Done, Grant, Output, Work
from market.wire.payload import Payload, inline
from settlement.domain import canonical, statement
from settlement.domain.receipt import Leaf, Receipt
from settlement.domain.resources import Rates, Resources
from settlement.domain.trade import Manifest

MARKET: Final = "gridpact.test/daemon"
MANIFEST: Final = Manifest({"numpy": "2.4.0"}, "3.11")
ENVIRONMENT: Final = MANIFEST.digest()
SLOT: Final = Resources(1_000, 512, 0)
SMALL: Final = Resources(500, 256, 0)
CONSUMER: Final = "0" * 63 + "1"
FAR_MS: Final = 4_000_000_000_000


def identifier(number: int) -> str:
    return f"00000000-0000-4000-8000-{number:012x}"


def spec(function: bytes = b"code", **changes: object) -> Spec:
    fields: dict[str, object] = {
        "name": "test",
        "kind": "function",
        "function": canonical.digest(function),
        "environment": ENVIRONMENT,
        "client": MANIFEST,
        "slot": SLOT,
        "task_timeout_ms": 10_000,
        "protection": "L",
        "verify": "none",
        "seed": 7,
    }
    return Spec(**{**fields, **changes})  # type: ignore[arg-type]


def grant(lease: int, *, of: Spec | None = None, **changes: object) -> Grant:
    wanted = of or spec()
    fields: dict[str, object] = {
        "lease": identifier(lease),
        "statement": canonical.digest(b"lease %d" % lease),
        "order": canonical.digest(b"order"),
        "job": identifier(900),
        "consumer": CONSUMER,
        "spec": wanted,
        "spec_digest": wanted.digest(),
        "slot": wanted.slot,
        "rate": "200",
        "deadline_ms": FAR_MS,
    }
    return Grant(**{**fields, **changes})  # type: ignore[arg-type]


def work(attempt: int, lease: int, *, first: int = 0, inputs: list[Payload] | None = None) -> Work:
    return Work(
        attempt=identifier(attempt),
        lease=identifier(lease),
        purpose="work",
        first=first,
        inputs=[inline(b"input")] if inputs is None else inputs,
        window_ms=4_000_000,
    )


def done(attempt: str) -> Done:
    leaf = Leaf(0, canonical.digest(b"in"), canonical.digest(b"out"), "ok")
    return Done(
        attempt=attempt, receipt=b"receipt", leaves=[leaf], outputs=[Output(inline(b"out"), "")]
    )


def opened(envelope: bytes) -> Receipt:
    """The receipt of an envelope, as the market opens it."""
    return statement.open_envelope(envelope, Receipt, market=MARKET)[0]


def agent(cpus_milli: int = 2_000) -> Agent:
    return Agent(Resources(cpus_milli, 2_048, 0), ENVIRONMENT, "L", Rates(10, 0, 0))
