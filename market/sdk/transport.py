"""Signed HTTP to one market: retries with the same idempotency key, problems as our own errors."""

import asyncio
import datetime as dt
import random
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self
from urllib.parse import quote, urlencode, urlsplit

import aiohttp
from http_message_signatures import HTTPMessageSigner, algorithms
from yarl import URL

from market.wire import problem, signed_request
from settlement.domain.errors import Malformed, Oversized, Unreachable, Unsigned
from settlement.domain.identity import PrivateKey

ATTEMPTS_MAX: Final = 6
BACKOFF_FIRST_SECONDS: Final = 0.1
BACKOFF_SECONDS_MAX: Final = 5.0
CONNECT_TIMEOUT_SECONDS: Final = 10.0
REQUEST_TIMEOUT_SECONDS: Final = 60.0
RESPONSE_BYTES_MAX: Final = 128 * 1024 * 1024
CONNECTIONS_MAX: Final = 32
RETRY_STATUSES: Final = frozenset({429, 502, 503, 504})
HTTP_ERROR: Final = 400

JSON: Final = "application/json"
BYTES: Final = "application/octet-stream"


@dataclass(frozen=True, slots=True)
class Message:
    """A request as the signature library wants to see it."""

    method: str
    url: str
    headers: dict[str, str]


def new_idempotency_key() -> str:
    """A fresh key: one per logical write, the same for all its retries."""
    return secrets.token_hex(16)


def sign(message: Message, key: PrivateKey, *, body: bytes, now: int) -> None:
    """Add the headers of our profile; the library makes them, our one form of key signs them."""
    write = message.method not in signed_request.READ_METHODS
    if write:
        message.headers["Content-Digest"] = signed_request.content_digest(body)
        message.headers.setdefault("Idempotency-Key", new_idempotency_key())
    created = dt.datetime.fromtimestamp(now, dt.UTC)
    signer = HTTPMessageSigner(signature_algorithm=algorithms.ED25519)
    prepared = signer.prepare(
        message,
        key_id=key.address,
        created=created,
        expires=created + dt.timedelta(seconds=signed_request.WINDOW_SECONDS),
        label=signed_request.LABEL,
        tag=signed_request.TAG,
        covered_component_ids=signed_request.covered(message.method),
        body=body if write else None,
        use_existing_digest=write,
    )
    signer.apply(message, prepared, key.sign(prepared.signature_base))


def http_origin(url: str) -> str:
    """`scheme://host:port` of an address, checked."""
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise Malformed(f"{url!r} is not an address like http://127.0.0.1:8410")
    if parts.path.strip("/") or parts.query or parts.fragment:
        raise Malformed(f"{url!r} must end after the port")
    return f"{parts.scheme}://{parts.netloc}"


