"""The headers that every answer has, whatever made it."""

import os
import re
from collections.abc import MutableMapping

from aiohttp import web

from ndcass.server.app_keys import STOPPING
from ndcass.server.exchange import EXCHANGE, Exchange
from ndcass.server.protocol import SERVER

# A client's own request id must fit into a log line and a header.
_SANE_ID = re.compile(r"[A-Za-z0-9._-]{1,128}\Z")
_READING = frozenset({"GET", "HEAD", "OPTIONS"})


async def add_headers(request: web.Request, response: web.StreamResponse) -> None:
    """Add them; aiohttp calls this when an answer's headers are about to go."""
    exchange = request.get(EXCHANGE)
    if exchange is None:  # aiohttp's own answer to what has no path at all
        response.headers.update({"Server": SERVER, "X-Request-Id": request_id(request)})
        return
    set_headers(request, exchange, response, response.headers)


def set_headers(
    request: web.Request,
    exchange: Exchange,
    response: web.StreamResponse,
    headers: MutableMapping[str, str],
) -> None:
    """Add the headers of every answer to those of `response`, which are about to be sent."""
    exchange.response = response
    headers["Server"] = SERVER
    if request.app[STOPPING].is_set() or not_asked_for_body(request, exchange):
        response.force_close()
        headers["Connection"] = "close"
    headers["X-Request-Id"] = exchange.request_id
    if exchange.is_fresh is not None:
        headers["X-Volume-Fresh"] = "true" if exchange.is_fresh else "false"
    if request.method in _READING:
        headers["Access-Control-Allow-Origin"] = "*"
        headers["Access-Control-Allow-Methods"] = "GET"


def request_id(request: web.Request) -> str:
    """The client's own id for its request where it sent a sane one, else a new one."""
    sent = request.headers.get("X-Request-Id")
    if sent is not None and _SANE_ID.match(sent):
        return sent
    return os.urandom(16).hex()


def expects_continue(request: web.Request) -> bool:
    """Whether the client wants to be asked for its body before it sends it."""
    return request.headers.get("Expect", "").strip().lower() == "100-continue"


def not_asked_for_body(request: web.Request, exchange: Exchange) -> bool:
    """Whether the client may still wait with its body; what it sends next is anybody's guess."""
    return (
        "Expect" in request.headers and not exchange.asked_for_body and not request.content.is_eof()
    )
