"""The database as a process uses it: one pool, and whole transactions that are retried as a whole.

The pool's connections stand in autocommit, so that SQLAlchemy sends no BEGIN of its own: `run` sends
one BEGIN and one COMMIT around statements of both kinds, Core's and the driver's.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar

import asyncpg
from sqlalchemy import event
from sqlalchemy.exc import DBAPIError, InvalidatePoolError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine

from settlement.domain.errors import MisConfigured, Unavailable, Unknown

ATTEMPTS_MAX: Final = 12
BACKOFF_SECONDS: Final = 0.002  # of the first repeat; doubled each time, drawn between 0 and that
BACKOFF_MAX_SECONDS: Final = 0.25
CONNECT_TIMEOUT_SECONDS: Final = 10.0
LOST_BY_DRIVER: Final = (asyncpg.InterfaceError, asyncpg.InternalClientError)
POOL_SIZE: Final = 20
POOL_TIMEOUT_SECONDS: Final = 30.0
REPEATABLE: Final = frozenset(("40001", "40P01"))  # serialization failure, deadlock
ROLLBACK_TIMEOUT_SECONDS: Final = 2.0
SCHEMES: Final = ("postgresql://", "postgres://")
SETTINGS: Final = {
    "application_name": "gridpact",
    "client_connection_check_interval": "2s",  # a statement ends when its caller is gone
    "idle_in_transaction_session_timeout": "60s",  # a stuck process frees the baton
    "jit": "off",  # short statements only: compiling costs more than it saves
    "timezone": "UTC",
}
SHUTTING_DOWN: Final = ("57P01", "57P02", "57P03", "53300")  # down, crashed, starting, full

T = TypeVar("T")


class Database:
    """A pool of connections. Whoever runs work in it lets SQL errors out: they undo the whole."""

    def __init__(
        self, url: str, *, pool_size: int = POOL_SIZE, json: Callable[[str], Any] = str
    ) -> None:
        if not url.startswith(SCHEMES):
            raise MisConfigured("the database's address must begin with postgresql://")
        self.url: Final = url
        self.retries = 0  # transactions repeated after a conflict; a lock-order bug shows here
        self._engine = create_async_engine(
            "postgresql+asyncpg://",
            async_creator=self._connect,
            isolation_level="AUTOCOMMIT",
            skip_autocommit_rollback=True,
            json_deserializer=json,  # as text by default: callers have their own strict readers
            pool_size=pool_size,
            max_overflow=0,
            pool_timeout=POOL_TIMEOUT_SECONDS,
            pool_use_lifo=True,  # the connection used last knows its statements, and is warm
        )
        event.listen(self._engine.sync_engine, "checkout", _look)

    async def run(self, work: Callable[..., Awaitable[T]], *arguments: Any) -> T:
        """`work(transaction, *arguments)` in one transaction; repeated whole after a conflict.

        Unavailable: nothing happened. Unknown: the COMMIT was sent, its answer is lost.
        """
        for attempt in range(ATTEMPTS_MAX):
            if attempt:
                self.retries += 1
                await asyncio.sleep(_pause_seconds(attempt))
            try:
                return await self._attempt(self._once, work, arguments)
            except (DBAPIError, asyncpg.PostgresError, *LOST_BY_DRIVER) as error:
                if _state(error) not in REPEATABLE:
                    raise
        raise Unavailable(f"{ATTEMPTS_MAX} attempts met conflicting transactions")

    async def look(self, work: Callable[..., Awaitable[T]], *arguments: Any) -> T:
        """`work(transaction, *arguments)`, each statement on its own: for reads that take no lock.

        Between two statements others may commit, as they may within a transaction that reads what
        is committed; what is spared are the words BEGIN and COMMIT.
        """
        return await self._attempt(self._plainly, work, arguments)

    async def connect(self) -> Any:
        """A driver's connection outside the pool, for LISTEN; the caller closes it."""
        return await self._connect()

    async def close(self) -> None:
        """Close the pool; connections in use close when they come back."""
        await self._engine.dispose()

    async def _attempt(
        self,
        way: Callable[..., Awaitable[T]],
        work: Callable[..., Awaitable[T]],
        arguments: tuple[Any, ...],
    ) -> T:
        try:
            transaction = await self._engine.connect()
        except (SQLAlchemyError, OSError) as error:
            raise Unavailable(f"no connection to the database: {error}") from error
        try:
            return await way(transaction, work, arguments)
        except (DBAPIError, asyncpg.PostgresError, *LOST_BY_DRIVER) as error:
            if gone(error):
                raise Unavailable("the database went away") from error
            raise
        finally:
            await transaction.close()  # back to the pool, without a word to the database

    async def _once(
        self,
        transaction: AsyncConnection,
        work: Callable[..., Awaitable[T]],
        arguments: tuple[Any, ...],
    ) -> T:
        raw = await driver(transaction)
        try:
            await raw.execute("BEGIN")
            result = await work(transaction, *arguments)
        except BaseException:
            await _roll_back(raw)
            raise
        await _commit(raw)
        return result

    async def _plainly(
        self,
        transaction: AsyncConnection,
        work: Callable[..., Awaitable[T]],
        arguments: tuple[Any, ...],
    ) -> T:
        try:
            return await work(transaction, *arguments)
        except asyncio.CancelledError:
            (await driver(transaction)).terminate()  # cancelled within a statement
            raise

    async def _connect(self, *_arguments: Any, **_options: Any) -> Any:
        try:
            connection = await asyncpg.connect(
                self.url,
                timeout=CONNECT_TIMEOUT_SECONDS,
                max_cached_statement_lifetime=0,  # statements are constants: keep them prepared
                server_settings=SETTINGS,
            )
        except (asyncpg.PostgresError, asyncpg.InterfaceError, TimeoutError) as error:
            raise ConnectionError(str(error) or type(error).__name__) from error
        # amounts are whole numbers beyond 64 bits, and stay int on both sides
        await connection.set_type_codec(
            "numeric", schema="pg_catalog", encoder=str, decoder=int, format="text"
        )
        return connection


