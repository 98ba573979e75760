"""Calls that many callers share, made by an object that lives as long as a store.

`GroupRunner` gathers items for a blocking function, `SharedCall` askers for one answer, `Aside`
calls that nobody waits for. The tasks and threads of one call are in ``concurrency.py``.
"""

import asyncio
import threading
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")


class GroupRunner(Generic[T]):
    """Runs a blocking function on whatever has gathered while it was last busy.

    For work whose cost is by the call and not by the item, as syncing a file. The function gets the
    items of one group and returns one outcome an item: None, or the exception to raise.
    """

    def __init__(self, func: Callable[[Sequence[T]], Sequence[Exception | None]]) -> None:
        self._func = func
        # A thread of its own: a sync must not wait behind decoding.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="ndcass-group")
        self._waiting: list[tuple[T, asyncio.Future[None]]] = []
        self._busy: asyncio.Task[None] | None = None

    async def run(self, item: T) -> None:
        """Have `item` worked on; raises what the function returned for it.

        A caller that is cancelled leaves, its item is worked on all the same.
        """
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, done))
        if self._busy is None:
            self._busy = asyncio.create_task(self._work())
        await done

    async def close(self) -> None:
        """Wait until nothing is left to do, then let the thread go."""
        while self._busy is not None:
            await asyncio.wait([self._busy])
        self._thread.shutdown()

    async def _work(self) -> None:
        group: list[tuple[T, asyncio.Future[None]]] = []
        try:
            while self._waiting:
                group, self._waiting = self._waiting, []
                outcomes = await self._outcomes([item for item, _ in group])
                for (_, done), outcome in zip(group, outcomes, strict=True):
                    if done.done():  # the caller was cancelled meanwhile
                        continue
                    if outcome is None:
                        done.set_result(None)
                    else:
                        done.set_exception(outcome)
        finally:
            # Only at the end of the loop is this cancelled; nobody may wait for ever then.
            for _, done in (*group, *self._waiting):
                done.cancel()
            self._waiting.clear()
            self._busy = None

    async def _outcomes(self, items: Sequence[T]) -> Sequence[Exception | None]:
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._thread, self._func, items)
        except Exception as error:  # noqa: BLE001 - every caller of the group gets it
            return [error] * len(items)


class SharedCall(Generic[R]):
    """Answers many askers with one call, which begins after all of them asked.

    For questions about the present: an answer from a call that was already under way may be older
    than the asker's question, so that one waits for the next.

    Parameters
    ----------
    func : callable
        What is called.
    limit : int
        How many calls are under way at once.
    """

    def __init__(self, func: Callable[[], Coroutine[Any, Any, R]], *, limit: int) -> None:
        self._func = func
        self._slots = asyncio.Semaphore(limit)
        self._next: asyncio.Task[R] | None = None

    async def __call__(self) -> R:
        """The answer of a call that has not begun yet; an asker that is cancelled just leaves."""
        if self._next is None:
            self._next = asyncio.create_task(self._call())
            self._next.add_done_callback(_seen)
        return await asyncio.shield(self._next)

    async def _call(self) -> R:
        try:
            await asyncio.sleep(0)  # who asks in the same turn of the loop comes along
            await self._slots.acquire()
        finally:
            self._next = None
        try:
            return await self._func()
        finally:
            self._slots.release()


def _seen(task: asyncio.Task[Any]) -> None:
    """Look at how a task ended, whose askers may all have left."""
    if not task.cancelled():
        task.exception()


class Aside:
    """Makes calls one after another in a thread of its own, for those who do not wait for them.

    What waits is bounded: a call that does not fit is not made. For work that may be left out, on a
    disk that may be slow; nobody learns how it ended, so it has to see to its failures itself.

    Parameters
    ----------
    limit_bytes : int
        What the calls that wait may hold together.
    """

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._waiting_bytes = 0
        self._lock = threading.Lock()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="ndcass-aside")

    def offer(self, size_bytes: int, func: Callable[[], None]) -> bool:
        """Have `func`, which holds so many bytes, called some time; False if it will not be."""
        with self._lock:
            if self._waiting_bytes + size_bytes > self._limit_bytes:
                return False
            self._waiting_bytes += size_bytes
        self._thread.submit(self._call, size_bytes, func)
        return True

    def _call(self, size_bytes: int, func: Callable[[], None]) -> None:
        try:
            func()
        finally:
            with self._lock:
                self._waiting_bytes -= size_bytes

    def settle(self) -> None:
        """Wait until all that was offered before is done."""
        self._thread.submit(lambda: None).result()

    def close(self) -> None:
        """Leave out what still waits, and let the thread go."""
        self._thread.shutdown(cancel_futures=True)
