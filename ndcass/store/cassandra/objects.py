"""Annotation objects on Cassandra: rows of shards, found by an index of each shard.

A put of one shard is one batch. One of several is written as a whole to the table ``object_puts``
first, then to the shards, and then dropped there. If it is interrupted, `finish_puts` finishes it:
all rows have the time of writing that the put took at its beginning, so that doing it late or twice
does not undo anything that came after. While it is under way a reader may meet one shard before the
other, but no part of an object.

Fields that are changed one by one are cells of their own, beside the object as it was put: of two
who change different ones neither undoes the other's, without a transaction. The next put of the
object does away with them. Such cells of an object that was deleted meanwhile make no object.
"""

import contextlib
import copy
import json
import os
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from ndcass.concurrency import bounded_map
from ndcass.errors import AlreadyExists, CorruptValue, InvalidRequest, TransactionUnknown
from ndcass.store.base import CLAIM_S, MAX_OBJECT_ID, Comparison, Predicate, StoredObject
from ndcass.store.cassandra.driver import Consistency, Row
from ndcass.store.cassandra.object_index import (
    COMPARED_FIELD,
    as_text,
    bounds_of,
    index_item,
    index_values,
    is_indexed,
)
from ndcass.store.cassandra.stamps import Stamps
from ndcass.store.cassandra.tables import Entry, Tables, batched, pause
from ndcass.store.query import meets
from ndcass.store.values import json_text

SHARD_BITS = 15
# A batch is one message of at most 16 MiB; with the copies for the index its texts count thrice.
BATCH_BYTES = 2 << 20
# A part of a put of several shards: a cell, which should stay below a megabyte.
PART_BYTES = 512 << 10
PUT_SLOTS = 16
# A put that is not finished after this time is not going to be by whoever began it.
ABANDONED_PUT_S = 120.0
# Ids that are asked for in one statement.
IDS_AT_ONCE = 100
# Shards or groups of ids that are read or written at once.
SHARDS_AT_ONCE = 8
PAGE_ROWS = 1000
# Rows that only have an id and a number are small.
VALUES_PAGE_ROWS = 5000
# Of several predicates, one that has more hits in a shard is as good as any.
ENOUGH_HITS = 100
# Whole numbers that a float holds exactly.
EXACT_BELOW = 1 << 53
# What an object takes of a batch: its fields, and what the index has of them.
_COPIES = 3

_PUT = (
    "INSERT INTO objects (channel_id, shard, id, fields, items, numeric, confidence, changes)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?) USING TIMESTAMP ?"
)
_OF_SHARD = "WHERE channel_id = ? AND shard = ?"
_CHANGE = (
    "UPDATE objects USING TIMESTAMP ? SET changes[?] = ?, numeric[?] = ?, items = items + ?"
    f" {_OF_SHARD} AND id = ?"
)
# Beside the change of any field, for the one that has a column of its own.
_CHANGE_COMPARED = f"UPDATE objects USING TIMESTAMP ? SET confidence = ? {_OF_SHARD} AND id = ?"
_GET = f"SELECT id, fields, changes FROM objects {_OF_SHARD} AND id IN ?"
# A row without fields is no object: somebody changed one that was just deleted.
_IDS = f"SELECT id, WRITETIME(fields) FROM objects {_OF_SHARD}"
_DROP = f"DELETE FROM objects USING TIMESTAMP ? {_OF_SHARD} AND id = ?"
_DROP_SHARD = f"DELETE FROM objects USING TIMESTAMP ? {_OF_SHARD}"

_ADD_SHARD = "INSERT INTO object_shards (channel_id, shard) VALUES (?, ?)"
_SHARDS = "SELECT shard FROM object_shards WHERE channel_id = ?"
_DROP_SHARDS = "DELETE FROM object_shards WHERE channel_id = ?"

# Without the claims of who did not put the object in time, which go by themselves.
_CLAIM = (
    "INSERT INTO object_claims (channel_id, shard, id, claim) VALUES (?, ?, ?, ?)"
    f" IF NOT EXISTS USING TTL {int(CLAIM_S)}"
)
_CLAIMS = f"SELECT id, claim FROM object_claims {_OF_SHARD} AND id IN ?"
_FREE = f"DELETE FROM object_claims {_OF_SHARD} AND id = ? IF claim = ?"

