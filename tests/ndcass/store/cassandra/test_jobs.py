import asyncio
import time

import pytest

from ndcass.errors import NotFound
from ndcass.store.base import DELETE_JOB, Job, JobState
from ndcass.store.cassandra import jobs as jobs_module
from ndcass.store.cassandra.jobs import CassandraJobs, NewJob
from ndcass.store.cassandra.tables import Tables
from tests.flaky_tables import APPLIED, LATE, LOST, FlakyTables

HOUR_MS = 3_600_000


class Clock:
    """A wall clock of milliseconds that is wrong."""

    def __init__(self, off_by_ms: int = 0) -> None:
        self.off_by_ms = off_by_ms

    def __call__(self) -> int:
        return time.time_ns() // 1_000_000 + self.off_by_ms


async def claim(jobs: CassandraJobs, owner: str = "me", lease_s: float = 60.0) -> Job | None:
    return await jobs.claim([DELETE_JOB], owner=owner, lease_s=lease_s)


async def beat(jobs: CassandraJobs, job: Job, owner: str = "me", lease_s: float = 60.0) -> bool:
    return await jobs.heartbeat(
        job.id, owner=owner, lease_s=lease_s, done_units=1, total_units=2, detail={}
    )


async def claimed(jobs: CassandraJobs, owner: str = "me", lease_s: float = 60.0) -> Job:
    await jobs.submit(DELETE_JOB, 1, {})
    job = await claim(jobs, owner, lease_s)
    assert job is not None
    return job


@pytest.mark.parametrize("off_by_ms", [HOUR_MS, -HOUR_MS])
async def test_a_wrong_clock_steals_no_job_and_holds_none(tables: Tables, off_by_ms: int) -> None:
    right, wrong = CassandraJobs(tables), CassandraJobs(tables, now_ms=Clock(off_by_ms))
    await claimed(right, "right")
    assert await claim(wrong, "wrong") is None
    held_by_wrong = await claimed(wrong, "wrong", lease_s=0.3)
    assert await claim(right, "right") is None
    await asyncio.sleep(0.5)
    stolen = await claim(right, "right")
    assert stolen is not None
    assert stolen.id == held_by_wrong.id


async def test_a_lease_is_stolen_only_after_its_end(tables: Tables) -> None:
    jobs = CassandraJobs(tables)
    job = await claimed(jobs, "dead", lease_s=1.0)
    began = time.monotonic()
    stolen = None
    while stolen is None:
        stolen = await claim(jobs, "thief")
    assert stolen.id == job.id
    assert 0.9 < time.monotonic() - began < 5


async def test_a_job_whose_owner_gives_a_sign_of_life_is_not_stolen_in_that_moment(
    tables: Tables,
) -> None:
    owner = CassandraJobs(tables)
    job = await claimed(owner, "slow", lease_s=0.01)

    class Slow(FlakyTables):
        async def transact(self, *entries):  # type: ignore[no-untyped-def]  # as the base has it
            await beat(owner, job, "slow")
            return await super().transact(*entries)

    await asyncio.sleep(0.1)
    assert await claim(CassandraJobs(Slow(tables)), "thief") is None
    assert await beat(owner, job, "slow")


@pytest.mark.parametrize("fault", [APPLIED, LOST, LATE])
async def test_a_job_whose_answer_is_lost_is_submitted_once(tables: Tables, fault: str) -> None:
    flaky = FlakyTables(tables, fault)
    jobs = CassandraJobs(flaky)

    job = await jobs.submit(DELETE_JOB, 1, {"a": 1})

    await flaky.settled()
    assert list(await jobs.jobs()) == [job]
    assert (await claimed(jobs)).id == job.id


async def test_a_claim_whose_answer_is_lost_belongs_to_who_made_it(tables: Tables) -> None:
    await CassandraJobs(tables).submit(DELETE_JOB, 1, {})
    jobs = CassandraJobs(FlakyTables(tables, APPLIED))

    job = await claim(jobs)

    assert job is not None
    assert await beat(jobs, job)


async def test_a_claim_that_was_not_made_is_nobodys(tables: Tables) -> None:
    job = await CassandraJobs(tables).submit(DELETE_JOB, 1, {})
    jobs = CassandraJobs(FlakyTables(tables, LOST))

    assert await claim(jobs) is None
    again = await claim(jobs)
    assert again is not None
    assert again.id == job.id


@pytest.mark.parametrize("faults", [(APPLIED,), (LOST,), (LOST, APPLIED)])
async def test_an_end_whose_answer_is_lost_is_an_end(
    tables: Tables, faults: tuple[str, ...]
) -> None:
    job = await claimed(CassandraJobs(tables))
    jobs = CassandraJobs(FlakyTables(tables, *faults))

    assert await beat(jobs, job)
    jobs = CassandraJobs(FlakyTables(tables, *faults))
    assert await jobs.finish(job.id, owner="me", error="no space")
    assert (await jobs.job(job.id)).state == JobState.FAILURE


