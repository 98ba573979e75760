"""Background jobs on Cassandra: leases by lightweight transactions and the clock of the nodes.

A lease ends `lease_s` after the heartbeat that wrote it, and both that moment and the present are
told by the nodes. So a gateway whose clock is wrong neither steals a job that is held nor holds one
for ever; what counts is how well the clocks of the nodes agree, which Cassandra needs anyway.
"""

import asyncio
import contextlib
import dataclasses
import json
import os
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any, NamedTuple

from ndcass.bell import Bell
from ndcass.errors import NotFound, StoreError, StoreTimeout, TransactionUnknown
from ndcass.store.base import DELETE_JOB, KEEP_REFRESHED_S, REFRESH_JOB, Job, JobState
from ndcass.store.cassandra.driver import Consistency, Row
from ndcass.store.cassandra.tables import Entry, Tables, pause
from ndcass.store.clock import WRITE_ID_BYTES, WriteClock, milliseconds_of, wall_clock_ms
from ndcass.store.values import json_text

MOST_JOBS = 1000
# Open jobs that a claim looks at together, oldest first.
LOOKED_AT_ONCE = 100
# One step of housekeeping drops at most so many, so many in one transaction.
MOST_PRUNED, PRUNED_AT_ONCE = 1000, 100
# A delete that failed for good is not tried again before.
FAILED_DELETE_S = 3600.0
# An entry of the open ones whose job never came: whoever was about to submit it has given up.
LOST_ENTRY_S = 3600.0
# How often a change is tried whose answer gets lost.
MOST_TRIES = 3

_OPEN_STATES = (JobState.PENDING, JobState.STARTED)
_SCOPE = "open"

_JOB = (
    "SELECT id, kind, channel_id, state, done_units, total_units, detail, error, ended_ms, owner,"
    " change, lease_s, WRITETIME(lease_s), to_unix_timestamp(now()) FROM jobs"
)
_JOBS_OF_IDS = f"{_JOB} WHERE period = ? AND id IN ?"
_JOBS_OF_PERIOD = f"{_JOB} WHERE period = ? LIMIT ?"
_JOBS_OF_CHANNEL = f"{_JOB} WHERE channel_id = ?"
_IDS = "SELECT id FROM jobs WHERE period = ? AND id IN ?"
_PERIODS = "SELECT DISTINCT period FROM jobs"
_ENDED = "SELECT id, ended_ms, kind, state FROM jobs WHERE period = ?"

_SUBMIT = (
    "INSERT INTO jobs (period, id, kind, channel_id, state, change, done_units, total_units,"
    " detail, error) VALUES (?, ?, ?, ?, 'PENDING', ?, 0, 0, ?, '') IF NOT EXISTS"
)
_TAKE = (
    "UPDATE jobs SET state = 'STARTED', owner = ?, lease_s = ?, change = ?"
    " WHERE period = ? AND id = ? IF state = ? AND change = ?"
)
_BEAT = (
    "UPDATE jobs SET lease_s = ?, done_units = ?, total_units = ?, detail = ?, change = ?"
    " WHERE period = ? AND id = ? IF state = 'STARTED' AND owner = ?"
)
_PUT_OFF = (
    "UPDATE jobs SET error = ?, change = ?"
    " WHERE period = ? AND id = ? IF state = 'STARTED' AND owner = ?"
)
_FINISH = (
    "UPDATE jobs SET state = ?, error = ?, ended_ms = ?, change = ?"
    " WHERE period = ? AND id = ? IF state = 'STARTED' AND owner = ?"
)
_CANCEL = (
    "UPDATE jobs SET state = 'REVOKED', error = '', ended_ms = ?, change = ?"
    " WHERE period = ? AND id = ? IF state IN ('PENDING', 'STARTED')"
)
_CHANGE = "SELECT change FROM jobs WHERE period = ? AND id = ?"
_PRUNE = "DELETE FROM jobs WHERE period = ? AND id = ?"

_LIST_OPEN = "SELECT id, kind FROM open_jobs WHERE scope = ?"
_OPEN = "INSERT INTO open_jobs (scope, id, kind) VALUES (?, ?, ?) USING TIMESTAMP ?"
_CLOSE = "DELETE FROM open_jobs USING TIMESTAMP ? WHERE scope = ? AND id = ?"


