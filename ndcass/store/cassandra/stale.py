"""Which derived cuboids are stale, in tables: see schema/014_stale.cql.

A write and its marks are no transaction here. So a mark goes through two states: *pending* before
the voxels are sent, *settled* once they are acknowledged. Settled marks may be cleared by whoever
rebuilds at once. A pending one is of a write that is under way, or of one that died half-way: its
voxels may still come, and it may only be cleared when it is so old that they no longer can.

Who rebuilds reads the marks, waits until its clock is past that of everybody who took an id
before, takes the id of what it is going to write, and then reads the sources. So of two who rebuild
the same cuboid the one that saw more has the later id, whichever is written last.
"""

import asyncio
import contextlib
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping, Sequence, Set
from typing import NamedTuple

from ndcass.bell import Bell
from ndcass.concurrency import bounded_map
from ndcass.store.base import CuboidAddress, StaleMark
from ndcass.store.cassandra.rows import timestamp_us
from ndcass.store.cassandra.tables import Entry, Tables, batched
from ndcass.store.cassandra.tiers import Windows
from ndcass.store.cassandra.writing import CassandraBatch
from ndcass.store.clock import WriteClock, milliseconds_of

# Cuboids in one partition, as a power of two.
PREFIX_BITS = 14
# Partitions that are read or written at once, rows in one write, and cuboids asked for in one read.
AT_ONCE = 16
ROWS = 512
ASKED = 100
PAGE_ROWS = 1024
# Pending marks are set anew this often in a write window, and count as those of a dead write after
# so many: a piece of voxels is sent at most one window after it was begun.
RENEWALS_A_WINDOW = 2
DEAD_AFTER_WINDOWS = 2
# What a deletion is later than the row, in microseconds.
_LATER_US = 1

_KEY = "channel=? AND pyramid=? AND level=? AND t=? AND prefix=?"
_ROOT = (
    "INSERT INTO stale_roots (channel, pyramid, level, t, prefix)"
    " VALUES (?, ?, ?, ?, ?) USING TIMESTAMP ?"
)
_ROOTS = "SELECT pyramid, level, t, prefix FROM stale_roots WHERE channel=?"
_CHANNELS = "SELECT DISTINCT channel FROM stale_roots"
_FORGET_ROOT = (
    "DELETE FROM stale_roots USING TIMESTAMP ?"
    " WHERE channel=? AND pyramid=? AND level=? AND t=? AND prefix=?"
)
_MARK = (
    "INSERT INTO stale_marks (channel, pyramid, level, t, prefix, morton, mark, settled)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?) USING TIMESTAMP ?"
)
_CLEAR = f"DELETE FROM stale_marks USING TIMESTAMP ? WHERE {_KEY} AND morton=? AND mark=?"
_MARKS = f"SELECT morton, mark, settled FROM stale_marks WHERE {_KEY}"
_SOME = f"SELECT morton FROM stale_marks WHERE {_KEY} AND morton IN ?"
_RANGE = f"SELECT morton FROM stale_marks WHERE {_KEY} AND morton>=? AND morton<=?"
_ANY = f"SELECT morton FROM stale_marks WHERE {_KEY} LIMIT 1"
_FORGET = f"DELETE FROM stale_marks WHERE {_KEY}"


class _Root(NamedTuple):
    """A partition of the marks."""

    channel_id: int
    pyramid: int
    level: int
    t: int
    prefix: int

    @classmethod
    def of(cls, address: CuboidAddress) -> "_Root":
        return cls(*address[:4], address.morton >> PREFIX_BITS)

    def address(self, morton: int) -> CuboidAddress:
        return CuboidAddress(*self[:4], morton)


