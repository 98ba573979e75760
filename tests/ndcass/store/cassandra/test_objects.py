import asyncio
import math
import uuid
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ndcass.errors import InvalidRequest, StoreUnavailable
from ndcass.store.base import MAX_OBJECT_ID, Comparison, Predicate, StoredObject
from ndcass.store.cassandra import objects as objects_module
from ndcass.store.cassandra.driver import ConnectSettings, Driver
from ndcass.store.cassandra.objects import SHARD_BITS, CassandraObjects
from ndcass.store.cassandra.schema import Keyspaces
from ndcass.store.cassandra.stamps import Stamps
from ndcass.store.cassandra.tables import Entry, Tables
from ndcass.store.memory.annotations import MemoryObjects

CHANNEL = 1
FAR = 5 << SHARD_BITS


@pytest.fixture
def objects(tables: Tables) -> CassandraObjects:
    return CassandraObjects(tables, Stamps())


async def fields_of(objects: CassandraObjects, *ids: int) -> list[dict[str, Any]]:
    return [dict(item.fields) for item in await objects.get(CHANNEL, ids)]


# -- puts of several shards


class Dying(Tables):
    """Dies with a write whose statement begins so, after some that went through."""

    def __init__(self, tables: Tables, start: str, *, after: int) -> None:
        vars(self).update(vars(tables))
        self.start = start
        self.left = after

    async def write(self, cql: str, *values: object) -> None:
        self._live_on(cql)
        await super().write(cql, *values)

    async def write_together(self, entries: Sequence[Entry]) -> None:
        self._live_on(entries[0][0])
        await super().write_together(entries)

    def _live_on(self, cql: str) -> None:
        if cql.startswith(self.start):
            self.left -= 1
            if self.left < 0:
                raise StoreUnavailable("gone")


NEW = [StoredObject(n, {"new": n}) for n in (1, 2, FAR, FAR + 1, 2 * FAR)]
OLD = [StoredObject(n, {"old": n}) for n in (1, FAR)]


@pytest.mark.parametrize("after", [0, 1, 2])
async def test_a_put_of_several_shards_that_was_interrupted_is_finished(
    tables: Tables, objects: CassandraObjects, after: int
) -> None:
    await objects.put(CHANNEL, OLD)
    dying = CassandraObjects(Dying(tables, "INSERT INTO objects ", after=after), Stamps())
    with pytest.raises(StoreUnavailable):
        await dying.put(CHANNEL, NEW)

    assert await objects.finish_puts() == 0, "whoever began it may still be at it"
    assert await objects.finish_puts(older_than_s=0) == 1

    assert list(await objects.get(CHANNEL, [item.id for item in NEW])) == NEW
    assert await objects.finish_puts(older_than_s=0) == 0


