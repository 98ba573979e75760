"""Building and refreshing levels, compared with a computation of all of them at once."""

import asyncio
import contextlib
import dataclasses
import tracemalloc
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from ndcass import derivation, morton, propagation
from ndcass.concurrency import OneBehind
from ndcass.derivation import Derivation
from ndcass.downsample import Rule
from ndcass.errors import Conflict, CorruptValue, NotFound, StoreUnavailable
from ndcass.geometry import Box
from ndcass.jobs import pyramid
from ndcass.jobs.runner import JobLost
from ndcass.merge import WriteOp
from ndcass.model import Channel, Dataset
from ndcass.place import Place
from ndcass.propagation import (
    PROPAGATE_JOB,
    cancel_job,
    check_unlocked,
    is_fresh,
    set_propagation,
    trouble_of,
)
from ndcass.pyramid import Stage, cuboid_count, stages
from ndcass.store.base import (
    PLAIN,
    REFRESH_JOB,
    CuboidAddress,
    JobState,
    StaleMark,
    StoredCuboid,
    Stores,
)
from ndcass.writer import write_box
from tests.pyramids import Volume, recomputed, stored, volume_of

ISOTROPIC = {"scalingoption": 1}
FLAT = {"zvoxelres": 0.4}
TALL = {"zvoxelres": 10.0}


@pytest.mark.parametrize("dataset", [{}, ISOTROPIC, FLAT, TALL], ids=str)
@pytest.mark.parametrize(
    ("channel_type", "datatype", "rule"),
    [
        ("image", "uint8", Rule.NEAREST),
        ("image", "float32", Rule.NEAREST),
        ("annotation", "uint64", Rule.LABEL),
    ],
)
async def test_every_level_is_built_from_the_one_below(
    stores: Stores, dataset: Mapping[str, Any], channel_type: str, datatype: str, rule: Rule
) -> None:
    volume = await volume_of(
        stores, dataset=dataset, channel_type=channel_type, channel_datatype=datatype
    )
    await volume.write()
    job = await volume.propagate()
    assert (job.kind, job.state, job.error) == (PROPAGATE_JOB, JobState.SUCCESS, "")
    assert job.done_units == job.total_units > 0
    assert volume.channel.propagate == 2
    assert await volume.wrong(rule) == []
    assert await volume.stale() == 0


@pytest.mark.parametrize(
    ("channel_type", "datatype", "option", "rule"),
    [
        ("image", "int16", "mean", Rule.MEAN),
        ("image", "uint32", "mean", Rule.MEAN),
        ("annotation", "uint32", "mode", Rule.MODE),
    ],
)
async def test_a_channel_may_choose_another_rule(
    stores: Stores, channel_type: str, datatype: str, option: str, rule: Rule
) -> None:
    volume = await volume_of(
        stores,
        dataset=ISOTROPIC,
        channel_type=channel_type,
        channel_datatype=datatype,
        downsampling=option,
    )
    await volume.write()
    await volume.propagate()
    assert await volume.wrong(rule) == []


async def test_every_timestep_is_built(stores: Stores) -> None:
    volume = await volume_of(stores, channel_type="timeseries", starttime=2, endtime=5)
    for t in (2, 4, 9):
        await volume.write(t=t)
    await volume.propagate()
    assert [await volume.wrong(t=t) for t in (2, 3, 4, 9)] == [[]] * 4


async def test_a_base_above_zero_has_levels_above_it_only(stores: Stores) -> None:
    volume = await volume_of(stores, resolution=1)
    await volume.write()
    await volume.propagate()
    assert await volume.wrong() == []
    scan = stores.cuboids.scan(volume.channel.id, level=0)
    assert [address async for page in scan for address in page] == []


async def test_labels_are_found_at_every_level(stores: Stores) -> None:
    volume = await volume_of(
        stores, dataset=TALL, channel_type="annotation", channel_datatype="uint32"
    )
    await volume.write()
    await volume.propagate()
    for stage in stages(volume.geometry, 0):
        level = await stored(stores, volume.channel, stage)
        scan = stores.cuboids.scan(volume.channel.id, pyramid=PLAIN, level=stage.level.level)
        cuboids = {(a.t, a.morton) async for page in scan for a in page}
        for label in np.unique(level[level != 0]):
            found = await stores.labels.mortons(volume.channel.id, stage.level.level, int(label))
            assert set(found) == cuboids  # each of them is full of the same few labels