class CassandraStale:
    """The `StaleMarks` in tables.

    Parameters
    ----------
    new_batch : callable
        Makes a write whose rows all get the ids of a clock.
    """

    def __init__(
        self,
        tables: Tables,
        clock: WriteClock,
        windows: Windows,
        *,
        new_batch: Callable[["FixedClock"], CassandraBatch],
    ) -> None:
        self._tables = tables
        self._clock = clock
        self._windows = windows
        self._new_batch = new_batch
        self.bell: Bell[int] = Bell()

    # -- setting

    async def mark(self, addresses: Collection[CuboidAddress]) -> None:
        """As `StaleMarks.mark`."""
        await self.set(addresses, settled=True)

    async def set(self, addresses: Collection[CuboidAddress], *, settled: bool) -> bytes:
        """Mark some cuboids; the id of the marks."""
        mark = self._clock.next_id()
        stamp = timestamp_us(mark)
        by_root = _by_root(addresses)

        async def note(root: _Root) -> None:
            await self._tables.write(_ROOT, *root, stamp)

        await bounded_map(note, list(by_root), limit=AT_ONCE)
        await self._write(
            (_MARK, (*root, morton, mark, settled, stamp))
            for root, mortons in by_root.items()
            for morton in mortons
        )
        if settled:
            for channel_id in {address.channel_id for address in addresses}:
                self.bell.ring(channel_id)
        return mark

    async def clear(self, marks: Iterable[tuple[CuboidAddress, Sequence[bytes]]]) -> None:
        """Take away rows that were read, or that this process set."""
        await self._write(
            (_CLEAR, (timestamp_us(mark) + _LATER_US, *_Root.of(address), address.morton, mark))
            for address, found in marks
            for mark in found
        )

    async def _write(self, entries: Iterable[Entry]) -> None:
        """Changes of many partitions, those of one together."""
        by_root: defaultdict[object, list[Entry]] = defaultdict(list)
        for cql, values in entries:
            at = 1 if cql is _CLEAR else 0
            by_root[tuple(values[at : at + 5])].append((cql, values))
        groups = [group for found in by_root.values() for group in batched(found, ROWS)]
        await bounded_map(self._tables.write_together, groups, limit=AT_ONCE)

    def pending(self, addresses: Collection[CuboidAddress]) -> "PendingMarks":
        """The marks of a write that is about to be sent."""
        return PendingMarks(self, addresses, self._windows.write_window_s / RENEWALS_A_WINDOW)

    # -- reading

    async def marked(self, addresses: Collection[CuboidAddress]) -> Set[CuboidAddress]:
        """As `StaleMarks.marked`."""

        async def ask(question: tuple[_Root, list[int]]) -> set[CuboidAddress]:
            root, mortons = question
            if len(mortons) <= ASKED:
                rows = await self._tables.rows(_SOME, *root, mortons)
                return {root.address(morton) for (morton,) in rows}
            # So many that most of what lies between them is wanted, too.
            wanted = set(mortons)
            rows = await self._tables.rows(
                _RANGE, *root, min(mortons), max(mortons), page_rows=PAGE_ROWS
            )
            return {root.address(morton) for (morton,) in rows if morton in wanted}

        answers = await bounded_map(ask, list(_by_root(addresses).items()), limit=AT_ONCE)
        return {address for found in answers for address in found}

    async def scan(
        self, channel_id: int, *, pyramid: int, level: int
    ) -> AsyncIterator[Sequence[StaleMark]]:
        """As `StaleMarks.scan`."""
        for root in await self._roots(channel_id):
            if (root.pyramid, root.level) != (pyramid, level):
                continue
            async for page in self._pages(root):
                marks = [StaleMark(root.address(m), found) for m, found in page.items() if found]
                if marks:
                    yield marks

    async def _pages(self, root: _Root) -> AsyncIterator[dict[int, list[bytes]]]:
        """The cuboids of a partition that have marks, each with those that may be cleared."""
        dead_ms = self._clock.now_ms() - 1000 * DEAD_AFTER_WINDOWS * self._windows.write_window_s
        dead_ms -= 2 * self._windows.max_clock_skew_ms
        pages = self._tables.pages(_MARKS, *root, page_rows=PAGE_ROWS)
        async with contextlib.aclosing(pages):
            async for page in pages:
                # Marks of one cuboid may be in two pages; then it comes twice, which does no harm.
                found: dict[int, list[bytes]] = {}
                for morton, mark, settled in page:
                    marks = found.setdefault(morton, [])
                    if settled or milliseconds_of(mark) < dead_ms:
                        marks.append(mark)
                yield found

    async def counts(self, channel_id: int) -> Mapping[tuple[int, int], int]:
        """As `StaleMarks.counts`."""
        counts: Counter[tuple[int, int]] = Counter()
        for root in await self._roots(channel_id):
            last = -1  # the marks of a cuboid may be in two pages
            async for page in self._pages(root):
                counts[root.pyramid, root.level] += len(page) - (last in page)
                last = max(page, default=last)
        return +counts

    async def channels(self) -> Sequence[int]:
        """As `StaleMarks.channels`; forgets partitions that have been empty for a while."""
        rows = await self._tables.rows(_CHANNELS, page_rows=PAGE_ROWS)
        channel_ids = sorted(channel_id for (channel_id,) in rows)
        return [channel_id for channel_id in channel_ids if await self._has_any(channel_id)]

    async def _has_any(self, channel_id: int) -> bool:
        # Whoever noted a partition before this has set its marks by now, or never will.
        windows_s = DEAD_AFTER_WINDOWS * self._windows.write_window_s
        before_us = round(1000 * (self._clock.now_ms() - 1000 * windows_s))
        before_us -= 2000 * self._windows.max_clock_skew_ms
        found = False
        for root in await self._roots(channel_id):
            if await self._tables.rows(_ANY, *root):
                found = True
            else:
                await self._tables.write(_FORGET_ROOT, before_us, *root)
        return found

    async def _roots(self, channel_id: int) -> list[_Root]:
        rows = await self._tables.rows(_ROOTS, channel_id, page_rows=PAGE_ROWS)
        return [_Root(channel_id, *row) for row in rows]

    # -- rebuilding, deleting

    def derivation(self, marks: Sequence[StaleMark]) -> CassandraBatch:
        """As `StaleMarks.derivation`."""
        clock = FixedClock(self._clock, wait_ms=2 * self._windows.max_clock_skew_ms)
        batch = self._new_batch(clock)
        batch.clears(marks, clock)
        return batch

    async def delete_channel(self, channel_id: int) -> int:
        """As `StaleMarks.delete_channel`."""
        count = sum((await self.counts(channel_id)).values())
        for root in await self._roots(channel_id):
            await self._tables.write(_FORGET, *root)
            await self._tables.write(_FORGET_ROOT, timestamp_us(self._clock.next_id()), *root)
        return count


