"""The `CuboidStore` on Cassandra: cuboids are rows that are appended and merged when read.

Nothing is read before a write and nothing is locked: a write is a row of its own, see ``rows.py``.
Reading is in ``buckets.py``, writing in ``writing.py``; here they meet the protocol.
"""

import contextlib
import itertools
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Sequence

from ndcass.concurrency import as_ready, bounded_map
from ndcass.errors import CorruptValue, StoreUnavailable
from ndcass.store.base import CuboidAddress, StoredCuboid
from ndcass.store.cassandra.buckets import BucketReader, Crowded
from ndcass.store.cassandra.crowding import Crowding
from ndcass.store.cassandra.driver import Consistency, Driver
from ndcass.store.cassandra.layouts import Layout, Layouts
from ndcass.store.cassandra.occupancy import Occupancy
from ndcass.store.cassandra.rows import Bucket, timestamp_us
from ndcass.store.cassandra.stale import CassandraStale
from ndcass.store.cassandra.tables import Tables, batched
from ndcass.store.cassandra.tiers import Tiers, Windows
from ndcass.store.cassandra.writing import CassandraBatch, HeldBytes, RowWriter
from ndcass.store.clock import WriteClock
from ndcass.store.versions import versions_digest

# Buckets that one read has under way.
READS_AT_ONCE = 8
DELETES_AT_ONCE = 16

_DELETE = (
    "DELETE FROM cuboids USING TIMESTAMP ? "
    "WHERE channel=? AND pyramid=? AND level=? AND t=? AND bucket=?"
)


