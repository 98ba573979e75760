"""Workers and their jobs: who runs one, and how it ends."""

import asyncio
import contextlib
import logging
import multiprocessing
import signal
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path

import pytest

from ndcass.errors import (
    Conflict,
    CorruptValue,
    IncompatibleStore,
    StoreError,
    StoreFull,
    StoreTimeout,
    StoreUnavailable,
)
from ndcass.jobs.runner import Handler, JobLost, Progress, run_jobs
from ndcass.store.base import Job, JobState, Stores
from ndcass.store.embedded import open_embedded
from ndcass.store.memory import MemoryStores

FOR_EVER_S = 3600.0


@pytest.fixture
def stores() -> MemoryStores:
    return MemoryStores()


@contextlib.asynccontextmanager
async def worker(
    stores: Stores,
    handlers: Mapping[str, Handler],
    *,
    owner: str = "w",
    lease_s: float = 30.0,
) -> AsyncIterator[asyncio.Event]:
    """A worker that is at work inside the block and told to stop at its end."""
    stop = asyncio.Event()
    task = asyncio.create_task(
        run_jobs(stores, handlers, owner=owner, stop=stop, poll_s=0.01, lease_s=lease_s)
    )
    try:
        yield stop
    finally:
        stop.set()
        async with asyncio.timeout(10):
            await task


async def state_of(stores: Stores, job: Job, *wanted: JobState) -> Job:
    """Wait until a job is in one of some states."""
    async with asyncio.timeout(10):
        while (found := await stores.jobs.job(job.id)).state not in wanted:
            await asyncio.sleep(0.005)
    return found


async def works_for_ever(stores: Stores, job: Job, progress: Progress) -> None:
    await asyncio.sleep(FOR_EVER_S)


def recorded(ended: list[str], func: Handler = works_for_ever) -> Handler:
    """A handler that notes how it was left."""

    async def handler(stores: Stores, job: Job, progress: Progress) -> None:
        ended.append("begin")
        try:
            await func(stores, job, progress)
        except BaseException as error:
            ended.append(type(error).__name__)
            raise

    return handler


async def test_a_job_is_run_and_succeeds(stores: MemoryStores) -> None:
    job = await stores.jobs.submit("count", 7, {"to": 3})

    async def count(stores: Stores, job: Job, progress: Progress) -> None:
        for n in range(job.detail["to"]):
            await progress(n + 1, job.detail["to"], {**job.detail, "at": n})

    async with worker(stores, {"count": count}):
        done = await state_of(stores, job, JobState.SUCCESS)
    assert (done.done_units, done.total_units) == (3, 3)
    assert dict(done.detail) == {"to": 3, "at": 2}
    assert done.error == ""


async def test_jobs_come_one_after_the_other_oldest_first(stores: MemoryStores) -> None:
    jobs = [await stores.jobs.submit("note", n, {}) for n in range(5)]
    noted: list[int] = []

    async def note(stores: Stores, job: Job, progress: Progress) -> None:
        await asyncio.sleep(0.001)
        noted.append(job.channel_id)

    async with worker(stores, {"note": note}):
        await state_of(stores, jobs[-1], JobState.SUCCESS)
    assert noted == [0, 1, 2, 3, 4]


async def test_a_job_of_an_unknown_kind_is_left_to_others(stores: MemoryStores) -> None:
    unknown = await stores.jobs.submit("newer", 1, {})
    known = await stores.jobs.submit("known", 1, {})
    async with worker(stores, {"known": recorded([], _nothing)}):
        await state_of(stores, known, JobState.SUCCESS)
    assert (await stores.jobs.job(unknown.id)).state == JobState.PENDING


async def _nothing(stores: Stores, job: Job, progress: Progress) -> None:
    return


@pytest.mark.parametrize(
    ("error", "noted"),
    [
        (Conflict("it is\nin use"), "it is"),
        (Conflict(""), "Conflict"),
        (CorruptValue("it is damaged"), "it is damaged"),
        (IncompatibleStore("it is newer"), "it is newer"),
        (KeyError("/secret/path"), "unexpected KeyError, see the log of the worker"),
        (Conflict("x" * 9999), "x" * 500),
    ],
)
async def test_a_failure_is_noted_in_one_line(
    stores: MemoryStores, caplog: pytest.LogCaptureFixture, error: Exception, noted: str
) -> None:
    job = await stores.jobs.submit("fail", 1, {})

    async def fail(stores: Stores, job: Job, progress: Progress) -> None:
        raise error

    async with worker(stores, {"fail": fail}):
        failed = await state_of(stores, job, JobState.FAILURE)
    assert failed.error == noted
    assert "failed" in caplog.text


