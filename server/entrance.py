"""How connections are shared out among the workers, all of which listen on one socket.

Left to themselves, the worker that wakes up first takes all that wait, and a client that shares a
worker with six others is slow beside an idle one. So a worker takes one connection at a time, and
leaves it to the others for a moment while one of them has fewer.
"""

import asyncio
import logging
import mmap
import os
import socket
from collections.abc import Callable
from pathlib import Path

from aiohttp import web

log = logging.getLogger("ndcass.server")

# How long a connection is left to the others; a worker that is not busy wakes up within this.
LEFT_S = 0.002
# Until the next try where no file descriptor is free.
RETRY_S = 0.5
_COUNT_BYTES = 4


class Counts:
    """How many connections each worker had when it last looked, in memory that they all see."""

    def __init__(self, memory: memoryview, worker: int) -> None:
        """Zero this worker's count: it begins."""
        self._counts = memory.cast("I")
        self._worker = worker
        self.note(0)

    @classmethod
    def alone(cls) -> "Counts":
        """Those of the only worker."""
        return cls(memoryview(bytearray(_COUNT_BYTES)), 0)

    @staticmethod
    def create(path: Path, workers: int) -> None:
        """Make the file of so many workers."""
        path.write_bytes(bytes(_COUNT_BYTES * workers))

    @classmethod
    def open(cls, path: Path, worker: int) -> "Counts":
        """Map the file as one of the workers."""
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            return cls(memoryview(mmap.mmap(fd, 0)), worker)
        finally:
            os.close(fd)

    def note(self, connections: int) -> None:
        """Tell the others how many this worker has."""
        self._counts[self._worker] = connections

    def another_has_fewer(self) -> bool:
        """Whether the next connection is rather another worker's."""
        return min(self._counts) < self._counts[self._worker]


class Entrance:
    """Lets connections in to one worker, from when it is opened to when it is closed.

    Parameters
    ----------
    sock : socket
        Listens, and does not block.
    server : web.Server
        Makes the protocol of a connection, and knows which are open.
    counts : Counts
    """

    def __init__(self, sock: socket.socket, server: web.Server, counts: Counts) -> None:
        self._sock = sock
        self._server = server
        self._counts = counts
        self._loop = asyncio.get_running_loop()
        self._later: asyncio.TimerHandle | None = None
        self._coming: set[asyncio.Task[object]] = set()

    def open(self) -> None:
        """Let in whoever knocks."""
        self._loop.add_reader(self._sock, self._somebody_knocks)

    def close(self) -> None:
        """Let nobody in any more, and close the socket."""
        self._loop.remove_reader(self._sock)
        if self._later is not None:
            self._later.cancel()
        self._sock.close()

    def _somebody_knocks(self) -> None:
        self._note()
        if self._counts.another_has_fewer():
            self._pause(LEFT_S, self._let_in_after_all)
        else:
            self._let_in()

    def _pause(self, seconds: float, then: Callable[[], None]) -> None:
        # The kernel goes on saying that somebody knocks.
        self._loop.remove_reader(self._sock)
        self._later = self._loop.call_later(seconds, then)

    def _let_in_after_all(self) -> None:
        self.open()
        self._let_in()

    def _let_in(self) -> None:
        try:
            connection, _ = self._sock.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return  # another worker was quicker, or the client is gone
        except OSError as error:
            log.error("no connection can be taken: %s", os.strerror(error.errno or 0))
            self._pause(RETRY_S, self.open)
            return
        connection.setblocking(False)
        task = self._loop.create_task(self._loop.connect_accepted_socket(self._server, connection))
        self._coming.add(task)
        self._note()  # at once, so that the next one is another worker's
        task.add_done_callback(self._has_come)

    def _has_come(self, task: "asyncio.Task[object]") -> None:
        self._coming.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.warning("a connection broke before it was one: %s", task.exception())
        self._note()

    def _note(self) -> None:
        self._counts.note(len(self._server.connections) + len(self._coming))
