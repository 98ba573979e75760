import asyncio
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from ndcass.errors import StoreError, StoreTimeout, StoreUnavailable, TransactionUnknown
from ndcass.store.cassandra import calls
from ndcass.store.cassandra.calls import Answer, Call, OnOutcome, Verdict
from ndcass.store.cassandra.lanes import Lanes

ROWS = Answer([(1,)], None, ["a"])
SIZE = 10
HEDGE_AFTER_S = 0.05
TIMEOUT_S = 0.5


@dataclass(eq=False)
class Host:
    name: str
    is_up: bool = True


class Failed(Exception):
    """A node failed; another may do better."""


class Away(Exception):
    """The node was not even asked."""


class Refused(Exception):
    """The node did not do it, and no other will."""


def judge(error: Exception) -> Verdict:
    kind = StoreUnavailable if isinstance(error, Away) else StoreError
    return Verdict(
        kind(str(error)),
        again=not isinstance(error, Refused),
        was_sent=not isinstance(error, Away),
        was_refused=isinstance(error, Refused),
    )


class Nodes:
    """Three hosts, and what each does with a request: an outcome, or nothing at all."""

    def __init__(self, **behaviour: Answer | Exception | None) -> None:
        self.hosts = [Host(name) for name in "abc"]
        self.behaviour = behaviour
        self.asked: list[str] = []
        self.answers: list[OnOutcome] = []
        self.lanes = Lanes(1000)
        self.counts: Counter[str] = Counter()

    def send(self, host: Host, on_outcome: OnOutcome) -> None:
        self.asked.append(host.name)
        self.answers.append(on_outcome)
        outcome = self.behaviour.get(host.name)
        if outcome is not None:
            on_outcome(outcome)

    def call(self, *, hosts: str = "abc", once: bool = False) -> Call:
        return Call(
            self.lanes,
            self.counts,
            hosts=[host for host in self.hosts if host.name in hosts],
            size_bytes=SIZE,
            send=self.send,
            judge=judge,
            deadline=asyncio.get_running_loop().time() + TIMEOUT_S,
            hedge_after_s=HEDGE_AFTER_S,
            once=once,
        )

    async def ask(self, **options: Any) -> Answer:
        self.lanes.force(self.hosts[0], SIZE)
        return await asyncio.wait_for(self.call(**options).answer(self.hosts[0]), timeout=30)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.005)


async def test_an_answer_is_handed_on_and_its_lane_is_left() -> None:
    nodes = Nodes(a=ROWS)
    assert await nodes.ask() is ROWS
    assert nodes.asked == ["a"]
    assert not nodes.lanes.used_bytes
    assert not nodes.counts


async def test_a_host_that_fails_is_followed_by_the_next_at_once() -> None:
    nodes = Nodes(a=Failed("a"), b=Away("b"), c=ROWS)
    assert await nodes.ask() is ROWS
    assert nodes.asked == ["a", "b", "c"]
    assert nodes.counts == {"retries": 2}
    assert not nodes.lanes.used_bytes


async def test_what_no_host_can_do_is_not_asked_again() -> None:
    nodes = Nodes(a=Refused("no such table"), b=ROWS)
    with pytest.raises(StoreError, match="no such table"):
        await nodes.ask()
    assert nodes.asked == ["a"]


async def test_all_hosts_are_tried_in_turn_until_the_deadline() -> None:
    nodes = Nodes(a=Failed("partition"), b=Away("b"), c=Failed("partition"))
    with pytest.raises(StoreError, match="partition"):
        await nodes.ask()
    assert nodes.asked[:6] == ["a", "b", "c", "a", "b", "c"]
    assert not nodes.lanes.used_bytes


async def test_hosts_that_come_back_in_time_answer() -> None:
    nodes = Nodes(a=Away("a"), b=Away("b"), c=Away("c"))
    asking = asyncio.create_task(nodes.ask())
    await until(lambda: len(nodes.asked) > 3)
    nodes.behaviour["b"] = ROWS
    assert await asking is ROWS


async def test_a_slow_host_is_hedged_and_its_late_answer_does_no_harm() -> None:
    nodes = Nodes(b=ROWS)
    assert await nodes.ask() is ROWS
    assert nodes.asked == ["a", "b"]
    assert nodes.counts == {"hedges": 1}
    assert nodes.lanes.used_bytes == {nodes.hosts[0]: SIZE}, "it may still come"
    nodes.answers[0](Answer([(2,)], None, ()))
    await until(lambda: not nodes.lanes.used_bytes)


async def test_a_hedge_that_fails_is_followed_by_the_third_host() -> None:
    nodes = Nodes(b=Failed("b"), c=ROWS)
    assert await nodes.ask() is ROWS
    assert nodes.asked == ["a", "b", "c"]


