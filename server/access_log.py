"""The access log: one line a request, written in batches.

A line through `logging` costs as much as finding the route, and the time of the client is spent for
it. So requests leave tuples behind, and a background task turns them into text and writes them.
"""

import asyncio
import os
import sys
import time
from typing import NamedTuple

from ndcass.concurrency import run_cpu

# A kill -9 loses the lines of this time; what went wrong is logged at once, elsewhere.
FLUSH_S = 0.25
# Lines that may wait; more are counted instead of kept.
MOST_WAITING = 100_000
LOGGED_PATH = 500


class Entry(NamedTuple):
    """What the log says of a request."""

    ended_s: float  # seconds since 1970
    request_id: str
    method: str
    path: str
    status: str  # a number, or a word where no number was received
    took_s: float
    received: int
    sent: int
    cuboids: int
    store_s: float


class AccessLog:
    """Entries that wait to be written to standard error."""

    def __init__(self) -> None:
        self._waiting: list[Entry] = []
        self._lost = 0

    def note(self, entry: Entry) -> None:
        """Take an entry; costs next to nothing."""
        if len(self._waiting) < MOST_WAITING:
            self._waiting.append(entry)
        else:
            self._lost += 1

    async def write(self) -> None:
        """Write what waits."""
        entries, self._waiting = self._waiting, []
        lost, self._lost = self._lost, 0
        if entries or lost:
            await run_cpu(_write, entries, lost)

    async def run(self, stop: asyncio.Event) -> None:
        """Write now and then until `stop`, and what is left then."""
        while not stop.is_set():
            try:
                async with asyncio.timeout(FLUSH_S):
                    await stop.wait()
            except TimeoutError:
                pass
            await self.write()


def _write(entries: list[Entry], lost: int) -> None:
    lines = [_line(entry) for entry in entries]
    if lost:
        lines.append(f"{_clock(time.time())} WARNING ndcass.access {lost} lines were lost")
    sys.stderr.write("\n".join(lines) + "\n")
    sys.stderr.flush()


def _line(entry: Entry) -> str:
    path = entry.path[:LOGGED_PATH]
    if not (path.isascii() and path.isprintable()):
        path = ascii(path)
    return (
        f"{_clock(entry.ended_s)} INFO ndcass.access {os.getpid()} {entry.request_id} "
        f"{entry.method} {path} {entry.status} {entry.took_s * 1000:.1f}ms in={entry.received} "
        f"out={entry.sent} cuboids={entry.cuboids} store={entry.store_s * 1000:.1f}ms"
    )


def _clock(seconds: float) -> str:
    whole = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))
    return f"{whole},{int(seconds % 1 * 1000):03d}"
