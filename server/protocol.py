"""How aiohttp is made to leave every answer to us.

What lives here: the one resource, which takes any path whatsoever; the answer to `Expect`; what a
client is told whose bytes are no HTTP; and how a body goes past aiohttp (``intake.py``). Left
alone, aiohttp would answer these itself, with its version and without a request id.
"""

import asyncio
import os
from collections.abc import Awaitable, Callable
from http import HTTPStatus

from aiohttp import StreamReader, web
from aiohttp.http import HttpRequestParser
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


class Connection(web.RequestHandler):
    """A connection whose malformed requests are answered by us, and whose bodies we may receive."""

    __slots__ = ()

    def step_aside(self, receiver: asyncio.BufferedProtocol) -> None:
        """Let somebody else receive what comes next, while nothing is read.

        The body so far must have been taken out of the request's content.
        """
        assert self.transport is not None
        assert not self._reading_paused
        self.transport.pause_reading()
        self.transport.set_protocol(receiver)

    def step_back(self, content: StreamReader) -> None:
        """Receive again, behind the end of a body that somebody else received."""
        transport = self.transport
        if transport is None or transport.is_closing():
            return
        # The parser of before still waits for this body.
        self._parser = HttpRequestParser(
            self,
            self._loop,
            self._read_bufsize,
            max_line_size=self.max_line_size,
            max_field_size=self.max_field_size,
            max_headers=self.max_headers,
            payload_exception=web.RequestPayloadError,
            auto_decompress=False,
            max_msg_queue_size=self._max_msg_queue_size,
        )
        transport.set_protocol(self)
        content.feed_eof()
        transport.resume_reading()

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
        return Connection(self, loop=self._loop, **self._kwargs)


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