async def test_no_more_than_two_attempts_are_under_way() -> None:
    nodes = Nodes()
    with pytest.raises(StoreTimeout):
        await nodes.ask()
    assert nodes.asked == ["a", "b"]


async def test_a_host_is_not_hedged_with_itself() -> None:
    nodes = Nodes()
    with pytest.raises(StoreTimeout):
        await nodes.ask(hosts="a")
    assert nodes.asked == ["a"]


async def test_what_may_be_sent_once_is_not_hedged_and_ends_unknown() -> None:
    nodes = Nodes(b=ROWS)
    with pytest.raises(TransactionUnknown):
        await nodes.ask(once=True)
    assert nodes.asked == ["a"]


async def test_what_may_be_sent_once_goes_on_where_it_was_never_sent() -> None:
    nodes = Nodes(a=Away("a"), b=ROWS)
    assert await nodes.ask(once=True) is ROWS
    assert nodes.asked == ["a", "b"]

    nowhere = Nodes(a=Away("a"), b=Away("b"), c=Away("c"))
    with pytest.raises(StoreUnavailable):
        await nowhere.ask(once=True)
    assert nowhere.asked == ["a", "b", "c"]


async def test_what_may_be_sent_once_is_unknown_when_its_node_fails() -> None:
    nodes = Nodes(a=Failed("the connection ended"), b=ROWS)
    with pytest.raises(TransactionUnknown) as failed:
        await nodes.ask(once=True)
    assert nodes.asked == ["a"]
    assert "the connection ended" in str(failed.value.__cause__)


async def test_what_may_be_sent_once_is_known_not_to_be_done_when_it_was_refused() -> None:
    nodes = Nodes(a=Refused("no such table"))
    with pytest.raises(StoreError, match="no such table") as failed:
        await nodes.ask(once=True)
    assert not isinstance(failed.value, StoreTimeout)


async def test_a_sender_that_raises_is_as_good_as_a_host_that_fails() -> None:
    nodes = Nodes(b=ROWS)
    send = nodes.send

    def broken(host: Host, on_outcome: OnOutcome) -> None:
        if host.name == "a":
            raise Failed("it could not be encoded")
        send(host, on_outcome)

    nodes.send = broken  # type: ignore[method-assign]  # before the call takes it
    assert await nodes.ask() is ROWS
    assert not nodes.lanes.used_bytes


async def test_a_cancelled_caller_leaves_its_lane_when_the_answer_comes() -> None:
    nodes = Nodes()
    asking = asyncio.create_task(nodes.ask())
    await until(lambda: bool(nodes.asked))
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert nodes.lanes.used_bytes
    threading.Thread(target=nodes.answers[0], args=(Failed("late"),)).start()
    await until(lambda: not nodes.lanes.used_bytes)
    await asyncio.sleep(2 * HEDGE_AFTER_S)
    assert nodes.asked == ["a"], "nobody wants it any more"


async def test_an_abandoned_call_fails_at_once_and_is_not_tried_again() -> None:
    nodes = Nodes()
    nodes.lanes.force(nodes.hosts[0], SIZE)
    call = nodes.call()
    asking = asyncio.create_task(call.answer(nodes.hosts[0]))
    await until(lambda: bool(nodes.asked))
    call.abandon(StoreUnavailable("closed"))
    call.abandon(StoreUnavailable("closed again"))
    with pytest.raises(StoreUnavailable, match=r"closed$"):
        await asking
    nodes.answers[0](Failed("the connection ended"))
    await until(lambda: not nodes.lanes.used_bytes)
    assert nodes.asked == ["a"]


async def test_an_attempt_that_never_ends_gives_its_room_back_after_a_while(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(calls, "LOST_AFTER_S", 0.05)
    nodes = Nodes(b=ROWS)
    assert await nodes.ask() is ROWS
    await until(lambda: not nodes.lanes.used_bytes)
    assert nodes.counts == {"hedges": 1, "lost": 1}
    nodes.answers[0](ROWS)  # it came after all
    await asyncio.sleep(0.01)
    assert not nodes.lanes.used_bytes


async def test_an_outcome_after_the_loop_has_ended_is_nobodys() -> None:
    nodes = Nodes()

    def other_loop() -> None:
        async def leave() -> None:
            nodes.lanes.force(nodes.hosts[0], SIZE)
            asking = asyncio.create_task(nodes.call().answer(nodes.hosts[0]))
            await asyncio.sleep(0)
            asking.cancel()

        asyncio.run(leave())

    thread = threading.Thread(target=other_loop)
    thread.start()
    await until(lambda: not thread.is_alive())
    nodes.answers[0](ROWS)  # on the driver's thread nobody would see what it raised
