"""Bounded concurrency: the tasks and threads of one call.

`bounded_map` for many awaits, `run_cpu` for work that holds a core or blocks on a disk,
`ByteLimiter` for memory that many requests share, and `run_threads` for commands, which have no
event loop. What they start ends with the call that asked for it; what lives as long as a store is
in ``shared_calls.py``, and who waits for news in ``bell.py``.
"""

import asyncio
import contextlib
import ctypes
import itertools
import os
import threading
from collections import deque
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Awaitable,
    Callable,
    Coroutine,
    Iterable,
    Sequence,
)
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from functools import partial
from types import TracebackType
from typing import Any, NoReturn, ParamSpec, Self, TypeVar, cast

from ndcass.errors import TooLarge

P = ParamSpec("P")
T = TypeVar("T")
R = TypeVar("R")

# Two a core: one decodes while another waits for a page of a file.
CPU_CORES = os.cpu_count() or 1
CPU_THREADS = max(4, 2 * CPU_CORES)

# Blocks below this come from the heap and go back to it, and so much of the heap stays with the
# process. Otherwise the C library gives the memory of every answer back to the system and the next
# one faults it in again, page by page: on a virtual machine that takes longer than to fill it.
HEAP_BLOCK_BYTES = 16 << 20
HEAP_KEPT_BYTES = 32 << 20
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h of glibc

_cpu = ThreadPoolExecutor(CPU_THREADS, thread_name_prefix="ndcass-cpu")


def keep_heap() -> None:
    """Tell the C library to keep freed memory for the next buffer; does nothing where it cannot."""
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_MMAP_THRESHOLD, HEAP_BLOCK_BYTES)
        mallopt(_M_TRIM_THRESHOLD, HEAP_KEPT_BYTES)


