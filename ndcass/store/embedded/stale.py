"""Which derived cuboids are stale: marks in the LMDB index.

A mark is set in the very transaction that makes visible what the cuboid derives from, so there is
no moment at which one is there without the other. Its value is the number of that transaction;
a later mark of the same cuboid takes its place and has a greater number, so whoever rebuilt it
from older sources finds another number than the one that was read, and leaves it.
"""

import struct
from collections import Counter
from collections.abc import AsyncIterator, Collection, Iterator, Mapping, Sequence, Set
from itertools import islice
from typing import TYPE_CHECKING, Any

import lmdb

from ndcass.bell import Bell
from ndcass.concurrency import run_cpu
from ndcass.store.base import CuboidAddress, StaleMark
from ndcass.store.embedded.index import KEY, PAGE, PREFIX, channels_in, index_errors

if TYPE_CHECKING:
    from ndcass.store.embedded.cuboids import EmbeddedBatch, EmbeddedCuboids

# So many are looked up on the event loop: the index is in memory, a change of thread costs more.
FEW = 64

_NUMBER = struct.Struct(">Q")
_LEVEL = struct.Struct(">QBB")


class MarkTable:
    """The marks, inside transactions of the index; `txn` is lmdb's, which has no types."""

    def __init__(self, env: lmdb.Environment) -> None:
        self.env = env
        self.database = env.open_db(b"stale marks")

    def set(self, txn: Any, addresses: Collection[CuboidAddress]) -> None:
        """Mark some cuboids."""
        number = _NUMBER.pack(txn.id())
        for address in addresses:
            txn.put(KEY.pack(*address), number, db=self.database)

    def clear(self, txn: Any, marks: Mapping[CuboidAddress, bytes]) -> Set[CuboidAddress]:
        """Take marks away that are as they were read; the cuboids that have none any more."""
        gone = set()
        for address, mark in marks.items():
            key = KEY.pack(*address)
            found = txn.get(key, db=self.database)
            if found is None:
                gone.add(address)
            elif found == mark:
                txn.delete(key, db=self.database)
        return gone


class EmbeddedStale:
    """The `StaleMarks` of the embedded engine."""

    def __init__(self, cuboids: "EmbeddedCuboids", table: MarkTable) -> None:
        self._cuboids = cuboids
        self._table = table
        self.bell: Bell[int] = Bell()

    async def mark(self, addresses: Collection[CuboidAddress]) -> None:
        """As `StaleMarks.mark`."""
        async with self._cuboids.batch() as batch:
            batch.mark_stale(addresses)
            await batch.commit()

    async def marked(self, addresses: Collection[CuboidAddress]) -> Set[CuboidAddress]:
        """As `StaleMarks.marked`."""
        if len(addresses) <= FEW:
            return self._marked(addresses)
        return await run_cpu(self._marked, addresses)

    def _marked(self, addresses: Collection[CuboidAddress]) -> Set[CuboidAddress]:
        with index_errors(), self._table.env.begin(self._table.database) as txn:
            return {a for a in addresses if txn.get(KEY.pack(*a)) is not None}

    async def scan(
        self, channel_id: int, *, pyramid: int, level: int
    ) -> AsyncIterator[Sequence[StaleMark]]:
        """As `StaleMarks.scan`."""
        prefix = _LEVEL.pack(channel_id, pyramid, level)
        page = self._page(prefix, b"", FEW)  # after an edit that is all
        while page:
            yield page
            page = await run_cpu(self._page, prefix, KEY.pack(*page[-1].address))

    def _page(self, prefix: bytes, after: bytes, most: int = PAGE) -> list[StaleMark]:
        entries = islice(self._entries(prefix, after), most)
        return [StaleMark(CuboidAddress(*KEY.unpack(key)), mark) for key, mark in entries]

    def _entries(self, prefix: bytes, after: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        """Keys with a prefix behind one of them, and their values."""
        with (
            index_errors(),
            self._table.env.begin(self._table.database) as txn,
            txn.cursor() as cursor,
        ):
            more = cursor.set_range(after or prefix)
            if more and after and cursor.key() == after:
                more = cursor.next()
            while more and cursor.key().startswith(prefix):
                yield cursor.key(), cursor.value()
                more = cursor.next()

    async def counts(self, channel_id: int) -> Mapping[tuple[int, int], int]:
        """As `StaleMarks.counts`."""
        return await run_cpu(self._counts, channel_id)

    def _counts(self, channel_id: int) -> Mapping[tuple[int, int], int]:
        places = (key[PREFIX.size : _LEVEL.size] for key, _ in self._entries(_prefix(channel_id)))
        return {(place[0], place[1]): count for place, count in Counter(places).items()}

    async def channels(self) -> Sequence[int]:
        """As `StaleMarks.channels`."""
        return await run_cpu(channels_in, self._table.env, self._table.database)

    def derivation(self, marks: Sequence[StaleMark]) -> "EmbeddedBatch":
        """As `StaleMarks.derivation`."""
        batch = self._cuboids.batch()
        batch.clear(marks)
        return batch

    async def delete_channel(self, channel_id: int) -> int:
        """As `StaleMarks.delete_channel`, a page a transaction so that writers get their turn."""
        deleted = 0
        while count := await run_cpu(self._delete_page, _prefix(channel_id)):
            deleted += count
        return deleted

    def _delete_page(self, prefix: bytes) -> int:
        keys = [KEY.pack(*mark.address) for mark in self._page(prefix, b"")]
        with index_errors(), self._table.env.begin(self._table.database, write=True) as txn:
            return sum(txn.delete(key) for key in keys)


def _prefix(channel_id: int) -> bytes:
    return PREFIX.pack(channel_id)
