import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from ndcass.geometry import Box
from ndcass.jobs import HANDLERS, refreshing
from ndcass.jobs.refreshing import refresh_stale, submit_refresh
from ndcass.jobs.runner import run_jobs
from ndcass.propagation import set_propagation
from ndcass.store.base import PLAIN, REFRESH_JOB, CuboidAddress, Stores
from tests.pyramids import Volume, volume_of


@contextlib.asynccontextmanager
async def working(stores: Stores) -> AsyncIterator[None]:
    """As a worker does it."""
    stop = asyncio.Event()
    work = [
        asyncio.create_task(refresh_stale(stores, stop)),
        asyncio.create_task(run_jobs(stores, HANDLERS, owner="w", stop=stop, poll_s=0.01)),
    ]
    try:
        yield
    finally:
        stop.set()
        await asyncio.gather(*work)


async def no_marks(volume: Volume) -> None:
    async with asyncio.timeout(30):
        while await volume.stale():
            await asyncio.sleep(0.01)


async def test_edits_are_refreshed_without_being_asked_for(stores: Stores) -> None:
    volume = await volume_of(stores, propagate=2)
    async with working(stores):
        for _ in range(6):
            await volume.write(Box((0, 0, 0), (2, 40, 40)))
        await no_marks(volume)
    assert await volume.wrong() == []
    kinds = [job.kind for job in await stores.jobs.jobs()]
    assert set(kinds) == {REFRESH_JOB}


async def test_edits_that_follow_closely_share_a_job(
    stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refreshing, "GATHER_S", 3600.0)
    volume = await volume_of(stores, propagate=2)
    async with working(stores):
        for _ in range(4):
            await volume.write(Box((0, 0, 0), (2, 40, 40)))
            await asyncio.sleep(0.05)
    assert len(await stores.jobs.jobs()) == 1


async def test_what_others_marked_is_found_by_a_look(stores: Stores) -> None:
    volume = await volume_of(stores, propagate=2)
    await volume.write(Box((0, 0, 0), (2, 40, 40)))
    async with working(stores):
        await no_marks(volume)
    assert await volume.wrong() == []


async def test_marks_of_a_channel_that_is_not_propagated_are_left(stores: Stores) -> None:
    volume = await volume_of(stores, propagate=1)
    async with working(stores):
        await volume.write(Box((0, 0, 0), (2, 40, 40)))
        await asyncio.sleep(0.1)
    assert await stores.jobs.jobs() == []
    assert await volume.stale() > 0


async def test_a_refresh_that_failed_is_not_begun_again_and_again(stores: Stores) -> None:
    volume = await volume_of(stores, propagate=2)
    await volume.write(Box((0, 0, 0), (2, 40, 40)))
    await stores.jobs.submit_once(REFRESH_JOB, volume.channel.id)
    claimed = await stores.jobs.claim([REFRESH_JOB], owner="w", lease_s=60)
    assert claimed is not None
    await stores.jobs.finish(claimed.id, owner="w", error="damaged")
    await submit_refresh(stores, volume.channel.id, found=True)
    assert len(await stores.jobs.jobs()) == 1
    await submit_refresh(stores, volume.channel.id, found=False)
    assert len(await stores.jobs.jobs()) == 2


async def test_a_channel_whose_build_ended_without_a_word_is_found(stores: Stores) -> None:
    volume = await volume_of(stores)
    await volume.write()
    await set_propagation(stores, [volume.channel], [1])
    await stores.stale.mark([CuboidAddress(volume.channel.id, PLAIN, 1, 0, 0)])
    [job] = await stores.jobs.jobs()
    await stores.jobs.cancel(job.id)
    async with working(stores), asyncio.timeout(30):
        while (await volume.now()).propagate:
            await asyncio.sleep(0.01)
