"""A market that runs, as the system tests hold it."""

import socket
from dataclasses import dataclass

from market.http.settings import Settings
from market.sdk.client import MarketClient
from market.service.market import Market
from settlement.domain.identity import PrivateKey


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass(frozen=True)
class Running:
    """Its address and settings; `market` is the API's own view of it."""

    url: str
    market: Market
    settings: Settings

    def client(self, key: PrivateKey | None = None) -> MarketClient:
        return MarketClient(self.url, key)
