import asyncio
import itertools
from collections.abc import AsyncIterator

import pytest

from ndcass.errors import Conflict, StoreTimeout, StoreUnavailable, TooLarge
from ndcass.store.cassandra import partition as partition_module
from ndcass.store.cassandra import tables as tables_module
from ndcass.store.cassandra.driver import ConnectSettings, Driver
from ndcass.store.cassandra.partition import Change, Key, Partition, Reads
from ndcass.store.cassandra.schema import Keyspaces
from ndcass.store.cassandra.tables import Tables
from tests.flaky_tables import APPLIED, LATE, LOST, FlakyTables

COUNTER = Key("dataset", "counter")


@pytest.fixture
async def others(
    cassandra_settings: ConnectSettings, keyspaces: Keyspaces, tables: Tables
) -> AsyncIterator[Tables]:
    """The same tables over connections of their own, as another process has them."""
    meta = keyspaces.meta
    driver = await Driver.connect(cassandra_settings)
    yield Tables(driver, keyspace=meta.name, data_centre=meta.data_centre)
    await driver.close()


async def count_up(change: Change) -> int:
    """A change that depends on what is there."""
    row = await change.row(COUNTER)
    number = 1 + (row["number"] if row else 0)
    change.put(COUNTER, {"number": number})
    return number


async def counted(tables: Tables) -> int:
    row = await Partition(tables).reads().row(COUNTER)
    return row["number"] if row else 0


async def test_no_change_of_two_writers_is_lost(tables: Tables, others: Tables) -> None:
    one, other = Partition(tables), Partition(others)

    async def write(partition: Partition) -> list[int]:
        return [await partition.change(count_up) for _ in range(8)]

    results = await asyncio.gather(write(one), write(other))

    assert sorted(itertools.chain(*results)) == list(range(1, 17))
    assert await one.version() == 16


async def test_changes_of_one_process_do_not_get_into_each_others_way(tables: Tables) -> None:
    flaky = FlakyTables(tables)
    partition = Partition(flaky)

    numbers = await asyncio.gather(*(partition.change(count_up) for _ in range(10)))

    assert sorted(numbers) == list(range(1, 11))
    assert flaky.counts == {"whole": 10}


async def test_a_change_that_raises_changes_nothing(tables: Tables) -> None:
    partition = Partition(tables)
    await partition.change(count_up)

    async def refuse(change: Change) -> None:
        await count_up(change)
        raise Conflict("no")

    with pytest.raises(Conflict):
        await partition.change(refuse)
    assert (await counted(tables), await partition.version()) == (1, 1)


@pytest.mark.parametrize(
    "faults", [(APPLIED,), (LOST,), (LOST, APPLIED), (LOST, LOST, None), (APPLIED, LOST)]
)
async def test_a_change_whose_answer_is_lost_is_made_once(
    tables: Tables, faults: tuple[str | None, ...]
) -> None:
    await Partition(tables).change(count_up)

    assert await Partition(FlakyTables(tables, *faults)).change(count_up) == 2
    assert (await counted(tables), await Partition(tables).version()) == (2, 2)


async def test_a_change_that_comes_late_is_made_once(tables: Tables) -> None:
    flaky = FlakyTables(tables, LATE)

    assert await Partition(flaky).change(count_up) == 1
    await flaky.settled()
    assert (await counted(tables), await Partition(tables).version()) == (1, 1)


async def test_a_change_that_comes_after_it_was_asked_for_is_known_as_ones_own(
    tables: Tables,
) -> None:
    flaky = FlakyTables(tables, LATE)
    calls: list[int] = []

    async def create(change: Change) -> str:
        if calls:  # the second attempt has read the version, and the first one comes to pass now
            await flaky.settled()
        calls.append(change.next_version)
        change.put(COUNTER, {"number": 1})
        return f"attempt {len(calls)}"

    assert (await Partition(flaky).change(create)).startswith("attempt")
    assert calls == [1, 1]
    assert await Partition(tables).version() == 1


async def test_a_change_whose_answer_is_lost_is_told_from_another_one(
    tables: Tables, others: Tables
) -> None:
    other = Partition(others)

    class Overtaken(FlakyTables):
        async def transact(self, *entries):  # type: ignore[no-untyped-def]  # as the base has it
            if self.faults:
                await other.change(count_up)
            return await super().transact(*entries)

    assert await Partition(Overtaken(tables, LOST)).change(count_up) == 2
    assert await counted(tables) == 2


async def test_a_store_that_does_not_say_what_became_of_a_change_is_an_error(
    tables: Tables, monkeypatch: pytest.MonkeyPatch
) -> None:
    partition = Partition(FlakyTables(tables, LOST))
    state = partition._state
    answers = itertools.count()

    async def once(consistency):  # type: ignore[no-untyped-def]  # as the method has it
        if next(answers):
            raise StoreUnavailable("away")
        return await state(consistency)

    monkeypatch.setattr(partition, "_state", once)
    with pytest.raises(StoreTimeout, match="unknown"):
        await partition.change(count_up)


async def test_who_is_overtaken_all_the_time_gives_up(
    tables: Tables, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables_module, "MOST_ATTEMPTS", 3)
    other = Partition(tables)

    async def overtaken(change: Change) -> None:
        await other.change(count_up)
        change.put(Key("dataset", "mine"), {})

    with pytest.raises(StoreUnavailable, match="at once"):
        await Partition(tables).change(overtaken)
    assert await Partition(tables).reads().row(Key("dataset", "mine")) is None


async def test_a_change_of_thousands_of_rows_is_one(tables: Tables) -> None:
    partition = Partition(tables)

    async def fill(change: Change) -> None:
        for number in range(3000):
            change.put(Key("project", f"{number:05}"), {"text": "x" * 100})

    await partition.change(fill)
    assert len(await partition.reads().kind("project")) == 3000
    assert await partition.version() == 1


async def test_a_change_of_too_many_rows_is_refused(
    tables: Tables, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(partition_module, "MOST_ROWS_A_CHANGE", 2)

    async def fill(change: Change) -> None:
        for number in range(3):
            change.put(Key("project", str(number)), {})

    with pytest.raises(TooLarge, match="2 names"):
        await Partition(tables).change(fill)
    assert await Partition(tables).version() is None


async def test_reads_that_a_change_came_between_are_done_again(tables: Tables) -> None:
    partition = Partition(tables)
    left, right = Key("dataset", "left"), Key("dataset", "right")

    async def both(change: Change) -> None:
        for key in (left, right):
            change.put(key, {"number": change.next_version})

    await partition.change(both)
    asked: list[int] = []

    async def question(reads: Reads) -> tuple[object, object]:
        first = await reads.row(left)
        if not asked:
            await partition.change(both)
        asked.append(1)
        return first, await reads.row(right)

    assert await partition.snapshot(question) == (2, ({"number": 2}, {"number": 2}))
    assert len(asked) == 2


@pytest.mark.parametrize("name", ["\ud800", "x" * 100_000, ""])
async def test_a_name_that_cannot_be_stored_is_absent(tables: Tables, name: str) -> None:
    reads = Partition(tables).reads()
    assert await reads.row(Key("dataset", name)) is None
    assert await reads.parts("channel", name) == {}
