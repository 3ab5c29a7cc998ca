"""How a command reaches the market that its options name."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar

import typer

from market.cli.output import Globals

if TYPE_CHECKING:
    from market.sdk.client import MarketClient

T = TypeVar("T")


def options_of(context: typer.Context) -> Globals:
    """The options that every command has."""
    return context.ensure_object(Globals)


def ask(
    options: Globals, work: "Callable[[MarketClient], Awaitable[T]]", *, signed: bool = True
) -> T:
    """Open a client, do the work, close it. Unsigned work needs no key file."""
    from market.sdk import wallet
    from market.sdk.client import MarketClient

    choice = wallet.choose(options.folder(), url=options.url, key_path=options.key)
    key = wallet.load_key(choice.key_path) if signed else None

    async def run() -> T:
        async with MarketClient(choice.url, key, home=choice.home) as client:
            if signed:
                await client.market()  # nothing is signed for a market that changed its keys
            return await work(client)

    return asyncio.run(run())