async def test_a_channel_without_voxels_is_propagated_at_once(stores: Stores) -> None:
    volume = await volume_of(stores)
    assert (await volume.propagate()).state == JobState.SUCCESS
    assert volume.channel.propagate == 2


async def test_building_again_leaves_nothing_of_before(stores: Stores) -> None:
    volume = await volume_of(stores, channel_type="annotation", channel_datatype="uint32")
    await volume.write()
    await volume.propagate()
    await set_propagation(stores, [await volume.now()], [0])
    await volume.write(Box((0, 0, 0), (20, 200, 200)), zeros=True)
    await volume.propagate()
    assert await volume.wrong(Rule.LABEL) == []


@pytest.mark.parametrize("dataset", [ISOTROPIC, FLAT], ids=str)
async def test_an_edit_is_seen_at_every_level_after_a_refresh(
    stores: Stores, dataset: Mapping[str, Any]
) -> None:
    volume = await volume_of(stores, dataset=dataset)
    await volume.write()
    await volume.propagate()
    await volume.write(Box((5, 60, 70), (20, 130, 141)))
    assert await volume.stale() > 0
    job = await volume.refresh()
    assert (job.kind, job.state) == (REFRESH_JOB, JobState.SUCCESS)
    assert await volume.wrong() == []
    assert await volume.stale() == 0


async def test_an_edit_costs_a_cuboid_a_level(stores: Stores) -> None:
    volume = await volume_of(stores, dataset={"ximagesize": 2000, "yimagesize": 2000, **TALL})
    await volume.write()
    await volume.propagate()
    await volume.write(Box((3, 700, 700), (4, 720, 720)))
    assert await volume.stale() == 3
    assert (await volume.refresh()).done_units == 3
    assert await volume.wrong() == []


async def test_what_is_old_is_said_to_be(stores: Stores) -> None:
    volume = await volume_of(stores, dataset={"ximagesize": 600})
    await volume.write()
    await volume.propagate()
    edited, elsewhere = Box((3, 0, 0), (4, 9, 9)), Box((3, 0, 270), (4, 9, 279))
    place = Place(volume.channel, volume.dataset.level(1))
    assert await is_fresh(stores, place, [None], edited) is True
    await volume.write(Box((3, 0, 0), (4, 9, 9)))
    assert await is_fresh(stores, place, [None], edited) is False
    assert await is_fresh(stores, place, [None], elsewhere) is True
    assert await is_fresh(stores, place, [7], edited) is True
    assert await is_fresh(stores, volume.base, [None], edited) is None
    await volume.refresh()
    assert await is_fresh(stores, place, [None], edited) is True


