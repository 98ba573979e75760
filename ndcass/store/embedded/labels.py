"""The label index of an embedded store: a table with a row for each cuboid of each label.

Labels have 64 bits without a sign and are kept as SQLite's signed numbers (see `sqlite.signed`), so
those from 2^63 on sort before the others. Nobody walks labels in order; Morton codes have 63 bits.
"""

import sqlite3
from collections.abc import Mapping, Sequence

from ndcass.store.embedded.sqlite import Database, Key, delete_rows, signed

_KEY = Key("labels", "level, label, t, morton")


class EmbeddedLabels:
    """The `LabelIndex` on a database file."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def append(
        self, channel_id: int, level: int, t: int, mortons_of: Mapping[int, Sequence[int]]
    ) -> None:
        """As `LabelIndex.append`."""

        def append(db: sqlite3.Connection) -> None:
            db.executemany(
                "INSERT OR IGNORE INTO labels (channel_id, level, label, t, morton)"
                " VALUES (?, ?, ?, ?, ?)",
                (
                    # int(): codes and labels may come as numpy's, which SQLite keeps as bytes.
                    (channel_id, level, signed(int(label)), t, int(morton))
                    for label, mortons in sorted(mortons_of.items())
                    for morton in mortons
                ),
            )

        await self._database.write(append)

    async def mortons(self, channel_id: int, level: int, label: int) -> Sequence[tuple[int, int]]:
        """As `LabelIndex.mortons`."""
        key = (channel_id, level, signed(int(label)))
        return await self._database.read(
            lambda db: db.execute(
                "SELECT t, morton FROM labels WHERE channel_id = ? AND level = ? AND label = ?"
                " ORDER BY t, morton",
                key,
            ).fetchall()
        )

    async def discard(
        self, channel_id: int, level: int, label: int, cuboids: Sequence[tuple[int, int]]
    ) -> None:
        """As `LabelIndex.discard`."""
        key = (channel_id, level, signed(int(label)))

        def discard(db: sqlite3.Connection) -> None:
            db.executemany(
                "DELETE FROM labels"
                " WHERE channel_id = ? AND level = ? AND label = ? AND t = ? AND morton = ?",
                ((*key, int(t), int(morton)) for t, morton in cuboids),
            )

        await self._database.write(discard)

    async def delete_channel(self, channel_id: int) -> int:
        """Forget every entry of a channel, a bounded number at a time; how many there were."""
        return await delete_rows(self._database, _KEY, channel_id)
