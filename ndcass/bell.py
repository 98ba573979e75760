"""A bell: how tasks of one event loop learn that there is something to do.

It carries what happened and nothing else; who does the work, and where, is the listener's.
"""

import asyncio
import contextlib
from collections.abc import Iterator
from typing import Generic, TypeVar

T = TypeVar("T")


class Bell(Generic[T]):
    """Tells tasks of one event loop that there is something to do, and what.

    Each listener hears what was rung since it asked last; it need not wait at that moment.
    """

    def __init__(self) -> None:
        self._listeners: set[Listener[T]] = set()

    def ring(self, what: T) -> None:
        """Tell every listener."""
        for listener in self._listeners:
            listener.hear(what)

    @contextlib.contextmanager
    def listener(self) -> Iterator["Listener[T]"]:
        """Somebody who listens from now on."""
        listener = Listener[T]()
        self._listeners.add(listener)
        try:
            yield listener
        finally:
            self._listeners.discard(listener)


class Listener(Generic[T]):
    """Hears a `Bell`."""

    def __init__(self) -> None:
        self._heard: set[T] = set()
        self._event = asyncio.Event()

    def hear(self, what: T) -> None:
        """Remember it."""
        self._heard.add(what)
        self._event.set()

    async def wait(self, seconds: float, *, stop: asyncio.Event | None = None) -> set[T]:
        """What was rung since it was asked last, at once or within so many seconds.

        Returns early, maybe with nothing, once `stop` is set.
        """
        events = [self._event, *([stop] if stop is not None else [])]
        if not any(event.is_set() for event in events):
            waits = [asyncio.create_task(event.wait()) for event in events]
            try:
                await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for wait in waits:
                    wait.cancel()
        self._event.clear()
        heard, self._heard = self._heard, set()
        return heard
