"""Refusals as RFC 9457 documents; whatever else fails is logged and told without its inside."""

import time
from typing import Final

import structlog
from aiohttp import web

from market.http.limits import Handler
from market.http.state import METRICS
from market.wire import codec, problem
from settlement.domain.errors import Failed, GridpactError, Malformed, NotFound, Oversized

RETRY_AFTER_SECONDS: Final = "1"
_log = structlog.get_logger()


def respond(error: GridpactError) -> web.Response:
    """The problem document of an error."""
    document = problem.from_error(error)
    headers = {"Retry-After": RETRY_AFTER_SECONDS} if document.status in {429, 503} else {}
    return web.Response(
        body=codec.encode(document),
        status=document.status,
        content_type=problem.CONTENT_TYPE,
        headers=headers,
    )


@web.middleware
async def problems(request: web.Request, handler: Handler) -> web.StreamResponse:
    """The outermost layer: every failure becomes a document, every request a figure."""
    started = time.monotonic()
    response = await _answer(request, handler)
    resource = request.match_info.route.resource
    route = resource.canonical if resource is not None else "unmatched"
    metrics = request.app[METRICS]
    metrics.requests.labels(request.method, route, response.status).inc()
    metrics.seconds.labels(route).observe(time.monotonic() - started)
    return response


async def _answer(  # noqa: PLR0911 - one answer for each kind of failure
    request: web.Request, handler: Handler
) -> web.StreamResponse:
    try:
        return await handler(request)
    except GridpactError as error:
        return respond(error)
    except web.HTTPRequestEntityTooLarge:
        return respond(Oversized("the body is larger than the limit of this address"))
    except web.HTTPMethodNotAllowed as error:
        return _with_status(
            Malformed(f"this address takes {', '.join(sorted(error.allowed_methods))}"), 405
        )
    except web.HTTPNotFound:
        return respond(NotFound("there is nothing at this address"))
    except web.HTTPException as error:
        return _with_status(Malformed(error.reason), error.status)
    except (ConnectionError, OSError) as error:
        _log.warning("request failed", path=request.path, error=repr(error))
        return _with_status(Failed("the database or a part of the service is away"), 503)
    except Exception:  # noqa: BLE001 - no inside of ours leaves this layer
        _log.exception("request failed", path=request.path)
        return respond(Failed("the server failed; its log says why"))


def _with_status(error: GridpactError, status: int) -> web.Response:
    response = respond(error)
    response.set_status(status)
    return response
