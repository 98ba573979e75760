"""The label index on Cassandra: a partition for every label of a level.

An entry is only dropped if it is the one that was read: it is deleted with the time that it was
written at, so that an append that came meanwhile, being later, survives.
"""

from collections import defaultdict
from collections.abc import AsyncIterator, Mapping, Sequence

from ndcass.concurrency import bounded_map
from ndcass.store.base import LABEL_WINDOW_S
from ndcass.store.cassandra.stamps import Stamps
from ndcass.store.cassandra.tables import Entry, Tables, batched

# Messages that are under way at once.
WRITTEN_AT_ONCE = 64
# Entries of one label in one message, some ten kilobytes; and of several, of which the node that
# takes the message sends each to its replicas.
ENTRIES_AT_ONCE = 500
SCATTERED_AT_ONCE = 100
PAGE_ROWS = 5000
# Labels known to be registered: so many are remembered by a process, in some ten megabytes.
MOST_REMEMBERED = 100_000
SHARDS = 16

_APPEND = (
    "INSERT INTO labels (channel_id, level, label, t, morton, noted)"
    " VALUES (?, ?, ?, ?, ?, true) USING TIMESTAMP ?"
)
_LIST = (
    "SELECT t, morton, WRITETIME(noted) FROM labels"
    " WHERE channel_id = ? AND level = ? AND label = ?"
)
_IS_LISTED = f"{_LIST} LIMIT 1"
_LIST_SOME = f"{_LIST} AND (t, morton) IN ?"
_DISCARD = (
    "DELETE FROM labels USING TIMESTAMP ?"
    " WHERE channel_id = ? AND level = ? AND label = ? AND t = ? AND morton = ?"
)
_DELETE = "DELETE FROM labels USING TIMESTAMP ? WHERE channel_id = ? AND level = ? AND label = ?"

_REGISTER = "INSERT INTO channel_labels (channel_id, shard, level, label) VALUES (?, ?, ?, ?)"
_REGISTERED = "SELECT level, label FROM channel_labels WHERE channel_id = ? AND shard = ?"
_UNREGISTER = "DELETE FROM channel_labels WHERE channel_id = ? AND shard = ?"


class NotedCuboid(tuple[int, int]):
    """(timestep, Morton code) as an entry was read: it knows when it was written."""

    written_us: int

    @classmethod
    def of(cls, t: int, morton: int, written_us: int) -> "NotedCuboid":
        noted = cls((t, morton))
        noted.written_us = written_us
        return noted


