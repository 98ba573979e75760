"""Cuboids in memory, as rows that are only ever appended, and marks of stale ones."""

import bisect
from collections import Counter
from collections.abc import AsyncIterator, Collection, Mapping, Sequence, Set
from types import TracebackType
from typing import Self

from ndcass import codec
from ndcass.bell import Bell
from ndcass.concurrency import run_cpu
from ndcass.errors import CorruptValue
from ndcass.merge import CuboidRow, WriteOp, is_blank, without_negative_zeros
from ndcass.store.base import (
    CuboidAddress,
    CuboidWrite,
    StaleMark,
    StoredCuboid,
)
from ndcass.store.clock import WriteClock
from ndcass.store.memory.dicts import forget
from ndcass.store.versions import versions_digest

# Small, so that readers meet several pages.
READ_PAGE = 16
SCAN_PAGE = 64


class MemoryCuboids:
    """The `CuboidStore` in a dict of rows, in the order of their ids."""

    def __init__(self) -> None:
        self.rows: dict[CuboidAddress, list[CuboidRow]] = {}
        self.clock = WriteClock()
        self.stale = MemoryStale(self)

    def batch(self) -> "MemoryBatch":
        """A new write."""
        return MemoryBatch(self)

    async def read(
        self, addresses: Sequence[CuboidAddress]
    ) -> AsyncIterator[Sequence[StoredCuboid]]:
        """As `CuboidStore.read`."""
        for first in range(0, len(addresses), READ_PAGE):
            found = self.read_now(addresses[first : first + READ_PAGE])
            if found:
                yield found

    def reread(self, addresses: Sequence[CuboidAddress]) -> AsyncIterator[Sequence[StoredCuboid]]:
        """As `CuboidStore.reread`; there is one copy of everything."""
        return self.read(addresses)

    def read_now(self, addresses: Sequence[CuboidAddress]) -> Sequence[StoredCuboid]:
        """As `CuboidStore.read_now`; never None."""
        return [(a, tuple(self.rows[a])) for a in addresses if a in self.rows]

    async def scan(
        self,
        channel_id: int,
        *,
        pyramid: int | None = None,
        level: int | None = None,
        after: CuboidAddress | None = None,
    ) -> AsyncIterator[Sequence[CuboidAddress]]:
        """As `CuboidStore.scan`; sorts anew for every page, since cuboids may come and go."""
        while True:
            addresses = sorted(
                address
                for address in self.rows
                if address.channel_id == channel_id
                and (pyramid is None or address.pyramid == pyramid)
                and (level is None or address.level == level)
                and (after is None or address > after)
            )
            if not addresses:
                return
            page = addresses[:SCAN_PAGE]
            yield page
            after = page[-1]

    async def versions(self, addresses: Sequence[CuboidAddress]) -> bytes:
        """As `CuboidStore.versions`."""
        return versions_digest(
            (address, b"".join(row.write_id for row in rows))
            for address, rows in self.read_now(addresses)
        )

    async def verify(
        self, addresses: Sequence[CuboidAddress]
    ) -> Sequence[tuple[CuboidAddress, str]]:
        """As `CuboidStore.verify`."""
        damaged = []
        for address, rows in self.read_now(addresses):
            try:
                for row in rows:
                    codec.verify(row.payload, identity=_identity(address, row))
            except CorruptValue as error:
                damaged.append((address, str(error)))
        return damaged

    async def delete_channel(self, channel_id: int) -> int:
        """As `CuboidStore.delete_channel`."""
        return forget(self.rows, lambda address: address.channel_id == channel_id)

    def publish(
        self,
        rows: Sequence[tuple[CuboidAddress, CuboidRow]],
        stale: Collection[CuboidAddress],
        cleared: Sequence[StaleMark] = (),
    ) -> None:
        """Make some rows visible at once, with what they make stale and what they make fresh."""
        gone = self.stale.clear(cleared)
        for address, row in rows:
            if address not in gone:
                bisect.insort(self.rows.setdefault(address, []), row, key=lambda r: r.write_id)
        self.stale.set(stale)


