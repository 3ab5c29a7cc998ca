"""Runs migrations on the connection that `settlement/store/migrate.py` passes: one transaction."""

from alembic import context
from sqlalchemy import text

import market.store.tables  # noqa: F401 - registers the market's tables on the same metadata
from settlement.store.tables import metadata

LOCK_KEY = 0x67726964_70616374  # any constant: one migration at a time in a database
LOCK_WAIT = "60s"  # for another migration to end
TABLE_LOCK_WAIT = "5s"  # a migration that queues for a table stops all who come after it
STATEMENT_LIMIT = "600s"


def run() -> None:
    connection = context.config.attributes["connection"]
    context.configure(connection=connection, target_metadata=metadata, transactional_ddl=True)
    with context.begin_transaction():
        connection.execute(text(f"SET LOCAL lock_timeout = '{LOCK_WAIT}'"))
        connection.execute(text(f"SELECT pg_advisory_xact_lock({LOCK_KEY})"))
        connection.execute(text(f"SET LOCAL lock_timeout = '{TABLE_LOCK_WAIT}'"))
        connection.execute(text(f"SET LOCAL statement_timeout = '{STATEMENT_LIMIT}'"))
        context.run_migrations()


run()
