"""`api`: signed writes a second that are stored for good, against a bare handler with one commit.

The write is a payment (`POST /v1/payments`): request signature, statement signature, idempotency
key, ledger transfer, statement in the log's order. The reference is an aiohttp handler that inserts
the same body by asyncpg. Both run on one PostgreSQL with fsync on, each as one process, under the
same client with 16 connections, in turns. The rate limit is lifted; no worker runs beside.
"""

import asyncio
import contextlib
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from market.http.settings import LEDGER_KEY, LOG_KEY, OPERATOR_KEY
from market.sdk.client import MarketClient
from market.sdk.wallet import create_key, load_key
from settlement.domain.errors import GridpactError
from settlement.store import migrate
from settlement.store.embedded import EmbeddedPostgres
from tests.bench.figures import figure, options, publish, tell
from tests.bench.load import load

ROUNDS, REQUESTS = 7, 2_000
QUICK_ROUNDS, QUICK_REQUESTS = 2, 100
MARKET: Final = "gridpact.local/bench"
FUNDS_MICROCREDITS: Final = 100_000_000
PASSABLE: Final = 0o711  # another user runs PostgreSQL below it
START_SECONDS_MAX: Final = 30.0
POLL_SECONDS: Final = 0.1
ROOT: Final = Path(__file__).resolve().parents[2]


def free_port() -> int:
    """One that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def program(*arguments: str, settings: dict[str, str]) -> Iterator[None]:
    """A module of ours as a process of its own."""
    process = subprocess.Popen(
        [sys.executable, "-m", *arguments],
        env={**os.environ, **settings},
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
    )
    try:
        yield
    finally:
        process.terminate()
        process.wait()


def server_settings(folder: Path, url: str, port: int) -> dict[str, str]:
    """The API's own, with keys made for it."""
    for name in (LEDGER_KEY, LOG_KEY, OPERATOR_KEY):
        create_key(folder / "keys" / name)
    return {
        "DATABASE_URL": url,
        "GRIDPACT_MARKET": MARKET,
        "GRIDPACT_PORT": str(port),
        "GRIDPACT_KEYS_FOLDER": str(folder / "keys"),
        "GRIDPACT_BLOBS_FOLDER": str(folder / "blobs"),
        "GRIDPACT_DEVSTACK": "1",
        "GRIDPACT_REQUESTS_A_SECOND": "1000000",
    }


async def fund(url: str, key: Path) -> None:
    """Wait until it answers, then give the payer something to pay with."""
    deadline = time.monotonic() + START_SECONDS_MAX
    async with MarketClient(url, load_key(key)) as client:
        while True:
            try:
                await client.faucet(FUNDS_MICROCREDITS)
            except GridpactError:
                if time.monotonic() > deadline:
                    raise
                await asyncio.sleep(POLL_SECONDS)
            else:
                return


def listening(port: int) -> None:
    """Wait until somebody does."""
    deadline = time.monotonic() + START_SECONDS_MAX
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(POLL_SECONDS)
        else:
            return


def measure(folder: Path, *, rounds: int, requests: int) -> tuple[list[float], list[float]]:
    """Requests a second of both, taken in turns."""
    mine, theirs = [], []
    payer = folder / "payer.key"
    create_key(payer)
    with contextlib.ExitStack() as stack:
        postgres = EmbeddedPostgres(folder / "postgres")
        stack.callback(postgres.ended, START_SECONDS_MAX)
        url = stack.enter_context(postgres)
        asyncio.run(migrate.upgrade(url))
        port, bare_port = free_port(), free_port()
        settings = server_settings(folder, url, port)
        stack.enter_context(program("market.cli.main", "server", "run", settings=settings))
        stack.enter_context(
            program("tests.bench.bare_server", str(bare_port), settings={"DATABASE_URL": url})
        )
        origin = f"http://127.0.0.1:{port}"
        asyncio.run(fund(origin, payer))
        listening(bare_port)
        client = stack.enter_context(
            load(
                ours=f"{origin}/v1/payments",
                bare=f"http://127.0.0.1:{bare_port}/",
                market=MARKET,
                key=payer,
            )
        )
        for number in range(rounds + 1):
            ours = requests / client.run("signed", requests)
            bare = requests / client.run("bare", requests)
            if number:  # the first round is the warm-up
                mine.append(ours)
                theirs.append(bare)
                tell(f"round {number}: {ours:.0f}/s against {bare:.0f}/s")
    return mine, theirs


def main() -> int:
    """One figure."""
    chosen = options(__doc__)
    rounds, requests = (QUICK_ROUNDS, QUICK_REQUESTS) if chosen.quick else (ROUNDS, REQUESTS)
    with tempfile.TemporaryDirectory(prefix="gp-") as name:
        folder = Path(name)
        folder.chmod(PASSABLE)
        mine, theirs = measure(folder, rounds=rounds, requests=requests)
    publish(
        [
            figure(
                "api",
                "signed-write",
                ours=statistics.median(mine),
                reference=statistics.median(theirs),
                unit="requests/s",
                better="higher",
            )
        ],
        record=chosen.record,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
