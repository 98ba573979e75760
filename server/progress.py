"""The deadline of a request, which moves on as long as its body or answer moves."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web

from ndcass.errors import DeadlineExceeded


class Progress:
    """One deadline a request.

    `request_timeout_s` after the last `moved` it is over, and at the latest `transfer_timeout_s`
    after it began.
    """

    __slots__ = ("_deadline", "_last_s", "_loop", "_timeout_s", "network_s")

    def __init__(self, deadline: asyncio.Timeout, *, timeout_s: float, transfer_s: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._deadline = deadline
        self._timeout_s = timeout_s
        self._last_s = self._loop.time() + transfer_s
        self.network_s = 0.0

    def moved(self, waited_s: float = 0.0) -> None:
        """Some bytes came or went; `waited_s` is how long that took."""
        self.network_s += waited_s
        if not self._deadline.expired():
            self._deadline.reschedule(min(self._loop.time() + self._timeout_s, self._last_s))


PROGRESS: web.RequestKey[Progress] = web.RequestKey("progress", Progress)


@asynccontextmanager
async def deadline(
    request: web.Request, *, timeout_s: float, transfer_s: float
) -> AsyncIterator[None]:
    """Run the block within the request's deadline.

    Raises
    ------
    DeadlineExceeded
        If it is over; what ran in the block was cancelled.
    """
    try:
        async with asyncio.timeout(timeout_s) as timeout:
            request[PROGRESS] = Progress(timeout, timeout_s=timeout_s, transfer_s=transfer_s)
            yield
    except TimeoutError as error:
        if not timeout.expired():
            raise
        raise DeadlineExceeded(f"the request made no progress for {timeout_s:g} s") from error


def moved(request: web.Request, waited_s: float = 0.0) -> None:
    """Note that a body or an answer moves; puts the deadline off."""
    if PROGRESS in request:
        request[PROGRESS].moved(waited_s)
