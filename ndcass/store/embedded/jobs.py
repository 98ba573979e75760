"""Background jobs of an embedded store: a table that the workers of all processes claim from."""

import json
import sqlite3
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ndcass.bell import Bell
from ndcass.errors import NotFound
from ndcass.store.base import DELETE_JOB, KEEP_REFRESHED_S, REFRESH_JOB, Job, JobState
from ndcass.store.embedded.sqlite import Database
from ndcass.store.values import json_text

MOST_JOBS = 1000
# One step of housekeeping drops at most so many.
MOST_PRUNED = 1000
# A delete that failed for good is not tried again before.
FAILED_DELETE_S = 3600.0

_JOB = (
    "SELECT id, kind, channel_id, detail, state, done_units, total_units, error, created_s "
    "FROM jobs"
)
# `state IN` lets SQLite use the index of the open jobs, whatever the table has kept besides.
_CLAIMABLE = (
    "SELECT number FROM jobs WHERE state IN ('PENDING', 'STARTED')"
    " AND (state = 'PENDING' OR lease_ends_s <= ?)"
    " AND kind IN (SELECT value FROM json_each(?)) ORDER BY number LIMIT 1"
)
_PENDING = f"{_JOB} WHERE state = 'PENDING' AND channel_id = ? AND kind = ? LIMIT 1"