class PendingMarks:
    """The marks of one write while its voxels are sent."""

    def __init__(
        self, stale: CassandraStale, addresses: Collection[CuboidAddress], renew_after_s: float
    ) -> None:
        self._stale = stale
        self._addresses = addresses
        self._renew_after_s = renew_after_s
        self._marks: list[bytes] = []
        self._set_at_s = 0.0
        self._setting = asyncio.Lock()

    async def keep(self) -> None:
        """Have marks that are young enough, before a piece of the voxels is sent."""
        if not self._addresses:
            return
        async with self._setting:
            loop = asyncio.get_running_loop()
            if not self._marks or loop.time() > self._set_at_s + self._renew_after_s:
                at_s = loop.time()
                self._marks.append(await self._stale.set(self._addresses, settled=False))
                self._set_at_s = at_s

    async def settle(self) -> None:
        """Once all voxels are acknowledged."""
        if self._addresses:
            await self._stale.set(self._addresses, settled=True)
            await self._stale.clear((address, self._marks) for address in self._addresses)


class FixedClock(WriteClock):
    """Makes one id, once it is told to, and gives it to every row of a derivation."""

    def __init__(self, clock: WriteClock, *, wait_ms: int) -> None:
        super().__init__(clock.now_ms)
        self._clock = clock
        self._wait_ms = wait_ms
        self._id = b""

    async def take(self) -> None:
        """Wait until no other clock is behind, then take the id."""
        await asyncio.sleep(self._wait_ms / 1000)
        self._id = self._clock.next_id()

    def next_id(self) -> bytes:
        """The id."""
        return self._id


def _by_root(addresses: Iterable[CuboidAddress]) -> dict[_Root, list[int]]:
    """The Morton codes of each partition, ascending, each once."""
    found: defaultdict[_Root, set[int]] = defaultdict(set)
    for address in addresses:
        found[_Root.of(address)].add(address.morton)
    return {root: sorted(mortons) for root, mortons in found.items()}
