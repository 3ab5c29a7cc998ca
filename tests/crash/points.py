"""Deaths at every point of a story: 1, 2, 3 … until a run ends alive; then the caller comes again.

A run is one process: its engine and its connections are new, and gone after it. The caller keeps
what it has stored (`prepared`) and what was acknowledged to it, and repeats it all with the same ids.
"""

import asyncio
import json
import multiprocessing
import os
import signal
import tempfile
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol, TypeVar
from urllib.parse import urlsplit

import asyncpg

from settlement.domain.errors import Unavailable, Unknown
from tests.conftest import administer, database_in
from tests.crash.wire import Probe, Wire, kill_self

CHILD_SECONDS: Final = 60.0
POINTS_MAX: Final = 2_000  # a story that never ends is a bug of the story

_TABLES: Final = "SELECT tablename FROM pg_tables WHERE schemaname = 'public' ORDER BY 1"
_ENDED: Final = "SELECT pg_snapshot_xmax(pg_current_snapshot())::text"  # the last one that did, + 1
_ROWS: Final = "SELECT '{0}', md5(string_agg(md5(t::text), '' ORDER BY md5(t::text))) FROM {0} AS t"

P = TypeVar("P")


@dataclass(slots=True)
class Answers:
    """What a caller was told, step by step: `text` says what now holds, the same at each repeat.

    `news` are the steps whose answer said that they took effect just now, `repeats` those that had
    before, `nothing` those that were told that nothing happened.
    """

    texts: dict[str, str] = field(default_factory=dict)
    news: set[str] = field(default_factory=set)
    repeats: set[str] = field(default_factory=set)
    nothing: set[str] = field(default_factory=set)
    journal: Path | None = None  # kept on disk before the next step, as a client does

    def give(self, step: str, text: str, *, new: bool | None = None) -> None:
        """Acknowledged: from here on it must stand."""
        self.texts[step] = text
        if new is not None:
            (self.news if new else self.repeats).add(step)
        self._keep([step, text, new])

    def unavailable(self, step: str) -> None:
        """The promise of `Unavailable`: nothing happened."""
        self.nothing.add(step)

    def _keep(self, line: list[object]) -> None:
        if self.journal is None:
            return
        with self.journal.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
            file.flush()
            os.fsync(file.fileno())

    @staticmethod
    def read(journal: Path) -> "Answers":
        """What a killed caller had noted."""
        found = Answers()
        if journal.exists():
            for line in journal.read_text(encoding="utf-8").splitlines():
                step, text, new = json.loads(line)
                found.give(step, text, new=new)
        return found


class Story(Protocol[P]):
    """Something that a caller does, which may be repeated at any time, and what must come of it."""

    @property
    def name(self) -> str: ...

    async def prepare(self, url: str, folder: Path) -> P:
        """All that goes before; what the caller keeps of it (to be pickled)."""

    async def act(self, url: str, prepared: P, answers: Answers, ready: Callable[[], None]) -> None:
        """The part in which death comes, from `ready()` on."""

    async def view(self, url: str, prepared: P) -> object:
        """What stands now, the same whatever died; asserts that it is sound."""


@dataclass(frozen=True, slots=True)
class Enumerated:
    """How many points a story has, and after how many deaths the database had moved on."""

    story: str
    points: int
    moved: int


@dataclass(frozen=True, slots=True)
class Server:
    """A PostgreSQL, a database on it that has the schema, and a folder for what runs leave behind."""

    url: str
    template: str
    folder: Path

    @asynccontextmanager
    async def database(self, template: str | None = None) -> AsyncIterator[str]:
        """A database of its own."""
        name = f"crash_{uuid.uuid4().hex}"
        source = template or self.template
        await administer(self.url, f"CREATE DATABASE {name} TEMPLATE {source} STRATEGY FILE_COPY")
        try:
            yield database_in(self.url, name)
        finally:
            await administer(self.url, f"DROP DATABASE {name} WITH (FORCE)")


async def run_here(
    story: Story[P], url: str, prepared: P, die_at: int = 0, *, probe: Probe | None = None
) -> tuple[Answers, bool]:
    """One process's life within this one; whether it ended by death."""
    answers = Answers()
    with tempfile.TemporaryDirectory(prefix="gp-") as folder:
        async with Wire(url, Path(folder), die_at=die_at, probe=probe) as wire:
            try:
                await story.act(wire.url, prepared, answers, wire.arm)
            except* (Unavailable, Unknown):  # nothing else may come of a database that is gone
                if not wire.dead:
                    raise
            return answers, wire.dead


async def run_killed(
    story: Story[P], url: str, prepared: P, die_at: int = 0
) -> tuple[Answers, bool]:
    """The same in a process of its own, which is killed with SIGKILL at the point."""
    with tempfile.TemporaryDirectory(prefix="gp-") as folder:
        journal = Path(folder) / "answers"
        wire = Wire(url, Path(folder), die_at=die_at, kill=kill_self)
        status = await asyncio.to_thread(_in_child, story, wire, prepared, journal)
        assert status in {0, -signal.SIGKILL}, f"{story.name}: the child ended with {status}"
        return Answers.read(journal), status != 0


