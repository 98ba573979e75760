"""Annotation objects of an embedded store: fields as JSON, and an index of every value in them.

The index is a second table with a row for each field that is a text or a number, and for each
element of a list. Its rows are known from the JSON, so replacing or deleting an object removes
exactly its own.
"""

import itertools
import json
import math
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from ndcass.errors import AlreadyExists, InvalidRequest
from ndcass.store.base import CLAIM_S, Comparison, Predicate, StoredObject
from ndcass.store.embedded.sqlite import Database, Key, delete_rows, signed, unsigned
from ndcass.store.query import meets
from ndcass.store.values import json_text

_OBJECTS_KEY = Key("objects", "id")
_VALUES_KEY = Key("object_values", "field, value, id")
_CLAIMS_KEY = Key("object_claims", "id")
_INT64 = 1 << 63

# A field with more hits is as good as any: the first of them come at once, if they are in order.
ENOUGH_HITS = 2000

# Numbers sort before texts (see the schema), so each comparison stays within its kind.
_TEXTS = " AND value >= ''"
_NUMBERS = " AND value < ''"
_EXACT = {Comparison.EQUAL: "=", Comparison.LESS: "<", Comparison.GREATER: ">"}
# Where the index has rounded: finds too many, never too few.
_INCLUSIVE = {Comparison.EQUAL: "=", Comparison.LESS: "<=", Comparison.GREATER: ">="}


class EmbeddedObjects:
    """The `ObjectStore` on a database file."""

    def __init__(self, database: Database, *, now_s: Callable[[], float] = time.time) -> None:
        self._database = database
        self._now_s = now_s

    async def put(self, channel_id: int, objects: Sequence[StoredObject]) -> None:
        """As `ObjectStore.put`."""
        await self._database.write(lambda db: _put(db, channel_id, objects))

    async def claim(self, channel_id: int, ids: Sequence[int]) -> None:
        """As `ObjectStore.claim`."""
        now_s = self._now_s()
        await self._database.write(lambda db: _claim(db, channel_id, ids, now_s))

    async def change(self, channel_id: int, object_id: int, fields: Mapping[str, Any]) -> bool:
        """As `ObjectStore.change`."""
        return await self._database.write(lambda db: _change(db, channel_id, object_id, fields))

    async def get(self, channel_id: int, ids: Sequence[int]) -> Sequence[StoredObject]:
        """As `ObjectStore.get`."""
        return await self._database.read(lambda db: _get(db, channel_id, ids))

    async def delete(self, channel_id: int, ids: Sequence[int]) -> int:
        """As `ObjectStore.delete`."""
        return await self._database.write(lambda db: _delete(db, channel_id, ids))

    async def query(
        self, channel_id: int, predicates: Sequence[Predicate], *, limit: int
    ) -> Sequence[int]:
        """As `ObjectStore.query`."""
        if not all(isinstance(predicate.value, str | int | float) for predicate in predicates):
            raise InvalidRequest("a query compares with a text or a number")
        return await self._database.read(
            lambda db: list(itertools.islice(_query(db, channel_id, predicates), max(0, limit)))
        )

    async def delete_channel(self, channel_id: int) -> int:
        """As `ObjectStore.delete_channel`, a bounded number at a time."""
        await delete_rows(self._database, _CLAIMS_KEY, channel_id)
        # The index first: a query must never give the id of an object that is gone.
        await delete_rows(self._database, _VALUES_KEY, channel_id)
        return await delete_rows(self._database, _OBJECTS_KEY, channel_id)


# -- statements


def _put(db: sqlite3.Connection, channel_id: int, objects: Sequence[StoredObject]) -> None:
    # The last of two that share an id counts, as if they had come one after the other.
    texts = {int(item.id): json_text(item.fields) for item in objects}
    _delete(db, channel_id, list(texts))
    _write(db, channel_id, texts)


def _write(db: sqlite3.Connection, channel_id: int, texts: Mapping[int, str]) -> None:
    db.executemany(
        "INSERT INTO objects (channel_id, id, fields) VALUES (?, ?, ?)",
        ((channel_id, signed(object_id), text) for object_id, text in texts.items()),
    )
    db.executemany(
        "INSERT INTO object_values (channel_id, field, value, id, listed) VALUES (?, ?, ?, ?, ?)",
        (
            (channel_id, field, value, signed(object_id), listed)
            for object_id, text in texts.items()
            for field, value, listed in _indexed(json.loads(text))
        ),
    )