class CassandraCuboids:
    """Cuboids by address; see `store.base.CuboidStore`.

    Attributes
    ----------
    counts : Counter
        What readers met that is no plain read: payloads asked again, damaged ones, ids ahead of
        the clock.
    crowding : Crowding
        Buckets in which readers and writers met cuboids of many rows.
    clock_fault : str
        Why nothing may be written at present; empty if the clock is right.
    """

    def __init__(
        self,
        driver: Driver,
        tiers: Tiers,
        windows: Windows,
        writer: RowWriter,
        *,
        bucket_bits: int | None = None,
    ) -> None:
        self._driver = driver
        self.tiers = tiers
        self.windows = windows
        self.writer = writer
        self.clock = WriteClock()
        self.layouts = Layouts(driver, tiers.meta, bucket_bits=bucket_bits)
        self.occupancy = Occupancy(driver, tiers.meta)
        self.buckets = BucketReader(
            driver, tiers.ingest, tiers.archive, read_window_s=windows.read_window_s
        )
        self.crowding = Crowding()
        self._memory = HeldBytes()
        self.clock_fault = ""
        tables = Tables(driver, keyspace=tiers.meta.keyspace, data_centre=tiers.meta.data_centre)
        self.stale = CassandraStale(tables, self.clock, windows, new_batch=self._batch)

    @property
    def counts(self) -> Counter[str]:
        return self.buckets.counts

    @classmethod
    async def open(
        cls, driver: Driver, tiers: Tiers, windows: Windows, *, bucket_bits: int | None = None
    ) -> "CassandraCuboids":
        """On tables that exist."""
        writer = await RowWriter.prepare(driver, tiers.ingest.keyspace, tiers.ingest.data_centre)
        return cls(driver, tiers, windows, writer, bucket_bits=bucket_bits)

    def batch(self) -> CassandraBatch:
        """As `CuboidStore.batch`."""
        return self._batch(self.clock)

    def _batch(self, clock: WriteClock) -> CassandraBatch:
        if self.clock_fault:
            raise StoreUnavailable(self.clock_fault)
        return CassandraBatch(
            self.writer,
            self.layouts,
            self.occupancy,
            clock,
            self.windows,
            self.stale,
            self._memory,
            wrote=self.crowding.wrote,
        )

    def read_now(self, addresses: Sequence[CuboidAddress]) -> Sequence[StoredCuboid] | None:
        """As `CuboidStore.read_now`: never, since everything is on the other side of a wire."""
        return None

    def read(self, addresses: Sequence[CuboidAddress]) -> AsyncIterator[Sequence[StoredCuboid]]:
        """As `CuboidStore.read`."""
        return self._read(addresses, checked=False)

    def reread(self, addresses: Sequence[CuboidAddress]) -> AsyncIterator[Sequence[StoredCuboid]]:
        """As `CuboidStore.reread`."""
        return self._read(addresses, checked=True)

    async def _read(
        self, addresses: Sequence[CuboidAddress], *, checked: bool
    ) -> AsyncIterator[Sequence[StoredCuboid]]:
        wanted = await self._by_bucket(addresses)

        crowded: list[tuple[Bucket, Layout, Sequence[int]]] = []

        async def read(item: tuple[Bucket, tuple[Layout, list[int]]]) -> list[StoredCuboid]:
            bucket, (layout, mortons) = item
            try:
                return await self._read_bucket(bucket, layout, mortons, checked=checked)
            except Crowded as error:
                crowded.extend((bucket, layout, some) for some in batched(mortons, error.cuboids))
                return []

        reads = as_ready(read, wanted.items(), limit=READS_AT_ONCE)
        async with contextlib.aclosing(reads) as results:
            async for found in results:
                if found:
                    yield found
        # One after the other: each takes as much memory as there is for it.
        while crowded:
            bucket, layout, mortons = crowded.pop()
            found = await read((bucket, (layout, list(mortons))))
            if found:
                yield found

    async def scan(
        self,
        channel_id: int,
        *,
        pyramid: int | None = None,
        level: int | None = None,
        after: CuboidAddress | None = None,
    ) -> AsyncIterator[Sequence[CuboidAddress]]:
        """As `CuboidStore.scan`."""
        layout = await self.layouts.layout(channel_id)
        if layout is None:
            return
        resume = Bucket.of(after, layout.bucket_bits) if after is not None else None
        walk = self.occupancy.walk(channel_id, pyramid=pyramid, level=level, after=resume)
        async for found in walk:
            for buckets in batched(found, READS_AT_ONCE):
                page = await self._occupied(buckets)
                if after is not None:
                    page = [address for address in page if address > after]
                if page:
                    yield page

    async def _occupied(self, buckets: Sequence[Bucket]) -> list[CuboidAddress]:
        """Where some buckets have a cuboid, in order."""
        heads = await bounded_map(self.buckets.heads, buckets, limit=READS_AT_ONCE)
        return [
            bucket.address(morton)
            for bucket, found in zip(buckets, heads, strict=True)
            for morton, cuboid in found.items()
            # A base that was not met is there all the same: its pointer moved while pages came.
            if cuboid.valid or cuboid.pointer is not None
        ]

    async def versions(self, addresses: Sequence[CuboidAddress]) -> bytes:
        """As `CuboidStore.versions`, from a quorum's headers: they have every acknowledged write.

        A fold changes it, for a base stands for other rows than before.
        """
        wanted = await self._by_bucket(addresses)

        async def look(
            item: tuple[Bucket, tuple[Layout, list[int]]],
        ) -> list[tuple[CuboidAddress, bytes]]:
            bucket, (_, mortons) = item
            heads = await self.buckets.heads(bucket, mortons)
            named = ((bucket.address(morton), cuboid.version) for morton, cuboid in heads.items())
            return [(address, version) for address, version in named if version]

        found = await bounded_map(look, list(wanted.items()), limit=READS_AT_ONCE)
        return versions_digest(itertools.chain.from_iterable(found))

    async def verify(
        self, addresses: Sequence[CuboidAddress]
    ) -> Sequence[tuple[CuboidAddress, str]]:
        """As `CuboidStore.verify`; a cuboid is damaged if no replica has it whole."""
        wanted = await self._by_bucket(addresses)

        async def check(
            item: tuple[Bucket, tuple[Layout, list[int]]],
        ) -> list[tuple[CuboidAddress, str]]:
            bucket, (layout, mortons) = item
            return await self._verify_bucket(bucket, layout, mortons)

        results = await bounded_map(check, list(wanted.items()), limit=READS_AT_ONCE)
        return sorted(damaged for found in results for damaged in found)

    async def delete_channel(self, channel_id: int) -> int:
        """As `CuboidStore.delete_channel`."""
        count = 0
        async for page in self.scan(channel_id):
            count += len(page)
        stamp = timestamp_us(self.clock.next_id())
        statements = [
            await self._driver.prepare(
                _DELETE, keyspace=tier.keyspace, data_centre=tier.data_centre
            )
            for tier in self.buckets.tiers
        ]

        async def delete(bucket: Bucket) -> None:
            for statement in statements:
                await self._driver.execute(
                    statement, (stamp, *bucket), consistency=Consistency.LOCAL_QUORUM
                )

        async for buckets in self.occupancy.walk(channel_id):
            await bounded_map(delete, buckets, limit=DELETES_AT_ONCE)
        await self.occupancy.forget(channel_id)
        await self.layouts.forget(channel_id)
        return count

    async def _by_bucket(
        self, addresses: Sequence[CuboidAddress]
    ) -> dict[Bucket, tuple[Layout, list[int]]]:
        """Wanted Morton codes by bucket, ascending; channels without a layout hold nothing."""
        layouts = {
            channel_id: await self.layouts.layout(channel_id)
            for channel_id in {address.channel_id for address in addresses}
        }
        mortons: defaultdict[Bucket, set[int]] = defaultdict(set)
        for address in addresses:
            layout = layouts[address.channel_id]
            if layout is not None:
                mortons[Bucket.of(address, layout.bucket_bits)].add(address.morton)
        wanted: dict[Bucket, tuple[Layout, list[int]]] = {}
        for bucket, found in mortons.items():
            layout = layouts[bucket.channel_id]
            assert layout is not None
            wanted[bucket] = (layout, sorted(found))
        return wanted

    async def _read_bucket(
        self, bucket: Bucket, layout: Layout, mortons: list[int], *, checked: bool
    ) -> list[StoredCuboid]:
        found = await self.buckets.rows(
            bucket, mortons, cuboid_bytes=layout.cuboid_bytes, checked=checked
        )
        latest = None
        for rows, heads in found.values():
            self.crowding.met(bucket, len(rows))
            last = max(head.write_id for head in heads.valid)
            latest = last if latest is None or last > latest else latest
        ahead_ms = max(1, 2 * self.windows.max_clock_skew_ms)
        if latest is not None and not self.clock.observe(latest, max_ahead_ms=ahead_ms):
            self.counts["ids_ahead"] += 1
        return [(bucket.address(morton), rows) for morton, (rows, _) in found.items()]

    async def _verify_bucket(
        self, bucket: Bucket, layout: Layout, mortons: list[int]
    ) -> list[tuple[CuboidAddress, str]]:
        """The damaged cuboids of a bucket; one by one where the bucket as a whole is not well."""
        try:
            await self._read_bucket(bucket, layout, mortons, checked=True)
        except (CorruptValue, Crowded) as error:
            if len(mortons) == 1:  # which is never crowded
                return [(bucket.address(mortons[0]), str(error))]
        else:
            return []
        return [
            damaged
            for morton in mortons
            for damaged in await self._verify_bucket(bucket, layout, [morton])
        ]
