"""One request until it has an answer: attempts at one host after the other, hedges and pauses.

It knows nothing of the driver: `send` starts an attempt, `judge` says what a failure means. The
outcome of an attempt may come on any thread, and after the caller has gone.
"""

import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

from ndcass.errors import StoreError, StoreTimeout, TransactionUnknown
from ndcass.store.cassandra.lanes import Host, Lanes

MOST_ATTEMPTS_AT_ONCE = 2
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.05, 1.0
# The driver may lose an attempt whose connection ends while it is sent. After this time, in which
# any connection that hangs was given up, its room is free again.
LOST_AFTER_S = 60.0


class Answer(NamedTuple):
    """What a node answered: a page of rows, where the next one begins, and the columns' names."""

    rows: Sequence[tuple[Any, ...]]  # whatever the columns hold
    state: bytes | None
    columns: Sequence[str]


class Verdict(NamedTuple):
    """What the failure of an attempt means.

    Attributes
    ----------
    error : StoreError
        What the caller gets if there is no better answer.
    again : bool
        Whether another host may do better.
    was_sent : bool
        Whether a node may have got it.
    was_refused : bool
        Whether a node got it and certainly did not carry it out.
    """

    error: StoreError
    again: bool
    was_sent: bool
    was_refused: bool


# Called once with what became of an attempt.
OnOutcome = Callable[[Answer | Exception], None]
Send = Callable[[Host, OnOutcome], None]
Judge = Callable[[Exception], Verdict]


