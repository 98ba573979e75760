"""What is folded and drained when nobody asks, and what is said about it, on real nodes."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pytest

from ndcass.errors import ConfigError
from ndcass.store.cassandra.driver import Driver
from ndcass.store.cassandra.fold import Pace
from ndcass.store.cassandra.fold_queue import SHARDS, FoldQueue, Noted
from ndcass.store.cassandra.folding import FoldSettings
from ndcass.store.cassandra.rows import Bucket
from ndcass.store.cassandra.tables import Tables
from ndcass.store.cassandra.tiers import Tiers
from ndcass.store.folding import Amount
from tests.folding import Volume, channel_ids, labels, open_volume, read


@pytest.fixture
async def meta(driver: Driver, one_tier: Tiers) -> AsyncIterator[Tables]:
    """The tables of queue and leases, empty."""
    tables = Tables(driver, keyspace=one_tier.meta.keyspace, data_centre=one_tier.meta.data_centre)
    queue = FoldQueue(tables, owner="")
    for noted in await entries(queue):
        await queue.forget(noted)
    yield tables
    for name in await tables.rows("SELECT name FROM fold_leases"):
        await tables.transact(("DELETE FROM fold_leases WHERE name = ? IF EXISTS", name))


@pytest.fixture
async def volume(driver: Driver, tiers: Tiers, meta: Tables) -> Volume:
    """A channel that nobody used before."""
    return await open_volume(driver, tiers, next(channel_ids))


async def another(volume: Volume, **options: Any) -> Volume:
    """The same channel, through another gateway."""
    other = await open_volume(volume.driver, volume.cuboids.tiers, volume.channel_id, **options)
    other.model = volume.model
    other.clock.fold_ahead_ms = volume.clock.fold_ahead_ms
    other.clock.sweep_ahead_s = volume.clock.sweep_ahead_s
    return other


async def crowded(volume: Volume, times: int = 6) -> None:
    rng = np.random.default_rng(1)
    for _ in range(times):
        await volume.write(0, labels(rng))


async def steps(volume: Volume, count: int = 1) -> None:
    for _ in range(count):
        volume.clock.pass_windows()
        await volume.folding.step()


async def test_what_a_gateway_wrote_often_it_folds_and_sweeps_in_the_background(
    volume: Volume,
) -> None:
    await crowded(volume)
    assert await volume.folding.queue.count() == 0
    await volume.folding.step()
    assert await volume.rows() == (6, 0)
    assert await volume.folding.queue.count() == 1
    await steps(volume)
    assert await volume.rows() == (6, 1)
    await volume.check()
    await steps(volume, 2)
    assert await volume.rows() == (0, 1)
    assert await volume.folding.queue.count() == 0
    await volume.check()


async def test_who_reads_many_rows_has_them_folded(volume: Volume) -> None:
    await crowded(volume)
    reader = await another(volume)
    await read(reader.cuboids, [volume.at(0)])
    await steps(reader, 3)
    assert await volume.rows() == (0, 1)
    assert reader.folding.counts["folded_rows"] == 6
    await volume.check()


async def test_cuboids_of_few_rows_are_left_alone(volume: Volume) -> None:
    await crowded(volume, times=4)
    await read(volume.cuboids, [volume.at(0)])
    await steps(volume, 2)
    assert (await volume.rows())[0] == 4


async def test_what_a_dead_folder_left_to_be_swept_another_sweeps(volume: Volume) -> None:
    await crowded(volume)
    await volume.folding.step()
    await steps(volume)
    assert await volume.rows() == (6, 1)
    other = await another(volume)
    await volume.folding.close()  # its leases: a dead one's run out
    await steps(other, 3)
    assert await volume.rows() == (0, 1)
    assert await volume.folding.queue.count() == 0
    await volume.check()


async def test_one_process_at_a_time_works_on_a_shard(volume: Volume) -> None:
    await volume.folding.step()
    await crowded(volume)
    await volume.folding.step()
    other = await another(volume)
    await steps(other)
    assert await volume.rows() == (6, 0)
    await steps(volume)
    assert await volume.rows() == (6, 1)


async def test_writes_that_are_old_leave_ingest_by_themselves(
    driver: Driver, two_tiers: Tiers, meta: Tables
) -> None:
    await driver.run(f"TRUNCATE {two_tiers.ingest.keyspace}.cuboids")
    settings = FoldSettings(drain_after_s=60.0)
    volume = await open_volume(driver, two_tiers, next(channel_ids), settings=settings)
    await volume.write(0, labels(np.random.default_rng(2)))
    await volume.write(9, labels(np.random.default_rng(3)))
    await steps(volume)
    assert await volume.rows() == (1, 0)
    volume.clock.fold_ahead_ms = 61_000
    await volume.folding.step()
    assert [await volume.rows(0), await volume.rows(9)] == [(1, 1)] * 2
    assert volume.folding.counts["drained_bytes"] > 0
    await volume.check()
    await steps(volume)
    assert [await volume.rows(0), await volume.rows(9)] == [(0, 1)] * 2
    await volume.check()


async def test_a_channel_that_is_gone_is_not_folded(driver: Driver, tiers: Tiers) -> None:
    volume = await open_volume(driver, tiers, next(channel_ids))
    await crowded(volume)
    volume.clock.pass_windows()

    async def is_live(channel_id: int) -> bool:
        return False

    volume.folding.folder._is_live = is_live
    await volume.fold()
    assert await volume.rows() == (6, 0)


# -- by command


async def test_a_drain_ends_with_a_statement_of_what_is_where(volume: Volume) -> None:
    rng = np.random.default_rng(4)
    for morton in (0, 1, 8, 40):
        await volume.write(morton, labels(rng))
        await volume.write(morton, labels(rng))
    where = await volume.folding.whereabouts(volume.channel_id)
    assert (where.unfolded.cuboids, where.unfolded.rows) == (4, 8)
    assert where.unfolded.size_bytes > 0
    assert where.foldable_from_s > time.time()
    assert (where.folded, where.to_sweep) == (Amount(), Amount())

    volume.clock.pass_windows()
    parts = [p async for p in volume.folding.fold_channel(volume.channel_id, drain=True)]
    assert (len(parts), sum(p.cuboids for p in parts), sum(p.rows for p in parts)) == (3, 4, 8)
    where = await volume.folding.whereabouts(volume.channel_id)
    assert where.unfolded == Amount()
    assert (where.folded.cuboids, where.folded.rows) == (4, 4)
    assert (where.to_sweep.cuboids, where.to_sweep.rows) == (4, 8)
    assert where.sweep_from_s > time.time()
    await volume.check()

    await steps(volume, 2)
    where = await volume.folding.whereabouts(volume.channel_id)
    assert where.is_clean
    assert where.folded.cuboids == 4
    assert where.has_tiers is not volume.cuboids.tiers.is_single
    await volume.check()


async def test_a_drain_empties_ingest(driver: Driver, two_tiers: Tiers) -> None:
    volume = await open_volume(driver, two_tiers, next(channel_ids))
    rng = np.random.default_rng(5)
    for morton in range(0, 24, 2):
        await volume.write(morton, labels(rng))
    for _ in range(2):
        volume.clock.pass_windows()
        async for _part in volume.folding.fold_channel(volume.channel_id, drain=True):
            await volume.check()
    left = await driver.run(
        f"SELECT channel, write_id FROM {two_tiers.ingest.keyspace}.cuboids WHERE channel = %s"
        " ALLOW FILTERING",
        (volume.channel_id,),
    )
    assert left == []
    await volume.check()


async def test_a_fold_that_is_begun_again_goes_on_where_it_was(volume: Volume) -> None:
    rng = np.random.default_rng(6)
    for morton in range(0, 64, 8):
        await volume.write(morton, labels(rng))
    volume.clock.pass_windows()
    first = volume.folding.fold_channel(volume.channel_id, drain=True)
    places = [(await anext(first)).place for _ in range(3)]
    await first.aclose()  # type: ignore[attr-defined]  # it is a generator
    rest = volume.folding.fold_channel(volume.channel_id, drain=True, after=places[-1])
    places += [part.place async for part in rest]
    assert places == [volume.bucket(morton) for morton in range(0, 64, 8)]
    await volume.check()


# -- the queue, and how fast


async def test_an_entry_that_is_noted_again_survives_who_takes_the_former_one(
    meta: Tables,
) -> None:
    queue = FoldQueue(meta, owner="me")
    bucket = Bucket(1, 0, 0, 0, 5)
    await queue.note([bucket])
    former = await entries(queue)
    await asyncio.sleep(0.005)
    await queue.note([bucket, bucket])
    await queue.forget(former[0])
    [latest] = await entries(queue)
    assert latest.bucket == bucket
    await queue.forget(latest)
    assert await entries(queue) == []


async def entries(queue: FoldQueue) -> list[Noted]:
    return [one for shard in range(SHARDS) async for page in queue.noted(shard) for one in page]


async def test_a_lease_is_one_process_until_it_lets_go_or_its_time_is_over(meta: Tables) -> None:
    one, other = FoldQueue(meta, owner="one"), FoldQueue(meta, owner="other")
    assert await one.hold("x", 60)
    assert await one.hold("x", 60)
    assert not await other.hold("x", 60)
    await one.let_go()
    assert await other.hold("x", 1)
    await asyncio.sleep(1.5)
    assert await one.hold("x", 60)
    assert not await other.hold("x", 60)


async def test_work_is_held_back_to_so_many_bytes_a_second() -> None:
    pace = Pace(10_000)
    began = time.monotonic()
    for _ in range(4):
        await pace.spent(500)
    assert 0.19 < time.monotonic() - began < 1


@pytest.mark.parametrize("wrong", [{"rows": 0}, {"bytes_per_s": 0.0}, {"step_s": -1.0}])
def test_settings_that_fold_nothing_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="above 0"):
        FoldSettings(**wrong)
