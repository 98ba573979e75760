"""Side records of an embedded store: a table of values by channel, kind and key."""

import sqlite3
from collections.abc import Sequence

from ndcass.store.base import MOST_RECORD_KEYS
from ndcass.store.embedded.sqlite import Database, Key, delete_rows
from ndcass.store.values import check_record

_KEY = Key("side_records", "kind, key")
_ONE = "channel_id = ? AND kind = ? AND key = ?"


class EmbeddedRecords:
    """The `SideRecords` on a database file."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def put(self, channel_id: int, kind: str, key: str, value: bytes) -> None:
        """As `SideRecords.put`."""
        check_record(kind, key, value)

        def put(db: sqlite3.Connection) -> None:
            db.execute(
                "INSERT OR REPLACE INTO side_records (channel_id, kind, key, value)"
                " VALUES (?, ?, ?, ?)",
                (channel_id, kind, key, value),
            )

        await self._database.write(put)

    async def get(self, channel_id: int, kind: str, key: str) -> bytes | None:
        """As `SideRecords.get`."""
        check_record(kind, key)
        select = f"SELECT value FROM side_records WHERE {_ONE}"  # noqa: S608 - bound values
        row = await self._database.read(
            lambda db: db.execute(select, (channel_id, kind, key)).fetchone()
        )
        return None if row is None else bytes(row[0])

    async def keys(self, channel_id: int, kind: str) -> Sequence[str]:
        """As `SideRecords.keys`."""
        rows = await self._database.read(
            lambda db: db.execute(
                "SELECT key FROM side_records WHERE channel_id = ? AND kind = ?"
                " ORDER BY key LIMIT ?",
                (channel_id, kind, MOST_RECORD_KEYS),
            ).fetchall()
        )
        return [key for (key,) in rows]

    async def delete(self, channel_id: int, kind: str, key: str) -> None:
        """As `SideRecords.delete`."""
        check_record(kind, key)
        delete = f"DELETE FROM side_records WHERE {_ONE}"  # noqa: S608 - bound values
        await self._database.write(lambda db: db.execute(delete, (channel_id, kind, key)))

    async def delete_channel(self, channel_id: int) -> int:
        """As `SideRecords.delete_channel`, a bounded number at a time."""
        return await delete_rows(self._database, _KEY, channel_id)
