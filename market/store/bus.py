"""Wake-ups between processes by LISTEN/NOTIFY: hints only, so that a lost one costs a poll."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Final

CHANNEL: Final = "gridpact"
RECONNECT_SECONDS: Final = 0.5
MATCH: Final = "m"  # the topic of the matcher and the reconciler


def job_topic(job: object) -> str:
    """Something of this job changed that its consumer may wait for."""
    return f"j{job}"


def provider_topic(address: str) -> str:
    """There is something to send to this provider."""
    return f"p{address}"


class Bus:
    """One listening connection a process; waiters by topic."""

    def __init__(self, connect: Any) -> None:
        self._connect = connect  # () -> awaitable of a connection outside the pool
        self._waiters: dict[str, set[asyncio.Event]] = defaultdict(set)

    async def run(self) -> None:
        """Listen for ever; a lost connection wakes everybody, since hints may be lost with it."""
        while True:
            try:
                connection = await self._connect()
            except (OSError, ConnectionError):
                await asyncio.sleep(RECONNECT_SECONDS)
                continue
            gone = asyncio.Event()
            try:
                connection.add_termination_listener(_setter(gone))
                await connection.add_listener(CHANNEL, lambda *arguments: self.wake(arguments[3]))
                await gone.wait()
            finally:
                await connection.close(timeout=1)
            for topic in list(self._waiters):
                self.wake(topic)
            await asyncio.sleep(RECONNECT_SECONDS)

    def wake(self, topic: str) -> None:
        """Wake the waiters of this process."""
        for waiter in self._waiters.get(topic, ()):
            waiter.set()

    @asynccontextmanager
    async def listen(self, *topics: str) -> AsyncIterator[asyncio.Event]:
        """An event that is set on each wake-up of a topic; clear it before looking."""
        event = asyncio.Event()
        for topic in topics:
            self._waiters[topic].add(event)
        try:
            yield event
        finally:
            for topic in topics:
                self._waiters[topic].discard(event)
                if not self._waiters[topic]:
                    del self._waiters[topic]


async def wait(event: asyncio.Event, seconds: float) -> bool:
    """Whether the event came within the time; clears it."""
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return False
    event.clear()
    return True


def _setter(event: asyncio.Event) -> Callable[..., None]:
    def occurred(*_: object) -> None:
        event.set()

    return occurred