def _change(
    db: sqlite3.Connection, channel_id: int, object_id: int, fields: Mapping[str, Any]
) -> bool:
    found = _get(db, channel_id, [object_id])
    if not found:
        return False
    _put(db, channel_id, [StoredObject(object_id, {**found[0].fields, **fields})])
    return True


def _claim(db: sqlite3.Connection, channel_id: int, ids: Sequence[int], now_s: float) -> None:
    asked = json.dumps([signed(object_id) for object_id in ids])
    values = (asked, channel_id)
    taken = db.execute(
        "SELECT objects.id FROM json_each(?) AS asked CROSS JOIN objects"
        " ON objects.channel_id = ? AND objects.id = asked.value"
        " UNION ALL SELECT claims.id FROM json_each(?) AS asked CROSS JOIN object_claims AS claims"
        " ON claims.channel_id = ? AND claims.id = asked.value AND claims.claimed_s > ? LIMIT 1",
        (*values, *values, now_s - CLAIM_S),
    ).fetchone()
    if taken:
        raise AlreadyExists(f"object {unsigned(taken[0])} exists, or is just being made")
    db.executemany(
        "INSERT OR REPLACE INTO object_claims (channel_id, id, claimed_s) VALUES (?, ?, ?)",
        ((channel_id, signed(object_id), now_s) for object_id in ids),
    )


def _get(db: sqlite3.Connection, channel_id: int, ids: Sequence[int]) -> list[StoredObject]:
    asked = json.dumps([signed(int(asked)) for asked in ids if 0 <= asked < 1 << 64])
    rows = db.execute(
        "SELECT objects.id, fields FROM json_each(?) AS asked CROSS JOIN objects"
        " ON objects.channel_id = ? AND objects.id = asked.value ORDER BY asked.key",
        (asked, channel_id),
    )
    return [StoredObject(unsigned(stored), json.loads(fields)) for stored, fields in rows]


def _delete(db: sqlite3.Connection, channel_id: int, ids: Sequence[int]) -> int:
    stored = {item.id: item for item in _get(db, channel_id, ids)}
    db.executemany(
        "DELETE FROM object_claims WHERE channel_id = ? AND id = ?",
        ((channel_id, signed(object_id)) for object_id in ids if 0 <= object_id < 1 << 64),
    )
    db.executemany(
        "DELETE FROM object_values WHERE channel_id = ? AND field = ? AND value = ? AND id = ?",
        (
            (channel_id, field, value, signed(item.id))
            for item in stored.values()
            for field, value, _ in _indexed(item.fields)
        ),
    )
    db.executemany(
        "DELETE FROM objects WHERE channel_id = ? AND id = ?",
        ((channel_id, signed(object_id)) for object_id in stored),
    )
    return len(stored)


# -- queries


def _query(
    db: sqlite3.Connection, channel_id: int, predicates: Sequence[Predicate]
) -> Iterator[int]:
    """Ids that meet every predicate, ascending; read only as far as somebody asks."""
    select, values, unsure = _plan(db, channel_id, predicates)
    # Ids from 2^63 on are kept as negative numbers: two statements, each in the order of its index.
    for half in ("id >= 0", "id < 0"):
        for (hit,) in db.execute(f"{select} AND {half} ORDER BY id", values):
            if not unsure or _meets_all(db, (channel_id, hit), unsure):
                yield unsigned(hit)


def _plan(
    db: sqlite3.Connection, channel_id: int, predicates: Sequence[Predicate]
) -> tuple[str, list[Any], list[Predicate]]:
    """A statement that finds all that may match, its values, and what it does not make sure of.

    It walks the index for the field with the fewest hits. Of the other predicates an equality is
    one more look into the index a hit; the rest are checked on the objects themselves.
    """
    if not predicates:
        return "SELECT id FROM objects WHERE channel_id = ?", [channel_id], []
    by_field: dict[str, list[Predicate]] = {}
    ranges: list[_Range] = []
    for predicate in predicates:
        if predicate.comparison is Comparison.EQUAL:  # of a list each element may be another one
            ranges.append(_Range.of(channel_id, [predicate]))
        else:
            by_field.setdefault(predicate.field, []).append(predicate)
    ranges += [_Range.of(channel_id, group) for group in by_field.values()]
    walked = min(ranges, key=lambda r: (r.hits_up_to(db, ENOUGH_HITS), not r.in_order))
    select = f"SELECT id FROM object_values AS hit WHERE {walked.where}"  # noqa: S608 - bound values
    values = [*walked.values]
    unsure = [p for p in walked.predicates if _is_coarse(p.value)]
    for other in predicates:
        if other in walked.predicates:
            continue
        if other.comparison is Comparison.EQUAL and not _is_coarse(other.value):
            select += (
                " AND EXISTS (SELECT 1 FROM object_values AS other"
                " WHERE channel_id = ? AND field = ? AND value = ? AND other.id = hit.id)"
            )
            values += [channel_id, other.field, _indexable(other.value)]
        else:
            unsure.append(other)
    return select, values, unsure


