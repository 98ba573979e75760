"""The job that makes histograms, on real stores."""

import asyncio
import contextlib
import multiprocessing
import signal
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ndcass import statistics, volume
from ndcass.errors import InvalidRequest, NotFound, StoreUnavailable, TooLarge
from ndcass.geometry import Box
from ndcass.jobs import HANDLERS, handlers
from ndcass.jobs import histogram as histogram_job
from ndcass.jobs.runner import JobLost, run_jobs
from ndcass.model import Channel, Dataset, Project, Token
from ndcass.place import Place
from ndcass.statistics import COUNTING_KIND, KIND, WHOLE
from ndcass.store.base import Job, JobState, Stores
from ndcass.store.embedded import open_embedded
from ndcass.store.memory import MemoryStores
from ndcass.volume import Voxels
from ndcass.writer import write_box

# 2 x 3 x 3 cuboids of 16, 128, 128.
SIZE_ZYX = (20, 300, 260)
OFFSET_ZYX = (1, 3, 5)


@pytest.fixture(params=["memory", "embedded"])
async def stores(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Stores]:
    opened: Stores = MemoryStores() if request.param == "memory" else await open_embedded(tmp_path)
    await make_project(opened)
    yield opened
    await opened.close()


async def make_project(stores: Stores) -> None:
    z, y, x = SIZE_ZYX
    oz, oy, ox = OFFSET_ZYX
    dataset = Dataset("brain", x, y, z, 1, xoffset=ox, yoffset=oy, zoffset=oz, scalinglevels=1)
    await stores.catalog.create_dataset(dataset)
    await stores.catalog.create_project(Project("proj", 1, "brain"))
    await stores.catalog.create_token(Token("tok", 1, "proj"))


async def channel_of(stores: Stores, datatype: str = "uint8", **fields: Any) -> Channel:
    return await stores.catalog.create_channel(
        Channel(0, "proj", "em", "image", datatype, **fields)
    )


async def filled(
    stores: Stores, datatype: str = "uint8", *, t: int = 0, **fields: Any
) -> tuple[Channel, Voxels]:
    """A channel full of noise, of which a third is zero; and its voxels at its level."""
    channel = await channel_of(stores, datatype, **fields)
    level = (await stores.catalog.dataset("brain")).level(channel.resolution)
    rng = np.random.default_rng(7)
    voxels = rng.integers(
        0, np.iinfo(channel.dtype).max, level.size_zyx, channel.dtype, endpoint=True
    )
    voxels[rng.random(level.size_zyx) < 1 / 3] = 0
    await write_box(stores, Place(channel, level), t, Box((0, 0, 0), level.size_zyx), voxels)
    return channel, voxels


async def ordered(stores: Stores, channel: Channel, *regions: Box) -> list[Job]:
    view = await stores.catalog.token_view("tok")
    return await statistics.order(stores, view, channel, regions or None)


async def done(stores: Stores, job: Job) -> Job:
    """The job after workers have worked on it."""
    stop = asyncio.Event()
    task = asyncio.create_task(run_jobs(stores, HANDLERS, owner="w", stop=stop, poll_s=0.01))
    async with asyncio.timeout(30):
        while (found := await stores.jobs.job(job.id)).state in (
            JobState.PENDING,
            JobState.STARTED,
        ):
            await asyncio.sleep(0.01)
        stop.set()
        await task
    return found


def counts(voxels: Voxels) -> list[int]:
    bins = int(np.iinfo(voxels.dtype).max) + 1
    found: list[int] = np.histogram(voxels[voxels > 0], bins=bins, range=(0, bins))[0].tolist()
    return found


async def whole(stores: Stores, channel: Channel) -> list[int]:
    found: list[int] = (await statistics.histogram_of(stores, channel)).counts.tolist()
    return found