async def test_a_put_that_was_not_noted_as_a_whole_never_happens(
    tables: Tables, objects: CassandraObjects, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(objects_module, "PART_BYTES", 20)
    await objects.put(CHANNEL, OLD)
    dying = CassandraObjects(Dying(tables, "INSERT INTO object_puts", after=3), Stamps())
    with pytest.raises(StoreUnavailable):
        await dying.put(CHANNEL, NEW)

    assert await objects.finish_puts(older_than_s=0) == 0
    assert list(await objects.get(CHANNEL, [item.id for item in NEW])) == OLD
    assert list(await tables.rows("SELECT part FROM object_puts")) == []


async def test_finishing_a_put_late_does_not_undo_what_came_after(
    tables: Tables, objects: CassandraObjects, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(objects_module, "PART_BYTES", 20)
    dying = CassandraObjects(Dying(tables, "DELETE FROM object_puts", after=0), Stamps())
    with pytest.raises(StoreUnavailable):
        await dying.put(CHANNEL, NEW)
    await objects.put(CHANNEL, [StoredObject(1, {"newest": 1})])
    await objects.delete(CHANNEL, [FAR])

    assert await objects.finish_puts(older_than_s=0) == 1

    assert await fields_of(objects, 1, 2, FAR) == [{"newest": 1}, {"new": 2}]
    assert list(await objects.query(CHANNEL, [_equal("new", FAR)], limit=9)) == []


async def test_a_put_larger_than_a_batch_is_one(
    objects: CassandraObjects, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(objects_module, "BATCH_BYTES", 1000)
    many = [StoredObject(n, {"text": "x" * 200, "n": n}) for n in range(1, 30)]

    await objects.put(CHANNEL, many)

    assert list(await objects.get(CHANNEL, range(40))) == many
    assert await objects.finish_puts(older_than_s=0) == 0


async def test_a_reader_meets_no_half_of_an_object(objects: CassandraObjects) -> None:
    versions = [{"a": n, "b": n, "text": str(n) * 50} for n in range(6)]
    await objects.put(CHANNEL, [StoredObject(7, versions[0])])

    async def write() -> None:
        for fields in versions[1:]:
            await objects.put(CHANNEL, [StoredObject(7, fields), StoredObject(FAR, fields)])

    writing = asyncio.create_task(write())
    while not writing.done():
        [fields] = await fields_of(objects, 7)
        assert fields in versions
    await writing
    assert await fields_of(objects, 7, FAR) == [versions[-1]] * 2


async def test_a_bad_id_or_field_changes_nothing(objects: CassandraObjects) -> None:
    for bad in (StoredObject(-1, {}), StoredObject(1 << 64, {}), StoredObject(2, {"a": {1}})):
        with pytest.raises(InvalidRequest):
            await objects.put(CHANNEL, [StoredObject(1, {}), bad])
    assert list(await objects.get(CHANNEL, [1, 2, -1, 1 << 64])) == []


# -- queries


def _equal(field: str, value: Any) -> Predicate:
    return Predicate(field, Comparison.EQUAL, value)


async def test_ids_of_all_shards_come_in_order_and_no_more_than_asked_for(
    objects: CassandraObjects,
) -> None:
    ids = sorted({n * FAR + k for n in range(12) for k in range(3)} | {MAX_OBJECT_ID})
    await objects.put(CHANNEL, [StoredObject(n, {"a": 1}) for n in reversed(ids)])

    for predicates in ([], [_equal("a", 1)], [Predicate("a", Comparison.LESS, 2)]):
        assert list(await objects.query(CHANNEL, predicates, limit=1000)) == ids
        assert list(await objects.query(CHANNEL, predicates, limit=5)) == ids[:5]


async def test_pages_of_hits_are_all_looked_at(
    objects: CassandraObjects, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("PAGE_ROWS", "VALUES_PAGE_ROWS"):
        monkeypatch.setattr(objects_module, name, 4)
    await objects.put(CHANNEL, [StoredObject(n, {"a": n % 2, "b": n}) for n in range(30)])

    late = Predicate("b", Comparison.GREATER, 20)
    assert list(await objects.query(CHANNEL, [_equal("a", 1), late], limit=3)) == [21, 23, 25]
    assert list(await objects.query(CHANNEL, [late], limit=99)) == list(range(21, 30))


async def test_the_index_is_asked_for_the_rarest_value(
    objects: CassandraObjects, monkeypatch: pytest.MonkeyPatch
) -> None:
    many = [StoredObject(n, {"type": 1, "author": f"a{n % 50}"}) for n in range(1, 151)]
    await objects.put(CHANNEL, many)
    read: list[int] = []
    checked = objects._checked

    async def counting(channel_id: int, page: Any, *rest: Any) -> list[int]:
        read.append(len(page))
        return await checked(channel_id, page, *rest)

    monkeypatch.setattr(objects, "_checked", counting)
    predicates = [_equal("type", 1), _equal("author", "a7")]
    assert list(await objects.query(CHANNEL, predicates, limit=9)) == [7, 57, 107]
    assert sum(read) == 3


NUMBERS: list[Any] = [
    *(0, -0.0, 1, 1.0, True, False, -5, 0.1, 1e300, -1e300),
    *((1 << 53) - 1, 1 << 53, (1 << 53) + 1, MAX_OBJECT_ID, MAX_OBJECT_ID - 1, 10**400, -(10**400)),
]
TEXTS: list[Any] = [
    "",
    "a",
    "b",
    "A",
    "\u00e9",
    "\U0001f9e0",
    "\ud800",
    "\\ud800",
    "\0",
    "x" * 199,
    "x" * 200,
    "x" * 201,
    "x" * 200 + "y",
    "1",
]
OTHERS: list[Any] = [None, [], {}, [1]]
FIELDS = ["type", "", "f" * 300, "\ud800", "a'b"]


@pytest.fixture(scope="module")
def kept_open(
    cassandra_settings: ConnectSettings, keyspaces: Keyspaces
) -> Iterator[tuple[asyncio.Runner, Tables]]:
    """Tables for all examples of a property, and the loop that they belong to."""
    with asyncio.Runner() as runner:
        driver = runner.run(Driver.connect(cassandra_settings))
        meta = keyspaces.meta
        yield runner, Tables(driver, keyspace=meta.name, data_centre=meta.data_centre)
        runner.run(driver.close())


@settings(max_examples=60)
@given(
    stored=st.lists(
        st.dictionaries(
            st.sampled_from(FIELDS), st.sampled_from(NUMBERS + TEXTS + OTHERS), max_size=3
        ),
        max_size=8,
    ),
    predicates=st.lists(
        st.builds(
            Predicate,
            st.sampled_from(FIELDS),
            st.sampled_from(list(Comparison)),
            st.sampled_from(NUMBERS + TEXTS),
        ),
        max_size=3,
    ),
    limit=st.integers(0, 9),
)
def test_a_query_finds_what_the_one_in_memory_finds(
    kept_open: tuple[asyncio.Runner, Tables],
    stored: list[dict[str, Any]],
    predicates: list[Predicate],
    limit: int,
) -> None:
    runner, tables = kept_open

    async def both() -> tuple[list[int], list[int]]:
        channel = uuid.uuid4().int >> 66  # one that no other example has
        cassandra, memory = CassandraObjects(tables, Stamps()), MemoryObjects()
        made = [StoredObject(1 + n * FAR // 2, fields) for n, fields in enumerate(stored)]
        found = []
        for store in (cassandra, memory):
            await store.put(channel, made)
            found.append(list(await store.query(channel, predicates, limit=limit)))
        await cassandra.delete_channel(channel)
        return found[0], found[1]

    found, expected = runner.run(both())
    assert found == expected


async def test_a_query_compares_with_a_text_or_a_number(objects: CassandraObjects) -> None:
    with pytest.raises(InvalidRequest):
        await objects.query(CHANNEL, [_equal("a", None)], limit=9)
    await objects.put(CHANNEL, [StoredObject(1, {"a": 1.5})])
    for value in (math.inf, -math.inf):
        assert list(await objects.query(CHANNEL, [_equal("a", value)], limit=9)) == []
