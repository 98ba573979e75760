"""A job that a command has done: here, or by whichever gateway takes it first."""

import asyncio
import os
import socket
from collections.abc import Mapping

from ndcass.cli.failure import CommandFailed
from ndcass.cli.report import Progress
from ndcass.concurrency import both
from ndcass.jobs.runner import Handler, run_jobs
from ndcass.store.base import Job, JobState, Stores

POLL_S = 0.5
OPEN_STATES = (JobState.PENDING, JobState.STARTED)


async def carry_out(
    stores: Stores,
    job: Job,
    handlers: Mapping[str, Handler],
    what: str,
    *,
    unit: str,
    quiet: bool,
) -> Job:
    """Work on jobs of some kinds until one of them has ended, with a bar that shows how far it is.

    Raises
    ------
    CommandFailed
        If it does not end well.
    """
    stop = asyncio.Event()
    owner = f"{socket.gethostname()}-{os.getpid()}-cli"
    work = run_jobs(stores, handlers, owner=owner, stop=stop, poll_s=POLL_S)
    _, job = await both(work, _watch(stores, job, what, stop, unit=unit, quiet=quiet))
    if job.state is not JobState.SUCCESS:
        raise CommandFailed(f"{what}: {job.error or 'it was cancelled'}")
    return job


async def _watch(
    stores: Stores, job: Job, what: str, stop: asyncio.Event, *, unit: str, quiet: bool
) -> Job:
    shown = 0
    try:
        with Progress(what, job.total_units or None, quiet=quiet, unit=f" {unit}") as progress:
            while True:
                job = await stores.jobs.job(job.id)
                progress.of(job.total_units)
                progress.add(job.done_units - shown)
                shown = job.done_units
                if job.state not in OPEN_STATES:
                    return job
                await asyncio.sleep(POLL_S)
    finally:
        stop.set()