async def driver(transaction: AsyncConnection) -> Any:
    """The driver's connection under a transaction, for statements in its own `$1` style."""
    assert transaction.sync_connection is not None
    return transaction.sync_connection.connection.driver_connection


def _look(adapted: Any, _record: Any, _proxy: Any) -> None:
    """A connection that ended while it lay in the pool, or came back unclean, is not handed out."""
    raw = adapted.driver_connection
    if raw.is_closed():
        raise InvalidatePoolError
    if raw.is_in_transaction():
        raw.terminate()
        raise InvalidatePoolError


async def _commit(raw: Any) -> None:
    try:
        status = await raw.execute("COMMIT")
    except (asyncpg.PostgresError, *LOST_BY_DRIVER, OSError) as error:
        if isinstance(error, OSError) or gone(error):
            raise Unknown("the answer to COMMIT is lost") from error
        raise  # a deferred check refused: rolled back, and certain
    except BaseException:
        raw.terminate()  # cancelled within COMMIT: the connection's state is unknown
        raise
    if status != "COMMIT":
        raise AssertionError("work swallowed an SQL error: the database rolled everything back")


async def _roll_back(raw: Any) -> None:
    if raw.is_closed():
        return
    try:
        async with asyncio.timeout(ROLLBACK_TIMEOUT_SECONDS):  # a cancelled statement may run on
            await raw.execute("ROLLBACK")
    except BaseException as error:
        raw.terminate()
        if not isinstance(error, Exception):
            raise


def gone(error: BaseException) -> bool:
    """Whether the session ended under us, as against a statement that was refused."""
    cause = _cause(error)
    if isinstance(cause, asyncpg.InterfaceError):
        return "closed" in str(cause)  # the same class also names the caller's mistakes
    lost = (asyncpg.PostgresConnectionError, asyncpg.InternalClientError)
    return isinstance(cause, lost) or _state(error) in SHUTTING_DOWN


def _cause(error: BaseException) -> BaseException | None:
    """The driver's own error behind SQLAlchemy's."""
    if isinstance(error, DBAPIError) and error.orig is not None:
        return error.orig.__cause__
    return error


def _state(error: BaseException) -> str | None:
    return getattr(_cause(error), "sqlstate", None)


def _pause_seconds(attempt: int) -> float:
    return random.uniform(0, min(BACKOFF_SECONDS * 2**attempt, BACKOFF_MAX_SECONDS))  # noqa: S311 - no secret