class Call:
    """One request.

    Parameters
    ----------
    lanes : Lanes
        Every attempt takes room for `size_bytes` until it ends.
    counts : Counter
        Gets ``retries``, ``hedges`` and ``lost``.
    hosts : sequence
        Whom to ask, the best first.
    deadline : float
        When to give up, as the loop counts time.
    hedge_after_s : float
        After what time without an answer another host is asked as well.
    once : bool
        Whether it must not be sent twice.
    """

    def __init__(
        self,
        lanes: Lanes,
        counts: Counter[str],
        *,
        hosts: Sequence[Host],
        size_bytes: int,
        send: Send,
        judge: Judge,
        deadline: float,
        hedge_after_s: float,
        once: bool = False,
    ) -> None:
        self._lanes = lanes
        self._counts = counts
        self._hosts = hosts
        self._size_bytes = size_bytes
        self._send = send
        self._judge = judge
        self._deadline = deadline
        self._hedge_after_s = hedge_after_s
        self._once = once
        self._loop = asyncio.get_running_loop()
        self._outcome: asyncio.Future[Answer] = self._loop.create_future()
        self._tried: list[Host] = []
        self._under_way: dict[int, Host] = {}  # attempts by number
        self._failure: StoreError | None = None
        self._timer: asyncio.TimerHandle | None = None

    async def answer(self, host: Host) -> Answer:
        """Send it to a host whose lane was entered; the answer of whoever gives one first.

        Raises
        ------
        StoreError
            As `judge` has it.
        StoreTimeout
            If there is no answer in time.
        TransactionUnknown
            If what may be sent only once was sent, and may have been carried out.
        """
        self._begin(host)
        return await self._outcome

    def abandon(self, error: StoreError) -> None:
        """Give up now."""
        if not self._outcome.done():
            self._refuse(error)

    def _begin(self, host: Host) -> None:
        attempt = len(self._tried)
        self._tried.append(host)
        self._under_way[attempt] = host
        self._watch()
        hand_over = partial(self._hand_over, attempt)
        try:
            self._send(host, hand_over)
        except Exception as error:  # noqa: BLE001 - judged as one that came from the node
            hand_over(error)

    def _hand_over(self, attempt: int, outcome: Answer | Exception) -> None:
        """Go on with an outcome on the loop's thread; what is raised here would be lost."""
        with contextlib.suppress(RuntimeError):  # the loop has ended, and with it the caller
            self._loop.call_soon_threadsafe(self._ended, attempt, outcome)

    def _ended(self, attempt: int, outcome: Answer | Exception) -> None:
        if attempt not in self._under_way:  # given up as lost
            return
        self._lanes.leave(self._under_way.pop(attempt), self._size_bytes)
        verdict = self._judge(outcome) if isinstance(outcome, Exception) else None
        if self._outcome.done():  # another attempt was quicker, or the caller has gone
            if not self._under_way:
                self._stop_timer()
        elif isinstance(outcome, Exception):
            assert verdict is not None
            self._failed(verdict)
        else:
            self._outcome.set_result(outcome)
            self._end()

    def _failed(self, verdict: Verdict) -> None:
        # What a node says of the partition says more than that one node is away.
        if self._failure is None or verdict.was_sent:
            self._failure = verdict.error
        is_left = len(self._tried) < len(self._hosts)
        if self._once:
            if not verdict.was_sent and is_left:
                self._again("retries")
            elif not verdict.was_sent or verdict.was_refused:
                self._refuse(verdict.error)
            else:
                self._refuse(_unknown(verdict.error))
        elif not verdict.again:
            self._refuse(verdict.error)
        elif is_left or not self._under_way:
            self._next()
        else:
            self._watch()

    def _next(self) -> None:
        """The next host at once; after all of them were tried, a pause first."""
        rounds, place = divmod(len(self._tried), len(self._hosts))
        if place or rounds == 0:
            self._again("retries")
            return
        pause_s = min(FIRST_PAUSE_S * 2 ** min(rounds - 1, 10), LONGEST_PAUSE_S)
        pause_s *= random.uniform(0.5, 1.0)  # noqa: S311 - no secret
        self._loop.call_later(pause_s, self._again, "retries")

    def _again(self, kind: str) -> None:
        if self._outcome.done():
            return
        if self._loop.time() >= self._deadline:
            self._refuse(self._failure or _late())
            return
        self._counts[kind] += 1
        host = self._other_host()
        self._lanes.force(host, self._size_bytes)
        self._begin(host)

    def _other_host(self) -> Host:
        """The next in turn, but none that is working on it or was the last to fail."""
        first = len(self._tried) % len(self._hosts)
        in_turn = [*self._hosts[first:], *self._hosts[:first]]
        busy = [*self._under_way.values(), *self._tried[-1:]]
        return next((host for host in in_turn if host not in busy), in_turn[0])

    def _watch(self) -> None:
        """Wake up when it is time for a hedge, or for giving up."""
        self._stop_timer()
        wait_s = self._deadline - self._loop.time()
        if self._may_hedge:
            wait_s = min(wait_s, self._hedge_after_s)
        self._timer = self._loop.call_later(max(0.0, wait_s), self._look)

    def _look(self) -> None:
        if self._outcome.done():  # the caller has gone
            self._end()
        elif self._loop.time() >= self._deadline:
            late = self._failure or _late()
            self._refuse(_unknown(late) if self._once else late)
        elif self._under_way and self._may_hedge:
            self._again("hedges")
        else:
            self._watch()

    @property
    def _may_hedge(self) -> bool:
        busy = self._under_way.values()
        has_other = any(host not in busy for host in self._hosts)
        return not self._once and len(busy) < MOST_ATTEMPTS_AT_ONCE and has_other

    def _refuse(self, error: StoreError) -> None:
        self._outcome.set_exception(error)
        self._outcome.exception()  # seen, even if the caller is cancelled before it wakes up
        self._end()

    def _end(self) -> None:
        """Nobody waits any more; attempts that are still under way keep their lanes for a while."""
        self._stop_timer()
        if self._under_way:
            self._timer = self._loop.call_later(LOST_AFTER_S, self._give_up_attempts)

    def _give_up_attempts(self) -> None:
        for host in self._under_way.values():
            self._lanes.leave(host, self._size_bytes)
            self._counts["lost"] += 1
        self._under_way.clear()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def _late() -> StoreError:
    return StoreTimeout("the store did not answer in time")


def _unknown(error: StoreError) -> TransactionUnknown:
    unknown = TransactionUnknown("whether the store made the change is unknown")
    unknown.__cause__ = error.__cause__ or error
    return unknown