class EmbeddedJobs:
    """The `Jobs` on a database file.

    Parameters
    ----------
    now_s : callable
        The wall clock, in seconds since 1970; all processes share it, being on one machine.
    """

    def __init__(self, database: Database, *, now_s: Callable[[], float] = time.time) -> None:
        self._database = database
        self._now_s = now_s
        self.bell: Bell[str] = Bell()

    async def submit(self, kind: str, channel_id: int, detail: Mapping[str, Any]) -> Job:
        """As `Jobs.submit`."""
        job = await self._database.write(lambda db: self.insert(db, kind, channel_id, detail))
        self.bell.ring(kind)
        return job

    async def submit_once(self, kind: str, channel_id: int) -> Job:
        """As `Jobs.submit_once`, and never one too many."""

        def submit(db: sqlite3.Connection) -> Job:
            return pending(db) or self.insert(db, kind, channel_id, {})

        def pending(db: sqlite3.Connection) -> Job | None:
            row = db.execute(_PENDING, (channel_id, kind)).fetchone()
            return None if row is None else _as_job(row)

        # Nearly always there is one, when many are written: a look does not wait for writers.
        job = await self._database.read(pending)
        if job is None:
            job = await self._database.write(submit)
        self.bell.ring(kind)
        return job

    def insert(
        self, db: sqlite3.Connection, kind: str, channel_id: int, detail: Mapping[str, Any]
    ) -> Job:
        """`submit` inside a transaction of the catalogue."""
        job_id = uuid.uuid4().hex
        values = (job_id, kind, channel_id, json_text(detail), JobState.PENDING, self._now_s())
        db.execute(
            "INSERT INTO jobs (id, kind, channel_id, detail, state, created_s)"
            " VALUES (?, ?, ?, ?, ?, ?)",
            values,
        )
        return _known_job(db, job_id)

    def has_delete(self, db: sqlite3.Connection, channel_id: int) -> bool:
        """Whether a job that removes a channel's data is under way, or failed a short while ago."""
        row = db.execute(
            "SELECT 1 FROM jobs WHERE channel_id = ? AND kind = ? AND"
            " (state IN ('PENDING', 'STARTED') OR (state = 'FAILURE' AND ended_s > ?)) LIMIT 1",
            (channel_id, DELETE_JOB, self._now_s() - FAILED_DELETE_S),
        ).fetchone()
        return row is not None

    async def claim(self, kinds: Sequence[str], *, owner: str, lease_s: float) -> Job | None:
        """As `Jobs.claim`."""
        wanted = json.dumps(list(kinds))
        # Idle workers ask all the time: they look first and write only if there is something.
        if await self._database.read(lambda db: self._claimable(db, wanted)) is None:
            return None
        return await self._database.write(lambda db: self._claim(db, wanted, owner, lease_s))

    def _claim(self, db: sqlite3.Connection, wanted: str, owner: str, lease_s: float) -> Job | None:
        number = self._claimable(db, wanted)
        if number is None:  # another worker was faster
            return None
        db.execute(
            "UPDATE jobs SET state = ?, owner = ?, lease_ends_s = ? WHERE number = ?",
            (JobState.STARTED, owner, self._now_s() + lease_s, number),
        )
        return _as_job(db.execute(f"{_JOB} WHERE number = ?", (number,)).fetchone())

    def _claimable(self, db: sqlite3.Connection, wanted: str) -> int | None:
        row = db.execute(_CLAIMABLE, (self._now_s(), wanted)).fetchone()
        return None if row is None else int(row[0])

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
        text = json_text(detail)

        def beat(db: sqlite3.Connection) -> bool:
            cursor = db.execute(
                "UPDATE jobs SET lease_ends_s = ?, done_units = ?, total_units = ?, detail = ?"
                " WHERE id = ? AND owner = ? AND state = 'STARTED'",
                (self._now_s() + lease_s, done_units, total_units, text, job_id, owner),
            )
            return cursor.rowcount == 1

        return await self._database.write(beat)

    async def put_off(self, job_id: str, *, owner: str, reason: str) -> bool:
        """As `Jobs.put_off`."""

        def put_off(db: sqlite3.Connection) -> bool:
            cursor = db.execute(
                "UPDATE jobs SET error = ? WHERE id = ? AND owner = ? AND state = 'STARTED'",
                (reason, job_id, owner),
            )
            return cursor.rowcount == 1

        return await self._database.write(put_off)

    async def finish(self, job_id: str, *, owner: str, error: str = "") -> bool:
        """As `Jobs.finish`."""
        state = JobState.FAILURE if error else JobState.SUCCESS

        def finish(db: sqlite3.Connection) -> bool:
            cursor = db.execute(
                "UPDATE jobs SET state = ?, error = ?, ended_s = ?"
                " WHERE id = ? AND owner = ? AND state = 'STARTED'",
                (state, error, self._now_s(), job_id, owner),
            )
            return cursor.rowcount == 1

        return await self._database.write(finish)

    async def cancel(self, job_id: str) -> bool:
        """As `Jobs.cancel`."""

        def cancel(db: sqlite3.Connection) -> bool:
            _known_job(db, job_id)
            cursor = db.execute(
                "UPDATE jobs SET state = ?, error = '', ended_s = ?"
                " WHERE id = ? AND state IN ('PENDING', 'STARTED')",
                (JobState.REVOKED, self._now_s(), job_id),
            )
            return cursor.rowcount == 1

        return await self._database.write(cancel)

    async def job(self, job_id: str) -> Job:
        """As `Jobs.job`."""
        return await self._database.read(lambda db: _known_job(db, job_id))

    async def jobs(self, *, channel_id: int | None = None) -> Sequence[Job]:
        """As `Jobs.jobs`."""
        where, values = ("", ()) if channel_id is None else (" WHERE channel_id = ?", (channel_id,))
        select = f"{_JOB}{where} ORDER BY number DESC LIMIT {MOST_JOBS}"
        rows = await self._database.read(lambda db: db.execute(select, values).fetchall())
        return [_as_job(row) for row in rows]

    async def prune(self, *, older_than_s: float) -> int:
        """Forget a bounded number of jobs that ended so long ago, or were soon over; how many."""

        def prune(db: sqlite3.Connection) -> int:
            now_s = self._now_s()
            cursor = db.execute(
                "DELETE FROM jobs WHERE number IN (SELECT number FROM jobs"
                " WHERE ended_s < ?1 OR (ended_s < ?2 AND kind = ?3 AND state = 'SUCCESS')"
                " ORDER BY ended_s LIMIT ?4)",
                (now_s - older_than_s, now_s - KEEP_REFRESHED_S, REFRESH_JOB, MOST_PRUNED),
            )
            return cursor.rowcount

        return await self._database.write(prune)


def _known_job(db: sqlite3.Connection, job_id: str) -> Job:
    try:
        row = db.execute(f"{_JOB} WHERE id = ?", (job_id,)).fetchone()
    except UnicodeEncodeError:  # no job has such an id
        row = None
    if row is None:
        raise NotFound(f"there is no job {job_id[:80]}")
    return _as_job(row)


def _as_job(row: tuple[Any, ...]) -> Job:  # what the columns of _JOB hold
    job_id, kind, channel_id, detail, state, done, total, error, created_s = row
    return Job(
        id=job_id,
        kind=kind,
        channel_id=channel_id,
        detail=json.loads(detail),
        state=JobState(state),
        done_units=done,
        total_units=total,
        error=error,
        created_s=created_s,
    )
