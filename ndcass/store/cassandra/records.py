"""Side records on Cassandra: a partition each, its value in parts, and a list of those there are.

A put or a delete writes both tables with the one time that it took at its beginning, so whichever
of two that overlap has the later time wins in both. A put notes its key before the value, a delete
drops the value before the key: if one is interrupted, a key without a value may be left, but no
value that nobody finds.
"""

from collections.abc import Sequence

from ndcass.store.base import MAX_RECORD_BYTES, MOST_RECORD_KEYS
from ndcass.store.cassandra.stamps import Stamps
from ndcass.store.cassandra.tables import Tables, batched
from ndcass.store.values import check_record

# A cell that a node reads, sends and compacts as a whole (schema/060_side_records.cql).
PART_BYTES = 256 << 10
# All parts in one page, or a value could be put together from those of two puts.
PAGE_PARTS = MAX_RECORD_BYTES // PART_BYTES + 1
PAGE_ROWS = 5000

_OF_ONE = "WHERE channel_id = ? AND kind = ? AND key = ?"
_PUT = (
    "INSERT INTO side_records (channel_id, kind, key, part, value)"
    " VALUES (?, ?, ?, ?, ?) USING TIMESTAMP ?"
)
_GET = f"SELECT value FROM side_records {_OF_ONE}"
_DROP = f"DELETE FROM side_records USING TIMESTAMP ? {_OF_ONE}"

_NOTE = "INSERT INTO side_record_keys (channel_id, kind, key) VALUES (?, ?, ?) USING TIMESTAMP ?"
_KEYS = "SELECT key FROM side_record_keys WHERE channel_id = ? AND kind = ? LIMIT ?"
_ALL_KEYS = "SELECT kind, key FROM side_record_keys WHERE channel_id = ?"
_DROP_NOTE = f"DELETE FROM side_record_keys USING TIMESTAMP ? {_OF_ONE}"


class CassandraRecords:
    """The `SideRecords` in two tables."""

    def __init__(self, tables: Tables, stamps: Stamps) -> None:
        self._tables = tables
        self._stamps = stamps

    async def put(self, channel_id: int, kind: str, key: str, value: bytes) -> None:
        """As `SideRecords.put`."""
        check_record(kind, key, value)
        of = (channel_id, kind, key)
        stamp_us = self._stamps.next_us()
        await self._tables.write(_NOTE, *of, stamp_us)
        # An empty value is one empty part.
        parts = list(batched(value, PART_BYTES)) or [b""]
        await self._tables.write_together(
            [
                (_DROP, (stamp_us - 1, *of)),
                *((_PUT, (*of, n, bytes(part), stamp_us)) for n, part in enumerate(parts)),
            ]
        )
        await self._stamps.passed(stamp_us)

    async def get(self, channel_id: int, kind: str, key: str) -> bytes | None:
        """As `SideRecords.get`."""
        check_record(kind, key)
        rows = await self._tables.rows(_GET, channel_id, kind, key, page_rows=PAGE_PARTS)
        return b"".join(part for (part,) in rows) if rows else None

    async def keys(self, channel_id: int, kind: str) -> Sequence[str]:
        """As `SideRecords.keys`."""
        values = (channel_id, kind, MOST_RECORD_KEYS)
        return [key for (key,) in await self._tables.rows(_KEYS, *values, page_rows=PAGE_ROWS)]

    async def delete(self, channel_id: int, kind: str, key: str) -> None:
        """As `SideRecords.delete`."""
        check_record(kind, key)
        await self._delete(channel_id, kind, key)

    async def delete_channel(self, channel_id: int) -> int:
        """As `SideRecords.delete_channel`."""
        count = 0
        async for page in self._tables.pages(_ALL_KEYS, channel_id, page_rows=PAGE_ROWS):
            for kind, key in page:
                await self._delete(channel_id, kind, key)
            count += len(page)
        return count

    async def _delete(self, channel_id: int, kind: str, key: str) -> None:
        stamp_us = self._stamps.next_us()
        await self._tables.write(_DROP, stamp_us, channel_id, kind, key)
        await self._tables.write(_DROP_NOTE, stamp_us, channel_id, kind, key)
        await self._stamps.passed(stamp_us)
