"""Write ids: 16 bytes that order the writes of all processes, as bytes.

A hybrid logical clock (48 bits of milliseconds since 1970, 16 bits of counter, big-endian) and 8
random bytes. The time part only moves forward, whatever the wall clock does; the random part keeps
ids of different clocks apart.

Source: S. Kulkarni and others (2014), "Logical Physical Clocks and Consistent Snapshots".
"""

import os
import threading
import time
import weakref
from collections.abc import Callable

from ndcass.errors import CorruptValue

WRITE_ID_BYTES = 16
_COUNTER_BITS = 16
_STAMP_BYTES = 8
_RANDOM_BYTES = WRITE_ID_BYTES - _STAMP_BYTES

_clocks: "weakref.WeakSet[WriteClock]" = weakref.WeakSet()


def wall_clock_ms() -> int:
    """Milliseconds since 1970."""
    return time.time_ns() // 1_000_000


class WriteClock:
    """Makes write ids, each greater than all before it; any thread may ask.

    A process that forks gets other random bytes in its child, so that the two make no id twice.

    Parameters
    ----------
    now_ms : callable
        The wall clock, in milliseconds since 1970.
    """

    def __init__(self, now_ms: Callable[[], int] = wall_clock_ms) -> None:
        self._now_ms = now_ms
        # Milliseconds and counter as one number: a counter that overflows is the next millisecond.
        self._last = 0
        self._lock = threading.Lock()
        self._random = os.urandom(_RANDOM_BYTES)
        _clocks.add(self)

    @property
    def now_ms(self) -> Callable[[], int]:
        """The wall clock that the ids are made from."""
        return self._now_ms

    def next_id(self) -> bytes:
        """A write id greater than every one that this clock made or observed."""
        now = self._now_ms() << _COUNTER_BITS
        with self._lock:
            self._last = max(self._last + 1, now)
            return self._last.to_bytes(_STAMP_BYTES, "big") + self._random

    def observe(self, write_id: bytes, *, max_ahead_ms: int) -> bool:
        """Make later ids greater than one that came from elsewhere.

        Returns
        -------
        bool
            False if it is more than `max_ahead_ms` ahead of the wall clock. Such an id is not
            adopted: one process with a wrong clock must not carry all others into its future.
        """
        if milliseconds_of(write_id) > self._now_ms() + max_ahead_ms:
            return False
        stamp = int.from_bytes(write_id[:_STAMP_BYTES], "big")
        with self._lock:
            self._last = max(self._last, stamp)
        return True

    def _after_fork(self) -> None:
        self._lock = threading.Lock()  # the parent may have held it
        self._random = os.urandom(_RANDOM_BYTES)


class SteadyClock:
    """The wall clock, as far as one may trust it since it was checked.

    It goes no further ahead than time has passed since the last check: a wall clock that was set
    ahead meanwhile does not count. One that was set back does.

    Parameters
    ----------
    now_ms : callable
        The wall clock, in milliseconds since 1970.
    monotonic_s : callable
        A clock that nobody can set, in seconds.
    """

    def __init__(
        self,
        now_ms: Callable[[], int] = wall_clock_ms,
        monotonic_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._now_ms = now_ms
        self._monotonic_s = monotonic_s
        self.checked()

    def checked(self) -> None:
        """Note that the wall clock is right at this moment."""
        self._checked_ms, self._checked_s = self._now_ms(), self._monotonic_s()

    def __call__(self) -> int:
        """Milliseconds since 1970."""
        passed_ms = int((self._monotonic_s() - self._checked_s) * 1000)
        return min(self._now_ms(), self._checked_ms + passed_ms)


def milliseconds_of(write_id: bytes) -> int:
    """When a write id was made, in milliseconds since 1970, by the clock that made it."""
    if len(write_id) != WRITE_ID_BYTES:
        raise CorruptValue(f"a write id has {WRITE_ID_BYTES} bytes, not {len(write_id)}")
    return int.from_bytes(write_id[:_STAMP_BYTES], "big") >> _COUNTER_BITS


def _after_fork() -> None:
    for clock in _clocks:
        clock._after_fork()


os.register_at_fork(after_in_child=_after_fork)