class MemoryBatch:
    """One write of many cuboids; see `CuboidBatch`."""

    def __init__(self, store: MemoryCuboids, cleared: Sequence[StaleMark] = ()) -> None:
        self._store = store
        self._cleared = cleared
        self._rows: list[tuple[CuboidAddress, CuboidRow]] = []
        self._stale: set[CuboidAddress] = set()

    async def add(self, writes: Sequence[CuboidWrite]) -> None:
        """Encode some cuboids."""
        self._rows += await run_cpu(self._encoded, writes)

    def mark_stale(self, addresses: Collection[CuboidAddress]) -> None:
        """As `CuboidBatch.mark_stale`."""
        self._stale.update(addresses)

    async def commit(self) -> None:
        """Make them visible."""
        self._store.publish(self._rows, self._stale, self._cleared)
        self._rows, self._stale, self._cleared = [], set(), ()

    async def strand(self) -> None:
        """Nothing to do: left-over rows are found by looking at all rows."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._rows = []

    def _encoded(self, writes: Sequence[CuboidWrite]) -> list[tuple[CuboidAddress, CuboidRow]]:
        return [
            (write.address, _row(write, self._store.clock.next_id()))
            for write in writes
            # Zeros mean "nothing here", so a row of them would only cost its reader time.
            if write.op in (WriteOp.BASE, WriteOp.REPLACE) or not is_blank(write.voxels)
        ]


class MemoryStale:
    """The `StaleMarks` in a dict of numbers that grow."""

    def __init__(self, cuboids: MemoryCuboids) -> None:
        self._cuboids = cuboids
        self._marks: dict[CuboidAddress, int] = {}
        self._last = 0
        self.bell: Bell[int] = Bell()

    def set(self, addresses: Collection[CuboidAddress]) -> None:
        """Mark some cuboids."""
        for address in addresses:
            self._last += 1
            self._marks[address] = self._last
        for channel_id in {address.channel_id for address in addresses}:
            self.bell.ring(channel_id)

    def clear(self, marks: Sequence[StaleMark]) -> Set[CuboidAddress]:
        """Take some marks away; the cuboids that had none any more."""
        gone = {address for address, _ in marks if address not in self._marks}
        for address, mark in marks:
            if self._marks.get(address) == mark:
                del self._marks[address]
        return gone

    async def mark(self, addresses: Collection[CuboidAddress]) -> None:
        """As `StaleMarks.mark`."""
        self.set(addresses)

    async def marked(self, addresses: Collection[CuboidAddress]) -> Set[CuboidAddress]:
        """As `StaleMarks.marked`."""
        return self._marks.keys() & set(addresses)

    async def scan(
        self, channel_id: int, *, pyramid: int, level: int
    ) -> AsyncIterator[Sequence[StaleMark]]:
        """As `StaleMarks.scan`."""
        after: CuboidAddress | None = None
        while True:
            marks = sorted(
                StaleMark(address, mark)
                for address, mark in self._marks.items()
                if address[:3] == (channel_id, pyramid, level)
                and (after is None or address > after)
            )
            if not marks:
                return
            yield marks[:SCAN_PAGE]
            after = marks[:SCAN_PAGE][-1].address

    async def counts(self, channel_id: int) -> Mapping[tuple[int, int], int]:
        """As `StaleMarks.counts`."""
        mine = (address for address in self._marks if address.channel_id == channel_id)
        return Counter((address.pyramid, address.level) for address in mine)

    async def channels(self) -> Sequence[int]:
        """As `StaleMarks.channels`."""
        return sorted({address.channel_id for address in self._marks})

    def derivation(self, marks: Sequence[StaleMark]) -> MemoryBatch:
        """As `StaleMarks.derivation`."""
        return MemoryBatch(self._cuboids, marks)

    async def delete_channel(self, channel_id: int) -> int:
        """As `StaleMarks.delete_channel`."""
        return forget(self._marks, lambda address: address.channel_id == channel_id)


def _row(write: CuboidWrite, write_id: bytes) -> CuboidRow:
    z, y, x = write.voxels.shape
    row = CuboidRow(write_id, write.op, write.corner_zyx, (z, y, x), b"")
    voxels = without_negative_zeros(write.voxels, write.op)
    payload = codec.encode(voxels, identity=_identity(write.address, row))
    return row._replace(payload=payload)


def _identity(address: CuboidAddress, row: CuboidRow) -> bytes:
    return codec.row_identity(address, row.write_id, row.op, row.corner_zyx, row.shape_zyx)
