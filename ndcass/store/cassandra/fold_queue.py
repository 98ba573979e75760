"""Which buckets are worth a visit, and who visits them: two small tables.

A bucket is noted when somebody met a cuboid of many rows in it, or before it is folded, and taken
out when nothing of it is left to fold or to sweep: whoever dies in between leaves the note behind.
Notes may come twice, be lost (readers will note again) or be about nothing; leases save work that
would be done twice. Nothing that is right or wrong hangs on either.
"""

import zlib
from collections.abc import AsyncIterator, Iterable, Sequence
from typing import NamedTuple

from ndcass.errors import TransactionUnknown
from ndcass.store.cassandra.rows import Bucket
from ndcass.store.cassandra.tables import Entry, Tables
from ndcass.store.clock import wall_clock_ms

# Partitions of the queue, each visited by one process at a time.
SHARDS = 4
PAGE_ROWS = 200
# Buckets in one write.
ENTRIES = 200

_NOTE = (
    "INSERT INTO fold_queue (shard, channel, pyramid, level, t, bucket, noted_ms) "
    "VALUES (?, ?, ?, ?, ?, ?, ?) USING TIMESTAMP ?"
)
_NOTED = "SELECT channel, pyramid, level, t, bucket, noted_ms FROM fold_queue WHERE shard=?"
_FORGET = (
    "DELETE FROM fold_queue USING TIMESTAMP ? "
    "WHERE shard=? AND channel=? AND pyramid=? AND level=? AND t=? AND bucket=?"
)
_COUNT = "SELECT COUNT(*) FROM fold_queue WHERE shard=?"
_TAKE = "INSERT INTO fold_leases (name, owner) VALUES (?, ?) IF NOT EXISTS USING TTL ?"
_KEEP = "UPDATE fold_leases USING TTL ? SET owner=? WHERE name=? IF owner=?"
_GIVE = "DELETE FROM fold_leases WHERE name=? IF owner=?"


class Noted(NamedTuple):
    """An entry of the queue."""

    bucket: Bucket
    noted_ms: int


def shard_of(bucket: Bucket) -> int:
    """In which partition of the queue a bucket is."""
    return zlib.crc32(b",".join(b"%d" % part for part in bucket)) % SHARDS


class FoldQueue:
    """The tables ``fold_queue`` and ``fold_leases``.

    Parameters
    ----------
    owner : str
        The name of this process; no two that live at the same time share one.
    """

    def __init__(self, tables: Tables, *, owner: str) -> None:
        self._tables = tables
        self._owner = owner
        self._held: set[str] = set()

    async def note(self, buckets: Iterable[Bucket]) -> None:
        """Have entries for some buckets, at quorum."""
        now = wall_clock_ms()
        shards: dict[int, list[Bucket]] = {}
        for bucket in buckets:
            shards.setdefault(shard_of(bucket), []).append(bucket)
        for shard, found in shards.items():
            for at in range(0, len(found), ENTRIES):
                await self._tables.write_together(
                    [
                        (_NOTE, (shard, *bucket, now, now * 1000))
                        for bucket in found[at : at + ENTRIES]
                    ]
                )

    async def noted(self, shard: int) -> AsyncIterator[Sequence[Noted]]:
        """The entries of a shard, in pages."""
        async for page in self._tables.pages(_NOTED, shard, page_rows=PAGE_ROWS):
            yield [Noted(Bucket(*row[:5]), row[5]) for row in page]

    async def forget(self, noted: Noted) -> None:
        """Take an entry out, unless it was noted again since."""
        stamp = noted.noted_ms * 1000
        await self._tables.write(_FORGET, stamp, shard_of(noted.bucket), *noted.bucket)

    async def count(self) -> int:
        """How many entries there are."""
        return sum([(await self._tables.rows(_COUNT, shard))[0][0] for shard in range(SHARDS)])

    # -- leases

    async def hold(self, name: str, lease_s: int) -> bool:
        """Take a lease or prolong it; whether it is ours."""
        if name in self._held:
            entry: Entry = (_KEEP, (lease_s, self._owner, name, self._owner))
        else:
            entry = (_TAKE, (name, self._owner, lease_s))
        try:
            is_ours = (await self._tables.transact(entry)).applied
        except TransactionUnknown:
            is_ours = False
        if is_ours:
            self._held.add(name)
        else:
            self._held.discard(name)
        return is_ours

    async def let_go(self) -> None:
        """Give all leases back."""
        held, self._held = self._held, set()
        for name in held:
            await self._tables.transact((_GIVE, (name, self._owner)))
