"""Marks of stale cuboids on real nodes, where a write and its marks are no transaction."""

from collections.abc import Sequence

import numpy as np
import pytest

from ndcass.errors import StoreTimeout
from ndcass.merge import WriteOp
from ndcass.store.base import PLAIN, CuboidAddress, CuboidWrite, StaleMark
from ndcass.store.cassandra.cuboids import CassandraCuboids
from ndcass.store.cassandra.driver import Driver
from ndcass.store.cassandra.stale import CassandraStale
from ndcass.store.cassandra.tables import Tables
from ndcass.store.cassandra.tiers import Tiers, Windows

SHAPE = (4, 8, 8)
BASE, PARENT = CuboidAddress(1, PLAIN, 0, 0, 5), CuboidAddress(1, PLAIN, 1, 0, 1)
WINDOW_S = 30.0


class Store:
    """Cuboids and their marks, with a clock that the test may set."""

    def __init__(self, cuboids: CassandraCuboids) -> None:
        self.cuboids = cuboids
        self.ahead_ms = 0
        right_ms = cuboids.clock.now_ms
        cuboids.clock._now_ms = lambda: right_ms() + self.ahead_ms

    @property
    def stale(self) -> CassandraStale:
        return self.cuboids.stale

    async def write(self, address: CuboidAddress, value: int, *marked: CuboidAddress) -> None:
        async with self.cuboids.batch() as batch:
            await batch.add([written(address, value)])
            batch.mark_stale(marked)
            await batch.commit()

    async def marks(self) -> Sequence[StaleMark]:
        scan = self.stale.scan(1, pyramid=PLAIN, level=1)
        return [mark async for page in scan for mark in page]


def written(address: CuboidAddress, value: int) -> CuboidWrite:
    voxels = np.full(SHAPE, value, dtype="<u2")
    return CuboidWrite(address, WriteOp.REPLACE, SHAPE, (0, 0, 0), voxels)


@pytest.fixture
async def store(driver: Driver, tables: Tables, one_tier: Tiers) -> Store:
    windows = Windows(max_clock_skew_ms=0, write_window_s=WINDOW_S)
    cuboids = await CassandraCuboids.open(driver, one_tier, windows)
    return Store(cuboids)


async def test_a_write_leaves_one_settled_mark(store: Store) -> None:
    await store.write(BASE, 1, PARENT)
    [mark] = await store.marks()
    assert mark.address == PARENT
    assert len(mark.mark) == 1


async def test_each_write_leaves_a_mark_of_its_own(store: Store) -> None:
    await store.write(BASE, 1, PARENT)
    await store.write(BASE, 2, PARENT)
    [mark] = await store.marks()
    assert len(set(mark.mark)) == 2


async def test_the_mark_of_a_write_under_way_is_seen_and_cannot_be_cleared(store: Store) -> None:
    await store.stale.set([PARENT], settled=False)
    assert await store.stale.marked([PARENT]) == {PARENT}
    assert await store.stale.counts(1) == {(PLAIN, 1): 1}
    assert await store.marks() == []


async def test_the_mark_of_a_write_that_died_is_cleared_when_its_voxels_cannot_come_any_more(
    store: Store,
) -> None:
    mark = await store.stale.set([PARENT], settled=False)
    store.ahead_ms = round(1000 * WINDOW_S)
    assert await store.marks() == []
    store.ahead_ms = round(2000 * WINDOW_S) + 1000
    assert await store.marks() == [StaleMark(PARENT, [mark])]


async def test_a_write_whose_pending_mark_was_cleared_leaves_a_mark_all_the_same(
    store: Store,
) -> None:
    pending = store.stale.pending([PARENT])
    await pending.keep()
    await store.stale.clear([(PARENT, pending._marks)])
    assert await store.stale.marked([PARENT]) == set()
    await pending.settle()
    assert len(await store.marks()) == 1


async def test_a_long_write_keeps_its_marks_young(store: Store) -> None:
    pending = store.stale.pending([PARENT])
    await pending.keep()
    await pending.keep()
    assert len(pending._marks) == 1
    pending._set_at_s -= WINDOW_S
    await pending.keep()
    assert len(pending._marks) == 2
    await pending.settle()
    [mark] = await store.marks()
    assert set(mark.mark).isdisjoint(pending._marks)


async def test_a_derivation_that_takes_too_long_writes_nothing(store: Store) -> None:
    await store.write(BASE, 1, PARENT)
    async with store.stale.derivation(await store.marks()) as batch:
        await batch.add([written(PARENT, 1)])
        store.ahead_ms = round(1000 * WINDOW_S) + 1000
        with pytest.raises(StoreTimeout):
            await batch.commit()
    assert await store.stale.marked([PARENT]) == {PARENT}


async def test_a_partition_that_is_empty_for_long_is_not_walked_any_more(store: Store) -> None:
    await store.write(BASE, 1, PARENT)
    async with store.stale.derivation(await store.marks()) as batch:
        await batch.commit()
    assert list(await store.stale.channels()) == []
    assert len(await store.stale._roots(1)) == 1
    store.ahead_ms = round(2000 * WINDOW_S)
    assert list(await store.stale.channels()) == []
    assert await store.stale._roots(1) == []
    # A mark that is set now, by somebody whose clock is right, is found.
    store.ahead_ms = 0
    await store.stale.mark([PARENT])
    store.ahead_ms = round(2000 * WINDOW_S)
    assert list(await store.stale.channels()) == [1]
