"""The standing offer: what this machine has and costs, signed for an hour and renewed at half time."""

import logging
import secrets
from dataclasses import dataclass
from typing import Final

from compute.daemon.receipts import Provider
from market.sdk.transport import Transport
from market.wire import codec
from market.wire.trade import OfferPut
from settlement.domain import statement
from settlement.domain.resources import Rates, Resources
from settlement.domain.trade import Manifest, Offer

LOG: Final = logging.getLogger(__name__)

OFFER_MS: Final = 3_600_000
RENEW_MS: Final = OFFER_MS // 2
NONCE_BYTES: Final = 16


@dataclass(frozen=True, slots=True)
class Terms:
    """What is offered."""

    name: str
    capacity: Resources
    rates: Rates
    manifest: Manifest
    protection: str


@dataclass
class Offering:
    """Keeps one offer on the market."""

    transport: Transport
    provider: Provider
    terms: Terms
    put_ms: int = 0
    _last_ms: int = 0

    def withdraw(self) -> None:
        """What stands on the market is not what is offered now: the next occasion posts anew."""
        self.put_ms = 0

    def due(self, now_ms: int) -> bool:
        return now_ms >= self.put_ms + RENEW_MS

    async def renew(self, now_ms: int) -> None:
        """Sign and post; it replaces the one before, if it is newer."""
        now_ms = max(now_ms, self._last_ms + 1)
        body = codec.encode(OfferPut(self.signed(now_ms)))
        await self.transport.request("PUT", "/v1/offers", body)
        self.put_ms = self._last_ms = now_ms
        LOG.info("offer posted, good for %s min", OFFER_MS // 60_000)

    def signed(self, now_ms: int) -> bytes:
        """The offer's envelope."""
        offer = Offer(
            v=1,
            kind="offer",
            market=self.provider.market,
            provider=self.provider.key.address,
            name=self.terms.name,
            capacity=self.terms.capacity,
            rates=self.terms.rates,
            environments=[self.terms.manifest],
            protection=self.terms.protection,
            expires_ms=now_ms + OFFER_MS,
            at_ms=now_ms,
            nonce=secrets.token_hex(NONCE_BYTES),
        )
        return statement.sign(offer, self.provider.key).envelope
