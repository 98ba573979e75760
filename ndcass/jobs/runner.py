"""Claims jobs and runs their handlers, one after the other, until told to stop.

A claimed job is held by a lease, which is prolonged while the handler works. If this process dies
the lease runs out and another worker takes the job over, so a handler works in units that may be
done twice, and notes in `detail` what it needs to go on.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, NoReturn, Protocol

from ndcass.concurrency import with_companion
from ndcass.errors import CorruptValue, IncompatibleStore, NdcassError, StoreError
from ndcass.store.base import Job, Stores

log = logging.getLogger(__name__)

# A job of a dead worker waits this long. Longer than a worker may be held up by a busy machine.
LEASE_S = 30.0
# A lease is prolonged so many times before it would run out, for the store may fail once.
BEATS_A_LEASE = 3
_LONGEST_ERROR = 500
# What a store that answers again, or has room again, does not mend.
_FOR_GOOD = (CorruptValue, IncompatibleStore)


class JobLost(Exception):
    """The job was cancelled or is another worker's by now: its handler stops."""


class _Stopping(Exception):
    """The worker is to end; the job goes on elsewhere."""


class Progress(Protocol):
    """How a handler says how far it is."""

    async def __call__(self, done_units: int, total_units: int, detail: Mapping[str, Any]) -> None:
        """Note it, and prolong the lease; `detail` is what the job needs to go on after a crash.

        Raises
        ------
        JobLost
            If the handler must stop.
        """


def is_passing(error: Exception) -> bool:
    """Whether a job that failed so is put off: a store that is away, or full, may come back."""
    return isinstance(error, StoreError) and not isinstance(error, _FOR_GOOD)


Handler = Callable[[Stores, Job, Progress], Coroutine[Any, Any, None]]


async def run_jobs(
    stores: Stores,
    handlers: Mapping[str, Handler],
    *,
    owner: str,
    stop: asyncio.Event,
    poll_s: float,
    lease_s: float = LEASE_S,
) -> None:
    """Work on jobs of the kinds that have a handler until `stop` is set.

    Parameters
    ----------
    owner : str
        This worker's name; no two that live at the same time share one.
    stop : asyncio.Event
        Once set, the handler at work is cancelled, its job let go, and this returns.
    poll_s : float
        How long to wait before asking again when there was nothing to do. A job that this process
        submits is begun at once.
    """
    with stores.jobs.bell.listener() as listener:
        while not stop.is_set():
            job = await _claimed(stores, list(handlers), owner=owner, lease_s=lease_s)
            if job is not None:
                await _run(stores, handlers[job.kind], _Held(stores, job, owner, lease_s), stop)
            else:
                await listener.wait(poll_s, stop=stop)


async def _claimed(stores: Stores, kinds: list[str], *, owner: str, lease_s: float) -> Job | None:
    try:
        return await stores.jobs.claim(kinds, owner=owner, lease_s=lease_s)
    except StoreError as error:
        log.warning("no job could be claimed: %s", error)
        return None


async def _run(stores: Stores, handler: Handler, held: "_Held", stop: asyncio.Event) -> None:
    """Run the handler of a job and note how it ended."""
    job = held.job
    try:
        await with_companion(handler(stores, job, held.progress), held.keep(stop))
    except JobLost:
        log.info("job %s (%s) was cancelled or taken over", job.id, job.kind)
    except _Stopping:
        await held.let_go()
    except asyncio.CancelledError:
        await held.let_go()
        raise
    except Exception as error:
        if is_passing(error):
            # No fault of the job: it is taken over when its lease has run out.
            log.warning("job %s (%s) is put off: %s", job.id, job.kind, error)
            await held.put_off(_one_line(error))
            return
        log.exception("job %s (%s) failed", job.id, job.kind)
        await held.finish(_one_line(error))
    else:
        await held.finish()


class _Held:
    """A job that this worker has claimed."""

    def __init__(self, stores: Stores, job: Job, owner: str, lease_s: float) -> None:
        self.job = job
        self._jobs = stores.jobs
        self._owner = owner
        self._lease_s = lease_s
        self._noted = (job.done_units, job.total_units, job.detail)
        # One at a time, or an old note could overtake a new one.
        self._noting = asyncio.Lock()

    async def progress(self, done_units: int, total_units: int, detail: Mapping[str, Any]) -> None:
        """As `Progress`."""
        self._noted = (done_units, total_units, detail)
        await self._beat(self._lease_s)

    async def keep(self, stop: asyncio.Event) -> NoReturn:
        """Prolong the lease again and again, also for a handler whose units take long."""
        while not await _is_set_within(stop, self._lease_s / BEATS_A_LEASE):
            try:
                await self._beat(self._lease_s)
            except StoreError as error:  # the next one may come in time
                log.warning("the lease of job %s was not prolonged: %s", self.job.id, error)
        raise _Stopping

    async def let_go(self) -> None:
        """End the lease, so that another worker need not wait for it to run out."""
        try:
            await self._beat(0.0)
        except (JobLost, StoreError) as error:
            log.info("job %s was not let go: %r", self.job.id, error)

    async def put_off(self, reason: str) -> None:
        """Note why it has to wait, if the store takes that."""
        try:
            await self._jobs.put_off(self.job.id, owner=self._owner, reason=reason)
        except StoreError as failure:
            log.warning("why job %s is put off was not noted: %s", self.job.id, failure)

    async def finish(self, error: str = "") -> None:
        """Note how it ended."""
        try:
            if not await self._jobs.finish(self.job.id, owner=self._owner, error=error):
                log.info("job %s ended, and was another worker's by then", self.job.id)
        except StoreError as failure:
            log.warning("the end of job %s was not noted: %s", self.job.id, failure)

    async def _beat(self, lease_s: float) -> None:
        async with self._noting:
            done_units, total_units, detail = self._noted
            is_ours = await self._jobs.heartbeat(
                self.job.id,
                owner=self._owner,
                lease_s=lease_s,
                done_units=done_units,
                total_units=total_units,
                detail=detail,
            )
        if not is_ours:
            raise JobLost(self.job.id)


async def _is_set_within(event: asyncio.Event, seconds: float) -> bool:
    """Wait for an event, but no longer than that; whether it came."""
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return False
    return True


def _one_line(error: Exception) -> str:
    """What a client may read of a failure; what is no error of ours goes to the log only."""
    if not isinstance(error, NdcassError):
        return f"unexpected {type(error).__name__}, see the log of the worker"
    lines = str(error).splitlines() or [type(error).__name__]
    return lines[0][:_LONGEST_ERROR]