async def test_of_a_large_box_only_some_cuboids_are_held_at_once(stores: Stores) -> None:
    size = {"ximagesize": 60_000, "yimagesize": 60_000, "zimagesize": 64}
    volume = await volume_of(stores, dataset={**size, "scalinglevels": 2}, propagate=2)
    place = Place(volume.channel, volume.dataset.level(1))
    whole = Box((0, 0, 0), place.level.size_zyx)
    far = place.address(0, morton.encode((0, 3000 // 128, 3000 // 128)))
    assert cuboid_count(whole, place.level.cuboid_zyx) > 100_000
    tracemalloc.start()
    try:
        assert await is_fresh(stores, place, [None], whole) is True
        await stores.stale.mark([far])
        assert await is_fresh(stores, place, [None], whole) is False
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()


async def test_a_write_into_an_upper_level_marks_what_is_above_it(stores: Stores) -> None:
    volume = await volume_of(stores, dataset=TALL)
    await volume.write()
    await volume.propagate()
    level = volume.dataset.level(2)
    voxels = np.full((1, 4, 4), 7, dtype="u1")
    await write_box(stores, Place(volume.channel, level), 0, Box((0, 0, 0), (1, 4, 4)), voxels)
    assert await stores.stale.counts(volume.channel.id) == {(PLAIN, 3): 1}


async def test_a_write_that_began_before_the_build_marks_in_its_end(stores: Stores) -> None:
    volume = await volume_of(stores, dataset=TALL)
    await volume.write()
    before = volume.base  # as a request found it, which is still receiving its body
    await volume.propagate()
    box = Box((0, 0, 0), (3, 50, 50))
    await write_box(stores, before, 0, box, volume.random(box), op=WriteOp.REPLACE)
    assert await volume.stale() == 3
    await volume.refresh()
    assert await volume.wrong() == []


async def test_a_channel_that_is_being_built_is_locked(stores: Stores) -> None:
    volume = await volume_of(stores)
    await check_unlocked(stores, volume.channel)
    await set_propagation(stores, [volume.channel], [1])
    with pytest.raises(Conflict, match="under propagation"):
        await check_unlocked(stores, await volume.now())
    await volume.finished()
    await check_unlocked(stores, volume.channel)


async def test_a_channel_made_under_propagation_is_not_locked(stores: Stores) -> None:
    volume = await volume_of(stores, propagate=1)
    await check_unlocked(stores, volume.channel)


async def test_a_channel_made_propagated_is_kept_fresh(stores: Stores) -> None:
    volume = await volume_of(stores, propagate=2)
    await volume.write()
    await volume.refresh()
    assert await volume.wrong() == []


async def test_a_failure_is_noted_and_the_channel_is_not_propagated(
    stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    volume = await volume_of(stores)
    await volume.write()

    def fail(*args: Any, **options: Any) -> None:
        raise CorruptValue("cuboid 5 is damaged")

    with monkeypatch.context() as patch:
        patch.setattr(derivation, "downsample_into", fail)
        job = await volume.propagate()
    assert job.state == JobState.FAILURE
    assert job.error.startswith("cuboid 5 is damaged (")
    assert volume.channel.propagate == 0
    assert (await volume.propagate()).state == JobState.SUCCESS
    assert await volume.wrong() == []


async def test_a_channel_says_why_its_levels_are_not_made(
    stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    volume = await volume_of(stores, propagate=2)
    await volume.write(Box((0, 0, 0), (2, 40, 40)))
    assert await trouble_of(stores, volume.channel) == ""
    await stores.jobs.submit_once(REFRESH_JOB, volume.channel.id)
    assert await trouble_of(stores, volume.channel) == "", "that one has not begun"
    job = await stores.jobs.claim([REFRESH_JOB], owner="full", lease_s=0.05)
    assert job is not None
    await stores.jobs.put_off(job.id, owner="full", reason="no space is left")
    assert await trouble_of(stores, volume.channel) == "no space is left"
    await stores.jobs.submit("histogram", volume.channel.id, {})
    await stores.jobs.submit_once(REFRESH_JOB, volume.channel.id)
    assert await trouble_of(stores, volume.channel) == "no space is left"
    for other in await stores.jobs.jobs():
        if other.kind == "histogram":
            await stores.jobs.cancel(other.id)
    await volume.finished()
    assert await trouble_of(stores, volume.channel) == ""

    def fail(*args: Any, **options: Any) -> None:
        raise CorruptValue("cuboid 5 is damaged")

    monkeypatch.setattr(derivation, "downsample_into", fail)
    await volume.write(Box((0, 0, 0), (2, 40, 40)))
    await volume.refresh()
    assert (await trouble_of(stores, volume.channel)).startswith("cuboid 5 is damaged (")


async def test_a_build_goes_on_where_it_was(
    stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pyramid, "UNIT_CUBOIDS", 4)
    volume = await volume_of(stores)
    await volume.write()
    await set_propagation(stores, [volume.channel], [1])
    [job] = await stores.jobs.jobs()
    units = 0

    @contextlib.asynccontextmanager
    async def turn() -> AsyncIterator[bool]:
        nonlocal units
        units += 1
        if units == 5:
            raise StoreUnavailable("gone")
        yield True

    async def progress(done_units: int, total_units: int, detail: Mapping[str, Any]) -> None:
        nonlocal job
        job = dataclasses.replace(
            job, done_units=done_units, total_units=total_units, detail=detail
        )

    with pytest.raises(StoreUnavailable):
        await pyramid.propagate_channel(stores, job, progress, turn=turn)
    assert (await volume.now()).propagate == 1
    left = await volume.stale()
    assert 0 < left <= job.total_units
    await pyramid.propagate_channel(stores, job, progress)
    assert (await volume.now()).propagate == 2
    assert await volume.wrong() == []
    assert job.done_units == job.total_units


async def test_two_who_build_at_once_build_the_same(stores: Stores) -> None:
    volume = await volume_of(stores, dataset={"ximagesize": 1000})
    await volume.write()
    before = volume.base
    await set_propagation(stores, [volume.channel], [1])
    [job] = await stores.jobs.jobs()

    async def progress(done_units: int, total_units: int, detail: Mapping[str, Any]) -> None:
        await asyncio.sleep(0)

    box = Box((3, 100, 100), (5, 150, 150))

    async def edit() -> None:
        for _ in range(5):  # as requests that began before
            await write_box(stores, before, 0, box, volume.random(box), op=WriteOp.REPLACE)

    await asyncio.gather(
        pyramid.propagate_channel(stores, job, progress),
        pyramid.propagate_channel(stores, job, progress),
        edit(),
    )
    await volume.finished()
    await volume.refresh()
    assert (await volume.now()).propagate == 2
    assert await volume.wrong() == []


async def test_a_cancelled_build_leaves_a_channel_that_is_not_propagated(stores: Stores) -> None:
    volume = await volume_of(stores)
    await volume.write()
    await set_propagation(stores, [volume.channel], [1])
    [job] = await stores.jobs.jobs()
    assert await cancel_job(stores, job.id)
    assert not await cancel_job(stores, job.id)
    assert (await volume.now()).propagate == 0

    async def lost(done_units: int, total_units: int, detail: Mapping[str, Any]) -> None:
        raise JobLost(job.id)

    with pytest.raises(JobLost):
        await pyramid.propagate_channel(stores, job, lost)


async def test_giving_levels_up_takes_no_marks_of_the_next_build_away(
    stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    volume = await volume_of(stores)
    await volume.write()
    await volume.propagate()
    change = propagation.change_state

    async def and_meanwhile(stores: Stores, channel_id: int, now: int, to: int) -> bool:
        done = await change(stores, channel_id, now, to)
        monkeypatch.setattr(propagation, "change_state", change)
        await volume.write(Box((0, 0, 0), (2, 40, 40)))  # which marks nothing in state 0
        await set_propagation(stores, [await volume.now()], [1])
        [job, *_] = await stores.jobs.jobs()
        work = pyramid._Work(stores, volume.channel, volume.geometry, pyramid.at_once, {})
        await pyramid._mark_all(work, pyramid._Notes(_nowhere, job))
        return done

    monkeypatch.setattr(propagation, "change_state", and_meanwhile)
    await set_propagation(stores, [volume.channel], [0])
    assert await volume.stale() > 0
    await volume.finished()
    assert volume.channel.propagate == 2
    assert await volume.wrong() == []


async def test_a_write_marks_in_its_commit_what_was_built_since_it_began(
    stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    volume = await volume_of(stores, dataset=TALL)
    await volume.write()
    before = volume.base
    await volume.propagate()

    async def fails(addresses: Any) -> None:
        raise StoreUnavailable("away")

    monkeypatch.setattr(stores.stale, "mark", fails)
    box = Box((0, 0, 0), (3, 50, 50))
    await write_box(stores, before, 0, box, volume.random(box), op=WriteOp.REPLACE)
    assert await volume.stale() == 3


async def test_a_build_whose_cancellation_stopped_half_way_is_cancelled_again(
    stores: Stores,
) -> None:
    volume = await volume_of(stores)
    await set_propagation(stores, [volume.channel], [1])
    [job] = await stores.jobs.jobs()
    await stores.jobs.cancel(job.id)  # and whoever did it died
    assert (await volume.now()).propagate == 1
    assert not await cancel_job(stores, job.id)
    assert (await volume.now()).propagate == 0


def damaged_at_the_corner(
    level: Derivation, found: Sequence[StoredCuboid], shares: Mapping[CuboidAddress, Any]
) -> None:
    """`Derivation._halve_all` on a store whose first cuboid of the base is damaged."""
    if any((address.level, address.morton) == (0, 0) for address, _ in found):
        raise CorruptValue("cuboid 0 is damaged")
    _halve_all(level, found, shares)


_halve_all = Derivation._halve_all


async def test_a_damaged_cuboid_keeps_no_other_from_being_rebuilt(
    stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    volume = await volume_of(stores)
    await volume.write()
    await volume.propagate()
    boxes = [Box((0, 0, 0), (2, 40, 40)), Box((0, 200, 200), (2, 240, 240))]
    for box in boxes:
        await volume.write(box)

    marked = await volume.stale()
    with monkeypatch.context() as patch:
        patch.setattr(Derivation, "_halve_all", damaged_at_the_corner)
        job = await volume.refresh()
    assert job.state == JobState.FAILURE
    assert job.error.startswith("cuboid 0 is damaged (")
    assert 0 < await volume.stale() < marked
    assert (await volume.refresh()).state == JobState.SUCCESS
    assert await volume.wrong() == []


async def test_a_large_refresh_does_not_hold_up_that_of_another_channel(
    stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pyramid, "LONGEST_REFRESH_S", 0.0)
    monkeypatch.setattr(pyramid, "TOGETHER_BYTES", 0)
    monkeypatch.setattr(pyramid, "UNIT_CUBOIDS", 1)
    large = await volume_of(stores, dataset={"ximagesize": 3001}, propagate=2)
    small = await large.beside("small")
    await large.write()
    await stores.jobs.submit_once(REFRESH_JOB, large.channel.id)
    await small.write(Box((0, 0, 0), (2, 40, 40)))
    await stores.jobs.submit_once(REFRESH_JOB, small.channel.id)
    at_first = await large.stale()
    working = asyncio.create_task(small.finished())
    while await small.stale():
        await asyncio.sleep(0)
    assert 0 < await large.stale() < at_first
    assert await small.wrong() == []
    await working
    assert await large.wrong() == []
    assert {job.state for job in await stores.jobs.jobs()} == {JobState.SUCCESS}


async def test_a_refresh_that_gives_way_ends_where_all_that_is_left_is_damaged(
    stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pyramid, "LONGEST_REFRESH_S", 0.0)
    volume = await volume_of(stores, propagate=2)
    await volume.write()
    monkeypatch.setattr(Derivation, "_halve_all", damaged_at_the_corner)
    job = await volume.refresh()
    assert (job.state, await trouble_of(stores, volume.channel)) == (JobState.FAILURE, job.error)
    assert job.error.startswith("cuboid 0 is damaged (")
    assert {m.address.morton for m in await _marks(volume)} == {0}


async def _marks(volume: Volume) -> list[StaleMark]:
    return [
        mark
        for stage in stages(volume.geometry, 0)
        async for page in volume.stores.stale.scan(
            volume.channel.id, pyramid=PLAIN, level=stage.level.level
        )
        for mark in page
    ]


async def test_a_deleted_channel_is_not_built(stores: Stores) -> None:
    volume = await volume_of(stores)
    await set_propagation(stores, [volume.channel], [1])
    [job] = await stores.jobs.jobs()
    await stores.catalog.delete_channel("proj", "em")
    with pytest.raises(NotFound):
        await pyramid.propagate_channel(stores, job, _nowhere)
    await pyramid.refresh_channel(stores, job, _nowhere)


async def _nowhere(done_units: int, total_units: int, detail: Mapping[str, Any]) -> None:
    """Nobody asks."""


async def test_a_level_is_not_made_of_an_old_one(stores: Stores) -> None:
    volume = await volume_of(stores)
    await volume.write()
    await volume.propagate()
    await volume.write(Box((0, 0, 0), (2, 40, 40)))
    work = pyramid._Work(stores, volume.channel, volume.geometry, pyramid.at_once, {})
    first, second, _ = [s for s in stages(volume.geometry, 0) if not s.neariso]
    before = await stored(stores, volume.channel, second)
    assert await _counts_of(work, second) == [0]
    assert np.array_equal(await stored(stores, volume.channel, second), before)
    assert await _counts_of(work, first) == [1]
    assert await _counts_of(work, second) == [1]


async def _counts_of(work: pyramid._Work, stage: Stage) -> list[int]:
    """How many cuboids were rebuilt, unit by unit."""
    async with OneBehind() as behind:
        return [count async for count in pyramid._rebuilt(work, stage, behind)]


def test_the_model_of_these_tests_halves_by_hand() -> None:
    dataset = Dataset("d", 4, 4, 1, user=1, scalinglevels=1, zvoxelres=10.0)
    channel = Channel(1, "p", "c", "image", "uint8")
    base = np.arange(16, dtype="u1").reshape(1, 4, 4)
    [(_, level)] = recomputed(base, dataset.geometry, channel, Rule.NEAREST).items()
    assert level.tolist() == [[[5, 7], [13, 15]]]
