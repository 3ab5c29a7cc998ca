"""`make test-crash`: every point by SIGKILL, random kills under load, random lives; then the record.

Any difference ends the run, and nothing is recorded. The seed is told first, so that it can be given again.
"""

import argparse
import asyncio
import dataclasses
import json
import secrets
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

from settlement.store import migrate
from settlement.store.embedded import EmbeddedPostgres
from tests.bench.figures import machine, tell
from tests.conftest import administer, database_in
from tests.crash import interleavings, kills, record, two_engines
from tests.crash.points import Server, every_point
from tests.crash.stories import STORIES

ENDS_WITHIN_SECONDS: Final = 30.0
KILLS: Final = 100
LIVES: Final = 100_000
STEPS: Final = 600
TEMPLATE: Final = "schema"


@asynccontextmanager
async def a_server() -> AsyncIterator[Server]:
    """A PostgreSQL for the many databases that are thrown away: fsync would only slow their making."""
    with tempfile.TemporaryDirectory(prefix="gp-") as folder:
        Path(folder).chmod(0o711)
        postgres = EmbeddedPostgres(Path(folder) / "pg", fsync=False)
        async with postgres.running() as url:
            await administer(url, f"CREATE DATABASE {TEMPLATE}")
            await migrate.upgrade(database_in(url, TEMPLATE))
            yield Server(url, TEMPLATE, Path(folder))
        assert await asyncio.to_thread(postgres.ended, ENDS_WITHIN_SECONDS)


async def points() -> dict[str, Any]:
    """Each story with a SIGKILL at each of its points."""
    stories, moved = {}, 0
    async with a_server() as server:
        for story in STORIES:
            counted = await every_point(story, server, killed=True)
            assert counted.points > counted.moved > 0
            stories[story.name] = counted.points
            moved += counted.moved
            tell(f"points of {story.name}: {counted.points}")
    return {
        "stories": stories,
        "deaths": sum(stories.values()),
        "moved": moved,
        "lost": 0,
        "twice": 0,
    }


async def engines(steps: int, seed: int) -> dict[str, Any]:
    """Two engines on one database."""
    async with a_server() as server, server.database() as url:
        return dataclasses.asdict(await two_engines.run(url, steps, seed=seed))


def killed(count: int, seed: int) -> dict[str, Any]:
    """Random kills, as the record has them: a difference would have ended the run."""
    found = dataclasses.asdict(kills.kill(count, seed=seed))
    recoveries = found.pop("recoveries_seconds")
    return {**found, "lost": 0, "twice": 0, "recovery_seconds_most": round(max(recoveries), 1)}


def main() -> None:
    """All of it, or less of it for a look."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--record", action="store_true", help="write docs/benchmarks anew")
    parser.add_argument("--seed", type=int, default=secrets.randbelow(2**31))
    parser.add_argument("--kills", type=int, default=KILLS)
    parser.add_argument("--lives", type=int, default=LIVES)
    parser.add_argument("--steps", type=int, default=STEPS)
    options = parser.parse_args()
    tell(f"seed {options.seed}")
    began = time.monotonic()
    found: dict[str, Any] = {"seed": options.seed}
    found["interleavings"] = {}
    for what in ("ledger", "escrow"):
        lived = interleavings.run(what, options.lives, seed=options.seed)
        found["interleavings"][what] = dataclasses.asdict(lived)
        tell(f"lives of {what}: {lived.lives}, {time.monotonic() - began:.0f} s")
    found["two_engines"] = asyncio.run(engines(options.steps, options.seed))
    tell(f"two engines: {found['two_engines']}, {time.monotonic() - began:.0f} s")
    found["kills"] = killed(options.kills, options.seed)
    tell(f"kills: {found['kills']}, {time.monotonic() - began:.0f} s")
    found["points"] = asyncio.run(points())
    found["seconds"] = round(time.monotonic() - began)
    found["machine"] = machine()
    sys.stdout.write(json.dumps(found) + "\n")
    if options.record:
        record.keep(found)


if __name__ == "__main__":
    main()
