"""The ledger's own connection: a batch goes out as one statement that is a transaction of its own."""

from dataclasses import dataclass
from typing import Any, Final

import asyncpg

from settlement.domain.errors import GridpactError, Unavailable, Unknown
from settlement.store.database import LOST_BY_DRIVER, Database, gone
from settlement.store.ledger_write import Writing, write

# As under the baton: everything is found by an index, and no plan is made twice.
_SETTINGS: Final = "SET enable_seqscan = off; SET plan_cache_mode = force_generic_plan"


@dataclass(frozen=True, slots=True)
class Sent:
    """What became of a batch: done; or not a thing of it, and it may be decided anew; or an error."""

    done: bool
    error: GridpactError | None = None


class Writer:
    """Sends batches one by one; its connection is made when it is needed, and again when it is lost."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._connection: Any = None

    async def send(self, writing: Writing) -> Sent:
        """Never raises but for cancellation."""
        try:
            connection = await self._ready()
        except (asyncpg.PostgresError, *LOST_BY_DRIVER, OSError) as error:
            return Sent(
                done=False, error=_told(Unavailable("no connection to the database"), error)
            )
        try:
            return Sent(await write(connection, writing))
        except (asyncpg.PostgresError, *LOST_BY_DRIVER, OSError) as error:
            if isinstance(error, OSError) or gone(error):
                self._drop()
                return Sent(
                    done=False, error=_told(Unknown("the answer to the batch is lost"), error)
                )
            return Sent(done=False)  # refused, and so rolled back
        except BaseException:
            self._drop()  # cancelled within the statement: its end is unknown
            raise

    async def close(self) -> None:
        """End the connection."""
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()

    async def _ready(self) -> Any:
        if self._connection is None or self._connection.is_closed():
            self._connection = await self._database.connect()
            await self._connection.execute(_SETTINGS)
        return self._connection

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.terminate()
            self._connection = None


def _told(error: GridpactError, cause: BaseException) -> GridpactError:
    error.__cause__ = cause
    return error
