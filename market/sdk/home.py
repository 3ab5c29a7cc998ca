"""Async objects belong to the loop of their client; this lets them be awaited from any loop."""

import asyncio
import functools
from collections.abc import Callable, Coroutine
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

from market.sdk.client import MarketClient

P = ParamSpec("P")
T = TypeVar("T")


class Homed(Protocol):
    """Something that works through a client."""

    @property
    def client(self) -> MarketClient: ...


H = TypeVar("H", bound=Homed)


def at_home(
    method: Callable[Concatenate[H, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate[H, P], Coroutine[Any, Any, T]]:
    """Run an async method in its client's loop, whichever loop awaits it (a notebook's, say)."""

    @functools.wraps(method)
    async def anywhere(self: H, /, *args: P.args, **kwargs: P.kwargs) -> T:
        home = self.client.loop
        if asyncio.get_running_loop() is home:
            return await method(self, *args, **kwargs)
        there = asyncio.run_coroutine_threadsafe(method(self, *args, **kwargs), home)
        return await asyncio.wrap_future(there)

    return anywhere
