"""What the embedded jobs promise beyond the contract: several processes, and an end."""

import asyncio
import multiprocessing
from collections.abc import AsyncIterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest

from ndcass.errors import InvalidRequest, NotFound
from ndcass.model import Channel, Dataset, Project
from ndcass.store.base import DELETE_JOB, KEEP_REFRESHED_S, REFRESH_JOB, JobState
from ndcass.store.embedded import KEEP_ENDED_JOBS_S, EmbeddedStores, open_embedded
from ndcass.store.embedded.jobs import FAILED_DELETE_S


class Clock:
    """Seconds that pass when a test says so."""

    now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def stores(tmp_path: Path, clock: Clock) -> AsyncIterator[EmbeddedStores]:
    opened = await open_embedded(tmp_path, now_s=clock)
    yield opened
    await opened.close()


async def received(pipe: Connection) -> Any:  # whatever the other process sends
    """The next message of another process, which may have died instead."""
    assert await asyncio.to_thread(pipe.poll, 60)
    return pipe.recv()


def _claim_all(folder: str, owner: str, pipe: Connection) -> None:
    async def work() -> None:
        stores = await open_embedded(Path(folder))
        pipe.send("ready")
        pipe.recv()
        claimed = []
        while job := await stores.jobs.claim(["fold"], owner=owner, lease_s=60):
            claimed.append(job.id)
        pipe.send(claimed)
        await stores.close()

    asyncio.run(work())


async def test_a_job_goes_to_one_process(stores: EmbeddedStores, tmp_path: Path) -> None:
    submitted = [(await stores.jobs.submit("fold", 1, {})).id for _ in range(60)]
    context = multiprocessing.get_context("spawn")
    pipes = [multiprocessing.Pipe() for _ in range(3)]
    workers = [
        context.Process(target=_claim_all, args=(str(tmp_path), f"w{n}", theirs), daemon=True)
        for n, (_, theirs) in enumerate(pipes)
    ]
    for worker, (_, theirs) in zip(workers, pipes, strict=True):
        worker.start()
        theirs.close()  # so that its end shows if it dies
    for ours, _ in pipes:
        assert await received(ours) == "ready"
    for ours, _ in pipes:
        ours.send("go")
    claimed = [job_id for ours, _ in pipes for job_id in await received(ours)]
    for worker in workers:
        await asyncio.to_thread(worker.join, 60)
        assert worker.exitcode == 0
    assert sorted(claimed) == sorted(submitted)


async def test_a_lease_ends_when_the_clock_says_so(stores: EmbeddedStores, clock: Clock) -> None:
    job = await stores.jobs.submit("fold", 1, {"from": 3})
    assert job.created_s == 1000.0
    await stores.jobs.claim(["fold"], owner="a", lease_s=10)
    clock.now_s = 1009.9
    assert await stores.jobs.claim(["fold"], owner="b", lease_s=10) is None
    clock.now_s = 1010.0
    taken = await stores.jobs.claim(["fold"], owner="b", lease_s=10)
    assert taken is not None
    assert (taken.id, taken.state, dict(taken.detail)) == (job.id, JobState.STARTED, {"from": 3})


async def test_jobs_outlive_the_process_that_submitted_them(tmp_path: Path) -> None:
    stores = await open_embedded(tmp_path)
    job = await stores.jobs.submit("fold", 1, {"n": 1})
    await stores.close()
    stores = await open_embedded(tmp_path)
    assert await stores.jobs.job(job.id) == job
    await stores.close()


async def test_only_jobs_that_ended_long_ago_are_dropped(
    stores: EmbeddedStores, clock: Clock
) -> None:
    waiting = await stores.jobs.submit("waits", 1, {})
    started = await stores.jobs.submit("starts", 1, {})
    ended = await stores.jobs.submit("ends", 1, {})
    revoked = await stores.jobs.submit("revoked", 1, {})
    await stores.jobs.claim(["starts"], owner="a", lease_s=10)
    await stores.jobs.claim(["ends"], owner="a", lease_s=10)
    await stores.jobs.finish(ended.id, owner="a")
    await stores.jobs.cancel(revoked.id)
    clock.now_s += KEEP_ENDED_JOBS_S
    await stores.maintain()
    assert len(await stores.jobs.jobs()) == 4
    clock.now_s += 1
    await stores.maintain()
    assert {job.id for job in await stores.jobs.jobs()} == {waiting.id, started.id}


async def test_a_delete_that_failed_for_good_is_tried_again_later(
    stores: EmbeddedStores, clock: Clock
) -> None:
    await stores.catalog.create_dataset(Dataset("brain", 10, 10, 10, 1))
    await stores.catalog.create_project(Project("proj", 1, "brain"))
    channel = await stores.catalog.create_channel(Channel(0, "proj", "em", "image", "uint8"))
    await stores.catalog.delete_channel("proj", "em")
    job = await stores.jobs.claim([DELETE_JOB], owner="a", lease_s=10)
    assert job is not None
    await stores.jobs.finish(job.id, owner="a", error="damaged")
    clock.now_s += FAILED_DELETE_S - 1
    assert await stores.catalog.delete_unknown([channel.id]) == 0
    clock.now_s += 1
    assert await stores.catalog.delete_unknown([channel.id]) == 1
    assert await stores.catalog.delete_unknown([channel.id]) == 0
    assert len(await stores.jobs.jobs(channel_id=channel.id)) == 2


async def test_details_that_are_not_json_change_nothing(stores: EmbeddedStores) -> None:
    with pytest.raises(InvalidRequest, match="JSON"):
        await stores.jobs.submit("fold", 1, {"a": object()})
    assert list(await stores.jobs.jobs()) == []


async def test_an_id_that_no_job_has_is_not_found(stores: EmbeddedStores) -> None:
    for job_id in ("\ud800", "x" * 1_000_000):
        with pytest.raises(NotFound):
            await stores.jobs.job(job_id)
        with pytest.raises(NotFound):
            await stores.jobs.cancel(job_id)


async def test_a_refresh_that_went_well_is_soon_forgotten(
    stores: EmbeddedStores, clock: Clock
) -> None:
    kept = []
    for kind, error in ((REFRESH_JOB, ""), (REFRESH_JOB, "damaged"), ("propagate", "")):
        job = await stores.jobs.submit(kind, 1, {})
        assert await stores.jobs.claim([kind], owner="a", lease_s=10)
        await stores.jobs.finish(job.id, owner="a", error=error)
        kept.append(job.id)
    clock.now_s += KEEP_REFRESHED_S + 1
    await stores.maintain()
    assert [job.id for job in await stores.jobs.jobs()] == [kept[2], kept[1]]