async def test_a_failed_job_does_not_end_the_worker(stores: MemoryStores) -> None:
    async def fail(stores: Stores, job: Job, progress: Progress) -> None:
        raise RuntimeError

    await stores.jobs.submit("fail", 1, {})
    after = await stores.jobs.submit("work", 1, {})
    async with worker(stores, {"fail": fail, "work": _nothing}):
        await state_of(stores, after, JobState.SUCCESS)


async def test_a_cancelled_job_is_stopped_at_its_next_progress(stores: MemoryStores) -> None:
    job = await stores.jobs.submit("work", 1, {})
    ended: list[str] = []

    async def work(stores: Stores, job: Job, progress: Progress) -> None:
        for n in range(10_000):
            await progress(n, 10_000, {})
            await asyncio.sleep(0.001)

    async with worker(stores, {"work": recorded(ended, work)}):
        await state_of(stores, job, JobState.STARTED)
        await stores.jobs.cancel(job.id)
        await _until(lambda: len(ended) == 2)
    assert ended == ["begin", JobLost.__name__]
    assert (await stores.jobs.job(job.id)).state == JobState.REVOKED


async def test_a_cancelled_job_is_stopped_though_it_says_nothing(stores: MemoryStores) -> None:
    job = await stores.jobs.submit("work", 1, {})
    ended: list[str] = []
    async with worker(stores, {"work": recorded(ended)}, lease_s=0.1):
        await state_of(stores, job, JobState.STARTED)
        await stores.jobs.cancel(job.id)
        await _until(lambda: len(ended) == 2)
    assert ended == ["begin", "CancelledError"]


async def test_a_lease_is_prolonged_for_a_unit_that_takes_long(stores: MemoryStores) -> None:
    job = await stores.jobs.submit("work", 1, {})
    ended: list[str] = []

    async def work(stores: Stores, job: Job, progress: Progress) -> None:
        await asyncio.sleep(0.6)

    handlers = {"work": recorded(ended, work)}
    async with (
        worker(stores, handlers, owner="a", lease_s=0.2),
        worker(stores, handlers, owner="b", lease_s=0.2),
    ):
        await state_of(stores, job, JobState.SUCCESS)
    assert ended == ["begin"]


async def test_a_worker_that_stops_lets_its_job_go_at_once(stores: MemoryStores) -> None:
    job = await stores.jobs.submit("work", 1, {})
    ended: list[str] = []

    async def work(stores: Stores, job: Job, progress: Progress) -> None:
        await progress(3, 9, {"at": 3})
        await asyncio.sleep(FOR_EVER_S)

    async with worker(stores, {"work": recorded(ended, work)}, owner="a"):
        await _until(lambda: bool(ended))
        await asyncio.sleep(0.02)
    assert ended == ["begin", "CancelledError"]
    taken = await stores.jobs.claim(["work"], owner="b", lease_s=30)
    assert taken is not None
    assert (taken.id, taken.done_units, dict(taken.detail)) == (job.id, 3, {"at": 3})


async def test_a_worker_that_is_cancelled_lets_its_job_go_too(stores: MemoryStores) -> None:
    job = await stores.jobs.submit("work", 1, {})
    ended: list[str] = []
    task = asyncio.create_task(
        run_jobs(
            stores, {"work": recorded(ended)}, owner="a", stop=asyncio.Event(), poll_s=FOR_EVER_S
        )
    )
    await _until(lambda: bool(ended))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended == ["begin", "CancelledError"]
    taken = await stores.jobs.claim(["work"], owner="b", lease_s=30)
    assert taken is not None
    assert taken.id == job.id


async def test_an_idle_worker_stops_at_once(stores: MemoryStores) -> None:
    stop = asyncio.Event()
    task = asyncio.create_task(
        run_jobs(stores, {"work": _nothing}, owner="a", stop=stop, poll_s=FOR_EVER_S)
    )
    await asyncio.sleep(0.01)
    stop.set()
    async with asyncio.timeout(5):
        await task