class CassandraJobs:
    """The `Jobs` in tables.

    Parameters
    ----------
    tables : Tables
    now_ms : callable
        The wall clock, in milliseconds since 1970: for the order of jobs and what is pruned, not
        for leases.
    """

    def __init__(self, tables: Tables, *, now_ms: Callable[[], int] = wall_clock_ms) -> None:
        self._tables = tables
        self._now_ms = now_ms
        self._clock = WriteClock(now_ms)
        # Own workers one after the other: together they would only want the same job.
        self._claiming = asyncio.Lock()
        self.bell: Bell[str] = Bell()

    def new_id(self) -> str:
        """The id of a job that may be submitted later, by whomever (`submit_all`)."""
        return self._clock.next_id().hex()

    async def submit(self, kind: str, channel_id: int, detail: Mapping[str, Any]) -> Job:
        """As `Jobs.submit`."""
        new = NewJob(self.new_id(), kind, channel_id, detail)
        await self.submit_all([new])
        self.bell.ring(kind)
        return Job(
            id=new.id,
            kind=kind,
            channel_id=channel_id,
            detail=json.loads(json_text(detail)),
            state=JobState.PENDING,
            done_units=0,
            total_units=0,
            error="",
            created_s=_Key.of(new.id).created_s,
        )

    async def submit_once(self, kind: str, channel_id: int) -> Job:
        """As `Jobs.submit_once`."""
        for found in await self._of_channel(channel_id):
            if (found.job.kind, found.job.state) == (kind, JobState.PENDING):
                return found.job
        return await self.submit(kind, channel_id, {})

    async def submit_all(self, jobs: Sequence["NewJob"]) -> None:
        """Submit jobs under ids of `new_id`; those that were submitted before stay as they are."""
        by_period: defaultdict[int, dict[bytes, NewJob]] = defaultdict(dict)
        for job in jobs:
            period, job_id = _Key.of(job.id)
            by_period[period][job_id] = job
        for period, of_period in by_period.items():
            await self._tables.write_together([job.open_entry() for job in of_period.values()])
            for attempt in range(MOST_TRIES):
                await pause(attempt)
                if attempt:  # somebody was faster, or the answer was lost
                    ids = list(of_period)
                    serial = Consistency.LOCAL_SERIAL
                    rows = await self._tables.rows(_IDS, period, ids, consistency=serial)
                    for (job_id,) in rows:
                        del of_period[job_id]
                entries = [job.entry() for job in of_period.values()]
                with contextlib.suppress(TransactionUnknown):
                    if not entries or (await self._tables.transact(*entries)).applied:
                        break
            else:
                raise StoreTimeout("whether the jobs were submitted is unknown")

    async def has_delete(self, channel_id: int) -> bool:
        """Whether a job that removes a channel's data is under way, or failed a short while ago."""
        failed_since_ms = self._now_ms() - FAILED_DELETE_S * 1000
        return any(
            found.job.kind == DELETE_JOB
            and (
                found.is_open
                or (found.job.state == JobState.FAILURE and (found.ended_ms or 0) > failed_since_ms)
            )
            for found in await self._of_channel(channel_id)
        )

    # -- what workers do

    async def claim(self, kinds: Sequence[str], *, owner: str, lease_s: float) -> Job | None:
        """As `Jobs.claim`."""
        async with self._claiming:
            entries = await self._tables.rows(_LIST_OPEN, _SCOPE)
            wanted = [_Key.of(job_id.hex()) for job_id, kind in entries if kind in kinds]
            for first in range(0, len(wanted), LOOKED_AT_ONCE):
                keys = wanted[first : first + LOOKED_AT_ONCE]
                found = await self._of_keys(keys)
                for key in keys:
                    if not await self._is_free(key, found.get(key)):
                        continue
                    if await self._take(key, found[key], owner, lease_s):
                        return dataclasses.replace(found[key].job, state=JobState.STARTED)
        return None

    async def _is_free(self, key: "_Key", found: "_Found | None") -> bool:
        """Whether a job may be claimed; drops an entry that stands for no open job."""
        if found is None:
            if self._now_ms() / 1000 - key.created_s > LOST_ENTRY_S:
                await self._close(key)
            return False
        if not found.is_open:
            await self._close(key)
        return found.is_free

    async def _take(self, key: "_Key", found: "_Found", owner: str, lease_s: float) -> bool:
        change = os.urandom(16)
        # Only as it was seen: not if another took it, nor if its owner has given a sign of life.
        values = (owner, lease_s, change, *key, found.job.state, found.change)
        try:
            return (await self._tables.transact((_TAKE, values))).applied
        except TransactionUnknown:
            return await self._change_of(key) == change

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
        change = os.urandom(16)
        key = _Key.of(job_id)
        progress = (lease_s, done_units, total_units, json_text(detail), change)
        return await self._changed(key, change, _BEAT, (*progress, *key, owner))

    async def put_off(self, job_id: str, *, owner: str, reason: str) -> bool:
        """As `Jobs.put_off`; the lease is none the longer for it."""
        change = os.urandom(16)
        key = _Key.of(job_id)
        return await self._changed(key, change, _PUT_OFF, (reason, change, *key, owner))

    async def finish(self, job_id: str, *, owner: str, error: str = "") -> bool:
        """As `Jobs.finish`."""
        state = JobState.FAILURE if error else JobState.SUCCESS
        change = os.urandom(16)
        key = _Key.of(job_id)
        values = (state, error, self._now_ms(), change, *key, owner)
        is_ours = await self._changed(key, change, _FINISH, values)
        if is_ours:
            await self._close(key)
        return is_ours

    async def cancel(self, job_id: str) -> bool:
        """As `Jobs.cancel`."""
        key = (await self._known(job_id)).key
        change = os.urandom(16)
        has_ended = await self._changed(key, change, _CANCEL, (self._now_ms(), change, *key))
        if has_ended:
            await self._close(key)
        return has_ended

    async def _changed(
        self, key: "_Key", change: bytes, cql: str, values: Sequence[object]
    ) -> bool:
        """Make a change of one job, unless its condition does not hold."""
        was_lost = False
        for attempt in range(MOST_TRIES):
            await pause(attempt)
            try:
                result = await self._tables.transact((cql, values))
            except TransactionUnknown:
                was_lost = True
                continue
            # The condition does not hold any more once the change is made.
            return result.applied or (was_lost and await self._change_of(key) == change)
        raise StoreTimeout("whether the job was changed is unknown")

    async def _change_of(self, key: "_Key") -> bytes | None:
        rows = await self._tables.rows(_CHANGE, *key, consistency=Consistency.LOCAL_SERIAL)
        return next((change for (change,) in rows), None)

    async def _close(self, key: "_Key") -> None:
        """Drop a job from the open ones; if that fails, the next who claims does it."""
        with contextlib.suppress(StoreError):
            await self._tables.write(_CLOSE, key.opened_us + 1, _SCOPE, key.id)

    # -- what everybody may see

    async def job(self, job_id: str) -> Job:
        """As `Jobs.job`."""
        return (await self._known(job_id)).job

    async def jobs(self, *, channel_id: int | None = None) -> Sequence[Job]:
        """As `Jobs.jobs`."""
        if channel_id is not None:
            of_channel = await self._of_channel(channel_id)
            newest = sorted(of_channel, key=lambda found: found.key.id, reverse=True)
            return [found.job for found in newest[:MOST_JOBS]]
        jobs: list[Job] = []
        for period in reversed(await self._periods()):
            if len(jobs) == MOST_JOBS:
                break
            rows = await self._tables.rows(_JOBS_OF_PERIOD, period, MOST_JOBS - len(jobs))
            jobs += [_Found.of(row).job for row in rows]
        return jobs

    async def prune(self, *, older_than_s: float) -> int:
        """Forget a bounded number of jobs that ended so long ago, or were soon over; how many."""
        pruned = 0
        for period in await self._periods():
            async for page in self._ended(period, older_than_s=older_than_s):
                first, *others = [(_PRUNE, (period, job_id)) for job_id in page]
                # The condition makes it a transaction, as all changes of the table are.
                await self._tables.transact((f"{_PRUNE} IF EXISTS", first[1]), *others)
                pruned += len(page)
                if pruned >= MOST_PRUNED:
                    return pruned
        return pruned

    async def _ended(self, period: int, *, older_than_s: float) -> AsyncIterator[list[bytes]]:
        """Ids of jobs to be forgotten, some at a time."""
        before_ms = self._now_ms() - 1000 * older_than_s
        refreshed_before_ms = self._now_ms() - 1000 * KEEP_REFRESHED_S
        pages = self._tables.pages(_ENDED, period, page_rows=PRUNED_AT_ONCE)
        async with contextlib.aclosing(pages):
            async for page in pages:
                ended = [
                    job_id
                    for job_id, ended_ms, kind, state in page
                    if ended_ms is not None
                    and (
                        ended_ms < before_ms
                        or (
                            ended_ms < refreshed_before_ms
                            and (kind, state) == (REFRESH_JOB, JobState.SUCCESS)
                        )
                    )
                ]
                if ended:
                    yield ended

    async def _periods(self) -> list[int]:
        return sorted(period for (period,) in await self._tables.rows(_PERIODS))

    async def _known(self, job_id: str) -> "_Found":
        key = _Key.of(job_id)
        found = (await self._of_keys([key])).get(key)
        if found is None:
            raise NotFound(f"there is no job {job_id[:80]}")
        return found

    async def _of_keys(self, keys: Sequence["_Key"]) -> dict["_Key", "_Found"]:
        periods = sorted({key.period for key in keys})
        found: dict[_Key, _Found] = {}
        for period in periods:
            ids = [key.id for key in keys if key.period == period]
            rows = await self._tables.rows(_JOBS_OF_IDS, period, ids)
            found |= {one.key: one for one in map(_Found.of, rows)}
        return found

    async def _of_channel(self, channel_id: int) -> list["_Found"]:
        return [_Found.of(row) for row in await self._tables.rows(_JOBS_OF_CHANNEL, channel_id)]