_NOTE = (
    "INSERT INTO object_puts (slot, stamp, put_id, part, parts, channel_id, objects)"
    " VALUES (?, ?, ?, ?, ?, ?, ?)"
)
_NOTED = (
    "SELECT stamp, put_id, part, parts, channel_id, objects FROM object_puts"
    " WHERE slot = ? AND stamp < ?"
)
_DROP_NOTE = "DELETE FROM object_puts WHERE slot = ? AND stamp = ? AND put_id = ?"


class CassandraObjects:
    """The `ObjectStore` in tables."""

    def __init__(self, tables: Tables, stamps: Stamps) -> None:
        self._tables = tables
        self._stamps = stamps

    # -- writing

    async def put(self, channel_id: int, objects: Sequence[StoredObject]) -> None:
        """As `ObjectStore.put`."""
        # The last of two that share an id counts, as if they had come one after the other.
        texts = {_valid(int(item.id)): json_text(item.fields) for item in objects}
        if not texts:
            return
        # Before the first object of a shard, and anew every time: a channel that was deleted
        # meanwhile has lost them.
        for shard in _by_shard(sorted(texts)):
            await self._tables.write(_ADD_SHARD, channel_id, shard)
        stamp_us = self._stamps.next_us()
        batches = list(_batches(channel_id, texts, stamp_us))
        if len(batches) == 1:
            await self._tables.write_together(batches[0])
        else:
            note = _Note(stamp_us, os.urandom(8))
            await self._write_note(note, channel_id, texts)
            await self._write(batches)
            await self._drop_note(note)
        await self._stamps.passed(stamp_us)

    async def claim(self, channel_id: int, ids: Sequence[int]) -> None:
        """As `ObjectStore.claim`."""
        wanted = [_valid(int(object_id)) for object_id in sorted(set(ids))]
        claim = os.urandom(16)
        claimed: list[int] = []
        try:
            for shard, of_shard in _by_shard(wanted).items():
                for some in batched(of_shard, IDS_AT_ONCE):
                    await self._claim(channel_id, shard, some, claim)
                    claimed += some
            for taken in await self.get(channel_id, wanted):
                raise AlreadyExists(f"object {taken.id} exists")
        except AlreadyExists:
            await self._free(channel_id, claimed, claim)
            raise

    async def _claim(self, channel_id: int, shard: int, ids: Sequence[int], claim: bytes) -> None:
        """Claim some ids of one shard, all or none; AlreadyExists."""
        entries = [(_CLAIM, (channel_id, shard, object_id, claim)) for object_id in ids]
        attempt = 0
        while True:
            await pause(attempt)
            attempt += 1
            with contextlib.suppress(TransactionUnknown):
                if (await self._tables.transact(*entries)).applied:
                    return
            # Also the answer to one of before that got lost.
            found = await self._claims(channel_id, shard, ids, consistency=Consistency.LOCAL_SERIAL)
            if len(found) == len(ids) and set(found.values()) == {claim}:
                return
            if found and claim not in found.values():
                raise AlreadyExists(f"object {min(found)} exists, or is just being made")

    async def _claims(
        self, channel_id: int, shard: int, ids: Sequence[int], *, consistency: Consistency
    ) -> dict[int, bytes]:
        return dict(
            await self._tables.rows(_CLAIMS, channel_id, shard, list(ids), consistency=consistency)
        )

    async def _free(self, channel_id: int, ids: Sequence[int], claim: bytes | None = None) -> None:
        """Give up some claims: those of one claimer, or whoever's."""
        for shard, of_shard in _by_shard(ids).items():
            for some in batched(of_shard, IDS_AT_ONCE):
                found = await self._claims(
                    channel_id, shard, some, consistency=Consistency.LOCAL_QUORUM
                )
                for object_id, owner in found.items():
                    if claim in (None, owner):
                        # If its answer is lost, the claim goes by itself.
                        with contextlib.suppress(TransactionUnknown):
                            await self._tables.transact(
                                (_FREE, (channel_id, shard, object_id, owner))
                            )

    async def change(self, channel_id: int, object_id: int, fields: Mapping[str, Any]) -> bool:
        """As `ObjectStore.change`; each field is a cell of its own."""
        changed = json.loads(json_text(fields))
        if not await self.get(channel_id, [object_id]):
            return False
        stamp_us = self._stamps.next_us()
        key = (channel_id, object_id >> SHARD_BITS, object_id)
        batch: list[Entry] = []
        for name, value in changed.items():
            items, numeric = index_values({name: value})
            number = numeric.get(as_text(name))
            cells = (name, json_text({"": value}), as_text(name), number, items)
            batch.append((_CHANGE, (stamp_us, *cells, *key)))
            if name == COMPARED_FIELD:
                batch.append((_CHANGE_COMPARED, (stamp_us, number, *key)))
        await self._tables.write_together(batch)
        await self._stamps.passed(stamp_us)
        return True

    async def delete(self, channel_id: int, ids: Sequence[int]) -> int:
        """As `ObjectStore.delete`."""
        await self._free(channel_id, [i for i in sorted(set(ids)) if 0 <= i <= MAX_OBJECT_ID])
        stored = [item.id for item in await self.get(channel_id, sorted(set(ids)))]
        stamp_us = self._stamps.next_us()
        batches = [
            [(_DROP, (stamp_us, channel_id, shard, object_id)) for object_id in some]
            for shard, of_shard in _by_shard(stored).items()
            for some in batched(of_shard, PAGE_ROWS)
        ]
        await self._write(batches)
        await self._stamps.passed(stamp_us)
        return len(stored)

    async def delete_channel(self, channel_id: int) -> int:
        """As `ObjectStore.delete_channel`."""
        count = 0
        for shard in await self._shards(channel_id):
            pages = self._tables.pages(_IDS, channel_id, shard, page_rows=VALUES_PAGE_ROWS)
            async for page in pages:
                count += sum(written is not None for _, written in page)
            await self._tables.write(_DROP_SHARD, self._stamps.next_us(), channel_id, shard)
        # Behind the shards, which nobody could find otherwise if this is interrupted.
        await self._tables.write(_DROP_SHARDS, channel_id)
        return count

    async def _write(self, batches: Sequence[Sequence[Entry]]) -> None:
        await bounded_map(self._tables.write_together, batches, limit=SHARDS_AT_ONCE)

    async def _shards(self, channel_id: int) -> list[int]:
        return [shard for (shard,) in await self._tables.rows(_SHARDS, channel_id)]

    # -- puts of several shards

    async def finish_puts(self, *, older_than_s: float = ABANDONED_PUT_S) -> int:
        """Finish the puts that were noted and not carried out; how many."""
        before_us = self._stamps.now_us() - int(older_than_s * 1e6)
        finished = 0
        for slot in range(PUT_SLOTS):
            pages = self._tables.pages(_NOTED, slot, before_us, page_rows=1)
            async with contextlib.aclosing(pages):
                async for note, rows in _notes(pages):
                    finished += await self._finish(note, rows)
        return finished

    async def _finish(self, note: "_Note", rows: Sequence["_NotedPart"]) -> bool:
        # Without its last part the put never began: nothing else was written, nobody told of it.
        is_whole = rows[-1].parts == len(rows)
        if is_whole:
            texts = json.loads("".join(row.objects for row in rows))
            by_id = {int(object_id): text for object_id, text in texts.items()}
            channel_id = rows[-1].channel_id
            await self._write(list(_batches(channel_id, by_id, note.stamp_us)))
        await self._drop_note(note)
        return is_whole

    async def _write_note(self, note: "_Note", channel_id: int, texts: Mapping[int, str]) -> None:
        whole = json_text({str(object_id): text for object_id, text in texts.items()})
        parts = list(batched(whole, PART_BYTES))
        for number, part in enumerate(parts):
            is_last = number == len(parts) - 1
            count = len(parts) if is_last else None
            await self._tables.write(_NOTE, note.slot, *note, number, count, channel_id, part)

    async def _drop_note(self, note: "_Note") -> None:
        await self._tables.write(_DROP_NOTE, note.slot, *note)

    # -- reading

    async def get(self, channel_id: int, ids: Sequence[int]) -> Sequence[StoredObject]:
        """As `ObjectStore.get`."""
        asked = [int(i) for i in ids if 0 <= i <= MAX_OBJECT_ID]

        async def read(group: tuple[int, Sequence[int]]) -> dict[int, dict[str, Any]]:
            shard, some = group
            rows = await self._tables.rows(_GET, channel_id, shard, list(some))
            decoded = {row[0]: _decoded(*row) for row in rows}
            return {i: fields for i, fields in decoded.items() if fields is not None}

        groups = [
            (shard, some)
            for shard, of_shard in _by_shard(sorted(set(asked))).items()
            for some in batched(of_shard, IDS_AT_ONCE)
        ]
        found: dict[int, dict[str, Any]] = {}
        for texts in await bounded_map(read, groups, limit=SHARDS_AT_ONCE):
            found |= texts
        return [StoredObject(i, copy.deepcopy(found[i])) for i in asked if i in found]

    async def query(
        self, channel_id: int, predicates: Sequence[Predicate], *, limit: int
    ) -> Sequence[int]:
        """As `ObjectStore.query`.

        What is equal to a value is found by the index of each shard, and then compared as a whole.
        Of several such predicates the index is asked for the one with the fewest hits: to have it
        intersect two took ten times as long as to compare the 667 hits of the rarer one. Without
        any, the values of one field are read from every object; of the field that old clients
        compare, from those that the index finds.
        """
        if not all(isinstance(predicate.value, str | int | float) for predicate in predicates):
            raise InvalidRequest("a query compares with a text or a number")
        hits: list[int] = []
        if limit <= 0:
            return hits
        every = await self._shards(channel_id)
        plan = _plan(predicates, await self._rarest(channel_id, every[:1], predicates))
        # Some shards at a time, in the order of the ids.
        for shards in batched(every, SHARDS_AT_ONCE):

            async def search(shard: int, wanted: int = limit - len(hits)) -> list[int]:
                return await self._search(channel_id, shard, plan, predicates, wanted)

            for found in await bounded_map(search, shards, limit=SHARDS_AT_ONCE):
                hits += found
            if len(hits) >= limit:
                break
        return hits[:limit]

    async def _rarest(
        self, channel_id: int, shards: Sequence[int], predicates: Sequence[Predicate]
    ) -> Predicate | None:
        """The predicate that the index is asked for, if any: the one with the fewest hits."""
        equal = [p for p in predicates if p.comparison is Comparison.EQUAL and is_indexed(p.field)]

        async def hits(predicate: Predicate) -> int:
            plan = _plan(predicates, predicate)
            cql = f"{plan.cql} LIMIT {ENOUGH_HITS}"
            return len(await self._tables.rows(cql, channel_id, shards[0], *plan.values))

        if len(equal) < 2 or not shards:
            return equal[0] if equal else None
        counts = await bounded_map(hits, equal, limit=SHARDS_AT_ONCE)
        return equal[counts.index(min(counts))]

    async def _search(
        self,
        channel_id: int,
        shard: int,
        plan: "_Plan",
        predicates: Sequence[Predicate],
        limit: int,
    ) -> list[int]:
        """The first hits of one shard."""
        values = (*plan.selected, channel_id, shard, *plan.values)
        hits: list[int] = []
        pages = self._tables.pages(plan.cql, *values, page_rows=min(plan.page_rows, limit))
        async with contextlib.aclosing(pages):
            async for page in pages:
                hits += await self._checked(channel_id, page, plan, predicates)
                if len(hits) >= limit:
                    break
        return hits[:limit]

    async def _checked(
        self, channel_id: int, page: Sequence[Row], plan: "_Plan", predicates: Sequence[Predicate]
    ) -> list[int]:
        """Which rows of a page meet all predicates."""
        if not predicates:
            return [i for i, written in page if written is not None]
        if not plan.selected:
            decoded = ((row[0], _decoded(*row)) for row in page)
            return [i for i, fields in decoded if fields and _meet_all(fields, predicates)]
        # Large whole numbers were rounded, so that only the object itself tells.
        live = [(i, value) for i, written, value in page if written is not None]
        unsure = [i for i, value in live if value is not None and abs(value) >= EXACT_BELOW]
        whole = {item.id: item.fields for item in await self.get(channel_id, unsure)}
        name = plan.selected[0]
        return [i for i, value in live if _meet_all(whole.get(i, {name: value}), predicates)]


