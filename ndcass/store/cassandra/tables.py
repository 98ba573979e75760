"""Statements on the tables of one keyspace, by their text; shared by all that is not voxels.

Every statement is prepared once. Reads and writes are at LOCAL_QUORUM, so that a read meets every
acknowledged write; changes that depend on what is there are lightweight transactions.
"""

import asyncio
import random
from collections.abc import AsyncGenerator, Iterator, Sequence
from typing import TypeVar

from ndcass.errors import StoreUnavailable
from ndcass.store.cassandra.driver import Consistency, Driver, Row, Statement, TransactionResult

T = TypeVar("T")

# How often a change is tried that others keep overtaking: with the pauses below some ten seconds.
MOST_ATTEMPTS = 16
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.01, 1.0
# A key has 64 KiB at most. No name that anybody gave is as long; some that clients ask for are.
MOST_KEY_BYTES = 4096

# A statement and its values.
Entry = tuple[str, Sequence[object]]


class Tables:
    """The tables of one keyspace.

    Parameters
    ----------
    driver : Driver
    keyspace : str
    data_centre : str
        The one data centre that the keyspace lives in.
    """

    def __init__(self, driver: Driver, *, keyspace: str, data_centre: str) -> None:
        self._driver = driver
        self._keyspace = keyspace
        self._data_centre = data_centre

    async def rows(
        self,
        cql: str,
        *values: object,
        consistency: Consistency = Consistency.LOCAL_QUORUM,
        page_rows: int | None = None,
    ) -> Sequence[Row]:
        """All rows of a selection, which may take several pages."""
        statement = await self._prepared(cql)
        return await self._driver.execute(
            statement, values, consistency=consistency, page_rows=page_rows
        )

    async def pages(
        self, cql: str, *values: object, page_rows: int
    ) -> AsyncGenerator[Sequence[Row], None]:
        """The rows of a selection, page by page, as far as somebody asks."""
        statement = await self._prepared(cql)
        pages = self._driver.pages(
            statement, values, consistency=Consistency.LOCAL_QUORUM, page_rows=page_rows
        )
        async for page in pages:
            yield page

    async def write(self, cql: str, *values: object) -> None:
        """An idempotent change; it may be sent more than once."""
        statement = await self._prepared(cql)
        await self._driver.execute(statement, values, consistency=Consistency.LOCAL_QUORUM)

    async def write_together(self, entries: Sequence[Entry]) -> None:
        """Idempotent changes in one message. Of one partition: all or none, and seen together.

        Small rows of several partitions go so too: one by one, what a client does for each takes
        longer than what the nodes do. All are there once this returns, before that maybe some.
        """
        if len(entries) == 1:  # which is cheaper without a batch around it
            [(cql, values)] = entries
            await self.write(cql, *values)
            return
        bound = [(await self._prepared(cql), values) for cql, values in entries]
        await self._driver.execute_batch(bound, consistency=Consistency.LOCAL_QUORUM)

    async def transact(self, *entries: Entry) -> TransactionResult:
        """A lightweight transaction on one partition; see `Driver.transact`."""
        bound = [(await self._prepared(cql), values) for cql, values in entries]
        return await self._driver.transact(bound)

    async def _prepared(self, cql: str) -> Statement:
        return await self._driver.prepare(
            cql, keyspace=self._keyspace, data_centre=self._data_centre
        )


async def pause(attempt: int) -> None:
    """Wait before another attempt (counted from 0, before which there is no wait).

    The length is random, so that those who got into each other's way do not do so again.

    Raises
    ------
    StoreUnavailable
        If there were enough attempts.
    """
    if attempt >= MOST_ATTEMPTS:
        raise StoreUnavailable("too many change the same at once: try again")
    if attempt:
        longest_s = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2**attempt)
        await asyncio.sleep(random.uniform(0, longest_s))  # noqa: S311 - no secret


def batched(items: Sequence[T], count: int) -> Iterator[Sequence[T]]:
    """`items` in order, at most `count` at a time."""
    for first in range(0, len(items), count):
        yield items[first : first + count]


def is_key(name: str) -> bool:
    """Whether something may be stored under a name, which may come straight from a URL."""
    try:
        return len(name.encode()) <= MOST_KEY_BYTES
    except UnicodeEncodeError:  # half of a surrogate pair
        return False
