import asyncio
import contextlib
import threading
import time
from collections.abc import Iterator
from typing import NoReturn

import pytest

from ndcass import concurrency
from ndcass.concurrency import (
    ByteLimiter,
    OneBehind,
    as_ready,
    both,
    bounded_map,
    one_ahead,
    run_cpu,
    run_shares,
    run_threads,
    to_its_end,
    with_companion,
)
from ndcass.errors import NotFound, StoreFull, TooLarge


async def settle() -> None:
    """Let every task that can go on do so."""
    for _ in range(20):
        await asyncio.sleep(0)


# -- run_shares


@pytest.mark.parametrize("cores", [1, 2, 7])
@pytest.mark.parametrize(
    ("count", "size_bytes", "most"),
    [
        (0, 0, 1),
        (1, 100, 1),
        (5, 9, 1),
        (5, 20, 2),
        (5, 1000, 5),
        (23, 1000, 7),
    ],
)
async def test_shares_are_all_items_in_order_in_as_many_threads_as_they_are_worth(
    monkeypatch: pytest.MonkeyPatch, cores: int, count: int, size_bytes: int, most: int
) -> None:
    monkeypatch.setattr(concurrency, "CPU_CORES", cores)
    shares = await run_shares(list, range(count), size_bytes=size_bytes, share_bytes=10)
    assert [item for share in shares for item in share] == list(range(count))
    assert len(shares) <= min(most, cores)
    assert len(shares) > 1 or min(most, cores) == 1


# -- bounded_map


async def test_results_come_in_the_order_of_the_items() -> None:
    async def work(item: int) -> int:
        await asyncio.sleep(0.001 * (5 - item))
        return item * item

    assert await bounded_map(work, range(5), limit=3) == [0, 1, 4, 9, 16]
    assert await bounded_map(work, [], limit=3) == []


@pytest.mark.parametrize("limit", [1, 3, 100])
async def test_never_more_than_the_limit_are_under_way(limit: int) -> None:
    under_way, most = 0, 0

    async def work(_: int) -> None:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0)
        under_way -= 1

    tasks_before = len(asyncio.all_tasks())
    await bounded_map(work, range(50), limit=limit)
    assert most == min(limit, 50)
    assert len(asyncio.all_tasks()) == tasks_before


async def test_the_first_failure_is_raised_as_itself_and_stops_the_rest() -> None:
    begun, cancelled = [], []

    async def work(item: int) -> None:
        begun.append(item)
        try:
            await asyncio.sleep(0 if item == 1 else 3600)
        except asyncio.CancelledError:
            cancelled.append(item)
            raise
        raise NotFound(f"item {item}")

    with pytest.raises(NotFound, match="item 1"):
        await asyncio.wait_for(bounded_map(work, range(10), limit=3), timeout=30)
    assert begun == [0, 1, 2]
    assert sorted(cancelled) == [0, 2]


async def test_a_cancelled_map_cancels_its_work() -> None:
    cancelled = []

    async def work(item: int) -> None:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            cancelled.append(item)
            raise

    task = asyncio.create_task(bounded_map(work, range(10), limit=2))
    await settle()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert sorted(cancelled) == [0, 1]


# -- run_cpu


async def test_cpu_work_runs_in_another_thread() -> None:
    def work(a: int, *, b: int) -> tuple[int, int]:
        return a + b, threading.get_ident()

    total, thread = await run_cpu(work, 2, b=3)
    assert total == 5
    assert thread != threading.get_ident()


async def test_cpu_work_raises_what_it_raised() -> None:
    def fail() -> None:
        raise NotFound("it")

    with pytest.raises(NotFound, match="it"):
        await run_cpu(fail)


@pytest.mark.parametrize("fails", [False, True])
async def test_a_cancelled_caller_waits_for_cpu_work_that_has_begun(fails: bool) -> None:
    begun, go_on, ended = threading.Event(), threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        go_on.wait(30)
        ended.set()
        if fails:
            raise NotFound("nobody listens")

    task = asyncio.create_task(run_cpu(work))
    while not begun.is_set():
        await asyncio.sleep(0.001)
    for _ in range(3):  # however often: the buffer that it works on is still in use
        task.cancel()
        await settle()
    assert not task.done()
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(task, timeout=30)
    assert ended.is_set()


# -- ByteLimiter


