"""Who sees which jobs."""

import pytest

from ndcass.errors import Conflict, NotFound, Unauthenticated
from ndcass.jobs.access import cancel_visible_job, visible_job, visible_jobs
from ndcass.model import Channel, Dataset, Project, User
from ndcass.propagation import start
from ndcass.store.base import DELETE_JOB, JobState
from ndcass.store.memory import MemoryStores

ADMIN, ANN, BOB = User(1, "admin", superuser=True), User(2, "ann"), User(3, "bob")


@pytest.fixture
async def stores() -> MemoryStores:
    """Projects of two owners, each with a channel."""
    stores = MemoryStores()
    await stores.catalog.create_dataset(Dataset("d", 10, 10, 10, user=1))
    for user in (ANN, BOB):
        await stores.catalog.create_project(Project(user.name, user.id, "d"))
        await stores.catalog.create_channel(Channel(0, user.name, "em", "image", "uint8"))
    return stores


async def channel_of(stores: MemoryStores, user: User) -> Channel:
    return await stores.catalog.channel(user.name, "em")


async def test_everybody_sees_the_jobs_of_own_channels(stores: MemoryStores) -> None:
    anns = await stores.jobs.submit("fold", (await channel_of(stores, ANN)).id, {})
    bobs = await stores.jobs.submit("fold", (await channel_of(stores, BOB)).id, {})
    assert [shown.job.id for shown in await visible_jobs(stores, ANN)] == [anns.id]
    assert [shown.job.id for shown in await visible_jobs(stores, ADMIN)] == [bobs.id, anns.id]
    assert (await visible_job(stores, BOB, bobs.id)).channel == await channel_of(stores, BOB)
    with pytest.raises(NotFound):
        await visible_job(stores, ANN, bobs.id)
    with pytest.raises(Unauthenticated):
        await visible_jobs(stores, None)


async def test_the_jobs_of_deleted_channels_are_for_superusers(stores: MemoryStores) -> None:
    await stores.catalog.delete_channel("ann", "em")
    assert await visible_jobs(stores, ANN) == []
    [shown] = await visible_jobs(stores, ADMIN)
    assert (shown.job.kind, shown.channel) == (DELETE_JOB, None)


async def test_a_cancelled_build_frees_its_channel(stores: MemoryStores) -> None:
    job = await start(stores, await channel_of(stores, ANN))
    assert (await channel_of(stores, ANN)).propagate == 1
    with pytest.raises(NotFound):
        await cancel_visible_job(stores, BOB, job.id)
    shown = await cancel_visible_job(stores, ANN, job.id)
    assert shown.job.state == JobState.REVOKED
    assert (await channel_of(stores, ANN)).propagate == 0
    with pytest.raises(Conflict, match="has ended"):
        await cancel_visible_job(stores, ANN, job.id)