class CassandraLabels:
    """The `LabelIndex` in a table."""

    def __init__(self, tables: Tables, stamps: Stamps, *, window_s: float = LABEL_WINDOW_S) -> None:
        self._tables = tables
        self._stamps = stamps
        self._window_s = window_s
        self._registered: set[tuple[int, int, int]] = set()

    @property
    def window_s(self) -> float:
        """As `LabelIndex.window_s`: the write window, and what clocks may differ by."""
        return self._window_s + self._stamps.skew_us / 1e6

    async def append(
        self, channel_id: int, level: int, t: int, mortons_of: Mapping[int, Sequence[int]]
    ) -> None:
        """As `LabelIndex.append`."""
        # int(): codes and labels may come as numpy's.
        labels = {int(label): mortons for label, mortons in mortons_of.items() if len(mortons)}
        await self._register(channel_id, level, labels)
        stamp_us = self._stamps.next_us()
        entries = [
            (_APPEND, (channel_id, level, label, t, int(morton), stamp_us))
            for label, mortons in labels.items()
            for morton in mortons
        ]
        batches = list(batched(entries, SCATTERED_AT_ONCE))
        await bounded_map(self._tables.write_together, batches, limit=WRITTEN_AT_ONCE)
        await self._stamps.passed(stamp_us)

    async def _register(self, channel_id: int, level: int, labels: Mapping[int, object]) -> None:
        """Note which labels there are before their first entry."""
        new = [label for label in labels if (channel_id, level, label) not in self._registered]
        by_shard: defaultdict[int, list[Entry]] = defaultdict(list)
        for label in new:
            shard = label % SHARDS
            by_shard[shard].append((_REGISTER, (channel_id, shard, level, label)))
        batches = [
            some for entries in by_shard.values() for some in batched(entries, ENTRIES_AT_ONCE)
        ]
        await bounded_map(self._tables.write_together, batches, limit=WRITTEN_AT_ONCE)
        if len(self._registered) + len(new) > MOST_REMEMBERED:
            self._registered.clear()
        self._registered.update((channel_id, level, label) for label in new[:MOST_REMEMBERED])

    async def mortons(self, channel_id: int, level: int, label: int) -> Sequence[tuple[int, int]]:
        """As `LabelIndex.mortons`; entries that `discard` takes back as they are."""
        rows = await self._tables.rows(_LIST, channel_id, level, int(label), page_rows=PAGE_ROWS)
        return [NotedCuboid.of(*row) for row in rows]

    async def listed(self, channel_id: int, level: int, labels: Sequence[int]) -> set[int]:
        """As `LabelIndex.listed`."""

        async def is_listed(label: int) -> bool:
            return bool(await self._tables.rows(_IS_LISTED, channel_id, level, int(label)))

        found = await bounded_map(is_listed, labels, limit=WRITTEN_AT_ONCE)
        return {label for label, it_is in zip(labels, found, strict=True) if it_is}

    async def missing(
        self, channel_id: int, level: int, t: int, mortons_of: Mapping[int, Sequence[int]]
    ) -> Mapping[int, Sequence[int]]:
        """As `LabelIndex.missing`."""

        async def missing(asked: tuple[int, list[int]]) -> tuple[int, list[int]]:
            label, mortons = asked
            key = (channel_id, level, int(label), [(t, int(morton)) for morton in mortons])
            there = {morton for _, morton, _ in await self._tables.rows(_LIST_SOME, *key)}
            return label, [morton for morton in mortons if int(morton) not in there]

        asked = [
            (label, list(some))
            for label, mortons in mortons_of.items()
            for some in batched(mortons, ENTRIES_AT_ONCE)
        ]
        found: defaultdict[int, list[int]] = defaultdict(list)
        for label, mortons in await bounded_map(missing, asked, limit=WRITTEN_AT_ONCE):
            found[label] += mortons
        return {label: mortons for label, mortons in found.items() if mortons}

    async def labels(self, channel_id: int, level: int) -> AsyncIterator[Sequence[int]]:
        """As `LabelIndex.labels`: those that were registered, which they stay."""
        for shard in range(SHARDS):
            pages = self._tables.pages(_REGISTERED, channel_id, shard, page_rows=PAGE_ROWS)
            async for page in pages:
                yield [int(label) for its_level, label in page if its_level == level]

    async def discard(
        self,
        channel_id: int,
        level: int,
        label: int,
        cuboids: Sequence[tuple[int, int]],
        *,
        older_than_s: float = 0.0,
    ) -> None:
        """As `LabelIndex.discard`.

        Of cuboids that came from `mortons`, only the entries that it read; of others, those that
        are there now.
        """
        key = (channel_id, level, int(label))
        noted = [cuboid for cuboid in cuboids if isinstance(cuboid, NotedCuboid)]
        others = [cuboid for cuboid in cuboids if not isinstance(cuboid, NotedCuboid)]
        for some in batched(others, ENTRIES_AT_ONCE):
            asked = [(int(t), int(morton)) for t, morton in some]
            noted += [
                NotedCuboid.of(*row) for row in await self._tables.rows(_LIST_SOME, *key, asked)
            ]
        # One so new that another gateway's clock may not have come so far: an append from there
        # would be deleted with it. It may stay, since readers verify what they find.
        passed_us = self._stamps.now_us() - max(self._stamps.skew_us, round(older_than_s * 1e6))
        entries = [(_DISCARD, (c.written_us, *key, *c)) for c in noted if c.written_us <= passed_us]
        batches = list(batched(entries, ENTRIES_AT_ONCE))
        await bounded_map(self._tables.write_together, batches, limit=WRITTEN_AT_ONCE)

    async def delete_channel(self, channel_id: int) -> int:
        """Forget every entry of a channel; how many there were. May be run again."""

        async def delete(key: tuple[int, int, int]) -> int:
            count = 0
            async for page in self._tables.pages(_LIST, *key, page_rows=PAGE_ROWS):
                count += len(page)
            await self._tables.write(_DELETE, self._stamps.next_us(), *key)
            return count

        count = 0
        for shard in range(SHARDS):
            pages = self._tables.pages(_REGISTERED, channel_id, shard, page_rows=PAGE_ROWS)
            async for page in pages:
                keys = [(channel_id, level, label) for level, label in page]
                count += sum(await bounded_map(delete, keys, limit=WRITTEN_AT_ONCE))
            # Behind its labels, which nobody could find otherwise if this is interrupted.
            await self._tables.write(_UNREGISTER, channel_id, shard)
        self._registered = {key for key in self._registered if key[0] != channel_id}
        return count
