import asyncio
import threading
import time
from collections.abc import Sequence
from functools import partial

import pytest

from ndcass.errors import NotFound, StoreFull
from ndcass.shared_calls import Aside, GroupRunner, SharedCall


async def settle() -> None:
    """Let every task that can go on do so."""
    for _ in range(20):
        await asyncio.sleep(0)


# -- GroupRunner


async def test_items_that_come_while_it_is_busy_share_the_next_call() -> None:
    groups: list[list[int]] = []
    begun, go_on = threading.Event(), threading.Event()

    def work(items: Sequence[int]) -> list[Exception | None]:
        groups.append(list(items))
        begun.set()
        go_on.wait(30)
        return [StoreFull(str(item)) if item == 3 else None for item in items]

    runner = GroupRunner(work)
    first = asyncio.create_task(runner.run(0))
    while not begun.is_set():
        await asyncio.sleep(0.001)
    others = [asyncio.create_task(runner.run(item)) for item in (1, 2, 3, 4)]
    await settle()
    others[1].cancel()
    go_on.set()
    outcomes = await asyncio.wait_for(
        asyncio.gather(first, *others, return_exceptions=True), timeout=30
    )
    assert groups == [[0], [1, 2, 3, 4]]  # a caller that left has its item worked on all the same
    assert [type(outcome) for outcome in outcomes] == [
        type(None),
        type(None),
        asyncio.CancelledError,
        StoreFull,
        type(None),
    ]
    await runner.close()


async def test_a_call_that_fails_fails_for_its_whole_group_and_no_other() -> None:
    def work(items: Sequence[str]) -> list[Exception | None]:
        if "bad" in items:
            raise StoreFull("disk")
        return [None] * len(items)

    runner = GroupRunner(work)
    with pytest.raises(StoreFull, match="disk"):
        await runner.run("bad")
    await runner.run("good")
    await runner.close()


async def test_closing_waits_for_what_has_begun() -> None:
    done: list[int] = []

    def work(items: Sequence[int]) -> list[Exception | None]:
        done.extend(items)
        return [None] * len(items)

    runner = GroupRunner(work)
    tasks = [asyncio.create_task(runner.run(item)) for item in range(3)]
    await asyncio.sleep(0)
    await asyncio.wait_for(runner.close(), timeout=30)
    assert done == [0, 1, 2]
    await asyncio.gather(*tasks)


async def test_a_group_runner_whose_task_was_cancelled_can_be_closed() -> None:
    gate = threading.Event()

    def slow(items: Sequence[int]) -> list[Exception | None]:
        gate.wait(20)
        return [None] * len(items)

    runner: GroupRunner[int] = GroupRunner(slow)
    caller = asyncio.create_task(runner.run(1))
    await asyncio.sleep(0.01)
    assert runner._busy is not None
    runner._busy.cancel()  # as the end of a loop does with all tasks
    with pytest.raises(asyncio.CancelledError):
        await caller
    gate.set()
    async with asyncio.timeout(10):
        await runner.close()


# -- SharedCall


class Question:
    """Counts how often it is asked, and answers when it is told to."""

    def __init__(self) -> None:
        self.asked = 0
        self.answers: list[asyncio.Future[int]] = []

    async def __call__(self) -> int:
        self.asked += 1
        self.answers.append(asyncio.get_running_loop().create_future())
        return await self.answers[-1]


async def test_askers_of_one_moment_share_a_call() -> None:
    question = Question()
    shared = SharedCall(question, limit=2)
    askers = [asyncio.create_task(shared()) for _ in range(5)]
    await settle()
    assert question.asked == 1
    question.answers[0].set_result(7)
    assert await asyncio.gather(*askers) == [7] * 5


async def test_a_call_that_has_begun_answers_nobody_who_asks_later() -> None:
    question = Question()
    shared = SharedCall(question, limit=2)
    early = asyncio.create_task(shared())
    await settle()
    late = asyncio.create_task(shared())
    await settle()
    question.answers[0].set_result(1)
    await settle()
    assert not late.done()
    question.answers[1].set_result(2)
    assert (await early, await late) == (1, 2)


async def test_calls_under_way_are_bounded_and_who_waits_shares_the_next() -> None:
    question = Question()
    shared = SharedCall(question, limit=1)
    first = asyncio.create_task(shared())
    await settle()
    waiting = []
    for _ in range(3):
        waiting.append(asyncio.create_task(shared()))
        await settle()
    assert question.asked == 1
    question.answers[0].set_result(1)
    await settle()
    assert question.asked == 2
    question.answers[1].set_result(2)
    assert [await first, *await asyncio.gather(*waiting)] == [1, 2, 2, 2]


async def test_an_asker_that_is_cancelled_takes_the_answer_from_nobody() -> None:
    question = Question()
    shared = SharedCall(question, limit=1)
    leaver, stayer = asyncio.create_task(shared()), asyncio.create_task(shared())
    await settle()
    leaver.cancel()
    await settle()
    question.answers[0].set_result(3)
    assert await stayer == 3
    with pytest.raises(asyncio.CancelledError):
        await leaver


async def test_a_failure_goes_to_all_who_asked_and_the_next_call_is_a_new_one() -> None:
    question = Question()
    shared = SharedCall(question, limit=1)
    askers = [asyncio.create_task(shared()) for _ in range(2)]
    await settle()
    question.answers[0].set_exception(NotFound("no"))
    for asker in askers:
        with pytest.raises(NotFound):
            await asker
    again = asyncio.create_task(shared())
    await settle()
    question.answers[1].set_result(4)
    assert await again == 4


def test_calls_aside_are_made_in_order_and_outside_the_caller_s_thread() -> None:
    aside = Aside(limit_bytes=100)
    seen: list[tuple[int, bool]] = []
    here = threading.get_ident()

    def note(number: int) -> None:
        seen.append((number, threading.get_ident() != here))

    for number in range(20):
        assert aside.offer(1, partial(note, number))
    aside.settle()
    aside.close()
    assert seen == [(number, True) for number in range(20)]


def test_a_call_aside_that_does_not_fit_is_not_made() -> None:
    aside = Aside(limit_bytes=10)
    gate = threading.Event()
    made: list[str] = []
    assert aside.offer(6, lambda: made.append("first" if gate.wait(30) else "never"))
    assert not aside.offer(5, lambda: made.append("too much"))
    assert aside.offer(4, lambda: made.append("second"))
    gate.set()
    aside.settle()
    assert made == ["first", "second"]
    assert aside.offer(10, lambda: made.append("third"))
    aside.settle()
    aside.close()
    assert made[-1] == "third"


def test_a_call_aside_that_fails_gives_its_room_back_and_stops_no_other() -> None:
    aside = Aside(limit_bytes=10)
    made: list[int] = []
    for number in range(3):
        assert aside.offer(10, lambda: made.append(1 // 0))
        aside.settle()
        assert aside.offer(10, partial(made.append, number))
        aside.settle()
    aside.close()
    assert made == [0, 1, 2]


def test_what_waits_aside_is_left_out_at_the_end() -> None:
    aside = Aside(limit_bytes=10)
    gate, begun = threading.Event(), threading.Event()
    made: list[int] = []

    def first() -> None:
        begun.set()
        gate.wait(30)

    aside.offer(1, first)
    aside.offer(1, lambda: made.append(2))
    assert begun.wait(30)
    closing = threading.Thread(target=aside.close)
    closing.start()
    time.sleep(0.05)
    gate.set()
    closing.join(30)
    assert made == []
