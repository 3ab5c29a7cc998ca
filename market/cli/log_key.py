"""Whose log a command is about to believe: the key that a mirror was begun with, or the market's word."""

import asyncio
from pathlib import Path

from settlement.domain.errors import GridpactError, MisConfigured


def mirrored_log_key(folder: Path) -> str | None:
    """The log's key that a mirror's folder was begun with; None if it is no mirror's."""
    from settlement.validator.mirror import KEY_FILE

    try:
        return (folder / KEY_FILE).read_text(encoding="utf-8").strip()
    except OSError:
        return None


def told_log_key(url: str) -> str:
    """The log's key as the market itself says it."""
    from market.sdk.client import MarketClient

    async def run() -> str:
        async with MarketClient(url) as client:
            return (await client.market()).log_key

    try:
        return asyncio.run(run())
    except GridpactError as error:
        raise MisConfigured(f"give --log-key: {url} does not name one ({error.detail})") from None