# -- queries


class _Plan(NamedTuple):
    """How one shard is searched: a statement, what it selects by name, what it compares."""

    cql: str
    selected: Sequence[str]
    values: Sequence[object]
    page_rows: int


def _plan(predicates: Sequence[Predicate], indexed: Predicate | None) -> _Plan:
    """How to find what meets all predicates, of which the index is asked for one, if any."""
    if not predicates:
        return _Plan(_IDS, (), (), VALUES_PAGE_ROWS)
    objects = f"SELECT id, fields, changes FROM objects {_OF_SHARD}"
    if indexed is not None:
        item = index_item(indexed.field, indexed.value)
        return _Plan(f"{objects} AND items CONTAINS ?", (), (item,), PAGE_ROWS)
    name = predicates[0].field
    numeric = all(p.field == name and not isinstance(p.value, str) for p in predicates)
    if numeric and is_indexed(name) and as_text(name) == name:
        # A value alone is a tenth of what an object is.
        cql = f"SELECT id, WRITETIME(fields), numeric[?] FROM objects {_OF_SHARD}"
        bounds = bounds_of(predicates) if name == COMPARED_FIELD else {}
        cql += "".join(f" AND confidence {operator} ?" for operator in bounds)
        return _Plan(cql, (name,), list(bounds.values()), VALUES_PAGE_ROWS)
    return _Plan(objects, (), (), PAGE_ROWS)


