"""Limits with names: rate by caller, time by request; sizes are in `wire` and `endpoint`."""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Final

from aiohttp import web

from market.http.state import EDGE
from settlement.domain.errors import RateLimited, Unavailable

REQUEST_SECONDS_MAX: Final = 60.0  # a long poll waits 30 at most
BURST_SECONDS: Final = 2.0  # how much of an unused rate may be spent at once
CALLERS_MAX: Final = 10_000  # remembered; the longest unseen is forgotten

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Buckets:
    """Token buckets by caller."""

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, name: str, now: float) -> float:
        """0 when there is room, else the seconds to wait."""
        capacity = self._rate * BURST_SECONDS
        tokens, last = self._buckets.pop(name, (capacity, now))
        tokens = min(capacity, tokens + (now - last) * self._rate)
        wait = 0.0 if tokens >= 1 else (1 - tokens) / self._rate
        self._buckets[name] = (tokens - 1 if not wait else tokens, now)
        if len(self._buckets) > CALLERS_MAX:
            self._buckets.popitem(last=False)
        return wait


BUCKETS: web.AppKey[Buckets] = web.AppKey("buckets", Buckets)


@web.middleware
async def limits(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Refuse a flood by its address before any work is done; end what takes too long."""
    if BUCKETS not in request.app:
        raise Unavailable("the server is starting")
    wait = request.app[BUCKETS].take(request.remote or "", time.monotonic())
    if wait:
        raise RateLimited(f"more than {request.app[EDGE].requests_a_second:.0f} requests a second")
    if request.headers.get("Upgrade", "").lower() == "websocket":
        return await handler(request)
    try:
        async with asyncio.timeout(REQUEST_SECONDS_MAX):
            return await handler(request)
    except TimeoutError:
        raise Unavailable("the request took too long; repeat it with the same key") from None
