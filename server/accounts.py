"""What is noted of every request: numbers for the metrics and a line of the access log.

Counting and formatting while the client waits would take as long as finding the route. So a request
leaves one entry behind, and a background task counts the entries and writes their lines.
"""

import asyncio
import contextlib
import os
import sys
import time
from typing import NamedTuple

from ndcass.concurrency import run_cpu
from ndcass.server import metrics as names
from ndcass.server.metrics import Metrics

# A kill -9 loses the lines of this time; what went wrong is logged at once, elsewhere.
FLUSH_S = 0.25
# Lines that may wait to be written; more are counted instead of kept.
MOST_WAITING = 100_000
LOGGED_PATH = 500


class Entry(NamedTuple):
    """What is known of a request when it is over."""

    ended_s: float  # seconds since 1970
    request_id: str
    route: str
    service: str
    method: str
    path: str
    status: str
    took_s: float
    received: int
    sent: int
    cuboids_read: int
    cuboids_written: int
    store_s: float
    codec_s: float
    network_s: float


class Accounts:
    """Entries on their way into the metrics and to standard error."""

    def __init__(self, metrics: Metrics, *, log_lines: bool) -> None:
        self._metrics = metrics
        self._log_lines = log_lines
        self._noted: list[Entry] = []
        self._unwritten: list[Entry] = []
        self._lost = 0

    def note(self, entry: Entry) -> None:
        """Take an entry; costs next to nothing."""
        self._noted.append(entry)

    def settle(self) -> None:
        """Count what was noted; whoever shows the metrics does this first."""
        entries, self._noted = self._noted, []
        for entry in entries:
            self._count(entry)
        if self._log_lines:
            room = MOST_WAITING - len(self._unwritten)
            self._unwritten += entries[:room]
            self._lost += len(entries[room:])

    def _count(self, entry: Entry) -> None:
        add = self._metrics.add
        add(names.REQUESTS, 1, (entry.route, entry.method, entry.status, entry.service))
        self._metrics.observe(entry.route, entry.took_s)
        add(names.RECEIVED, entry.received)
        add(names.SENT, entry.sent)
        add(names.CUBOIDS_READ, entry.cuboids_read)
        add(names.CUBOIDS_WRITTEN, entry.cuboids_written)
        add(names.STORE_SECONDS, entry.store_s)
        add(names.CODEC_SECONDS, entry.codec_s)
        add(names.NETWORK_SECONDS, entry.network_s)

    async def write(self) -> None:
        """Count what was noted and write its lines."""
        self.settle()
        entries, self._unwritten = self._unwritten, []
        lost, self._lost = self._lost, 0
        if entries or lost:
            try:
                await run_cpu(_write, entries, lost)
            except OSError:  # a full disk, a reader that left: no reason to stop anything
                self._lost += len(entries) + lost

    async def run(self, stop: asyncio.Event) -> None:
        """Write now and then until `stop`, and what is left then."""
        while not stop.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(FLUSH_S):
                    await stop.wait()
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
    cuboids = entry.cuboids_read + entry.cuboids_written
    return (
        f"{_clock(entry.ended_s)} INFO ndcass.access {os.getpid()} {entry.request_id} "
        f"{entry.method} {path} {entry.status} {entry.took_s * 1000:.1f}ms in={entry.received} "
        f"out={entry.sent} cuboids={cuboids} store={entry.store_s * 1000:.1f}ms"
    )


def _clock(seconds: float) -> str:
    whole = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))
    return f"{whole},{int(seconds % 1 * 1000):03d}"