@pytest.mark.parametrize("datatype", ["uint8", "uint16"])
async def test_all_voxels_of_a_channel_are_counted_but_zeros(stores: Stores, datatype: str) -> None:
    channel, voxels = await filled(stores, datatype)
    [job] = await ordered(stores, channel)
    found = await done(stores, job)
    assert (found.state, found.done_units, found.total_units) == (JobState.SUCCESS, 18, 18)
    assert await whole(stores, channel) == counts(voxels)
    assert list(await stores.records.keys(channel.id, COUNTING_KIND)) == []


async def test_an_empty_channel_has_an_empty_histogram(stores: Stores) -> None:
    channel = await channel_of(stores)
    [job] = await ordered(stores, channel)
    assert (await done(stores, job)).state == JobState.SUCCESS
    assert await whole(stores, channel) == [0] * 256


async def test_only_the_base_resolution_is_counted(stores: Stores) -> None:
    channel, voxels = await filled(stores, resolution=1)
    finest = (await stores.catalog.dataset("brain")).level(0)
    box = Box((0, 0, 0), (3, 3, 3))
    await write_box(stores, Place(channel, finest), 0, box, np.full((3, 3, 3), 9, dtype="u1"))
    [job] = await ordered(stores, channel)
    await done(stores, job)
    assert await whole(stores, channel) == counts(voxels)


async def test_only_the_first_timestep_is_counted(stores: Stores) -> None:
    channel, voxels = await filled(stores, t=3, starttime=3, endtime=9)
    level = (await stores.catalog.dataset("brain")).level(0)
    for t in (2, 4):
        box = Box((0, 0, 0), (3, 3, 3))
        await write_box(stores, Place(channel, level), t, box, np.full((3, 3, 3), 9, dtype="u1"))
    [job, small] = [*await ordered(stores, channel), *await ordered(stores, channel, level.box)]
    await done(stores, job)
    await done(stores, small)
    assert await whole(stores, channel) == counts(voxels)
    found = await statistics.histogram_of(stores, channel, level.box)
    assert found.counts.tolist() == counts(voxels)


REGIONS = [
    Box((1, 3, 5), (21, 303, 265)),  # all of it
    Box((5, 5, 5), (15, 15, 15)),  # inside a cuboid
    Box((2, 100, 100), (19, 200, 200)),  # over cuboids
    Box((20, 302, 264), (21, 303, 265)),  # the last voxel
]


@pytest.mark.parametrize("listed", [True, False])
async def test_a_region_is_a_box_of_data_requests(
    stores: Stores, monkeypatch: pytest.MonkeyPatch, listed: bool
) -> None:
    if not listed:
        monkeypatch.setattr(histogram_job, "MOST_LISTED", 0)
    channel, voxels = await filled(stores)
    jobs = await ordered(stores, channel, *REGIONS)
    for job in jobs:
        assert (await done(stores, job)).state == JobState.SUCCESS
    for region in REGIONS:
        z, y, x = OFFSET_ZYX
        found = await statistics.histogram_of(stores, channel, region)
        expected = counts(voxels[region.shifted((-z, -y, -x)).slices()])
        assert found.counts.tolist() == expected
    assert sorted(map(str, await statistics.regions_of(stores, channel))) == sorted(
        map(str, REGIONS)
    )
    with pytest.raises(NotFound):
        await statistics.histogram_of(stores, channel)


async def test_a_newer_histogram_replaces_an_older_one(stores: Stores) -> None:
    channel, voxels = await filled(stores)
    [job] = await ordered(stores, channel)
    await done(stores, job)
    level = (await stores.catalog.dataset("brain")).level(0)
    voxels[:3, :3, :3] = 9
    await write_box(stores, Place(channel, level), 0, Box((0, 0, 0), (3, 3, 3)), voxels[:3, :3, :3])
    [job] = await ordered(stores, channel)
    await done(stores, job)
    assert await whole(stores, channel) == counts(voxels)


async def test_a_job_that_waits_serves_all_who_ask_for_the_same(stores: Stores) -> None:
    channel = await channel_of(stores)
    first, other, again = await ordered(stores, channel, REGIONS[1], REGIONS[2], REGIONS[1])
    assert first.id == again.id != other.id
    assert [job.id for job in await ordered(stores, channel, REGIONS[2])] == [other.id]
    await done(stores, other)
    assert [job.id for job in await ordered(stores, channel, REGIONS[2])] != [other.id]