async def test_a_cancellation_whose_answer_is_lost_is_one(tables: Tables) -> None:
    jobs = CassandraJobs(FlakyTables(tables, None, APPLIED))
    job = await jobs.submit(DELETE_JOB, 1, {})

    assert await jobs.cancel(job.id)
    assert (await jobs.job(job.id)).state == JobState.REVOKED


async def test_a_job_that_is_submitted_again_stays_as_it_is(tables: Tables) -> None:
    jobs = CassandraJobs(tables)
    one, other = NewJob(jobs.new_id(), DELETE_JOB, 1, {}), NewJob(jobs.new_id(), DELETE_JOB, 2, {})
    await jobs.submit_all([one])
    assert await claim(jobs) is not None
    assert await jobs.finish(one.id, owner="me")

    await jobs.submit_all([one, other])

    assert [job.state for job in await jobs.jobs()] == [JobState.PENDING, JobState.SUCCESS]
    again = await claim(jobs)
    assert again is not None
    assert again.id == other.id


async def test_of_many_workers_with_many_jobs_each_job_goes_to_one(tables: Tables) -> None:
    workers = [CassandraJobs(tables) for _ in range(3)]
    await workers[0].submit_all([NewJob(workers[0].new_id(), DELETE_JOB, n, {}) for n in range(12)])

    async def work(jobs: CassandraJobs, owner: str) -> list[str]:
        done = []
        while (job := await claim(jobs, owner)) is not None:
            assert await beat(jobs, job, owner)
            assert await jobs.finish(job.id, owner=owner)
            done.append(job.id)
        return done

    done = await asyncio.gather(*(work(jobs, f"w{n}") for n, jobs in enumerate(workers)))

    ids = [job_id for one in done for job_id in one]
    assert len(ids) == len(set(ids)) == 12
    assert list(await tables.rows("SELECT id FROM open_jobs")) == []


async def test_an_entry_without_a_job_is_dropped_when_nobody_can_be_submitting_it(
    tables: Tables,
) -> None:
    now, then = CassandraJobs(tables), CassandraJobs(tables, now_ms=Clock(-2 * HOUR_MS))
    for jobs in (now, then):
        cql, values = NewJob(jobs.new_id(), DELETE_JOB, 1, {}).open_entry()
        await tables.write(cql, *values)

    assert await claim(now) is None

    assert len(await tables.rows("SELECT id FROM open_jobs")) == 1


async def test_jobs_of_several_periods_are_listed_newest_first(
    tables: Tables, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs_module, "MOST_JOBS", 5)
    days = [0, 13, 40, 200]
    ids = []
    for day in reversed(days):
        jobs = CassandraJobs(tables, now_ms=Clock(-day * 24 * HOUR_MS))
        ids += [(await jobs.submit(DELETE_JOB, 7, {})).id for _ in range(2)]
    newest = ids[::-1][:5]

    jobs = CassandraJobs(tables)
    assert [job.id for job in await jobs.jobs()] == newest
    assert [job.id for job in await jobs.jobs(channel_id=7)] == newest
    oldest = await claim(jobs)
    assert oldest is not None
    assert oldest.id == ids[0]


async def test_old_jobs_that_ended_are_forgotten(
    tables: Tables, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = CassandraJobs(tables, now_ms=Clock(-24 * HOUR_MS))
    ended = [await claimed(old) for _ in range(5)]
    for job in ended:
        await old.finish(job.id, owner="me")
    open_one = await claimed(old)
    now = CassandraJobs(tables)
    recent = await now.submit(DELETE_JOB, 1, {})
    await now.cancel(recent.id)

    monkeypatch.setattr(jobs_module, "PRUNED_AT_ONCE", 2)
    assert await now.prune(older_than_s=3600) == 5

    assert [job.id for job in await now.jobs()] == [recent.id, open_one.id]
    assert await now.prune(older_than_s=3600) == 0


async def test_a_delete_is_under_way_until_it_succeeded_or_failed_long_ago(tables: Tables) -> None:
    jobs = CassandraJobs(tables)
    assert not await jobs.has_delete(1)
    job = await claimed(jobs)
    assert await jobs.has_delete(1)
    await jobs.finish(job.id, owner="me", error="no")
    assert await jobs.has_delete(1)
    assert not await CassandraJobs(tables, now_ms=Clock(2 * HOUR_MS)).has_delete(1)
    again = await claimed(jobs)
    await jobs.finish(again.id, owner="me")
    assert not await CassandraJobs(tables, now_ms=Clock(2 * HOUR_MS)).has_delete(1)


@pytest.mark.parametrize("job_id", ["", "zz", "\ud800", "00", "0" * 32, "0" * 100_000])
async def test_ids_that_cannot_be_are_not_found(tables: Tables, job_id: str) -> None:
    jobs = CassandraJobs(tables)
    with pytest.raises(NotFound):
        await jobs.job(job_id)
    with pytest.raises(NotFound):
        await jobs.cancel(job_id)
