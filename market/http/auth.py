"""The caller's key: RFC 9421 over what aiohttp received; nothing is read before the signature holds."""

from typing import Final

from aiohttp import web

from market.http.state import EDGE, MARKET
from market.wire import signed_request
from market.wire.signed_request import Caller, Request
from settlement.domain.errors import Malformed

MILLISECONDS: Final = 1_000
SIGNED_HEADERS: Final = ("signature", "signature-input", "content-digest", "idempotency-key")


def received(request: web.Request) -> Request:
    """The request as far as it is signed; a signed header that stands twice is refused."""
    headers = {}
    for name in SIGNED_HEADERS:
        values = request.headers.getall(name, [])
        if len(values) > 1:
            raise Malformed(f"the header {name} stands twice")
        if values:
            headers[name] = values[0]
    path, mark, query = request.raw_path.partition("?")
    return Request(request.method, request.headers.get("Host", ""), path, mark + query, headers)


def authenticate(request: web.Request) -> Caller:
    """Who signed this request for this market, now."""
    return signed_request.verify(
        received(request),
        authorities=request.app[EDGE].authorities,
        now=request.app[MARKET].clock.ms() // MILLISECONDS,
    )


def authenticate_body(request: web.Request, body: bytes) -> None:
    """The body is the one that was signed."""
    signed_request.verify_body(received(request), body)