async def test_holders_share_the_bytes_and_later_ones_wait() -> None:
    limiter = ByteLimiter(10)
    order: list[str] = []
    leave: dict[str, asyncio.Event] = {name: asyncio.Event() for name in "abcd"}

    async def hold(name: str, size: int) -> None:
        async with limiter.hold(size):
            order.append(name)
            assert limiter.used_bytes <= 10
            await leave[name].wait()

    sizes = {"a": 6, "b": 8, "c": 1, "d": 4}
    tasks = []
    for name, size in sizes.items():
        tasks.append(asyncio.create_task(hold(name, size)))
        await settle()
    assert order == ["a"]  # c and d would fit, but b came first
    leave["a"].set()
    await settle()
    assert order == ["a", "b", "c"]
    leave["b"].set()
    await settle()
    assert order == ["a", "b", "c", "d"]
    leave["c"].set()
    leave["d"].set()
    await asyncio.wait_for(asyncio.gather(*tasks), timeout=30)
    assert limiter.used_bytes == 0


async def test_what_can_never_fit_is_refused_at_once() -> None:
    limiter = ByteLimiter(10)
    with pytest.raises(TooLarge) as caught:
        async with limiter.hold(11):
            pass
    assert (caught.value.asked, caught.value.limit) == (11, 10)
    assert limiter.used_bytes == 0
    async with limiter.hold(10):
        assert limiter.used_bytes == 10


async def test_bytes_come_back_from_a_holder_that_fails() -> None:
    limiter = ByteLimiter(10)
    with pytest.raises(NotFound):
        async with limiter.hold(10):
            raise NotFound("it")
    assert limiter.used_bytes == 0


async def test_a_cancelled_asker_lets_those_behind_it_pass() -> None:
    limiter = ByteLimiter(10)

    async def hold(size: int) -> None:
        async with limiter.hold(size):
            pass

    async with limiter.hold(6):
        large = asyncio.create_task(hold(8))
        await settle()
        small = asyncio.create_task(hold(4))
        await settle()
        assert not small.done()
        large.cancel()
        await settle()
        assert small.done()
    assert limiter.used_bytes == 0


async def test_an_asker_cancelled_when_its_turn_comes_gives_it_back() -> None:
    limiter = ByteLimiter(10)

    async def hold() -> None:
        async with limiter.hold(10):
            await asyncio.sleep(3600)

    async with limiter.hold(10):
        asker = asyncio.create_task(hold())
        await settle()
    asker.cancel()  # its turn was given to it, but it has not run since
    with pytest.raises(asyncio.CancelledError):
        await asker
    assert limiter.used_bytes == 0


async def test_an_asker_cancelled_just_before_its_turn_is_passed_over() -> None:
    limiter = ByteLimiter(10)

    async def hold(size: int) -> int:
        async with limiter.hold(size):
            return size

    async with limiter.hold(10):
        gone = asyncio.create_task(hold(9))
        next_one = asyncio.create_task(hold(8))
        await settle()
        gone.cancel()  # it has not run since, and the bytes come back now
    with pytest.raises(asyncio.CancelledError):
        await gone
    assert await asyncio.wait_for(next_one, timeout=30) == 8
    assert limiter.used_bytes == 0


# -- one_ahead


async def test_the_next_result_is_made_while_one_is_used() -> None:
    begun: list[int] = []

    async def work(item: int) -> int:
        begun.append(item)
        await asyncio.sleep(0)
        return item * 10

    results = []
    async for result in one_ahead(work, range(4)):
        await settle()
        results.append((result, list(begun)))
    assert results == [
        (0, [0, 1]),
        (10, [0, 1, 2]),
        (20, [0, 1, 2, 3]),
        (30, [0, 1, 2, 3]),
    ]


async def test_a_failure_comes_where_its_result_would_have() -> None:
    async def work(item: int) -> int:
        if item == 1:
            raise NotFound("one")
        return item

    results = one_ahead(work, range(3))
    assert await anext(results) == 0
    with pytest.raises(NotFound, match="one"):
        await anext(results)


async def test_leaving_early_cancels_what_has_begun_and_waits_for_it() -> None:
    ended: list[int] = []

    async def work(item: int) -> int:
        try:
            if item:
                await asyncio.sleep(3600)
        finally:
            ended.append(item)
        return item

    async with contextlib.aclosing(one_ahead(work, range(5))) as results:
        assert await anext(results) == 0
        await settle()
    assert ended == [0, 1]


