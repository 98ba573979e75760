"""The label index of an embedded store: a table with a row for each cuboid of each label.

Labels have 64 bits without a sign and are kept as SQLite's signed numbers (see `sqlite.signed`), so
those from 2^63 on sort before the others. Nobody walks labels in order; Morton codes have 63 bits.

When an entry was noted is told by the monotonic clock, which all processes of a machine share. It
begins anew when the machine does: an entry from before may then look young for a while, and stays
so long.
"""

import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from functools import partial

from ndcass.store.base import LABEL_WINDOW_S
from ndcass.store.embedded.sqlite import Database, Key, delete_rows, signed, unsigned

_KEY = Key("labels", "level, label, t, morton")
PAGE_LABELS = 1000
_LEAST, _LARGEST = -(1 << 63), (1 << 63) - 1

_IS_THERE = (
    "SELECT 1 FROM labels WHERE channel_id = ? AND level = ? AND label = ? AND t = ? AND morton = ?"
)
_IS_LISTED = "SELECT 1 FROM labels WHERE channel_id = ? AND level = ? AND label = ? LIMIT 1"
_NEXT = (
    "SELECT label FROM labels WHERE channel_id = ? AND level = ? AND label >= ?"
    " ORDER BY label LIMIT 1"
)


class EmbeddedLabels:
    """The `LabelIndex` on a database file."""

    def __init__(self, database: Database, *, now_s: Callable[[], float] = time.monotonic) -> None:
        self._database = database
        self._now_s = now_s

    @property
    def window_s(self) -> float:
        """As `LabelIndex.window_s`."""
        return LABEL_WINDOW_S

    async def append(
        self, channel_id: int, level: int, t: int, mortons_of: Mapping[int, Sequence[int]]
    ) -> None:
        """As `LabelIndex.append`."""
        now_s = self._now_s()

        def append(db: sqlite3.Connection) -> None:
            db.executemany(
                "INSERT INTO labels (channel_id, level, label, t, morton, noted_s)"
                " VALUES (?, ?, ?, ?, ?, ?)"
                " ON CONFLICT DO UPDATE SET noted_s = excluded.noted_s",
                (
                    # int(): codes and labels may come as numpy's, which SQLite keeps as bytes.
                    (channel_id, level, signed(int(label)), t, int(morton), now_s)
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

    async def listed(self, channel_id: int, level: int, labels: Sequence[int]) -> set[int]:
        """As `LabelIndex.listed`."""

        def is_listed(db: sqlite3.Connection, label: int) -> bool:
            key = (channel_id, level, signed(int(label)))
            return db.execute(_IS_LISTED, key).fetchone() is not None

        return await self._database.read(
            lambda db: {label for label in labels if is_listed(db, label)}
        )

    async def missing(
        self, channel_id: int, level: int, t: int, mortons_of: Mapping[int, Sequence[int]]
    ) -> Mapping[int, Sequence[int]]:
        """As `LabelIndex.missing`."""

        def missing(db: sqlite3.Connection) -> dict[int, list[int]]:
            found: dict[int, list[int]] = {}
            for label, mortons in mortons_of.items():
                for morton in mortons:
                    key = (channel_id, level, signed(int(label)), t, int(morton))
                    if db.execute(_IS_THERE, key).fetchone() is None:
                        found.setdefault(label, []).append(morton)
            return found

        return await self._database.read(missing)

    async def labels(self, channel_id: int, level: int) -> AsyncIterator[Sequence[int]]:
        """As `LabelIndex.labels`."""
        least: int | None = _LEAST
        while least is not None:
            page = await self._database.read(partial(_next_labels, (channel_id, level), least))
            yield [unsigned(label) for label in page]
            least = page[-1] + 1 if page and page[-1] < _LARGEST else None

    async def discard(
        self,
        channel_id: int,
        level: int,
        label: int,
        cuboids: Sequence[tuple[int, int]],
        *,
        older_than_s: float = 0.0,
    ) -> None:
        """As `LabelIndex.discard`."""
        key = (channel_id, level, signed(int(label)))
        latest_s = self._now_s() - older_than_s

        def discard(db: sqlite3.Connection) -> None:
            db.executemany(
                "DELETE FROM labels WHERE channel_id = ? AND level = ? AND label = ? AND t = ?"
                " AND morton = ? AND noted_s <= ?",
                ((*key, int(t), int(morton), latest_s) for t, morton in cuboids),
            )

        await self._database.write(discard)

    async def delete_channel(self, channel_id: int) -> int:
        """Forget every entry of a channel, a bounded number at a time; how many there were."""
        return await delete_rows(self._database, _KEY, channel_id)


def _next_labels(place: tuple[int, int], least: int, db: sqlite3.Connection) -> list[int]:
    """The first labels from `least` on, as SQLite has them, ascending.

    From one to the next by the key, for a label may have a million entries.
    """
    found: list[int] = []
    while len(found) < PAGE_LABELS and least <= _LARGEST:
        row = db.execute(_NEXT, (*place, least)).fetchone()
        if row is None:
            break
        found.append(row[0])
        least = row[0] + 1
    return found
