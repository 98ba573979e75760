import asyncio
import itertools

import pytest

from ndcass.errors import Conflict
from ndcass.store.base import MAX_OBJECT_ID
from ndcass.store.cassandra.object_ids import ObjectIds
from ndcass.store.cassandra.tables import Tables
from tests.flaky_tables import APPLIED, LATE, LOST, FlakyTables

COUNTER = 5


async def reserve(ids: ObjectIds, count: int = 1, *, most: int = MAX_OBJECT_ID) -> int:
    return await ids.reserve(COUNTER, count, most=most)


async def test_ids_of_two_processes_are_consecutive_and_go_to_one_each(tables: Tables) -> None:
    async def take(ids: ObjectIds) -> list[int]:
        return [await reserve(ids, 2) for _ in range(10)]

    taken = await asyncio.gather(take(ObjectIds(tables)), take(ObjectIds(tables)))

    assert sorted(itertools.chain(*taken)) == list(range(1, 41, 2))


async def test_callers_that_come_meanwhile_share_a_transaction(tables: Tables) -> None:
    flaky = FlakyTables(tables)
    ids = ObjectIds(flaky)

    firsts = await asyncio.gather(*(reserve(ids, 3) for _ in range(20)))

    assert sorted(firsts) == list(range(1, 61, 3))
    assert flaky.counts["whole"] <= 2


@pytest.mark.parametrize("faults", [(APPLIED,), (LOST,), (LOST, APPLIED), (APPLIED, LOST)])
async def test_ids_whose_answer_is_lost_are_given_once_and_without_a_gap(
    tables: Tables, faults: tuple[str, ...]
) -> None:
    ids = ObjectIds(FlakyTables(tables, *faults))

    assert [await reserve(ids, 2), await reserve(ids)] == [1, 3]
    assert await reserve(ObjectIds(tables)) == 4


async def test_a_reservation_that_comes_late_is_not_given_twice(tables: Tables) -> None:
    flaky = FlakyTables(tables, LATE)

    first = await reserve(ObjectIds(flaky), 4)
    await flaky.settled()

    assert (first, await reserve(ObjectIds(tables))) == (1, 5)


async def test_a_reservation_that_is_lost_behind_others_leaves_a_gap(tables: Tables) -> None:
    others = ObjectIds(tables)

    class Overtaken(FlakyTables):
        async def transact(self, *entries):  # type: ignore[no-untyped-def]  # as the base has it
            try:
                return await super().transact(*entries)
            finally:
                if self.counts["whole"] == 0:
                    await reserve(others, 10)

    assert await reserve(ObjectIds(Overtaken(tables, APPLIED)), 3) == 14
    assert await reserve(ObjectIds(tables)) == 17


async def test_what_is_refused_takes_nothing_from_those_who_came_with_it(tables: Tables) -> None:
    ids = ObjectIds(tables)

    outcomes = await asyncio.gather(
        reserve(ids, 3),
        reserve(ids, 9, most=10),
        ids.raise_to(COUNTER, 6),
        reserve(ids, 2),
        return_exceptions=True,
    )

    assert outcomes[0] == 1
    assert isinstance(outcomes[1], Conflict)
    assert (outcomes[2], outcomes[3]) == (None, 7)


async def test_the_largest_ids_can_be_reserved(tables: Tables) -> None:
    ids = ObjectIds(tables)
    await ids.raise_to(COUNTER, MAX_OBJECT_ID - 2)

    assert await reserve(ids, 2) == MAX_OBJECT_ID - 1
    with pytest.raises(Conflict):
        await reserve(ids)


async def test_a_counter_that_is_high_enough_already_costs_no_transaction(tables: Tables) -> None:
    await reserve(ObjectIds(tables), 50)
    flaky = FlakyTables(tables)

    await ObjectIds(flaky).raise_to(COUNTER, 50)

    assert flaky.counts == {}


async def test_a_caller_that_left_gets_no_ids(tables: Tables) -> None:
    ids = ObjectIds(tables)
    left = asyncio.create_task(reserve(ids, 100))
    await asyncio.sleep(0)  # it asked
    left.cancel()

    assert await reserve(ids) == 1
    with pytest.raises(asyncio.CancelledError):
        await left