def _meet_all(fields: Mapping[str, Any], predicates: Sequence[Predicate]) -> bool:
    return all(meets(fields, predicate) for predicate in predicates)


# -- shards


def _by_shard(ids: Sequence[int]) -> dict[int, list[int]]:
    by_shard: defaultdict[int, list[int]] = defaultdict(list)
    for object_id in ids:
        by_shard[object_id >> SHARD_BITS].append(object_id)
    return by_shard


def _batches(channel_id: int, texts: Mapping[int, str], stamp_us: int) -> Iterator[list[Entry]]:
    """Statements that write objects, one batch a shard, or several if it would be too large."""
    for shard, ids in _by_shard(sorted(texts)).items():
        batch: list[Entry] = []
        size_bytes = 0
        for object_id in ids:
            text = texts[object_id]
            size_bytes += _COPIES * len(text)
            if batch and size_bytes > BATCH_BYTES:
                yield batch
                batch, size_bytes = [], _COPIES * len(text)
            items, numeric = index_values(json.loads(text))
            compared = numeric.get(COMPARED_FIELD)
            no_changes: dict[str, str] = {}
            key = (channel_id, shard, object_id)
            batch.append((_PUT, (*key, text, items, numeric, compared, no_changes, stamp_us)))
        yield batch


class _Note(NamedTuple):
    """The key of a put in ``object_puts``."""

    stamp_us: int
    put_id: bytes

    @property
    def slot(self) -> int:
        return self.put_id[0] % PUT_SLOTS


