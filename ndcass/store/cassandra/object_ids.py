"""Counters of object ids: exact, consecutive, and no id to two askers, whatever gets lost."""

import asyncio
import os
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from ndcass.errors import Conflict, NdcassError, TransactionUnknown
from ndcass.shared_calls import SharedCall
from ndcass.store.cassandra.driver import Consistency
from ndcass.store.cassandra.tables import Tables, pause

_READ = "SELECT last, change FROM object_ids WHERE counter = ?"
_RAISE = "UPDATE object_ids SET last = ?, change = ? WHERE counter = ? IF last = ?"
_FORGET = "DELETE FROM object_ids WHERE counter = ? IF EXISTS"


@dataclass(slots=True, eq=False)
class _Ask:
    """What one caller wants: `count` ids up to `most`, or that none up to `at_least` comes."""

    count: int = 0
    most: int = 0
    at_least: int = 0
    gone: bool = False
    first: int = 0
    refusal: NdcassError | None = None


class _Group:
    """The callers of one counter that wait for its next change."""

    def __init__(self, serve: Callable[["_Group"], Coroutine[Any, Any, None]]) -> None:
        self.asks: list[_Ask] = []
        self.last = 0  # as last seen; the counter only grows
        self.call = SharedCall(partial(serve, self), limit=1)


class ObjectIds:
    """The counters of all channels.

    A change is a lightweight transaction, which takes some ten milliseconds, so callers who come
    meanwhile share the next one. When the answer of a change gets lost and others have changed the
    counter since, its ids are given to nobody: a gap, never an id given twice.
    """

    def __init__(self, tables: Tables) -> None:
        self._tables = tables
        self._groups: dict[int, _Group] = {}

    async def reserve(self, counter: int, count: int, *, most: int) -> int:
        """The first of `count` ids; Conflict if one of them would be above `most`."""
        ask = _Ask(count=count, most=most)
        await self._served(counter, ask)
        return ask.first

    async def raise_to(self, counter: int, at_least: int) -> None:
        """Give out no id up to `at_least` from now on."""
        await self._served(counter, _Ask(at_least=at_least))

    async def forget(self, counter: int) -> None:
        """Delete a counter that nobody asks any more."""
        await self._tables.transact((_FORGET, (counter,)))

    async def _served(self, counter: int, ask: _Ask) -> None:
        if counter not in self._groups:
            self._groups[counter] = _Group(partial(self._serve, counter))
        group = self._groups[counter]
        group.asks.append(ask)
        try:
            await group.call()
        except asyncio.CancelledError:
            ask.gone = True
            raise
        if ask.refusal is not None:
            raise ask.refusal

    async def _serve(self, counter: int, group: _Group) -> None:
        """One change for all who wait."""
        asks, group.asks = group.asks, []
        asks = [ask for ask in asks if not ask.gone]
        change_id = os.urandom(16)
        if not group.last:
            group.last, _ = await self._read(counter, Consistency.LOCAL_QUORUM)
        # Where the counter stood at an attempt whose answer was lost; it may still come to pass.
        unsettled: int | None = None
        attempt = 0
        while (raised := _assign(asks, group.last)) != group.last or unsettled is not None:
            await pause(attempt)
            attempt += 1
            before = group.last
            try:
                values = (raised, change_id, counter, before or None)
                result = await self._tables.transact((_RAISE, values))
                if result.applied:
                    group.last = raised
                    return
                if unsettled is None:
                    group.last = next((int(row["last"] or 0) for row in result.rows if row), 0)
                    continue
            except TransactionUnknown:
                unsettled = before
            last, change = await self._read(counter, Consistency.LOCAL_SERIAL)
            if unsettled is not None and change == change_id:
                _assign(asks, unsettled)
                group.last = last
                return
            if last != unsettled:
                unsettled = None  # another change came in between, so that one is lost for good
            group.last = last

    async def _read(self, counter: int, consistency: Consistency) -> tuple[int, bytes]:
        rows = await self._tables.rows(_READ, counter, consistency=consistency)
        return next(((last or 0, change) for last, change in rows), (0, b""))


def _assign(asks: Sequence[_Ask], last: int) -> int:
    """Give everybody their ids above `last`, or a refusal; where the counter stands then."""
    for ask in asks:
        ask.refusal = None
        if not ask.count:
            last = max(last, ask.at_least)
        elif ask.count > ask.most - last:
            ask.refusal = Conflict(
                f"the channel has fewer than {ask.count} ids left up to {ask.most}"
            )
        else:
            ask.first = last + 1
            last += ask.count
    return last
