"""The job that removes what a deleted channel leaves behind."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest

from ndcass.errors import CorruptValue, NotFound
from ndcass.geometry import Box
from ndcass.jobs import HANDLERS
from ndcass.jobs.runner import run_jobs
from ndcass.merge import WriteOp
from ndcass.model import Channel, Dataset, Project
from ndcass.place import Place
from ndcass.store.base import (
    DELETE_JOB,
    CuboidAddress,
    CuboidWrite,
    Job,
    JobState,
    StoredObject,
    Stores,
)
from ndcass.store.embedded import open_embedded
from ndcass.store.memory import MemoryStores
from ndcass.writer import CutoutWriter, cutout_writer


@pytest.fixture(params=["memory", "embedded"])
async def stores(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Stores]:
    opened: Stores = MemoryStores() if request.param == "memory" else await open_embedded(tmp_path)
    yield opened
    await opened.close()


async def filled_channel(stores: Stores, name: str) -> Channel:
    channel = await stores.catalog.create_channel(Channel(0, "proj", name, "annotation", "uint32"))
    voxels = np.ones((4, 8, 8), dtype="<u4")
    address = CuboidAddress(channel.id, 0, 0, 0, 5)
    async with stores.cuboids.batch() as batch:
        await batch.add([CuboidWrite(address, WriteOp.MERGE, (4, 8, 8), (0, 0, 0), voxels)])
        await batch.commit()
    await stores.objects.put(channel.id, [StoredObject(1, {"type": 2})])
    await stores.labels.append(channel.id, 0, 0, {1: [5]})
    await stores.records.put(channel.id, "histogram", "whole", b"1")
    await stores.stale.mark([address._replace(level=1)])
    return channel


async def parts_of(stores: Stores, channel_id: int) -> tuple[int, int, int, int, int]:
    """How many cuboids, objects, label entries, side records and stale marks there are."""
    cuboids = [a async for page in stores.cuboids.scan(channel_id) for a in page]
    objects = await stores.objects.query(channel_id, [], limit=99)
    labels = await stores.labels.mortons(channel_id, 0, 1)
    records = await stores.records.keys(channel_id, "histogram")
    stale = sum((await stores.stale.counts(channel_id)).values())
    return len(cuboids), len(objects), len(labels), len(records), stale


async def run_until_ended(stores: Stores, job_id: str) -> Job:
    stop = asyncio.Event()
    task = asyncio.create_task(run_jobs(stores, HANDLERS, owner="w", stop=stop, poll_s=0.01))
    async with asyncio.timeout(20):
        while (job := await stores.jobs.job(job_id)).state in (JobState.PENDING, JobState.STARTED):
            await asyncio.sleep(0.01)
        stop.set()
        await task
    return job


@pytest.fixture
async def project(stores: Stores) -> None:
    await stores.catalog.create_dataset(Dataset("brain", 10, 10, 10, 1))
    await stores.catalog.create_project(Project("proj", 1, "brain"))


@pytest.mark.usefixtures("project")
async def test_all_of_a_deleted_channel_is_removed_and_nothing_else(stores: Stores) -> None:
    gone, kept = await filled_channel(stores, "gone"), await filled_channel(stores, "kept")
    await stores.catalog.delete_channel("proj", "gone")
    [submitted] = await stores.jobs.jobs()
    job = await run_until_ended(stores, submitted.id)
    assert (job.kind, job.state, job.done_units, job.total_units) == (
        DELETE_JOB,
        JobState.SUCCESS,
        5,
        5,
    )
    assert await parts_of(stores, gone.id) == (0, 0, 0, 0, 0)
    assert await parts_of(stores, kept.id) == (1, 1, 1, 1, 1)


@pytest.mark.usefixtures("project")
async def test_a_channel_that_is_in_use_keeps_its_data(stores: Stores) -> None:
    channel = await filled_channel(stores, "em")
    submitted = await stores.jobs.submit(DELETE_JOB, channel.id, {})
    job = await run_until_ended(stores, submitted.id)
    assert job.state == JobState.FAILURE
    assert "in use" in job.error
    assert await parts_of(stores, channel.id) == (1, 1, 1, 1, 1)


@pytest.mark.usefixtures("project")
async def test_a_delete_that_failed_half_way_can_be_run_again(
    stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    channel = await filled_channel(stores, "em")
    await stores.catalog.delete_channel("proj", "em")
    [first] = await stores.jobs.jobs()

    async def fail(channel_id: int) -> int:
        raise CorruptValue("no")

    with monkeypatch.context() as patch:
        patch.setattr(stores.cuboids, "delete_channel", fail)
        assert (await run_until_ended(stores, first.id)).state == JobState.FAILURE
    assert await parts_of(stores, channel.id) == (1, 0, 0, 0, 0)
    again = await stores.jobs.submit(DELETE_JOB, channel.id, {})
    assert (await run_until_ended(stores, again.id)).state == JobState.SUCCESS
    assert await parts_of(stores, channel.id) == (0, 0, 0, 0, 0)


async def write_and_delete(stores: Stores, writer: CutoutWriter, channel: Channel) -> None:
    """Hand voxels over for a channel, which is deleted before they are committed."""
    level = (await stores.catalog.dataset("brain")).level(0)
    voxels = np.ones((2, 2, 2), dtype="<u4")
    await writer.write(Place(channel, level), 0, Box((0, 0, 0), (2, 2, 2)), voxels)
    await stores.catalog.delete_channel("proj", "em")
    [deletion] = await stores.jobs.jobs()
    await run_until_ended(stores, deletion.id)


@pytest.mark.usefixtures("project")
async def test_a_write_into_a_channel_that_is_gone_is_not_even_stored(stores: Stores) -> None:
    channel = await filled_channel(stores, "em")
    async with cutout_writer(stores) as writer:
        await write_and_delete(stores, writer, channel)
        with pytest.raises(NotFound):
            await writer.commit()
    assert await parts_of(stores, channel.id) == (0, 0, 0, 0, 0)


@pytest.mark.usefixtures("project")
async def test_a_write_that_ends_after_its_channels_deletion_leaves_nothing(
    stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    channel = await filled_channel(stores, "em")
    async with cutout_writer(stores) as writer:
        await write_and_delete(stores, writer, channel)
        live_channel = stores.catalog.live_channel

        async def deleted_next(channel_id: int) -> Channel:
            """As whoever asked just before the channel was deleted has heard."""
            monkeypatch.setattr(stores.catalog, "live_channel", live_channel)
            return channel

        monkeypatch.setattr(stores.catalog, "live_channel", deleted_next)
        with pytest.raises(NotFound):
            await writer.commit()
    assert (await parts_of(stores, channel.id))[0] == 1
    await stores.maintain()
    [swept, _] = await stores.jobs.jobs()
    assert (await run_until_ended(stores, swept.id)).state == JobState.SUCCESS
    assert await parts_of(stores, channel.id) == (0, 0, 0, 0, 0)
    await stores.maintain()
    assert len(await stores.jobs.jobs()) == 2
