"""Real PostgreSQL for the tests that need one: one a run, a fresh clone of the schema a test."""

import asyncio
import os
import shutil
import tempfile
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit, urlunsplit

import pytest
import pytest_asyncio

if TYPE_CHECKING:
    from settlement.store.database import Database

SERVER_VARIABLE: Final = "TEST_DATABASE_URL"  # a server whose role may create databases
ENDS_WITHIN_SECONDS: Final = 10.0


def database_in(server: str, name: str) -> str:
    """The address of another database of that server."""
    return urlunsplit(urlsplit(server)._replace(path=f"/{name}"))


async def administer(server: str, *statements: str) -> None:
    """Run statements that no transaction may hold."""
    import asyncpg

    connection: Any = await asyncpg.connect(server)
    try:
        for statement in statements:
            await connection.execute(statement)
    finally:
        await connection.close()


@pytest.fixture(scope="session")
def short_folder() -> Iterator[Path]:
    """A folder that other users may enter, with a path short enough for sockets."""
    folder = Path(tempfile.mkdtemp(prefix="gp-"))
    folder.chmod(0o711)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def postgres(short_folder: Path) -> Iterator[str]:
    """The address of a server: `TEST_DATABASE_URL`, else an embedded one of this process."""
    named = os.environ.get(SERVER_VARIABLE)
    if named:
        yield named
        return
    from settlement.store.embedded import EmbeddedPostgres

    server = EmbeddedPostgres(short_folder / "pg", fsync=False)
    with server.running() as url:
        yield url
    assert server.ended(ENDS_WITHIN_SECONDS)


@pytest.fixture(scope="session")
def template(postgres: str) -> Iterator[str]:
    """The name of a database with the schema and nothing else."""
    from settlement.store import migrate

    name = f"template_{uuid.uuid4().hex}"

    async def make() -> None:
        await administer(postgres, f"CREATE DATABASE {name}")
        await migrate.upgrade(database_in(postgres, name))

    with asyncio.Runner() as runner:
        runner.run(make())
    yield name
    with asyncio.Runner() as runner:
        runner.run(administer(postgres, f"DROP DATABASE {name}"))


@pytest_asyncio.fixture
async def database_url(postgres: str, template: str) -> AsyncIterator[str]:
    """The address of a fresh database with the schema."""
    name = f"test_{uuid.uuid4().hex}"
    await administer(postgres, f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY FILE_COPY")
    yield database_in(postgres, name)
    await administer(postgres, f"DROP DATABASE {name} WITH (FORCE)")


@pytest_asyncio.fixture
async def empty_url(postgres: str) -> AsyncIterator[str]:
    """The address of a fresh database without anything."""
    name = f"test_{uuid.uuid4().hex}"
    await administer(postgres, f"CREATE DATABASE {name}")
    yield database_in(postgres, name)
    await administer(postgres, f"DROP DATABASE {name} WITH (FORCE)")


@pytest_asyncio.fixture
async def database(database_url: str) -> AsyncIterator["Database"]:
    """A pool on a fresh database with the schema."""
    from settlement.store.database import Database

    opened = Database(database_url)
    yield opened
    await opened.close()
