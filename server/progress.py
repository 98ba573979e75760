"""The deadline of a request, which moves on as long as its body or answer moves."""

import asyncio

from aiohttp import web


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


def moved(request: web.Request, waited_s: float = 0.0) -> None:
    """Note that a body or an answer moves; puts the deadline off."""
    if PROGRESS in request:
        request[PROGRESS].moved(waited_s)
