"""How much all workers of a server are asked, and what that leaves for work in the background.

Background work keeps a core busy, and holds up whoever needs it at that moment. So it is done in
small pieces, each of which waits for its turn.
"""

import asyncio
import contextlib
import mmap
import os
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

NAME = "traffic"
_COUNT_BYTES = 8

# While requests come, background work has this share of the time; what it saved up, or an idle
# moment, lets it have so much at once: an edit is seen at every level without a wait.
SHARE = 0.04
BURST_S = 0.03
# It goes on after so long in any case.
LONGEST_REST_S = 0.1


class Traffic:
    """How many requests each worker has begun, in memory that they all see."""

    def __init__(self, memory: memoryview, worker: int) -> None:
        self._counts = memory.cast("Q")
        self._worker = worker

    @staticmethod
    def create(folder: Path, workers: int) -> None:
        """Make the memory of so many workers, in a folder of theirs."""
        (folder / NAME).write_bytes(bytes(_COUNT_BYTES * workers))

    @classmethod
    def in_folder(cls, folder: Path | None, worker: int) -> "Traffic":
        """As one of the workers; where none was made, as the only one."""
        try:
            fd = os.open(folder / NAME, os.O_RDWR | os.O_CLOEXEC) if folder is not None else -1
        except FileNotFoundError:
            fd = -1
        if fd < 0:
            return cls(memoryview(bytearray(_COUNT_BYTES)), 0)
        try:
            return cls(memoryview(mmap.mmap(fd, 0)), worker)
        finally:
            os.close(fd)

    def begin(self) -> None:
        """Count a request."""
        self._counts[self._worker] += 1

    @property
    def total(self) -> int:
        """How many there were so far, of all workers."""
        return sum(self._counts)


class Turns:
    """Gives background work its turns: ``async with turns():`` around each piece of it."""

    def __init__(self, traffic: Traffic, now_s: Callable[[], float] = time.monotonic) -> None:
        self._traffic = traffic
        self._now_s = now_s
        self._seen = traffic.total
        self._reckoned_s = now_s()
        self._saved_s = BURST_S

    @contextlib.asynccontextmanager
    async def __call__(self) -> AsyncIterator[None]:
        """Wait as long as requests have more right to the processor, then do a piece."""
        rest_s = self.rest_s()
        if rest_s > 0:
            await asyncio.sleep(rest_s)
        began_s = self._now_s()
        try:
            yield
        finally:
            self._saved_s -= self._now_s() - began_s

    def rest_s(self) -> float:
        """How long to rest before the next piece."""
        now_s, total = self._now_s(), self._traffic.total
        since_s, self._reckoned_s = now_s - self._reckoned_s, now_s
        is_quiet, self._seen = total == self._seen, total
        if is_quiet:
            self._saved_s = BURST_S
        self._saved_s = min(BURST_S, self._saved_s + SHARE * since_s)
        return min(LONGEST_REST_S, max(0.0, -self._saved_s / SHARE))
