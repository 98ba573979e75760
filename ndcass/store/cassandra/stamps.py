"""Times of writing for tables without transactions, where the latest write of a cell counts."""

import asyncio
import time
from collections.abc import Callable


def wall_clock_us() -> int:
    """Microseconds since 1970."""
    return time.time_ns() // 1000


class Stamps:
    """Makes times of writing, each later than all before it, in microseconds since 1970.

    Parameters
    ----------
    max_clock_skew_ms : int
        How far the clocks of two gateways may differ. A write is acknowledged when it is older
        than twice that on one's own clock: then a later one, through whichever gateway, has a later
        time.
    now_us : callable
        The wall clock.
    """

    def __init__(
        self, *, max_clock_skew_ms: int = 0, now_us: Callable[[], int] = wall_clock_us
    ) -> None:
        self.skew_us = 2000 * max_clock_skew_ms
        self.now_us = now_us
        self._last_us = 0

    def next_us(self) -> int:
        """A time of writing later than every one before it."""
        self._last_us = max(self._last_us + 1, self.now_us())
        return self._last_us

    async def passed(self, stamp_us: int) -> None:
        """Wait until every write that begins from now on gets a later time than this one."""
        ahead_us = stamp_us + self.skew_us - self.now_us()
        if ahead_us > 0:
            await asyncio.sleep(ahead_us / 1e6)
