"""The client of the API benchmark, a process of its own: requests made ahead, sent over 16 connections.

Started as a program it answers each JSON line with the seconds that the requests took. What a
client does for itself (statements, signatures) is done before the clock starts, since what is
measured is the server.
"""

import asyncio
import contextlib
import json
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final
from uuid import uuid4

import aiohttp
from yarl import URL

from market.sdk.client import now_ms
from market.sdk.transport import Transport, new_idempotency_key
from market.sdk.wallet import load_key
from market.wire import codec, trade
from settlement.domain.identity import PrivateKey
from settlement.domain.payments import Payment
from settlement.domain.statement import sign

CONNECTIONS: Final = 16
JSON: Final = {"Content-Type": "application/json"}
OK: Final = 200


@dataclass(frozen=True)
class Load:
    """The other end of that process."""

    asked: IO[str]
    said: IO[str]

    def run(self, kind: str, count: int) -> float:
        """The seconds of so many requests, `signed` or `bare`."""
        self.asked.write(json.dumps([kind, count]) + "\n")
        self.asked.flush()
        seconds: float = json.loads(self.said.readline())
        return seconds


@contextlib.contextmanager
def load(*, ours: str, bare: str, market: str, key: Path) -> Iterator[Load]:
    """A started client, ended at the end."""
    with subprocess.Popen(
        [sys.executable, "-m", "tests.bench.load", ours, bare, market, str(key)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).resolve().parents[2],
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        yield Load(process.stdin, process.stdout)
        process.stdin.close()


def payment(key: PrivateKey, to: str, market: str) -> bytes:
    """The body of a payment of the smallest amount."""
    statement = Payment(
        v=1, kind="payment", market=market, payer=key.address, to=to, amount="1",
        transfer=str(uuid4()), memo="", at_ms=now_ms(),
    )  # fmt: skip
    return codec.encode(trade.Pay(sign(statement, key).envelope))


async def send(url: str, requests: deque[tuple[bytes, dict[str, str]]]) -> float:
    """The seconds until all were answered; any refusal ends the run."""
    address = URL(url, encoded=True)
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=CONNECTIONS), cookie_jar=aiohttp.DummyCookieJar()
    ) as session:

        async def connection() -> None:
            while requests:
                body, headers = requests.popleft()
                async with session.post(address, data=body, headers=headers) as response:
                    said = await response.read()
                    if response.status != OK:
                        raise RuntimeError(f"{response.status}: {said.decode()}")

        began = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            for _ in range(CONNECTIONS):
                group.create_task(connection())
        return time.perf_counter() - began


def main() -> None:
    """One answer a line until the input ends."""
    ours, bare, market, key_path = sys.argv[1:]
    key, payee = load_key(Path(key_path)), PrivateKey(b"\1" * 32).address
    signer = Transport(ours.rpartition("/v1/")[0], key)
    for line in sys.stdin:
        kind, count = json.loads(line)
        bodies = [payment(key, payee, market) for _ in range(count)]
        if kind == "bare":
            url, requests = bare, deque((body, JSON) for body in bodies)
        else:
            url = ours
            requests = deque(
                (
                    body,
                    JSON
                    | signer.signed_headers(
                        "POST", ours, body, idempotency_key=new_idempotency_key()
                    ),
                )
                for body in bodies
            )
        sys.stdout.write(json.dumps(asyncio.run(send(url, requests))) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
