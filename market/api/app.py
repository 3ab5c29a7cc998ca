"""Composition root of the API: database, ledger, bus, routes, middlewares."""

from collections.abc import AsyncIterator
from typing import Final

import msgspec
from aiohttp import web

from market.api import (
    control,
    routes_explorer,
    routes_health,
    routes_jobs,
    routes_money,
    routes_public,
    routes_trade,
)
from market.api.about import VERSION
from market.http.endpoint import Call, Endpoint, Text, install
from market.http.limits import BUCKETS, Buckets, limits
from market.http.openapi import document
from market.http.problems import problems
from market.http.running import running
from market.http.settings import Settings
from market.http.state import CLOSING, EDGE, MARKET, METRICS, Closing, Edge, Metrics

ENDPOINTS: Final = (
    *routes_health.ENDPOINTS,
    *routes_trade.ENDPOINTS,
    *routes_jobs.ENDPOINTS,
    *routes_money.ENDPOINTS,
    *routes_public.ENDPOINTS,
    *routes_explorer.ENDPOINTS,
)
_DOCUMENT: Final = msgspec.json.encode(document(ENDPOINTS, version=VERSION))


async def openapi(call: Call) -> Text:  # noqa: ARG001 - every handler takes the call
    """This document."""
    return Text(_DOCUMENT, "application/json")


def build(settings: Settings) -> web.Application:
    """The application; nothing is connected before it starts."""
    app = web.Application(middlewares=[problems, limits])
    app[METRICS], app[CLOSING] = Metrics(), Closing()
    app[BUCKETS] = Buckets(settings.requests_a_second)
    app[EDGE] = Edge(
        authorities=settings.authority_set(),
        blobs=settings.blobs_folder,
        log_key=settings.log_key(),
        operator_key=settings.operator_key(),
        requests_a_second=settings.requests_a_second,
    )
    install(app, (*ENDPOINTS, Endpoint("GET", "/openapi.json", openapi)))
    app.router.add_get("/v1/control", control.serve)

    async def market(app: web.Application) -> AsyncIterator[None]:
        async with running(settings) as opened:
            app[MARKET] = opened
            yield

    async def close(app: web.Application) -> None:
        app[CLOSING].flag = True

    app.cleanup_ctx.append(market)
    app.on_shutdown.append(close)
    return app