class NewJob(NamedTuple):
    """A job that is to be submitted."""

    id: str
    kind: str
    channel_id: int
    detail: Mapping[str, Any]  # what JSON can hold

    def entry(self) -> Entry:
        """What makes it."""
        change, detail = os.urandom(16), json_text(self.detail)
        return _SUBMIT, (*_Key.of(self.id), self.kind, self.channel_id, change, detail)

    def open_entry(self) -> Entry:
        """What lets workers find it."""
        key = _Key.of(self.id)
        return _OPEN, (_SCOPE, key.id, self.kind, key.opened_us)


class _Key(NamedTuple):
    """Where a job is."""

    period: int
    id: bytes

    @classmethod
    def of(cls, job_id: str) -> "_Key":
        """From the id that callers know; NotFound if no job has such a one."""
        try:
            as_bytes = bytes.fromhex(job_id)
        except ValueError:
            as_bytes = b""
        if len(as_bytes) != WRITE_ID_BYTES:
            raise NotFound(f"there is no job {job_id[:80]}")
        return cls(_period_of_ms(milliseconds_of(as_bytes)), as_bytes)

    @property
    def created_s(self) -> float:
        return milliseconds_of(self.id) / 1000

    @property
    def opened_us(self) -> int:
        """The time of writing of the entry of open jobs: what drops it is written after that."""
        return milliseconds_of(self.id) * 1000


def _period_of_ms(milliseconds: int) -> int:
    return milliseconds >> 30


@dataclasses.dataclass(frozen=True, slots=True)
class _Found:
    """A job as it was read, and what only the table knows of it."""

    key: _Key
    job: Job
    change: bytes
    ended_ms: int | None
    is_free: bool

    @property
    def is_open(self) -> bool:
        return self.job.state in _OPEN_STATES

    @classmethod
    def of(cls, row: Row) -> "_Found":
        job_id, kind, channel_id, state, done, total, detail, error, ended_ms, *rest = row
        _, change, lease_s, leased_us, now_ms = rest
        key = _Key.of(job_id.hex())
        job = Job(
            id=job_id.hex(),
            kind=kind,
            channel_id=channel_id,
            detail=json.loads(detail),
            state=JobState(state),
            done_units=done,
            total_units=total,
            error=error,
            created_s=key.created_s,
        )
        is_free = job.state == JobState.PENDING or (
            job.state == JobState.STARTED and now_ms - leased_us / 1000 >= lease_s * 1000
        )
        return cls(key, job, change, ended_ms, is_free)
