"""How busy all workers of a server are, and what that leaves for work in the background.

Background work keeps a core busy, and holds up whoever needs it at that moment. So it is done in
small pieces, each of which waits for its turn.
"""

import asyncio
import contextlib
import math
import mmap
import os
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

NAME = "traffic"
# Of each worker: see `Traffic`.
_NUMBERS = 2
_WORKER_BYTES = 8 * _NUMBERS

# With fewer requests in flight, on average over the last moment, background work need not wait.
QUIET = 0.1
MOMENT_S = 0.1
# Otherwise it has this share of the time; what it saved up lets it have so much at once, so that an
# edit is seen at every level without a wait.
SHARE = 0.04
BURST_S = 0.03
# It goes on after so long in any case.
LONGEST_REST_S = 0.1


class Traffic:
    """The time that requests of all workers took, in memory that they all see.

    Each worker has two numbers: how many requests are in flight, and the sum of the times at which
    requests ended without that of the times at which they began. With the present in the place of
    an end that is still to come, the sum is how long they took so far.
    """

    def __init__(
        self, memory: memoryview, worker: int, now_s: Callable[[], float] = time.monotonic
    ) -> None:
        """Zero this worker's numbers: it begins."""
        self._numbers = memory.cast("d")
        self._at = _NUMBERS * worker
        self._now_s = now_s
        self._numbers[self._at] = self._numbers[self._at + 1] = 0.0

    @classmethod
    def alone(cls, now_s: Callable[[], float] = time.monotonic) -> "Traffic":
        """That of the only worker."""
        return cls(memoryview(bytearray(_WORKER_BYTES)), 0, now_s)

    @staticmethod
    def create(folder: Path, workers: int) -> None:
        """Make the memory of so many workers, in a folder of theirs."""
        (folder / NAME).write_bytes(bytes(_WORKER_BYTES * workers))

    @classmethod
    def in_folder(cls, folder: Path | None, worker: int) -> "Traffic":
        """As one of the workers; where none was made, as the only one."""
        try:
            fd = os.open(folder / NAME, os.O_RDWR | os.O_CLOEXEC) if folder is not None else -1
        except FileNotFoundError:
            fd = -1
        if fd < 0:
            return cls.alone()
        try:
            return cls(memoryview(mmap.mmap(fd, 0)), worker)
        finally:
            os.close(fd)

    def begin(self) -> None:
        """A request of this worker begins."""
        self._numbers[self._at] += 1
        self._numbers[self._at + 1] -= self._now_s()

    def end(self) -> None:
        """One ends."""
        self._numbers[self._at] -= 1
        self._numbers[self._at + 1] += self._now_s()

    @property
    def busy_s(self) -> float:
        """How long the requests of all workers took so far, all together."""
        now_s, numbers = self._now_s(), self._numbers
        return sum(numbers[at] * now_s + numbers[at + 1] for at in range(0, len(numbers), _NUMBERS))


class Turns:
    """Gives background work its turns: ``async with turns():`` around each piece of it."""

    def __init__(self, traffic: Traffic, now_s: Callable[[], float] = time.monotonic) -> None:
        self._traffic = traffic
        self._now_s = now_s
        self._busy_s = traffic.busy_s
        self._reckoned_s = now_s()
        self._load = 0.0
        self._saved_s = BURST_S
        self._one_at_a_time = asyncio.Lock()

    @contextlib.asynccontextmanager
    async def __call__(self) -> AsyncIterator[bool]:
        """Wait as long as requests have more right to the processor, then do a piece.

        Yields whether there are hardly any requests.
        """
        rest_s = self.rest_s()
        if self._load < QUIET:
            yield True
            return
        async with self._one_at_a_time:
            if rest_s > 0:
                await asyncio.sleep(rest_s)
            began_s = self._now_s()
            try:
                yield False
            finally:
                self._saved_s -= self._now_s() - began_s

    def rest_s(self) -> float:
        """How long to rest before the next piece."""
        now_s, busy_s = self._now_s(), self._traffic.busy_s
        since_s, self._reckoned_s = now_s - self._reckoned_s, now_s
        took_s, self._busy_s = busy_s - self._busy_s, busy_s
        if since_s > 0:
            self._load += (took_s / since_s - self._load) * -math.expm1(-since_s / MOMENT_S)
        self._saved_s = min(BURST_S, self._saved_s + SHARE * since_s)
        if self._load < QUIET:
            self._saved_s = BURST_S
        return min(LONGEST_REST_S, max(0.0, -self._saved_s / SHARE))