class _NotedPart(NamedTuple):
    """A part of a put; `parts` stands only in the last one, which makes it valid."""

    number: int
    parts: int | None
    channel_id: int
    objects: str


async def _notes(
    pages: AsyncIterator[Sequence[Row]],
) -> AsyncIterator[tuple[_Note, list[_NotedPart]]]:
    """The parts of one put after the other."""
    current: _Note | None = None
    parts: list[_NotedPart] = []
    async for page in pages:
        for stamp_us, put_id, *part in page:
            note = _Note(stamp_us, put_id)
            if current is not None and note != current:
                yield current, parts
                parts = []
            current = note
            parts.append(_NotedPart(*part))
    if current is not None:
        yield current, parts


def _valid(object_id: int) -> int:
    if not 0 <= object_id <= MAX_OBJECT_ID:
        raise InvalidRequest(f"{object_id} is no id of an object")
    return object_id


def _decoded(
    object_id: int, text: str | None, changes: Mapping[str, str] | None
) -> dict[str, Any] | None:
    """Fields as they were put, with what was changed since; None if there is no object.

    `Any` is what JSON can hold.
    """
    if text is None:
        return None
    try:
        fields: dict[str, Any] = json.loads(text)
        fields |= {name: json.loads(value)[""] for name, value in (changes or {}).items()}
    except ValueError as error:
        raise CorruptValue(f"the fields of object {object_id} are no JSON") from error
    return fields