def _in_child(story: Story[P], wire: Wire, prepared: P, journal: Path) -> int | None:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, "tests.crash.stories"])
    child = context.Process(target=_live, args=(story, wire, prepared, journal))
    child.start()
    child.join(CHILD_SECONDS)
    if child.is_alive():
        child.kill()
        child.join()
        return None
    return child.exitcode


def _live(story: Story[P], wire: Wire, prepared: P, journal: Path) -> None:
    async def live() -> None:
        async with wire:
            await story.act(wire.url, prepared, Answers(journal=journal), wire.arm)

    asyncio.run(live())


async def every_point(story: Story[P], server: Server, *, killed: bool = False) -> Enumerated:
    """Run the story with a death at each point in turn, and hold what follows to the story without.

    Here, a death that left the database as it was, to the byte, and acknowledged nothing, is
    followed by the next death at once: that next run is the repeat. Killed, each is looked into.
    """
    run = run_killed if killed else run_here
    async with _started(story, server) as (template, prepared, expected):
        before = await _digest(database_in(server.url, template))
        moved, point = 0, 1
        while point < POINTS_MAX:
            async with server.database(template) as url:
                answers, died = await run(story, url, prepared, point)
                while died and not killed and not answers.texts and await _digest(url) == before:
                    point += 1
                    answers, died = await run(story, url, prepared, point)
                if died:
                    moved += await _digest(url) != before
                await _look(story, url, prepared, answers if died else None, expected)
            if not died:
                return Enumerated(story.name, point - 1, moved)
            point += 1
    raise AssertionError(f"{story.name} has no end")


async def every_commit(story: Story[P], server: Server) -> Enumerated:
    """As `every_point`, for the points at both sides of the round trips that end a transaction.

    Between them the database stands still, so that a death there is like the one before it.
    """
    async with _started(story, server) as (template, prepared, expected):
        ends = await _ends(story, server, template, prepared)
        for point in (one for end in ends for one in (end - 1, end)):
            async with server.database(template) as url:
                answers, died = await run_here(story, url, prepared, point)
                assert died, f"{story.name}: another run has fewer points than {point}"
                await _look(story, url, prepared, answers, expected)
        return Enumerated(story.name, 2 * len(ends), len(ends))


@asynccontextmanager
async def _started(story: Story[P], server: Server) -> AsyncIterator[tuple[str, P, object]]:
    """A database from which the story begins, what the caller keeps, and the end without death."""
    async with server.database() as start:
        prepared = await story.prepare(start, server.folder)
        template = urlsplit(start).path.removeprefix("/")
        async with server.database(template) as url:
            first, _ = await run_here(story, url, prepared)
            expected = await story.view(url, prepared)
            await _look(story, url, prepared, first, expected)
        yield template, prepared, expected


async def _look(
    story: Story[P], url: str, prepared: P, answers: Answers | None, expected: object
) -> None:
    """The caller comes again, if it got these answers and then none; all is as without any death."""
    if answers is not None:
        again, _ = await run_here(story, url, prepared)
        _compare(answers, again)
    view = await story.view(url, prepared)
    assert view == expected, f"{story.name}: {view} is not {expected}"


async def _ends(story: Story[P], server: Server, template: str, prepared: P) -> list[int]:
    """The points after which some transaction that writes had ended."""
    found: list[int] = []
    async with server.database(template) as url:
        connection = await asyncpg.connect(url)
        seen = [await connection.fetchval(_ENDED)]

        async def probe(point: int) -> None:
            ended = await connection.fetchval(_ENDED)
            if ended != seen[-1]:
                seen.append(ended)
                found.append(point)

        try:
            await run_here(story, url, prepared, probe=probe)
        finally:
            await connection.close()
    return found


def _compare(first: Answers, again: Answers) -> None:
    """What was acknowledged is told again, and nothing of it happens a second time."""
    for step, text in first.texts.items():
        assert again.texts[step] == text, f"{step}: {again.texts[step]!r} after {text!r}"
    twice = first.texts.keys() & again.news
    assert not twice, f"acknowledged, and done again: {twice}"
    untrue = first.nothing & again.repeats
    assert not untrue, f"told that nothing happened, and it had: {untrue}"


async def _digest(url: str) -> str:
    """Every row of every table, in short."""
    connection = await asyncpg.connect(url)
    try:
        tables = [row[0] for row in await connection.fetch(_TABLES)]
        rows = await connection.fetch(" UNION ALL ".join(_ROWS.format(name) for name in tables))
        return str(sorted(tuple(row) for row in rows))
    finally:
        await connection.close()
