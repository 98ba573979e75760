"""How aiohttp is made to leave every answer to us.

What lives here: the one resource, which takes any path whatsoever; the answer to `Expect`; and what
a client is told whose bytes are no HTTP. Left alone, aiohttp would answer these itself, with its
version and without a request id.
"""

import os
from collections.abc import Awaitable, Callable
from http import HTTPStatus

from aiohttp import web
from aiohttp.http_exceptions import LineTooLong

SERVER = "ndcass"
_NO_HTTP = "this is no HTTP request that the server understands"
_TOO_LONG = "the request line or a header is too long"


class Everything(web.PlainResource):
    """Any path, also one with line feeds in it and the `*` of OPTIONS."""

    def _match(self, path: str) -> dict[str, str] | None:
        return {}


async def expect(request: web.Request) -> None:
    """Say nothing yet: the body is asked for when it is wanted (`streaming.ask_for_body`)."""


class _Protocol(web.RequestHandler):
    """A connection whose malformed requests are answered by us."""

    __slots__ = ()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        super().handle_error(request, status, exc, message)  # writes the log
        text = HTTPStatus(status).phrase
        if status == HTTPStatus.BAD_REQUEST:
            text = _TOO_LONG if isinstance(exc, LineTooLong) else _NO_HTTP
        request_id = os.urandom(16).hex()
        response = web.Response(
            status=status,
            text=f"{text} (request {request_id})",
            headers={"Server": SERVER, "X-Request-Id": request_id},
        )
        response.force_close()
        return response


class _Server(web.Server):
    """Makes such connections."""

    def __call__(self) -> web.RequestHandler:
        return _Protocol(self, loop=self._loop, **self._kwargs)


def _handler(app: web.Application) -> Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]:
    """What the application does with a request, without looking for its route: there is one.

    aiohttp would try the path piece by piece, which takes longer than to parse it.
    """
    ((route,),) = app.router.resources()
    found = web.UrlMappingMatchInfo({}, route)
    found.add_app(app)
    found.freeze()

    def handle(request: web.BaseRequest) -> Awaitable[web.StreamResponse]:
        assert isinstance(request, web.Request)  # the application's factory makes no other
        request._match_info = found  # as the application itself does
        return route.handler(request)

    return handle


class Runner(web.AppRunner):
    """Runs the application behind such connections."""

    __slots__ = ()

    async def _make_server(self) -> web.Server:
        made = await super()._make_server()
        return _Server(
            _handler(self.app),
            request_factory=made.request_factory,
            handler_cancellation=made.handler_cancellation,
            **made._kwargs,
        )
