"""Receive the rest of a body from the socket right into memory of ours.

aiohttp hands a body on in chunks that were copied twice when we get them, and takes more time for
that than the kernel and the disk for a large one. Here each byte is copied once, by the kernel.
"""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Iterator
from typing import Protocol

from aiohttp import web

from ndcass.errors import BadBody
from ndcass.server.progress import Progress
from ndcass.server.protocol import Connection

# A body below this takes less time than to step aside for it.
LEAST_BYTES = 1 << 20
_NOWHERE = memoryview(bytearray(0))
# Where the rest of bodies goes that nobody wants any more; all of them may write there.
_ANYWHERE = memoryview(bytearray(256 << 10))


class Sink(Protocol):
    """Takes bytes that arrive, in order; ``writer.BodyWriter`` is one."""

    def feed(self, voxels: bytes) -> Awaitable[None]:
        """Take the next bytes."""

    def room(self) -> memoryview:
        """Where the next bytes go; empty if there may be no more."""

    def filled(self, count: int) -> Awaitable[None]:
        """So many bytes have been put there."""


class Intake(asyncio.BufferedProtocol):
    """Receives the bytes of one connection while a body comes; see `past_aiohttp`."""

    def __init__(
        self, request: web.Request, left: int, progress: Progress, *, wait_s: float, silent: str
    ) -> None:
        connection = request.protocol
        assert isinstance(connection, Connection)
        if connection.transport is None:
            raise _too_early()
        self._connection = connection
        self._transport = connection.transport
        self._content = request.content
        self._left = left
        self._unwanted = False
        self._progress = progress
        self._wait_s = wait_s
        self._silent = silent
        self._into = _NOWHERE
        self._full: asyncio.Future[None] | None = None
        self._ended = False
        connection.step_aside(self)

    async def fill(self, into: memoryview) -> None:
        """Wait until `into` is full of what came.

        Raises
        ------
        BadBody
            If the connection ends before.
        """
        if self._ended:
            raise _too_early()
        began_s = time.perf_counter()
        self._into = into
        self._full = asyncio.get_running_loop().create_future()
        self._progress.waits(self._wait_s, self._silent)
        self._transport.resume_reading()
        try:
            await self._full
        finally:
            self._stop()
        self._progress.moved(time.perf_counter() - began_s)

    def _stop(self) -> None:
        """Touch the memory no more: whoever gave it may use it for something else."""
        if self._into:
            self._into = _NOWHERE
            self._transport.pause_reading()

    def leave(self) -> None:
        """Give the connection back at the end of the body; what is left of it is thrown away.

        If that does not come, aiohttp closes the connection after a while, as with any body that
        nobody reads.
        """
        self._unwanted = True
        if not self._left:
            self._connection.step_back(self._content)
        elif not self._ended:
            self._transport.resume_reading()

    def get_buffer(self, sizehint: int) -> memoryview:
        """As asyncio asks."""
        return _ANYWHERE[: self._left] if self._unwanted else self._into

    def buffer_updated(self, nbytes: int) -> None:
        """As asyncio asks."""
        self._left -= nbytes
        if self._unwanted:
            if not self._left:
                self._transport.pause_reading()
                self._connection.step_back(self._content)
            return
        self._content.total_bytes += nbytes
        self._into = self._into[nbytes:]
        self._progress.waits(self._wait_s, self._silent)
        if not self._into:
            self._transport.pause_reading()
            if self._full is not None and not self._full.done():
                self._full.set_result(None)

    def eof_received(self) -> None:
        """The client sends no more: asyncio closes the connection, as aiohttp has it."""
        self._fail()

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell who waits for the body, and aiohttp."""
        self._fail()
        self._connection.connection_lost(exc)

    def pause_writing(self) -> None:
        """As asyncio asks."""
        self._connection.pause_writing()

    def resume_writing(self) -> None:
        """As asyncio asks."""
        self._connection.resume_writing()

    def _fail(self) -> None:
        self._ended = True
        self._into = _NOWHERE
        if self._full is not None and not self._full.done():
            self._full.set_exception(_too_early())


@contextlib.contextmanager
def past_aiohttp(
    request: web.Request, left: int, progress: Progress, *, wait_s: float, silent: str
) -> Iterator[Intake]:
    """The last `left` bytes of a body, which has been read up to there, as an `Intake`.

    Afterwards aiohttp goes on with the next request, once all of the body has come.

    Raises
    ------
    BadBody
        If the connection ends before the body does.
    """
    intake = Intake(request, left, progress, wait_s=wait_s, silent=silent)
    try:
        yield intake
    finally:
        intake.leave()


def goes_past_aiohttp(request: web.Request, size: int) -> bool:
    """Whether a body, of `size` bytes if it is right, is one for `past_aiohttp`."""
    return request.content_length == size >= LEAST_BYTES and isinstance(
        request.protocol, Connection
    )


def _too_early() -> BadBody:
    return BadBody("the body ended too early")
