"""Where a log's static files come from: an HTTP address or a folder; both within limits."""

import asyncio
from pathlib import Path
from typing import Final, Protocol
from urllib.parse import urlsplit

import aiohttp

from settlement.domain import statement, tiles
from settlement.domain.checkpoint import NOTE_BYTES_MAX
from settlement.domain.errors import BadLog, Malformed, Unreachable

CHECKPOINT: Final = "checkpoint"
LENGTH_BYTES: Final = 2
BUNDLE_BYTES_MAX: Final = tiles.WIDTH * (LENGTH_BYTES + statement.ENVELOPE_BYTES_MAX)
CHUNK_BYTES: Final = 64 * 1024
ATTEMPTS_MAX: Final = 3
BACKOFF_SECONDS: Final = 0.2
CONNECT_TIMEOUT_SECONDS: Final = 5.0
READ_TIMEOUT_SECONDS: Final = 10.0  # between two pieces of one answer
REQUEST_TIMEOUT_SECONDS: Final = 30.0
CONNECTIONS_MAX: Final = 16
RETRY_STATUSES: Final = frozenset({429, 500, 502, 503, 504})
OK: Final = 200
GONE: Final = frozenset({404, 410})


class Source(Protocol):
    """The static files of one log, by their paths: `checkpoint`, `tile/…`."""

    @property
    def name(self) -> str:
        """What people call this place."""

    async def fetch(self, path: str) -> bytes | None:
        """The file, or None if there is none; Unreachable, or BadLog if it is too large."""


def size_limit(path: str) -> int:
    """How many bytes a file may have."""
    if path.startswith("tile/entries/"):
        return BUNDLE_BYTES_MAX
    return tiles.TILE_BYTES if path.startswith("tile/") else NOTE_BYTES_MAX


class FolderSource:
    """A log in a folder, as the mirror writes it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.name = str(folder)

    async def fetch(self, path: str) -> bytes | None:
        try:
            with (self._folder / path).open("rb") as file:
                data = file.read(size_limit(path) + 1)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return None
        except OSError as error:
            raise Unreachable(f"{self._folder / path}: {error.strerror}") from None
        return _within(path, data)


def http_address(url: str) -> str:
    """The address without a slash at its end; `Malformed` unless it is one of HTTP."""
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.query or parts.fragment:
        raise Malformed(f"{url!r} is not an address like http://127.0.0.1:8410")
    return url.rstrip("/")


def new_session() -> aiohttp.ClientSession:
    """A session with this package's limits."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=CONNECTIONS_MAX),
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(
            total=REQUEST_TIMEOUT_SECONDS,
            connect=CONNECT_TIMEOUT_SECONDS,
            sock_read=READ_TIMEOUT_SECONDS,
        ),
    )


class HttpSource:
    """A log below an address. Redirects are not followed; what is too large or slow is given up."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self._session = session
        self.name = http_address(url)

    async def fetch(self, path: str) -> bytes | None:
        reason = ""
        for attempt in range(ATTEMPTS_MAX):
            if attempt:
                await asyncio.sleep(BACKOFF_SECONDS * 2 ** (attempt - 1))
            try:
                async with self._session.get(
                    f"{self.name}/{path}", allow_redirects=False
                ) as response:
                    if response.status == OK:
                        return _within(path, await _read(response, size_limit(path)))
                    if response.status in GONE:
                        return None
                    reason = f"HTTP {response.status}"
                    if response.status not in RETRY_STATUSES:
                        break
            except TimeoutError:
                reason = "no answer in time"
            except (aiohttp.ClientError, OSError, ValueError) as error:
                reason = f"{type(error).__name__}: {error}"
        raise Unreachable(f"{self.name}/{path}: {reason}")


async def read_within(response: aiohttp.ClientResponse, bytes_max: int) -> bytes:
    """An answer's body; `Malformed` if it has more bytes."""
    data = await _read(response, bytes_max)
    if len(data) > bytes_max:
        raise Malformed(f"{response.url} answers with more than {bytes_max} bytes")
    return data


async def _read(response: aiohttp.ClientResponse, bytes_max: int) -> bytes:
    """At most one byte more than the limit: enough to know."""
    data = bytearray()
    async for chunk in response.content.iter_chunked(CHUNK_BYTES):
        data += chunk
        if len(data) > bytes_max:
            break
    return bytes(data[: bytes_max + 1])


def _within(path: str, data: bytes) -> bytes:
    limit = size_limit(path)
    if len(data) > limit:
        raise BadLog(f"{path} has more than {limit} bytes", path=path)
    return data