async def test_nothing_ahead_of_no_items() -> None:
    async def work(item: int) -> int:
        return item

    assert [result async for result in one_ahead(work, [])] == []


# -- OneBehind


async def test_one_call_goes_on_while_the_next_is_prepared() -> None:
    log: list[str] = []

    async def call(name: str) -> None:
        log.append(f"begin {name}")
        await asyncio.sleep(0)
        log.append(f"end {name}")

    async with OneBehind() as behind:
        await behind.run(call("a"))
        log.append("prepare b")
        await behind.run(call("b"))
    assert log == ["begin a", "prepare b", "end a", "begin b", "end b"]


async def test_a_failed_call_is_raised_at_the_next() -> None:
    begun: list[str] = []

    async def fail() -> None:
        raise NotFound("it")

    async def call() -> None:
        begun.append("next")

    async with OneBehind() as behind:
        await behind.run(fail())
        with pytest.raises(NotFound, match="it"):
            await behind.run(call())
    assert begun == []


async def test_a_failed_last_call_is_raised_at_the_end() -> None:
    async def fail() -> None:
        raise NotFound("it")

    with pytest.raises(NotFound, match="it"):
        async with OneBehind() as behind:
            await behind.run(fail())


async def test_a_block_that_fails_cancels_the_call_behind_it() -> None:
    ended: list[str] = []

    async def call() -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            ended.append("call")

    async def fail() -> None:
        async with OneBehind() as behind:
            await behind.run(call())
            await settle()
            raise NotFound("block")

    with pytest.raises(NotFound, match="block"):
        await fail()
    assert ended == ["call"]


# -- run_threads


def test_threads_work_on_every_item_with_a_limit() -> None:
    lock, seen, under_way, most = threading.Lock(), [], 0, 0

    def work(item: int) -> None:
        nonlocal under_way, most
        with lock:
            under_way += 1
            most = max(most, under_way)
        time.sleep(0.002)
        with lock:
            under_way -= 1
            seen.append(item)

    stop = threading.Event()
    run_threads(work, range(30), limit=3, stop=stop)
    assert sorted(seen) == list(range(30))
    assert most <= 3
    assert not stop.is_set()


def test_threads_take_items_only_a_few_ahead() -> None:
    taken, done = 0, 0

    def items() -> Iterator[int]:
        nonlocal taken
        for item in range(40):
            taken += 1
            assert taken - done <= 6
            yield item

    def work(_: int) -> None:
        nonlocal done
        done += 1

    run_threads(work, items(), limit=1, stop=threading.Event())
    assert taken == done == 40


def test_a_failed_call_stops_the_others_and_is_raised() -> None:
    stop = threading.Event()
    begun: list[int] = []

    def work(item: int) -> None:
        begun.append(item)
        if item == 1:
            raise NotFound("item 1")
        assert stop.wait(30)

    with pytest.raises(NotFound, match="item 1"):
        run_threads(work, range(100), limit=2, stop=stop)
    assert stop.is_set()
    assert len(begun) < 10


# -- with_companion


async def test_the_companion_ends_with_what_it_watches() -> None:
    ended: list[str] = []

    async def watch() -> NoReturn:
        try:
            await asyncio.sleep(3600)
        finally:
            ended.append("companion")
        raise AssertionError("it sleeps for ever")

    async def work() -> str:
        await settle()
        return "result"

    assert await with_companion(work(), watch()) == "result"
    assert ended == ["companion"]


async def test_a_companion_that_raises_ends_what_it_watches() -> None:
    ended: list[str] = []

    async def watch() -> NoReturn:
        await settle()
        raise NotFound("lost")

    async def work() -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            await settle()
            ended.append("work")

    with pytest.raises(NotFound, match="lost"):
        await with_companion(work(), watch())
    assert ended == ["work"]


async def test_what_is_watched_raises_its_own_error() -> None:
    async def watch() -> NoReturn:
        await asyncio.sleep(3600)
        raise AssertionError("it sleeps for ever")

    async def work() -> None:
        raise StoreFull("no space")

    with pytest.raises(StoreFull, match="no space"):
        await with_companion(work(), watch())


@pytest.mark.parametrize("steps", [1, 2, 5])
async def test_a_cancelled_caller_ends_both(steps: int) -> None:
    begun: list[str] = []
    ended: list[str] = []

    async def sleep(name: str) -> NoReturn:
        begun.append(name)
        try:
            await asyncio.sleep(3600)
        finally:
            ended.append(name)
        raise AssertionError("it sleeps for ever")

    task = asyncio.create_task(with_companion(sleep("work"), sleep("companion")))
    for _ in range(steps):
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert sorted(ended) == sorted(begun)


