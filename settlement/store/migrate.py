"""The schema's numbered steps: which there are, which a database has, and taking the rest.

The steps stand in the folder `migrations`, beside the packages, in a checkout as after an install.
"""

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, Final, TypeVar

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from settlement.domain.errors import MisConfigured, Unavailable
from settlement.store.database import Database

FOLDER: Final = Path(__file__).parents[2] / "migrations"
LOCK_NOT_AVAILABLE: Final = "55P03"

T = TypeVar("T")


def configuration(**attributes: Any) -> Config:
    """Alembic's settings, without a file."""
    config = Config(attributes=attributes)
    config.set_main_option("script_location", str(FOLDER).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config


@cache
def head() -> str:
    """The last step that this software knows."""
    found = ScriptDirectory.from_config(configuration()).get_current_head()
    if found is None:
        raise MisConfigured(f"there are no migrations in {FOLDER}")
    return found


async def current(url: str) -> str | None:
    """The last step that the database has taken; none for an empty one."""
    return await on(
        url, lambda connection: MigrationContext.configure(connection).get_current_revision()
    )


async def upgrade(url: str, revision: str = "head") -> None:
    """Take all steps that are missing, together or not at all; others wait for it.

    Alembic keeps its context in globals: a process runs one upgrade at a time.
    """
    await on(
        url, lambda connection: command.upgrade(configuration(connection=connection), revision)
    )


async def downgrade(url: str, revision: str) -> None:
    """Go back to an earlier step; what the later ones made is lost."""
    await on(
        url, lambda connection: command.downgrade(configuration(connection=connection), revision)
    )


async def check(url: str) -> None:
    """Refuse a database whose schema is not this software's."""
    found = await current(url)
    if found != head():
        raise Unavailable(
            f"the database's schema is {found or 'empty'}, this software needs {head()}:"
            " run `gridpact server migrate`"
        )


async def on(url: str, work: Callable[[Connection], T]) -> T:
    """Run plain SQLAlchemy work in one transaction on a connection of its own."""

    async def inside(transaction: AsyncConnection) -> T:
        return await transaction.run_sync(work)

    database = Database(url, pool_size=1, json=json.loads)  # reflection reads it
    try:
        return await database.run(inside)
    except DBAPIError as error:
        if getattr(error.orig, "sqlstate", None) == LOCK_NOT_AVAILABLE:
            raise Unavailable("another migration runs, or a table is in use; try again") from error
        raise
    finally:
        await database.close()
