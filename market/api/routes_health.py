"""Routes of the service itself: alive, ready, version, document, figures."""

from typing import Final

from prometheus_client import generate_latest

from market.api.about import NAME, VERSION
from market.http.endpoint import Call, Endpoint, Text
from market.http.state import CLOSING, METRICS
from market.store import ledger as store
from market.store.rows import Connection
from market.wire.control import PROTOCOL
from market.wire.trade import Health, Version
from settlement.domain.errors import Unavailable
from settlement.store import migrate


async def livez(call: Call) -> Health:  # noqa: ARG001 - every handler takes the call
    """The event loop turns."""
    return Health("ok", {})


async def readyz(call: Call) -> Health:
    """Requests can be served: the database answers, its schema is ours, the ledger adds up."""
    if call.request.app[CLOSING].flag:
        raise Unavailable("closing")

    async def look(connection: Connection) -> tuple[str | None, int]:
        totals = await store.totals(connection)
        return await connection.fetchval("SELECT max(version_num) FROM alembic_version"), totals.sum

    revision, total = await call.market.transact(look)
    if revision != migrate.head():
        raise Unavailable(f"the schema is {revision}, this software needs {migrate.head()}")
    if total != 0:
        raise Unavailable(f"the ledger's sum is {total}, not 0")
    return Health("ok", {"database": "ok", "schema": str(revision), "ledger": "sum 0"})


async def show_version(call: Call) -> Version:  # noqa: ARG001 - every handler takes the call
    """Name, version, protocol of the control channel."""
    return Version(NAME, VERSION, PROTOCOL)


async def metrics(call: Call) -> Text:
    """Figures for Prometheus."""
    return Text(generate_latest(call.request.app[METRICS].registry), "text/plain")


ENDPOINTS: Final = (
    Endpoint("GET", "/livez", livez),
    Endpoint("GET", "/readyz", readyz),
    Endpoint("GET", "/version", show_version),
    Endpoint("GET", "/metrics", metrics),
)
