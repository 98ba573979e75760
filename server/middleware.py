"""What happens around every handler: request id, deadline, errors, limits, log line, numbers.

The application has one aiohttp route, `answer`; which handler a path means is decided by our own
table (``routes.py``), because prefixes, aliases and final slashes of old clients need it.
"""

import asyncio
import logging
import time

from aiohttp import web

from ndcass.errors import BadBody, DeadlineExceeded, NdcassError, NotFound, StoreError
from ndcass.server.accounts import Entry
from ndcass.server.app_keys import ACCOUNTS, DEADLINES, METRICS, ROUTER, SETTINGS, TRAFFIC
from ndcass.server.exchange import EXCHANGE, Exchange
from ndcass.server.headers import expects_continue, request_id
from ndcass.server.http_errors import error_response, plain_error
from ndcass.server.params import check_options
from ndcass.server.routing import SHOWN_CHARACTERS, MethodNotAllowed, Router, normal_path

log = logging.getLogger("ndcass.server")

# What common proxies write for a client that left before its answer; nobody receives it.
CLIENT_LEFT = "499"
# What the log says of an answer that failed after its first byte.
BROKEN = "broken"
INTERNAL = "something went wrong inside the server; the request id finds it in the log"
_KNOWN_METHODS = frozenset("GET HEAD POST PUT DELETE OPTIONS PATCH".split())
_PREFLIGHT_HEADERS = "Authorization, Content-Type, X-Request-Id"


async def answer(request: web.Request) -> web.StreamResponse:
    """Answer any request whatsoever."""
    app = request.app
    deadlines = app[DEADLINES]
    exchange = Exchange(
        request_id(request),
        deadlines.new(),
        max_source_bytes=app[SETTINGS].server.max_source_bytes,
    )
    request[EXCHANGE] = exchange
    metrics = app[METRICS]
    metrics.in_flight_requests += 1
    app[TRAFFIC].begin()
    status = CLIENT_LEFT
    try:
        response = await _answered(request, exchange)
        status = str(response.status) if not exchange.broken else BROKEN
        return response
    except ConnectionError:
        # The client left while it was written to. aiohttp notices when it wants to end the answer.
        left = exchange.response or web.Response(status=int(CLIENT_LEFT))
        return _broken(request, exchange, left)
    finally:
        metrics.in_flight_requests -= 1
        app[TRAFFIC].end()
        app[ACCOUNTS].note(_entry(request, exchange, status))


async def _answered(request: web.Request, exchange: Exchange) -> web.StreamResponse:
    """The answer, sent to its last byte; whatever fails becomes an error answer."""
    try:
        return await _within_deadline(request, exchange)
    except NdcassError as error:
        return await _failed(request, exchange, error)
    except web.HTTPException as error:
        return await _send_error(request, exchange, error.status, error.reason)
    except web.RequestPayloadError:
        return await _failed(request, exchange, BadBody("the body ended too early"))
    except ConnectionError:
        raise
    except Exception:
        log.exception("%s: %s failed", exchange.request_id, request.method)
        return await _send_error(request, exchange, 500, INTERNAL)


async def _within_deadline(request: web.Request, exchange: Exchange) -> web.StreamResponse:
    """The answer, sent to its last byte; DeadlineExceeded if that takes too long."""
    deadlines, progress = request.app[DEADLINES], exchange.progress
    deadlines.begin(progress)
    try:
        response = await _handled(request, exchange)
        await _send(request, response)
        return response
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if not progress.expired or task is None:
            raise
        task.uncancel()
        raise DeadlineExceeded(progress.reason) from None
    finally:
        deadlines.end(progress)


async def _handled(request: web.Request, exchange: Exchange) -> web.StreamResponse:
    """What the handler of the path returns."""
    if "Expect" in request.headers and not expects_continue(request):
        raise web.HTTPExpectationFailed
    raw = request.raw_path
    path = normal_path(raw if raw.startswith("/") else request.rel_url.raw_path)
    exchange.path = path
    router = request.app[ROUTER]
    if request.method == "OPTIONS":
        return _options(router, path)
    route, match = router.find(request.method, path)
    exchange.route, exchange.match = route, match
    if "?" in raw:
        check_options(request)
    return await route.handler(request, match)


def _options(router: Router, path: str) -> web.Response:
    """What a browser asks before it sends a request with a key."""
    methods = router.methods(path)
    if not methods:
        raise NotFound(f"no route fits {path[:SHOWN_CHARACTERS]!r}")
    return web.Response(
        status=204,
        headers={
            "Allow": ", ".join(methods),
            "Access-Control-Allow-Headers": _PREFLIGHT_HEADERS,
            "Access-Control-Max-Age": "600",
        },
    )


async def _failed(
    request: web.Request, exchange: Exchange, error: NdcassError
) -> web.StreamResponse:
    """The answer to a failure that has a name."""
    if isinstance(error, StoreError) or exchange.response is not None:
        log.error("%s: %s: %s", exchange.request_id, type(error).__name__, error)
    if isinstance(error, MethodNotAllowed):
        allow = {"Allow": ", ".join(error.allowed)}
        return await _send_error(request, exchange, 405, str(error), headers=allow)
    if exchange.response is not None:
        return _broken(request, exchange, exchange.response)
    response = error_response(request, error, plane=exchange.plane, request_id=exchange.request_id)
    return await _send_late(request, exchange, response)


async def _send_error(
    request: web.Request,
    exchange: Exchange,
    status: int,
    text: str,
    *,
    headers: dict[str, str] | None = None,
) -> web.StreamResponse:
    if exchange.response is not None:
        return _broken(request, exchange, exchange.response)
    response = plain_error(
        request,
        status,
        text,
        plane=exchange.plane,
        request_id=exchange.request_id,
        headers=headers,
    )
    return await _send_late(request, exchange, response)


def _broken(
    request: web.Request, exchange: Exchange, response: web.StreamResponse
) -> web.StreamResponse:
    """Break the connection of an answer that has begun: it must not pass for a whole one."""
    exchange.broken = True
    if request.transport is not None:
        request.transport.abort()
    return response


async def _send(request: web.Request, response: web.StreamResponse) -> None:
    """Send what the handler has not sent itself; inside the deadline, unlike aiohttp's own."""
    await response.prepare(request)
    await response.write_eof()


async def _send_late(
    request: web.Request, exchange: Exchange, response: web.StreamResponse
) -> web.StreamResponse:
    """Send an error answer, outside the deadline that may be over."""
    try:
        async with asyncio.timeout(request.app[SETTINGS].server.send_timeout_s):
            await _send(request, response)
    except TimeoutError:
        return _broken(request, exchange, response)
    return response


def _entry(request: web.Request, exchange: Exchange, status: str) -> Entry:
    """What is known of a request that is over."""
    usage = exchange.usage
    route = exchange.route
    method = request.method
    return Entry(
        time.time(),
        exchange.request_id,
        route.template if route is not None else "none",
        exchange.match.service,
        method if method in _KNOWN_METHODS else "other",
        request.raw_path,
        status,
        time.perf_counter() - exchange.began_s,
        request.content.total_bytes,
        request.writer.output_size,
        usage.cuboids_read,
        usage.cuboids_written,
        usage.store_s,
        usage.codec_s,
        exchange.progress.network_s,
    )
