"""What the embedded objects promise beyond the contract: any value, and an index that fits."""

import asyncio
import sqlite3
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ndcass.errors import InvalidRequest
from ndcass.store.base import Comparison, Predicate, StoredObject
from ndcass.store.embedded import objects as engine
from ndcass.store.embedded import sqlite
from ndcass.store.embedded.objects import EmbeddedObjects
from ndcass.store.embedded.sqlite import Database
from ndcass.store.memory.annotations import MemoryObjects

LARGEST = (1 << 64) - 1


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    opened = Database.open(tmp_path / "catalog.sqlite")
    yield opened
    opened.close()


@pytest.fixture
def objects(database: Database) -> EmbeddedObjects:
    return EmbeddedObjects(database)


async def rows(database: Database, table: str) -> int:
    count = f"SELECT count(*) FROM {table}"
    return int(await database.read(lambda db: db.execute(count).fetchone()[0]))


# -- the index gives what a walk over all objects would

# Around the bounds where SQLite's numbers end, and values that differ only in kind.
numbers = st.one_of(
    st.sampled_from([0, 1, -1, 2**53, 2**53 + 1, 2**63 - 1, 2**63, 2**63 + 1, 2**64 - 1, -(2**63)]),
    st.sampled_from([0.0, 1.0, 0.5, -0.5, 2.0**53, 2.0**63, 2.0**64, 1e300, True, False]),
    st.integers(-3, 3),
)
texts = st.sampled_from(["", "1", "0.5", "a", "A", "ab", "\N{SNOWMAN}", "\U0001f9e0", "\0"])
values = st.one_of(numbers, texts, st.none(), st.lists(st.integers(0, 3), max_size=2))
fields = st.dictionaries(st.sampled_from(["a", "b", "c"]), values, min_size=1)
ids = st.sampled_from([0, 1, 2, 3, 4, 2**63 - 1, 2**63, LARGEST])
some_objects = st.dictionaries(ids, fields, min_size=2)
predicates = st.builds(
    Predicate, st.sampled_from(["a", "b"]), st.sampled_from(list(Comparison)), numbers | texts
)


@settings(max_examples=60, deadline=None)
@given(
    steps=st.lists(st.tuples(st.booleans(), some_objects), min_size=1, max_size=4),
    asked=st.lists(st.lists(predicates, max_size=2), min_size=4, max_size=8),
    limit=st.sampled_from([1, 2, 99, 99]),
    enough=st.sampled_from([1, 2, 2000]),
)
def test_queries_answer_as_the_reference_does(
    steps: Sequence[tuple[bool, Mapping[int, Mapping[str, Any]]]],
    asked: Sequence[Sequence[Predicate]],
    limit: int,
    enough: int,
) -> None:
    async def compare(database: Database) -> None:
        stores = (EmbeddedObjects(database), MemoryObjects())
        for is_delete, some in steps:
            for store in stores:
                if is_delete:
                    await store.delete(1, list(some))
                else:
                    await store.put(1, [StoredObject(*item) for item in some.items()])
        ours, reference = stores
        for query in asked:
            found = await ours.query(1, query, limit=limit)
            assert list(found) == list(await reference.query(1, query, limit=limit))

    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine, "ENOUGH_HITS", enough)
        database = Database.open(Path(folder) / "catalog.sqlite")
        asyncio.run(compare(database))
        database.close()


async def test_texts_and_numbers_are_never_compared(objects: EmbeddedObjects) -> None:
    await objects.put(1, [StoredObject(1, {"a": 5}), StoredObject(2, {"a": "5"})])

    async def query(comparison: Comparison, value: object) -> list[int]:
        return list(await objects.query(1, [Predicate("a", comparison, value)], limit=9))

    assert await query(Comparison.EQUAL, 5) == [1]
    assert await query(Comparison.EQUAL, "5") == [2]
    assert await query(Comparison.LESS, 9) == [1]
    assert await query(Comparison.LESS, "9") == [2]
    assert await query(Comparison.GREATER, 1) == [1]
    assert await query(Comparison.GREATER, "1") == [2]


async def test_deleting_objects_leaves_no_row_of_the_index(
    objects: EmbeddedObjects, database: Database
) -> None:
    await objects.put(1, [StoredObject(n, {"n": n, "t": "x", "f": 0.1 * n}) for n in range(9)])
    await objects.put(1, [StoredObject(n, {"n": -n, "big": 2**64 - n}) for n in range(5)])
    assert await rows(database, "object_values") == 5 * 2 + 4 * 3
    await objects.delete(1, [0, 5])
    assert await objects.delete_channel(1) == 7
    assert await rows(database, "object_values") == 0
    assert await rows(database, "objects") == 0


# -- batches


@pytest.mark.parametrize(
    "bad",
    [
        StoredObject(2, {"a": float("nan")}),
        StoredObject(2, {"a": object()}),
        StoredObject(2, {"a": "\ud800"}),
        StoredObject(2, {"\ud800": 1}),
        StoredObject(-1, {}),
        StoredObject(1 << 64, {}),
    ],
)
async def test_a_batch_with_one_bad_object_changes_nothing(
    objects: EmbeddedObjects, bad: StoredObject
) -> None:
    await objects.put(1, [StoredObject(1, {"a": "old"})])
    with pytest.raises(InvalidRequest):
        await objects.put(1, [StoredObject(1, {"a": "new"}), StoredObject(3, {}), bad])
    assert list(await objects.query(1, [], limit=9)) == [1]
    [found] = await objects.get(1, [1])
    assert dict(found.fields) == {"a": "old"}