async def test_a_call_to_its_end_outlasts_the_cancellation_of_its_caller() -> None:
    steps: list[str] = []

    async def work() -> None:
        await asyncio.sleep(0.02)
        steps.append("done")

    caller = asyncio.create_task(to_its_end(work()))
    await asyncio.sleep(0.005)
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert steps == ["done"]


# -- both


async def test_two_calls_go_on_at_once_and_give_both_results() -> None:
    here, there = asyncio.Event(), asyncio.Event()

    async def meet(mine: asyncio.Event, other: asyncio.Event, result: int) -> int:
        mine.set()
        await other.wait()
        return result

    calls = both(meet(here, there, 1), meet(there, here, 2))
    assert await asyncio.wait_for(calls, timeout=30) == (1, 2)


@pytest.mark.parametrize("fails_first", [True, False])
async def test_the_failure_of_one_call_cancels_the_other(fails_first: bool) -> None:
    cancelled: list[bool] = []

    async def fail() -> None:
        await asyncio.sleep(0)
        raise NotFound("it")

    async def wait() -> None:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            cancelled.append(True)
            raise

    calls = both(fail(), wait()) if fails_first else both(wait(), fail())
    with pytest.raises(NotFound, match="it"):
        await asyncio.wait_for(calls, timeout=30)
    assert cancelled == [True]


async def test_a_cancelled_caller_ends_both_calls() -> None:
    cancelled: list[bool] = []

    async def wait() -> None:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            cancelled.append(True)
            raise

    async def run() -> None:
        await both(wait(), wait())

    task = asyncio.create_task(run())
    await settle()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert cancelled == [True, True]


# -- as_ready


@pytest.mark.parametrize("limit", [1, 3, 100])
async def test_results_come_as_they_are_ready_within_the_limit(limit: int) -> None:
    under_way, most = 0, 0

    async def work(item: int) -> int:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0)
        under_way -= 1
        return item

    found = [result async for result in as_ready(work, range(20), limit=limit)]
    assert sorted(found) == list(range(20))
    assert most <= limit


async def test_a_slow_item_holds_no_other_up() -> None:
    go_on = asyncio.Event()

    async def work(item: int) -> int:
        if item == 0:
            await go_on.wait()
        return item

    found: list[int] = []
    async for result in as_ready(work, range(10), limit=2):
        found.append(result)
        if len(found) == 9:
            go_on.set()
    assert found == [*range(1, 10), 0]


async def test_no_more_begin_than_are_taken() -> None:
    begun: list[int] = []

    async def work(item: int) -> int:
        begun.append(item)
        return item

    async with contextlib.aclosing(as_ready(work, range(100), limit=3)) as results:
        await anext(results)
        await settle()
        assert len(begun) <= 4  # one was taken
        await settle()
        assert len(begun) <= 4


async def test_the_first_failure_ends_what_is_under_way() -> None:
    cancelled: list[int] = []

    async def work(item: int) -> int:
        try:
            await asyncio.sleep(0 if item == 1 else 3600)
        except asyncio.CancelledError:
            cancelled.append(item)
            raise
        raise NotFound(f"item {item}")

    with pytest.raises(NotFound, match="item 1"):
        async for _ in as_ready(work, range(10), limit=3):
            pass
    assert sorted(cancelled) == [0, 2]


async def test_leaving_early_ends_what_is_under_way() -> None:
    ended: list[int] = []

    async def work(item: int) -> int:
        if item == 0:
            return item
        try:
            await asyncio.sleep(3600)
        finally:
            await asyncio.sleep(0)  # even what takes a while to end
            ended.append(item)
        return item

    tasks_before = len(asyncio.all_tasks())
    async with contextlib.aclosing(as_ready(work, range(10), limit=3)) as results:
        assert await anext(results) == 0
        await settle()
    assert sorted(ended) == [1, 2, 3]
    assert len(asyncio.all_tasks()) == tasks_before


async def test_nothing_is_ready_of_no_items() -> None:
    async def work(item: int) -> int:
        return item

    assert [result async for result in as_ready(work, [], limit=3)] == []


# -- calls that nobody waits for
