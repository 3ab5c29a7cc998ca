"""Typed endpoints: a handler's signature says what is decoded, who may call and what is answered.

`async def submit(call: Call, body: Submit) -> JobView`: the types of `body` and `query` are decoded
strictly, path parameters come by name as strings, the answer is encoded. OpenAPI reads the same.
"""

import inspect
import typing
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final
from uuid import UUID

from aiohttp import web

from market.http import auth, once
from market.http.state import EDGE, MARKET, Edge
from market.service.market import Market
from market.wire import codec
from market.wire.explorer import CSV
from market.wire.payload import BLOB_BYTES_MAX
from market.wire.signed_request import Caller
from settlement.domain import canonical
from settlement.domain.errors import Malformed, NotFound, Oversized

NOBODY: Final = Caller("")


class Access(Enum):
    """Who may call: anybody, or whoever signed. Writes are done once for each idempotency key.

    PROVEN takes a body from anybody: what is in it is signed, and a repeat changes nothing.
    """

    OPEN = "open"
    PROVEN = "proven"
    READ = "read"
    WRITE = "write"


UNSIGNED: Final = frozenset({Access.OPEN, Access.PROVEN})


@dataclass(frozen=True, slots=True)
class Text:
    """An answer that is no JSON document of ours: bytes with their type, and how long they keep."""

    body: bytes
    content_type: str
    immutable: bool = False


@dataclass(frozen=True, slots=True)
class Stream:
    """An answer that is made while it is sent."""

    pieces: AsyncIterator[bytes]
    content_type: str
    file_name: str


@dataclass(frozen=True, slots=True)
class Call:
    """One request, as a handler sees it."""

    request: web.Request
    market: Market
    edge: Edge
    caller: Caller
    now_ms: int

    @property
    def address(self) -> str:
        return self.caller.address


Handler = Callable[..., Awaitable[Any]]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One route. `raw` takes the body as bytes, up to the size of a blob; `export` answers the same
    question with a stream, for whoever wants CSV.
    """

    method: str
    path: str
    handler: Handler
    access: Access = Access.OPEN
    status: int = 200
    raw: bool = False
    export: Callable[..., Stream] | None = None

    @property
    def hints(self) -> dict[str, Any]:
        return typing.get_type_hints(self.handler, include_extras=True)

    @property
    def parameters(self) -> list[str]:
        return list(inspect.signature(self.handler).parameters)


def install(app: web.Application, endpoints: Sequence[Endpoint]) -> None:
    """Add the routes to an application."""
    for endpoint in endpoints:
        app.router.add_route(endpoint.method, endpoint.path, _serve(endpoint))


def _serve(endpoint: Endpoint) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    hints, names = endpoint.hints, endpoint.parameters

    async def serve(request: web.Request) -> web.StreamResponse:
        caller = NOBODY if endpoint.access in UNSIGNED else auth.authenticate(request)
        body = await _body(request, endpoint)
        if endpoint.access is Access.WRITE:
            auth.authenticate_body(request, body)
        market = request.app[MARKET]
        call = Call(request, market, request.app[EDGE], caller, market.clock.ms())
        arguments = _arguments(request, body, hints, names)
        if endpoint.export is not None and wants_csv(request):
            return await _stream(request, endpoint.export(call, **arguments))
        if endpoint.access is not Access.WRITE:
            return _response(await endpoint.handler(call, **arguments), endpoint.status)
        digest = once.fingerprint(request, body)
        known = await once.answered(call.market, caller, digest)
        if known is not None:
            status, answer = known
            return web.Response(body=answer, status=status, content_type="application/json")
        response = _response(await endpoint.handler(call, **arguments), endpoint.status)
        assert isinstance(response.body, bytes)
        await once.remember(
            call.market,
            caller,
            digest,
            status=response.status,
            body=response.body,
            now_ms=call.now_ms,
        )
        return response

    return serve


async def _body(request: web.Request, endpoint: Endpoint) -> bytes:
    limit = BLOB_BYTES_MAX if endpoint.raw else codec.BODY_BYTES_MAX
    if endpoint.access not in {Access.WRITE, Access.PROVEN}:
        return b""
    if request.content_length is not None and request.content_length > limit:
        raise Oversized(f"the body has {request.content_length} bytes, the limit is {limit}")
    data = bytearray()
    async for piece in request.content.iter_chunked(256 * 1024):
        data += piece
        if len(data) > limit:
            raise Oversized(f"the body is larger than the limit of {limit} bytes")
    return bytes(data)


def _arguments(
    request: web.Request, body: bytes, hints: dict[str, Any], names: list[str]
) -> dict[str, Any]:
    arguments: dict[str, Any] = {}
    for name in names[1:]:
        if name == "body":
            arguments[name] = body if hints[name] is bytes else codec.decode(body, hints[name])
        elif name == "query":
            if len(request.query) != len(set(request.query)):
                raise Malformed("a query parameter stands twice")
            arguments[name] = codec.convert(dict(request.query), hints[name])
        else:
            arguments[name] = _path_value(request.match_info[name], hints[name], name)
    if "body" not in names and body:
        raise Malformed("this address takes no body")
    return arguments


def _path_value(text: str, kind: object, name: str) -> object:
    if kind is UUID:
        try:
            value = UUID(text)
        except ValueError:
            raise NotFound(f"{text[:60]!r} is not an id") from None
        if str(value) != text:
            raise NotFound(f"{text[:60]!r} is not an id in canonical form")
        return value
    if name == "digest" and not canonical.is_digest(text):
        raise NotFound(f"{text[:80]!r} is not a digest")
    return text


def wants_csv(request: web.Request) -> bool:
    """Whether CSV is asked for: by `format`, else by what the client accepts first."""
    if "format" in request.query:
        return request.query["format"] == "csv"
    named = [
        part.partition(";")[0].strip() for part in request.headers.get("Accept", "").split(",")
    ]
    return next((kind for kind in named if kind in {CSV, "application/json", "*/*"}), "") == CSV


async def _stream(request: web.Request, stream: Stream) -> web.StreamResponse:
    """Send piece by piece; what breaks off must not look whole, so the connection breaks with it."""
    first = await anext(stream.pieces, b"")  # a refusal is still an answer of its own
    response = web.StreamResponse(
        headers={
            "Content-Type": f"{stream.content_type}; charset=utf-8; header=present",
            "Content-Disposition": f'attachment; filename="{stream.file_name}"',
            "Cache-Control": "no-cache",
        }
    )
    await response.prepare(request)
    try:
        await response.write(first)
        async for piece in stream.pieces:
            await response.write(piece)
        await response.write_eof()
    except BaseException:
        if request.transport is not None:
            request.transport.abort()
        raise
    return response


def _response(value: object, status: int) -> web.Response:
    if isinstance(value, Text):
        cache = "public, max-age=31536000, immutable" if value.immutable else "no-cache"
        return web.Response(
            body=value.body,
            status=status,
            content_type=value.content_type,
            headers={"Cache-Control": cache},
        )
    return web.Response(body=codec.encode(value), status=status, content_type="application/json")