async def test_the_last_of_two_with_one_id_counts(objects: EmbeddedObjects) -> None:
    await objects.put(1, [StoredObject(1, {"a": 1}), StoredObject(1, {"b": 2})])
    [found] = await objects.get(1, [1])
    assert dict(found.fields) == {"b": 2}
    assert list(await objects.query(1, [Predicate("a", Comparison.EQUAL, 1)], limit=9)) == []


async def test_ids_of_64_bits_come_in_order(objects: EmbeddedObjects) -> None:
    numbers = [LARGEST, 1, 1 << 63, 7]
    await objects.put(1, [StoredObject(n, {"a": 1}) for n in numbers])
    assert list(await objects.query(1, [], limit=9)) == sorted(numbers)
    assert list(await objects.query(1, [], limit=3)) == [1, 7, 1 << 63]
    assert [o.id for o in await objects.get(1, [*numbers, 1 << 64, -1])] == numbers
    assert await objects.delete(1, [LARGEST, LARGEST, 1 << 64]) == 1


async def test_a_large_channel_is_deleted_in_steps(
    objects: EmbeddedObjects, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "DELETE_AT_ONCE", 10)
    await objects.put(1, [StoredObject(n, {"n": n}) for n in range(35)])
    await objects.put(2, [StoredObject(n, {"n": n}) for n in range(3)])
    most = 0
    write = database.write

    async def counted(func: Any) -> Any:  # as Database.write
        nonlocal most
        deleted = await write(func)
        most = max(most, deleted)
        return deleted

    monkeypatch.setattr(database, "write", counted)
    assert await objects.delete_channel(1) == 35
    assert most == 10
    assert await rows(database, "object_values") == 3
    assert list(await objects.query(2, [], limit=9)) == [0, 1, 2]


# -- plans


@pytest.mark.parametrize(
    ("query", "walked"),
    [
        ([("rare", "=", 1), ("common", "=", 1)], "rare"),
        ([("common", "=", 1), ("rare", "=", 1)], "rare"),
        ([("common", "=", 1), ("number", ">", 9990)], "number"),
        ([("number", ">", 1), ("common", "=", 1)], "common"),
    ],
)
async def test_a_query_walks_the_field_with_the_fewest_hits(
    objects: EmbeddedObjects, database: Database, query: list[Any], walked: str
) -> None:
    await objects.put(
        1,
        [
            StoredObject(n, {"common": 1, "rare": int(n % 1000 == 0), "number": n})
            for n in range(10_000)
        ],
    )
    predicates = [Predicate(f, Comparison(c), value) for f, c, value in query]

    def plan(db: sqlite3.Connection) -> list[Any]:
        return engine._plan(db, 1, predicates)[1]

    assert (await database.read(plan))[1] == walked


async def test_no_walk_over_the_whole_index(objects: EmbeddedObjects, database: Database) -> None:
    def plan(db: sqlite3.Connection) -> list[str]:
        predicates = [
            Predicate("a", Comparison.EQUAL, 1),
            Predicate("b", Comparison.EQUAL, "x"),
            Predicate("c", Comparison.GREATER, 0.5),
        ]
        select, values, _ = engine._plan(db, 1, predicates)
        explained = db.execute(f"EXPLAIN QUERY PLAN {select} AND id >= 0 ORDER BY id", values)
        return [row[3] for row in explained]

    steps = await database.read(plan)
    assert not [step for step in steps if "SCAN" in step or "TEMP B-TREE" in step], steps
    assert "channel_id=? AND field=? AND value=? AND id>?" in steps[0]
    assert "channel_id=? AND field=? AND value=? AND id=?" in steps[-1]


async def test_hits_of_a_value_are_counted_by_the_value(database: Database) -> None:
    found = engine._Range.of(1, [Predicate("a", Comparison.EQUAL, 1)])

    def plan(db: sqlite3.Connection) -> str:
        select = f"EXPLAIN QUERY PLAN SELECT 1 FROM object_values WHERE {found.where}"
        return str(db.execute(select, found.values).fetchone()[3])

    assert "channel_id=? AND field=? AND value=?" in await database.read(plan)


@pytest.mark.parametrize("value", [None, [1], b"x"])
async def test_a_query_for_what_is_no_text_or_number_is_refused(
    objects: EmbeddedObjects, value: object
) -> None:
    with pytest.raises(InvalidRequest, match="text or a number"):
        await objects.query(1, [Predicate("a", Comparison.EQUAL, value)], limit=9)


@pytest.mark.parametrize("value", [10**400, -(10**400)])
async def test_a_number_beyond_all_floats_is_found(objects: EmbeddedObjects, value: int) -> None:
    await objects.put(1, [StoredObject(1, {"a": value}), StoredObject(2, {"a": 2 * value})])

    assert await objects.query(1, [Predicate("a", Comparison.EQUAL, value)], limit=9) == [1]
