"""Which buckets hold anything: noted before a write that needs it, walked instead of the grid."""

from collections import defaultdict
from collections.abc import AsyncIterator, Iterable

from ndcass.concurrency import bounded_map
from ndcass.store.cassandra.driver import Consistency, Driver, Statement
from ndcass.store.cassandra.rows import Bucket
from ndcass.store.cassandra.tiers import Tier

# Buckets in one partition of the table, as a power of two; see schema/011_occupancy.cql.
PREFIX_BITS = 14
# Buckets that are known to be noted; beyond that some are noted again, which does no harm.
MOST_REMEMBERED = 1 << 18
WRITES_AT_ONCE = 16
# Entries in one write.
ENTRIES = 512
PAGE_ROWS = 256

_ROOT = "INSERT INTO occupancy_roots (channel, pyramid, level, t, prefix) VALUES (?, ?, ?, ?, ?)"
_ENTRY = (
    "INSERT INTO occupancy (channel, pyramid, level, t, prefix, bucket) VALUES (?, ?, ?, ?, ?, ?)"
)
_ROOTS = "SELECT pyramid, level, t, prefix FROM occupancy_roots WHERE channel=?"
_CHANNELS = "SELECT DISTINCT channel FROM occupancy_roots"
_ENTRIES = (
    "SELECT bucket FROM occupancy "
    "WHERE channel=? AND pyramid=? AND level=? AND t=? AND prefix=? AND bucket>=?"
)
_FORGET_ROOTS = "DELETE FROM occupancy_roots WHERE channel=?"
_FORGET = "DELETE FROM occupancy WHERE channel=? AND pyramid=? AND level=? AND t=? AND prefix=?"

# A partition of the table: channel, pyramid, level, timestep, prefix.
_Root = tuple[int, int, int, int, int]


class Occupancy:
    """The tables ``occupancy`` and ``occupancy_roots``."""

    def __init__(self, driver: Driver, tier: Tier) -> None:
        self._driver = driver
        self._tier = tier
        self._noted: set[Bucket] = set()
        self._rooted: set[_Root] = set()

    async def note(self, buckets: Iterable[Bucket], *, again: bool = False) -> None:
        """Have entries for these buckets at quorum; nothing to do for those noted before.

        With `again` they are written whatever was noted: somebody may have forgotten them since.
        """
        missing: defaultdict[_Root, list[Bucket]] = defaultdict(list)
        for bucket in buckets:
            if again or bucket not in self._noted:
                missing[_root(bucket)].append(bucket)
        if not missing:
            return
        roots = [root for root in missing if again or root not in self._rooted]
        await bounded_map(self._note_root, roots, limit=WRITES_AT_ONCE)
        groups = [
            (root, found[at : at + ENTRIES])
            for root, found in missing.items()
            for at in range(0, len(found), ENTRIES)
        ]
        await bounded_map(self._note_entries, groups, limit=WRITES_AT_ONCE)
        if len(self._noted) > MOST_REMEMBERED:
            self._noted.clear()
            self._rooted.clear()
        self._rooted.update(roots)
        self._noted.update(bucket for found in missing.values() for bucket in found)

    async def walk(
        self,
        channel_id: int,
        *,
        pyramid: int | None = None,
        level: int | None = None,
        after: Bucket | None = None,
    ) -> AsyncIterator[list[Bucket]]:
        """The noted buckets of a channel or a level of it, in order, in pages; from `after` on.

        `after` itself comes too. Buckets that are noted meanwhile may or may not come.
        """
        roots = await self._prepared(_ROOTS)
        entries = await self._prepared(_ENTRIES)
        least = _root(after) if after is not None else None
        async for page in self._driver.pages(
            roots, (channel_id,), consistency=Consistency.LOCAL_QUORUM, page_rows=PAGE_ROWS
        ):
            for row in page:
                root: _Root = (channel_id, *row)
                if pyramid not in (None, root[1]) or level not in (None, root[2]):
                    continue
                if least is not None and root < least:
                    continue
                first = after.bucket if after is not None and root == least else 0
                async for found in self._driver.pages(
                    entries,
                    (*root, first),
                    consistency=Consistency.LOCAL_QUORUM,
                    page_rows=PAGE_ROWS,
                ):
                    if found:
                        yield [Bucket(*root[:4], bucket) for (bucket,) in found]

    async def channel_ids(self) -> set[int]:
        """Every channel that has an entry."""
        statement = await self._prepared(_CHANNELS)
        found: set[int] = set()
        async for page in self._driver.pages(
            statement, (), consistency=Consistency.LOCAL_QUORUM, page_rows=PAGE_ROWS
        ):
            found.update(channel_id for (channel_id,) in page)
        return found

    async def forget(self, channel_id: int) -> None:
        """Drop all entries of a channel; its cuboids are gone already."""
        roots = await self._prepared(_ROOTS)
        forget = await self._prepared(_FORGET)
        for row in await self._driver.execute(
            roots, (channel_id,), consistency=Consistency.LOCAL_QUORUM
        ):
            await self._driver.execute(
                forget, (channel_id, *row), consistency=Consistency.LOCAL_QUORUM
            )
        await self._driver.execute(
            await self._prepared(_FORGET_ROOTS),
            (channel_id,),
            consistency=Consistency.LOCAL_QUORUM,
        )
        self._noted = {bucket for bucket in self._noted if bucket.channel_id != channel_id}
        self._rooted = {root for root in self._rooted if root[0] != channel_id}

    async def _note_root(self, root: _Root) -> None:
        statement = await self._prepared(_ROOT)
        await self._driver.execute(statement, root, consistency=Consistency.LOCAL_QUORUM)

    async def _note_entries(self, group: tuple[_Root, list[Bucket]]) -> None:
        root, buckets = group
        statement = await self._prepared(_ENTRY)
        await self._driver.execute_batch(
            [(statement, (*root, bucket.bucket)) for bucket in buckets],
            consistency=Consistency.LOCAL_QUORUM,
        )

    async def _prepared(self, cql: str) -> Statement:
        return await self._driver.prepare(
            cql, keyspace=self._tier.keyspace, data_centre=self._tier.data_centre
        )


def _root(bucket: Bucket) -> _Root:
    return (*bucket[:4], bucket.bucket >> PREFIX_BITS)
