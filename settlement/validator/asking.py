"""What a person asks a running validator."""

from typing import Final

import aiohttp
import msgspec

from settlement.domain.errors import Malformed, Unreachable
from settlement.validator.routes import Overview
from settlement.validator.source import http_address, new_session, read_within

STATUS_BYTES_MAX: Final = 4 * 1024 * 1024
OK: Final = 200


async def ask(address: str) -> Overview:
    """How it stands with its logs."""
    url = http_address(address) + "/status"
    try:
        async with new_session() as session, session.get(url, allow_redirects=False) as response:
            data = await read_within(response, STATUS_BYTES_MAX)
            if response.status != OK:
                raise Unreachable(f"{url}: HTTP {response.status}")
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        raise Unreachable(f"{url}: {error}") from None
    try:
        return msgspec.json.decode(data, type=Overview)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Malformed(f"{url} is no validator: {error}") from None