@pytest.mark.parametrize("kind", [StoreTimeout, StoreUnavailable, StoreFull, StoreError])
async def test_a_store_that_fails_puts_a_job_off(
    stores: MemoryStores, caplog: pytest.LogCaptureFixture, kind: type[StoreError]
) -> None:
    job = await stores.jobs.submit("work", 1, {})
    tries: list[str] = []

    async def fails_once(stores: Stores, job: Job, progress: Progress) -> None:
        tries.append(job.error)
        if len(tries) == 1:
            raise kind("not now")

    async with worker(stores, {"work": fails_once}, lease_s=0.05):
        done = await state_of(stores, job, JobState.SUCCESS)
    assert tries == ["", "not now"]
    assert done.error == ""
    assert "put off: not now" in caplog.text


async def test_a_store_that_takes_no_reason_puts_a_job_off_all_the_same(
    stores: MemoryStores, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    job = await stores.jobs.submit("work", 1, {})
    tries: list[str] = []

    async def is_full(job_id: str, *, owner: str, reason: str) -> bool:
        raise StoreFull("no space")

    async def fails_once(stores: Stores, job: Job, progress: Progress) -> None:
        tries.append(job.error)
        if len(tries) == 1:
            raise StoreFull("no space")

    monkeypatch.setattr(stores.jobs, "put_off", is_full)
    async with worker(stores, {"work": fails_once}, lease_s=0.05):
        await state_of(stores, job, JobState.SUCCESS)
    assert tries == ["", ""]
    assert "was not noted: no space" in caplog.text


async def test_a_worker_outlives_a_store_that_does_not_answer(
    stores: MemoryStores, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    job = await stores.jobs.submit("work", 1, {})
    claim = stores.jobs.claim
    asked: list[str] = []

    async def late_claim(kinds: list[str], *, owner: str, lease_s: float) -> Job | None:
        asked.append(owner)
        if len(asked) < 3:
            raise StoreTimeout("too late")
        return await claim(kinds, owner=owner, lease_s=lease_s)

    monkeypatch.setattr(stores.jobs, "claim", late_claim)
    async with worker(stores, {"work": _nothing}):
        await state_of(stores, job, JobState.SUCCESS)
    assert "no job could be claimed: too late" in caplog.text


async def test_a_lost_heartbeat_is_no_lost_job(
    stores: MemoryStores, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    job = await stores.jobs.submit("work", 1, {})

    async def late(job_id: str, **noted: object) -> bool:
        raise StoreTimeout("too late")

    async def work(stores: Stores, job: Job, progress: Progress) -> None:
        await asyncio.sleep(0.1)

    monkeypatch.setattr(stores.jobs, "heartbeat", late)
    async with worker(stores, {"work": work}, lease_s=0.12):
        await state_of(stores, job, JobState.SUCCESS)
    assert "was not prolonged: too late" in caplog.text


def _work_and_hang(folder: str) -> None:
    logging.disable()

    async def work(stores: Stores, job: Job, progress: Progress) -> None:
        await progress(1, 2, {"at": "half"})
        await asyncio.sleep(FOR_EVER_S)

    async def run() -> None:
        stores = await open_embedded(Path(folder))
        await run_jobs(
            stores, {"work": work}, owner="victim", stop=asyncio.Event(), poll_s=0.01, lease_s=1.0
        )

    asyncio.run(run())


async def test_a_job_of_a_killed_worker_is_taken_over_where_it_was(tmp_path: Path) -> None:
    stores = await open_embedded(tmp_path)
    job = await stores.jobs.submit("work", 1, {"at": "start"})
    victim = multiprocessing.get_context("spawn").Process(
        target=_work_and_hang, args=(str(tmp_path),), daemon=True
    )
    victim.start()
    async with asyncio.timeout(60):
        while (await stores.jobs.job(job.id)).done_units == 0:
            await asyncio.sleep(0.02)
    victim.kill()
    await asyncio.to_thread(victim.join, 60)
    assert victim.exitcode == -signal.SIGKILL
    resumed: list[str] = []

    async def resume(stores: Stores, job: Job, progress: Progress) -> None:
        resumed.append(job.detail["at"])

    async with worker(stores, {"work": resume}, owner="heir"):
        await state_of(stores, job, JobState.SUCCESS)
    assert resumed == ["half"]
    await stores.close()


async def _until(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not is_so():
            await asyncio.sleep(0.005)
