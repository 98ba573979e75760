"""Background work in memory."""

import copy
import dataclasses
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ndcass.bell import Bell
from ndcass.store.base import (
    DELETE_JOB,
    Job,
    JobState,
)
from ndcass.store.memory.dicts import json_copy, known

MOST_JOBS = 1000


@dataclass(frozen=True, slots=True)
class _Lease:
    owner: str
    ends_s: float


class MemoryJobs:
    """The `Jobs` in a dict, oldest first."""

    def __init__(self, now_s: Callable[[], float]) -> None:
        self._now_s = now_s
        self._jobs: dict[str, Job] = {}
        self._leases: dict[str, _Lease] = {}
        self.bell: Bell[str] = Bell()

    async def submit_once(self, kind: str, channel_id: int) -> Job:
        """As `Jobs.submit_once`."""
        for job in self._jobs.values():
            if (job.kind, job.channel_id, job.state) == (kind, channel_id, JobState.PENDING):
                return copy.deepcopy(job)
        return self.submit_now(kind, channel_id, {})

    async def submit(self, kind: str, channel_id: int, detail: Mapping[str, Any]) -> Job:
        """As `Jobs.submit`."""
        return self.submit_now(kind, channel_id, detail)

    def submit_now(self, kind: str, channel_id: int, detail: Mapping[str, Any]) -> Job:
        """`submit` inside a change of the catalogue."""
        job = Job(
            id=uuid.uuid4().hex,
            kind=kind,
            channel_id=channel_id,
            detail=json_copy(detail),
            state=JobState.PENDING,
            done_units=0,
            total_units=0,
            error="",
            created_s=self._now_s(),
        )
        self._jobs[job.id] = job
        self.bell.ring(kind)
        return copy.deepcopy(job)

    def has_delete(self, channel_id: int) -> bool:
        """Whether a job that removes a channel's data is under way."""
        return any(
            (job.kind, job.channel_id) == (DELETE_JOB, channel_id)
            and job.state in (JobState.PENDING, JobState.STARTED)
            for job in self._jobs.values()
        )

    async def claim(self, kinds: Sequence[str], *, owner: str, lease_s: float) -> Job | None:
        """As `Jobs.claim`."""
        now = self._now_s()
        for job in self._jobs.values():
            if job.kind in kinds and self._is_free(job, now):
                self._leases[job.id] = _Lease(owner, now + lease_s)
                return self._change(job.id, state=JobState.STARTED)
        return None

    async def heartbeat(
        self,
        job_id: str,
        *,
        owner: str,
        lease_s: float,
        done_units: int,
        total_units: int,
        detail: Mapping[str, Any],
    ) -> bool:
        """As `Jobs.heartbeat`."""
        if not self._is_owned(job_id, owner):
            return False
        self._leases[job_id] = _Lease(owner, self._now_s() + lease_s)
        self._change(
            job_id, done_units=done_units, total_units=total_units, detail=json_copy(detail)
        )
        return True

    async def put_off(self, job_id: str, *, owner: str, reason: str) -> bool:
        """As `Jobs.put_off`."""
        if not self._is_owned(job_id, owner):
            return False
        self._change(job_id, error=reason)
        return True

    async def finish(self, job_id: str, *, owner: str, error: str = "") -> bool:
        """As `Jobs.finish`."""
        if not self._is_owned(job_id, owner):
            return False
        self._change(job_id, state=JobState.FAILURE if error else JobState.SUCCESS, error=error)
        return True

    async def cancel(self, job_id: str) -> bool:
        """As `Jobs.cancel`."""
        if self._found(job_id).state not in (JobState.PENDING, JobState.STARTED):
            return False
        self._change(job_id, state=JobState.REVOKED, error="")
        return True

    async def job(self, job_id: str) -> Job:
        """As `Jobs.job`."""
        return copy.deepcopy(self._found(job_id))

    async def jobs(self, *, channel_id: int | None = None) -> Sequence[Job]:
        """As `Jobs.jobs`."""
        newest_first = reversed(self._jobs.values())
        found = [job for job in newest_first if channel_id is None or job.channel_id == channel_id]
        return copy.deepcopy(found[:MOST_JOBS])

    def _found(self, job_id: str) -> Job:
        return known(self._jobs, job_id, "job")

    def _is_free(self, job: Job, now: float) -> bool:
        if job.state == JobState.STARTED:
            return self._leases[job.id].ends_s <= now
        return job.state == JobState.PENDING

    def _is_owned(self, job_id: str, owner: str) -> bool:
        job = self._jobs.get(job_id)
        return (
            job is not None
            and job.state == JobState.STARTED
            and self._leases[job_id].owner == owner
        )

    def _change(self, job_id: str, **changes: Any) -> Job:  # whatever the fields of a job hold
        self._jobs[job_id] = job = dataclasses.replace(self._jobs[job_id], **changes)
        return copy.deepcopy(job)
