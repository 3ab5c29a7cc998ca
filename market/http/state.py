"""What handlers find in the application: typed keys, nothing global."""

from dataclasses import dataclass, field
from pathlib import Path

from aiohttp import web
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from market.service.market import Market
from settlement.domain.identity import PrivateKey


@dataclass(frozen=True, slots=True)
class Edge:
    """How this process shows itself: its addresses, blobs, log key, and the faucet's key if any."""

    authorities: frozenset[str]
    blobs: Path
    log_key: str
    operator_key: PrivateKey | None = None
    requests_a_second: float = 500.0  # of one caller or address


class Metrics:
    """This process's own figures, on a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        labels = ("method", "route", "status")
        self.requests = Counter(
            "gridpact_requests", "Requests by route and status.", labels, registry=self.registry
        )
        self.seconds = Histogram(
            "gridpact_request_seconds", "Time to answer.", ("route",), registry=self.registry
        )
        self.sessions = Gauge(
            "gridpact_provider_sessions", "Control channels open here.", registry=self.registry
        )
        self.receipts = Counter(
            "gridpact_receipts",
            "Receipts by what became of them.",
            ("state",),
            registry=self.registry,
        )


@dataclass(slots=True)
class Closing:
    """Set when the process drains: long polls end, channels close."""

    flag: bool = field(default=False)


MARKET: web.AppKey[Market] = web.AppKey("market", Market)
EDGE: web.AppKey[Edge] = web.AppKey("edge", Edge)
METRICS: web.AppKey[Metrics] = web.AppKey("metrics", Metrics)
CLOSING: web.AppKey[Closing] = web.AppKey("closing", Closing)