# -- interruptions


@pytest.fixture
def notes_every_cuboid(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(histogram_job, "UNIT_CUBOIDS", 1)
    monkeypatch.setattr(histogram_job, "NOTE_EVERY_S", 0.0)


@pytest.mark.usefixtures("notes_every_cuboid")
async def test_a_job_that_is_taken_over_goes_on_and_counts_nothing_twice(
    stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    channel, voxels = await filled(stores)
    [submitted] = await ordered(stores, channel)
    reached: list[int] = []

    async def progress(done_units: int, total_units: int, detail: Mapping[str, Any]) -> None:
        if done_units and reached and reached[-1] == 5:
            raise JobLost
        reached.append(done_units)

    with pytest.raises(JobLost):
        await histogram_job.count_channel(stores, submitted, progress)
    read: list[int] = []
    original = volume.read_slabs

    async def counted(store: Any, slabs: Any, **options: Any) -> None:
        read.extend(range(len(slabs)))
        await original(store, slabs, **options)

    monkeypatch.setattr(histogram_job, "read_slabs", counted)
    assert (await done(stores, submitted)).state == JobState.SUCCESS
    assert len(read) == 18 - 5
    assert await whole(stores, channel) == counts(voxels)


@pytest.mark.usefixtures("notes_every_cuboid")
async def test_each_unit_waits_for_its_turn(stores: Stores) -> None:
    channel, _ = await filled(stores)
    [job] = await ordered(stores, channel)
    turns: list[str] = []

    @contextlib.asynccontextmanager
    async def turn() -> AsyncIterator[bool]:
        turns.append("mine")
        yield True

    async def progress(done_units: int, total_units: int, detail: Mapping[str, Any]) -> None:
        turns.append("noted")

    await histogram_job.count_channel(stores, job, progress, turn=turn)
    assert turns == ["noted", *["mine", "noted"] * 18, "noted"]


@pytest.mark.usefixtures("notes_every_cuboid")
async def test_notes_of_another_job_do_not_count(stores: Stores) -> None:
    channel, voxels = await filled(stores)
    [cancelled] = await ordered(stores, channel)

    async def progress(done_units: int, total_units: int, detail: Mapping[str, Any]) -> None:
        if done_units == 4:
            raise JobLost

    with pytest.raises(JobLost):
        await histogram_job.count_channel(stores, cancelled, progress)
    await stores.jobs.cancel(cancelled.id)
    [job] = await ordered(stores, channel)
    assert job.id != cancelled.id
    await done(stores, job)
    assert await whole(stores, channel) == counts(voxels)
    with pytest.raises(NotFound):
        await statistics.job_of(stores, channel, "nonsense")


@pytest.mark.usefixtures("notes_every_cuboid")
async def test_a_cancelled_job_stops_and_leaves_no_histogram(
    stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    channel, _ = await filled(stores)
    [job] = await ordered(stores, channel)
    original = volume.read_slabs

    async def cancels(store: Any, slabs: Any, **options: Any) -> None:
        await original(store, slabs, **options)
        await stores.jobs.cancel(job.id)

    monkeypatch.setattr(histogram_job, "read_slabs", cancels)
    found = await done(stores, job)
    assert (found.state, found.done_units) == (JobState.REVOKED, 0)
    with pytest.raises(NotFound):
        await statistics.histogram_of(stores, channel)


async def test_a_channel_that_is_deleted_meanwhile_keeps_no_record(
    stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    channel, _ = await filled(stores)
    [job] = await ordered(stores, channel)
    original = volume.read_slabs

    async def deletes(store: Any, slabs: Any, **options: Any) -> None:
        await original(store, slabs, **options)
        if await stores.catalog.is_live(channel.id):
            await stores.catalog.delete_channel("proj", "em")

    monkeypatch.setattr(histogram_job, "read_slabs", deletes)
    found = await done(stores, job)
    assert found.state == JobState.FAILURE
    assert "no channel" in found.error
    for kind in (KIND, COUNTING_KIND):
        assert await stores.records.get(channel.id, kind, WHOLE) is None


async def test_a_channel_of_the_same_name_is_another_one(stores: Stores) -> None:
    channel = await channel_of(stores)
    [job] = await ordered(stores, channel)
    await stores.catalog.delete_channel("proj", "em")
    await channel_of(stores)
    assert (await done(stores, job)).state == JobState.FAILURE


async def test_what_cannot_be_read_fails_the_job_and_is_not_counted_as_zero(
    stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    channel, _ = await filled(stores)
    [job] = await ordered(stores, channel)

    async def fails(store: Any, slabs: Any, **options: Any) -> None:
        raise StoreUnavailable("gone")

    async def progress(done_units: int, total_units: int, detail: Mapping[str, Any]) -> None:
        pass

    monkeypatch.setattr(histogram_job, "read_slabs", fails)
    with pytest.raises(StoreUnavailable):
        await histogram_job.count_channel(stores, job, progress)
    with pytest.raises(NotFound):
        await statistics.histogram_of(stores, channel)


def _count_slowly(folder: str) -> None:
    """Notes every cuboid, and takes half a second for each."""
    histogram_job.UNIT_CUBOIDS, histogram_job.NOTE_EVERY_S = 1, 0.0

    @contextlib.asynccontextmanager
    async def slow() -> AsyncIterator[bool]:
        await asyncio.sleep(0.5)
        yield True

    async def run() -> None:
        stores = await open_embedded(Path(folder))
        stop = asyncio.Event()
        known = handlers(slow)
        await run_jobs(stores, known, owner="victim", stop=stop, poll_s=0.01, lease_s=1.0)

    asyncio.run(run())


async def test_a_worker_that_is_killed_leaves_its_count_to_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with asyncio.timeout(90), contextlib.AsyncExitStack() as stack:
        stores = await open_embedded(tmp_path)
        stack.push_async_callback(stores.close)
        await make_project(stores)
        channel, voxels = await filled(stores)
        [job] = await ordered(stores, channel)
        victim = multiprocessing.get_context("spawn").Process(
            target=_count_slowly, args=(str(tmp_path),), daemon=True
        )
        victim.start()
        while (await stores.jobs.job(job.id)).done_units < 3:
            await asyncio.sleep(0.02)
        victim.kill()
        await asyncio.to_thread(victim.join, 60)
        assert victim.exitcode == -signal.SIGKILL
        read: list[int] = []
        original = volume.read_slabs

        async def counted(store: Any, slabs: Any, **options: Any) -> None:
            read.append(len(slabs))
            await original(store, slabs, **options)

        monkeypatch.setattr(histogram_job, "read_slabs", counted)
        assert (await done(stores, job)).state == JobState.SUCCESS
        # What was noted last may be one cuboid behind what was said last.
        assert 0 < sum(read) <= 18 - 2
        assert await whole(stores, channel) == counts(voxels)


# -- bad orders


@pytest.mark.parametrize("fields", [{"readonly": 1}, {"datatype": "float32"}])
async def test_what_is_not_counted_is_refused(stores: Stores, fields: dict[str, Any]) -> None:
    channel = await channel_of(stores, **fields)
    with pytest.raises(InvalidRequest):
        await ordered(stores, channel)
    assert list(await stores.jobs.jobs()) == []


async def test_of_regions_one_that_is_bad_means_that_none_is_made(stores: Stores) -> None:
    channel = await channel_of(stores)
    with pytest.raises(InvalidRequest, match="beyond"):
        await ordered(stores, channel, REGIONS[1], Box((0, 3, 5), (9, 9, 9)))
    with pytest.raises(TooLarge):
        await ordered(stores, channel, *[REGIONS[1]] * 101)
    assert list(await stores.jobs.jobs()) == []