async def run_cpu(func: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
    """Run `func` in a bounded pool of threads.

    A caller that is cancelled waits for a call that has begun: what it works on (a slab, a file) is
    still in use until then.
    """
    call = _cpu.submit(partial(func, *args, **kwargs))
    future = asyncio.wrap_future(call)
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        # The call, not its asyncio future: that one can be cancelled while the thread still works.
        if not call.cancel():
            await _ended(future)
        raise


async def bounded_map(
    func: Callable[[T], Awaitable[R]], items: Sequence[T], *, limit: int
) -> list[R]:
    """`func` of every item, at most `limit` at a time, results in the order of the items.

    The first failure cancels the others and is raised as itself, not as a group.
    """
    results: list[R | None] = [None] * len(items)
    todo = iter(enumerate(items))

    async def worker() -> None:
        for index, item in todo:  # shared iterator: each item is taken once
            results[index] = await func(item)

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(min(limit, len(items))):
                group.create_task(worker())
    except ExceptionGroup as failed:
        # Callers catch NdcassError; a group would slip past them to a bare 500.
        raise failed.exceptions[0] from failed
    return cast(list[R], results)


async def run_shares(
    func: Callable[[Sequence[T]], R], items: Sequence[T], *, size_bytes: int, share_bytes: int
) -> list[R]:
    """`func` of parts of `items` in as many threads as they are worth; results in their order.

    Parameters
    ----------
    size_bytes : int
        What all items hold together.
    share_bytes : int
        The least that is worth a thread.
    """
    threads = max(1, min(CPU_CORES, size_bytes // share_bytes))
    step = max(1, -(-len(items) // threads))
    shares = [items[at : at + step] for at in range(0, len(items), step)]
    if len(shares) == 1:
        return [await run_cpu(func, items)]
    return await bounded_map(lambda share: run_cpu(func, share), shares, limit=threads)


class ByteLimiter:
    """Lets so many bytes be in use at once; later askers wait in order."""

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.used_bytes = 0
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    @contextlib.asynccontextmanager
    async def hold(self, size_bytes: int) -> AsyncIterator[None]:
        """Hold `size_bytes` for the length of the block; TooLarge if that can never be."""
        if size_bytes > self.limit_bytes:
            raise TooLarge("memory of one request", asked=size_bytes, limit=self.limit_bytes)
        await self._acquire(size_bytes)
        try:
            yield
        finally:
            self._release(size_bytes)

    async def _acquire(self, size_bytes: int) -> None:
        if not self._waiting and self.used_bytes + size_bytes <= self.limit_bytes:
            self.used_bytes += size_bytes
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        entry = (size_bytes, turn)
        self._waiting.append(entry)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._release(size_bytes)  # the turn came and the asker was gone
            elif entry in self._waiting:
                self._waiting.remove(entry)
                self._wake()
            raise

    def _release(self, size_bytes: int) -> None:
        self.used_bytes -= size_bytes
        self._wake()

    def _wake(self) -> None:
        while self._waiting:
            size_bytes, turn = self._waiting[0]
            if turn.done():  # its asker was cancelled and has not run since
                self._waiting.popleft()
                continue
            if self.used_bytes + size_bytes > self.limit_bytes:
                return
            self._waiting.popleft()
            self.used_bytes += size_bytes
            turn.set_result(None)


async def one_ahead(
    func: Callable[[T], Coroutine[Any, Any, R]], items: Iterable[T]
) -> AsyncGenerator[R, None]:
    """`func` of every item in order; while one result is used, the next is made.

    Close it (``contextlib.aclosing``) if you leave early: what has begun is then cancelled and
    waited for, so that the buffers it fills are free.
    """
    following: asyncio.Task[R] | None = None
    try:
        iterator = iter(items)
        for item in iterator:
            following = asyncio.create_task(func(item))
            break
        while following is not None:
            result = await following
            following = None
            for item in iterator:
                following = asyncio.create_task(func(item))
                break
            yield result
    finally:
        if following is not None:
            await _cancelled(following)


class OneBehind:
    """Lets one call go on in the background while the caller prepares the next.

    ``async with OneBehind() as behind``: leaving the block waits for the last call, or cancels it
    and waits if the block failed.
    """

    def __init__(self) -> None:
        self._last: asyncio.Task[None] | None = None

    async def run(self, call: Coroutine[Any, Any, None]) -> None:
        """Start `call` once the one before has ended; raises what that one raised.

        It has begun when this returns: what it holds it lets go of, also if it is cancelled.
        """
        try:
            await self.drained()
        except BaseException:
            call.close()
            raise
        self._last = asyncio.create_task(call)
        await asyncio.sleep(0)

    async def drained(self) -> None:
        """Wait for the last call; raises what it raised."""
        if self._last is not None:
            last, self._last = self._last, None
            try:
                await asyncio.shield(last)
            except asyncio.CancelledError:
                await _cancelled(last)
                raise

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            await self.drained()
        elif self._last is not None:
            await _cancelled(self._last)


async def both(first: Coroutine[Any, Any, T], second: Coroutine[Any, Any, R]) -> tuple[T, R]:
    """Two calls at once; the first failure cancels the other and is raised as itself."""
    try:
        async with asyncio.TaskGroup() as group:
            one = group.create_task(first)
            two = group.create_task(second)
    except ExceptionGroup as failed:
        # Callers catch NdcassError; a group would slip past them.
        raise failed.exceptions[0] from failed
    return one.result(), two.result()


async def as_ready(
    func: Callable[[T], Coroutine[Any, Any, R]], items: Iterable[T], *, limit: int
) -> AsyncGenerator[R, None]:
    """`func` of every item, at most `limit` at a time, results as they come.

    No more than `limit` are under way or wait to be taken. The first failure ends it. Close it
    (``contextlib.aclosing``) if you leave early: what has begun is then cancelled and waited for.
    """
    todo = iter(items)
    under_way = {asyncio.create_task(func(item)) for item in itertools.islice(todo, limit)}
    ready: deque[asyncio.Task[R]] = deque()
    try:
        while under_way or ready:
            if not ready:
                done, under_way = await asyncio.wait(under_way, return_when=asyncio.FIRST_COMPLETED)
                ready.extend(done)
            result = ready.popleft().result()
            under_way.update(asyncio.create_task(func(item)) for item in itertools.islice(todo, 1))
            yield result
    finally:
        for task in (*under_way, *ready):
            task.cancel()
        for task in (*under_way, *ready):
            await _ended(task)


async def with_companion(
    main: Coroutine[Any, Any, R], companion: Coroutine[Any, Any, NoReturn]
) -> R:
    """`main`, and `companion` beside it, which watches over it and never returns.

    When `main` ends the companion is cancelled; when the companion raises, `main` is cancelled, and
    what the companion raised comes out. Nothing of either goes on behind the call.
    """

    async def watched() -> R:
        try:
            return await main
        finally:
            watching.cancel()

    try:
        async with asyncio.TaskGroup() as group:
            watching = group.create_task(companion)
            running = group.create_task(watched())
    except ExceptionGroup as failed:
        # Callers catch the error itself; a group would slip past them.
        raise failed.exceptions[0] from failed
    finally:
        main.close()  # it never began, if the caller was cancelled at once
    return running.result()


async def _cancelled(task: asyncio.Task[Any]) -> None:
    """Cancel a task and wait for its end, whatever it is."""
    task.cancel()
    await _ended(task)


async def to_its_end(call: Coroutine[Any, Any, R]) -> R:
    """Await what must not be left half-way: a caller that is cancelled waits for its end first."""
    task = asyncio.ensure_future(call)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await _ended(task)
        raise


async def _ended(future: asyncio.Future[Any]) -> None:
    """Wait for the end of something, however often the caller is cancelled meanwhile.

    For callers that are about to raise: a cancellation has nothing to add.
    """
    while not future.done():
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait([future])
    if not future.cancelled():
        future.exception()  # seen: the caller has an error of its own


def run_threads(
    func: Callable[[T], None], items: Iterable[T], *, limit: int, stop: threading.Event
) -> None:
    """`func` of every item in threads, at most `limit` at a time; for callers without a loop.

    Items are taken one by one, a few ahead of need, so that making one may take time and memory.
    After a failure (or an interrupt) nothing new begins and `stop` is set, for calls that wait to
    see it; those under way end before it is raised.
    """
    pending: set[Future[None]] = set()
    with ThreadPoolExecutor(limit, thread_name_prefix="ndcass-call") as pool:
        try:
            for item in items:
                while len(pending) >= 2 * limit:
                    pending = _settled(pending)
                pending.add(pool.submit(func, item))
            while pending:
                pending = _settled(pending)
        except BaseException:
            stop.set()
            for future in pending:
                future.cancel()
            raise


def _settled(pending: set[Future[None]]) -> set[Future[None]]:
    """Wait until one has ended, raise what it raised; those still to come."""
    done, rest = wait(pending, return_when=FIRST_COMPLETED)
    for future in done:
        future.result()
    return rest