@dataclass(frozen=True, slots=True)
class _Range:
    """What one equality, or all other predicates on one field, leave of the index."""

    predicates: Sequence[Predicate]
    where: str  # fixed words only: fields and values are bound
    values: Sequence[Any]  # as the statement has them

    @classmethod
    def of(cls, channel_id: int, predicates: Sequence[Predicate]) -> Self:
        where, values = "channel_id = ? AND field = ?", [channel_id, predicates[0].field]
        for predicate in _narrowest(predicates):
            operators = _INCLUSIVE if _is_coarse(predicate.value) else _EXACT
            where += f" AND value {operators[predicate.comparison]} ?"
            values.append(_indexable(predicate.value))
        compared = {(p.comparison, isinstance(p.value, str)) for p in predicates}
        # Only where there is no bound on that side: SQLite walks from one bound to one other, and
        # of two takes the first.
        if (Comparison.LESS, True) in compared and (Comparison.GREATER, True) not in compared:
            where += _TEXTS
        if (Comparison.GREATER, False) in compared and (Comparison.LESS, False) not in compared:
            where += _NUMBERS
        if predicates[0].comparison is not Comparison.EQUAL:
            where += " AND NOT listed"
        return cls(predicates, where, values)

    @property
    def in_order(self) -> bool:
        """Whether the index gives the ids of the range in order, so that the first come at once."""
        return any(p.comparison is Comparison.EQUAL for p in self.predicates)

    def hits_up_to(self, db: sqlite3.Connection, most: int) -> int:
        """How many entries the range has, counted no further than `most`."""
        some = f"SELECT 1 FROM object_values WHERE {self.where} LIMIT ?"  # noqa: S608 - bound values
        row = db.execute(f"SELECT count(*) FROM ({some})", (*self.values, most)).fetchone()  # noqa: S608
        return int(row[0])


def _narrowest(predicates: Sequence[Predicate]) -> list[Predicate]:
    """Of comparisons of one kind in one direction, the one that the others follow from."""
    found: dict[tuple[Comparison, bool], Predicate] = {}
    for predicate in predicates:
        key = (predicate.comparison, isinstance(predicate.value, str))
        other = found.setdefault(key, predicate)
        is_less = predicate.comparison is Comparison.LESS
        if predicate.value < other.value if is_less else predicate.value > other.value:
            found[key] = predicate
    return list(found.values())


def _meets_all(
    db: sqlite3.Connection, key: tuple[int, int], predicates: Sequence[Predicate]
) -> bool:
    row = db.execute("SELECT fields FROM objects WHERE channel_id = ? AND id = ?", key).fetchone()
    fields = json.loads(row[0])
    return all(meets(fields, predicate) for predicate in predicates)


# -- values


def _indexed(fields: Mapping[str, Any]) -> Iterator[tuple[str, str | float, bool]]:
    """What a query can find of an object: texts and numbers, and whether they are of a list."""
    for field, value in fields.items():
        values = value if isinstance(value, list) else [value]
        found = (_indexable(item) for item in values if isinstance(item, str | int | float))
        for item in dict.fromkeys(found):
            yield field, item, isinstance(value, list)


def _indexable(value: str | float) -> str | float:
    """A value as the index has it: whole numbers beyond 64 bits are rounded to floats."""
    if isinstance(value, int) and not -_INT64 <= value < _INT64:
        try:
            return float(value)
        except OverflowError:
            return math.inf if value > 0 else -math.inf
    return value


def _is_coarse(value: str | float) -> bool:
    """Whether a comparison with `value` meets numbers that the index has rounded."""
    return not isinstance(value, str) and abs(value) >= _INT64
