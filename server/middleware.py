"""What happens around every handler: request id, deadline, errors, limits, log line, numbers.

The application has one aiohttp route, `answer`; which handler a path means is decided by our own
table (``routes.py``), because prefixes, aliases and final slashes of old clients need it.
"""

import asyncio
import logging
import os
import re
import time

from aiohttp import web

from ndcass.errors import BadBody, DeadlineExceeded, NdcassError, NotFound, StoreError
from ndcass.server.accounts import Entry
from ndcass.server.app_keys import ACCOUNTS, DEADLINES, METRICS, ROUTER, SETTINGS, STOPPING
from ndcass.server.exchange import EXCHANGE, Exchange
from ndcass.server.http_errors import error_response, plain_error
from ndcass.server.params import check_options
from ndcass.server.progress import PROGRESS
from ndcass.server.protocol import SERVER
from ndcass.server.routing import (
    SHOWN_CHARACTERS,
    MethodNotAllowed,
    Router,
    normal_path,
    plane_of,
)
from ndcass.server.streaming import USAGE, expects_continue, not_asked_for_body
from ndcass.volume import Usage

log = logging.getLogger("ndcass.server")

# A client's own request id must fit into a log line and a header.
_SANE_ID = re.compile(r"[A-Za-z0-9._-]{1,128}\Z")
# What common proxies write for a client that left before its answer; nobody receives it.
CLIENT_LEFT = "499"
# What the log says of an answer that failed after its first byte.
BROKEN = "broken"
INTERNAL = "something went wrong inside the server; the request id finds it in the log"
_KNOWN_METHODS = frozenset("GET HEAD POST PUT DELETE OPTIONS PATCH".split())
_READING = frozenset({"GET", "HEAD", "OPTIONS"})
_PREFLIGHT_HEADERS = "Authorization, Content-Type, X-Request-Id"


async def answer(request: web.Request) -> web.StreamResponse:
    """Answer any request whatsoever."""
    exchange = Exchange(_request_id(request))
    request[EXCHANGE] = exchange
    metrics = request.app[METRICS]
    metrics.in_flight_requests += 1
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
        _account(request, exchange, status)


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
    deadlines = request.app[DEADLINES]
    progress = request[PROGRESS] = deadlines.begin()
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
    exchange.plane = plane_of(path)
    router = request.app[ROUTER]
    if request.method == "OPTIONS":
        return _options(router, path)
    route, match = router.find(request.method, path)
    exchange.route, exchange.match = route, match
    exchange.plane = plane_of(route.template)
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


async def add_headers(request: web.Request, response: web.StreamResponse) -> None:
    """The headers of every answer; aiohttp calls this when an answer's headers are about to go."""
    exchange = request.get(EXCHANGE)
    headers = response.headers
    headers["Server"] = SERVER
    if exchange is None:  # aiohttp's own answer to what has no path at all
        headers["X-Request-Id"] = _request_id(request)
        return
    exchange.response = response
    if request.app[STOPPING].is_set() or not_asked_for_body(request):
        response.force_close()
        headers["Connection"] = "close"
    headers["X-Request-Id"] = exchange.request_id
    if request.method in _READING:
        headers["Access-Control-Allow-Origin"] = "*"
        headers["Access-Control-Allow-Methods"] = "GET"


def _request_id(request: web.Request) -> str:
    sent = request.headers.get("X-Request-Id")
    if sent is not None and _SANE_ID.match(sent):
        return sent
    return os.urandom(16).hex()


def _account(request: web.Request, exchange: Exchange, status: str) -> None:
    """Note what is known of a request that is over."""
    ended_s = time.perf_counter()
    usage = request.get(USAGE) or _NOTHING
    progress = request.get(PROGRESS)
    route = exchange.route
    method = request.method
    request.app[ACCOUNTS].note(
        Entry(
            time.time(),
            exchange.request_id,
            route.template if route is not None else "none",
            exchange.match.service,
            method if method in _KNOWN_METHODS else "other",
            request.raw_path,
            status,
            ended_s - exchange.began_s,
            request.content.total_bytes,
            request.writer.output_size,
            usage.cuboids_read,
            usage.cuboids_written,
            usage.store_s,
            usage.codec_s,
            progress.network_s if progress is not None else 0.0,
        )
    )


_NOTHING = Usage()
