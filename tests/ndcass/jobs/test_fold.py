"""The job that folds a channel."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

import pytest

from ndcass.jobs import HANDLERS
from ndcass.jobs.runner import run_jobs
from ndcass.model import Channel, Dataset, Project
from ndcass.store.base import Job, JobState
from ndcass.store.folding import FOLD_JOB, Amount, FoldedPart, Whereabouts
from ndcass.store.memory import MemoryStores

BUCKETS = 6


@dataclass
class Folds:
    """Folds nothing, but says so as an engine would; stops at a bucket, once."""

    visited: list[int] = field(default_factory=list)
    fails_at: int | None = None
    damaged: int | None = None

    async def count(self, channel_id: int) -> int:
        return BUCKETS

    async def fold_channel(
        self, channel_id: int, *, drain: bool, after: Sequence[int] = ()
    ) -> AsyncIterator[FoldedPart]:
        for bucket in range(after[0] + 1 if after else 0, BUCKETS):
            if bucket == self.fails_at:
                self.fails_at = None
                raise asyncio.CancelledError
            self.visited.append(bucket)
            damage = f"bucket {bucket} is damaged" if bucket == self.damaged else ""
            yield FoldedPart((bucket,), 1, 2 if drain else 1, 3, 100, damage=damage)

    async def whereabouts(self, channel_id: int) -> Whereabouts:
        return Whereabouts(False, Amount(), 0, Amount(), Amount(), 0)

    async def step(self) -> None:
        pass


class FoldingStores(MemoryStores):
    def __init__(self) -> None:
        super().__init__()
        self.folding = Folds()


async def channel_of(stores: MemoryStores) -> int:
    await stores.catalog.create_dataset(Dataset("data", 8, 8, 4, user=1))
    await stores.catalog.create_project(Project("proj", 1, "data"))
    made = await stores.catalog.create_channel(Channel(0, "proj", "c", "image", "uint8"))
    return made.id


async def done(stores: MemoryStores, job: Job) -> Job:
    """The job after a worker has worked on it."""
    stop = asyncio.Event()
    work = asyncio.create_task(
        run_jobs(stores, HANDLERS, owner="me", stop=stop, poll_s=0.01, lease_s=5)
    )
    async with asyncio.timeout(5):
        while (job := await stores.jobs.job(job.id)).state in (
            JobState.PENDING,
            JobState.STARTED,
        ) and not work.done():
            await asyncio.sleep(0.01)
    stop.set()
    await asyncio.gather(work, return_exceptions=True)
    return job


async def test_every_bucket_is_visited_once_and_the_sum_is_noted() -> None:
    stores = FoldingStores()
    job = await stores.jobs.submit(FOLD_JOB, await channel_of(stores), {"drain": True})
    job = await done(stores, job)
    assert (job.state, job.done_units, job.total_units) == (JobState.SUCCESS, BUCKETS, BUCKETS)
    assert job.detail == {
        "drain": True,
        "place": [BUCKETS - 1],
        "cuboids": 2 * BUCKETS,
        "rows": 3 * BUCKETS,
        "size_bytes": 100 * BUCKETS,
    }
    assert stores.folding.visited == list(range(BUCKETS))


async def test_a_job_that_was_let_go_goes_on_behind_the_last_noted_bucket(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("ndcass.jobs.fold.NOTE_EVERY_S", 0)
    stores = FoldingStores()
    stores.folding.fails_at = 3
    job = await stores.jobs.submit(FOLD_JOB, await channel_of(stores), {"drain": False})
    assert (await done(stores, job)).state is JobState.STARTED
    job = await done(stores, job)
    assert job.state is JobState.SUCCESS
    assert stores.folding.visited == list(range(BUCKETS))
    assert job.detail["cuboids"] == BUCKETS


async def test_a_channel_that_is_gone_fails_the_job() -> None:
    stores = FoldingStores()
    job = await done(stores, await stores.jobs.submit(FOLD_JOB, 77, {"drain": True}))
    assert (job.state, job.error) == (JobState.FAILURE, "there is no channel 77 any more")


async def test_a_store_that_merges_at_once_has_nothing_to_fold() -> None:
    stores = MemoryStores()
    job = await stores.jobs.submit(FOLD_JOB, await channel_of(stores), {"drain": True})
    job = await done(stores, job)
    assert job.state is JobState.FAILURE
    assert "nothing to fold" in job.error


async def test_what_is_damaged_is_told_when_the_rest_is_folded() -> None:
    stores = FoldingStores()
    stores.folding.damaged = 2
    job = await stores.jobs.submit(FOLD_JOB, await channel_of(stores), {"drain": True})
    job = await done(stores, job)
    assert stores.folding.visited == list(range(BUCKETS))
    assert (job.state, job.error) == (JobState.FAILURE, "bucket 2 is damaged")