class Transport:
    """One market's address and one key. Without a key only unsigned reads can be made."""

    def __init__(
        self, url: str, key: PrivateKey | None = None, *, attempts_max: int = ATTEMPTS_MAX
    ) -> None:
        self.origin = http_origin(url)
        self.key = key
        self._attempts_max = attempts_max
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=CONNECTIONS_MAX),
            auto_decompress=True,
            cookie_jar=aiohttp.DummyCookieJar(),
        )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    @property
    def session(self) -> aiohttp.ClientSession:
        """The open session; a Transport is used inside `async with`."""
        if self._session is None:
            raise Unreachable("the connection is closed: use the transport inside `async with`")
        return self._session

    def url(self, path: str, query: Mapping[str, str | int] | None = None) -> str:
        """The address of a path (not yet quoted) with its query."""
        quoted = quote(path, safe="/:@!$&'()*+,;=-._~")
        return self.origin + quoted + (f"?{urlencode(query)}" if query else "")

    def signed_headers(
        self, method: str, url: str, body: bytes = b"", *, idempotency_key: str | None = None
    ) -> dict[str, str]:
        """Headers that sign a request to `url`, which is taken as it stands."""
        if self.key is None:
            raise Unsigned("this request needs a key, and none was given")
        headers = {"Idempotency-Key": idempotency_key} if idempotency_key else {}
        message = Message(method, url, headers)
        sign(message, self.key, body=body, now=int(dt.datetime.now(dt.UTC).timestamp()))
        return headers

    async def request(
        self,
        method: str,
        path: str,
        body: bytes = b"",
        *,
        query: Mapping[str, str | int] | None = None,
        signed: bool = True,
        idempotency_key: str | None = None,
        content_type: str = JSON,
        timeout_seconds: float = REQUEST_TIMEOUT_SECONDS,
    ) -> bytes:
        """The body of the answer; a problem document raises the server's own class.

        Tried again, with the same idempotency key and a new signature, when the connection fails
        or the market says that it cannot answer now.
        """
        url = self.url(path, query)
        write = method not in signed_request.READ_METHODS
        key = (idempotency_key or new_idempotency_key()) if write else None
        trouble = "no attempt was made"
        delay_seconds: float | None = None
        for attempt in range(self._attempts_max):
            if attempt:
                await asyncio.sleep(_pause_seconds(attempt, delay_seconds))
            headers = {"Content-Type": content_type} if body else {}
            if signed:
                headers |= self.signed_headers(method, url, body, idempotency_key=key)
            try:
                status, data, retry_after = await self._once(
                    method, url, headers, body, timeout_seconds
                )
            except (
                aiohttp.ClientConnectionError,
                aiohttp.ClientPayloadError,
                TimeoutError,
            ) as error:
                trouble, delay_seconds = f"{type(error).__name__}: {error}", None
                continue
            except aiohttp.ClientError as error:
                raise Unreachable(f"{self.origin}: {error}") from None
            if status < HTTP_ERROR:
                return data
            refusal = problem.to_error(data, status)
            last = attempt + 1 == self._attempts_max
            if status not in RETRY_STATUSES or last:
                raise refusal
            trouble, delay_seconds = refusal.detail, retry_after
        raise Unreachable(f"{self.origin} did not answer {method} {path}: {trouble}")

    async def _once(
        self,
        method: str,
        url: str,
        headers: dict[str, str],
        body: bytes,
        timeout_seconds: float,
    ) -> tuple[int, bytes, float | None]:
        timeout = aiohttp.ClientTimeout(total=timeout_seconds, connect=CONNECT_TIMEOUT_SECONDS)
        async with self.session.request(
            method,
            URL(url, encoded=True),
            headers=headers,
            data=body or None,
            timeout=timeout,
            allow_redirects=False,
        ) as response:
            pieces, size = [], 0
            async for piece in response.content.iter_any():
                size += len(piece)
                if size > RESPONSE_BYTES_MAX:
                    raise Oversized(f"the answer has more than {RESPONSE_BYTES_MAX} bytes")
                pieces.append(piece)
            wait = response.headers.get("Retry-After", "")
            return response.status, b"".join(pieces), float(wait) if wait.isdigit() else None

    async def websocket(
        self, path: str, *, bytes_max: int, heartbeat_seconds: float | None = None
    ) -> aiohttp.ClientWebSocketResponse:
        """A WebSocket whose hand-shake is signed like a read; one attempt."""
        url = self.url(path)
        try:
            return await self.session.ws_connect(
                URL(url, encoded=True),
                headers=self.signed_headers("GET", url),
                max_msg_size=bytes_max,
                heartbeat=heartbeat_seconds,
            )
        except aiohttp.WSServerHandshakeError as error:
            raise Unreachable(f"{self.origin}{path}: {error.status} {error.message}") from None
        except (aiohttp.ClientError, TimeoutError) as error:
            raise Unreachable(f"{self.origin}{path}: {error}") from None


def _pause_seconds(attempt: int, told_seconds: float | None) -> float:
    """Exponential back-off with full jitter, or what the market asked for."""
    if told_seconds is not None:
        return min(told_seconds, BACKOFF_SECONDS_MAX)
    longest: float = min(BACKOFF_SECONDS_MAX, BACKOFF_FIRST_SECONDS * 2 ** (attempt - 1))
    return longest * (0.5 + random.random() / 2)  # noqa: S311 - spreads load, no secret
