"""What a worker does beside answering: jobs, housekeeping of the store, its own vital signs."""

import asyncio
import logging
import os
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial

from aiohttp import web

from ndcass.concurrency import run_cpu
from ndcass.errors import StoreError
from ndcass.jobs import handlers, lanes
from ndcass.jobs.refreshing import refresh_stale
from ndcass.jobs.runner import run_jobs
from ndcass.server import metrics as names
from ndcass.server.app_keys import (
    ACCOUNTS,
    DEADLINES,
    MEMORY,
    METRICS,
    PICTURES,
    SETTINGS,
    STORES,
    TRAFFIC,
)
from ndcass.server.metrics import write_snapshot
from ndcass.server.traffic import Turns
from ndcass.store.base import Stores
from ndcass.unfinished import settle_all

log = logging.getLogger("ndcass.server")

# A deleted volume may wait that long; asking costs one small query.
JOB_POLL_S = 2.0
# How often the event loop is checked; a lag shows up within this.
LAG_CHECK_S = 0.25
# The lag of a moment ago fades, so that a scrape every 15 s still sees the worst.
LAG_KEPT = 0.98
SNAPSHOT_S = 2.0
# What changes of objects left behind is looked for this often: one small query a channel of labels.
SETTLE_S = 300.0
# Work that failed is begun again after this time.
RESTART_S = 1.0


async def background(app: web.Application) -> AsyncIterator[None]:
    """Start all of it with the application and end it with it."""
    stop = asyncio.Event()
    work = asyncio.create_task(_work(app, stop))
    work.add_done_callback(_note_failure)
    yield
    stop.set()
    await work


def _note_failure(work: asyncio.Task[None]) -> None:
    """Say at once that nothing runs in the background any more, not only when the worker ends."""
    if not work.cancelled() and work.exception() is not None:
        log.error("the work in the background failed", exc_info=work.exception())


async def _work(app: web.Application, stop: asyncio.Event) -> None:
    metrics = app[METRICS]
    stores = app[STORES]
    owner = f"{socket.gethostname()}-{os.getpid()}-{metrics.worker}"
    async with asyncio.TaskGroup() as group:
        for lane, known in lanes(handlers(Turns(app[TRAFFIC]))).items():
            jobs = partial(
                run_jobs, stores, known, owner=f"{owner}-{lane}", stop=stop, poll_s=JOB_POLL_S
            )
            group.create_task(_again_and_again(jobs, stop))
        group.create_task(_again_and_again(lambda: refresh_stale(stores, stop), stop))
        group.create_task(_again_and_again(lambda: _watch_loop(app, stop), stop))
        group.create_task(_again_and_again(lambda: app[ACCOUNTS].run(stop), stop))
        deadlines = app[DEADLINES]
        group.create_task(_every(deadlines.check_s, stop, deadlines.check))
        # Each worker: they agree by the files' locks, and each has maps of its own to let go of.
        interval_s = app[SETTINGS].store.maintain_interval_s
        group.create_task(_every(interval_s, stop, stores.maintain))
        group.create_task(_every(SETTLE_S, stop, partial(_settle, stores)))
        if metrics.folder is not None:
            group.create_task(_every(SNAPSHOT_S, stop, lambda: leave_snapshot(app)))


async def _again_and_again(work: Callable[[], Awaitable[None]], stop: asyncio.Event) -> None:
    """Work that goes on until `stop`; if it fails it is logged and begun again.

    None of them may take the others with it: without deadlines and housekeeping a worker would
    answer for a while and then no more.
    """
    while not stop.is_set():
        try:
            await work()
        except Exception:
            log.exception("work in the background failed")
            await _stopped_within(stop, RESTART_S)


async def _every(
    interval_s: float, stop: asyncio.Event, step: Callable[[], Awaitable[None]]
) -> None:
    """Take a step now and then; one that fails is logged and tried again."""
    while not await _stopped_within(stop, interval_s):
        try:
            await step()
        except StoreError as error:
            log.warning("housekeeping: %s: %s", type(error).__name__, error)
        except Exception:
            log.exception("housekeeping failed")


async def _settle(stores: Stores) -> None:
    """Finish or undo the changes of objects whose process died."""
    settled = await settle_all(stores)
    if settled:
        log.warning("%s unfinished changes of objects were settled", settled)


async def _watch_loop(app: web.Application, stop: asyncio.Event) -> None:
    """Note how late the event loop wakes up: that is how long it was blocked."""
    metrics = app[METRICS]
    while True:
        began_s = time.perf_counter()
        if await _stopped_within(stop, LAG_CHECK_S):
            return
        late_s = max(0.0, time.perf_counter() - began_s - LAG_CHECK_S)
        metrics.loop_lag_s = max(late_s, metrics.loop_lag_s * LAG_KEPT)


async def _stopped_within(stop: asyncio.Event, seconds: float) -> bool:
    try:
        async with asyncio.timeout(seconds):
            await stop.wait()
    except TimeoutError:
        return False
    return True


def worker_gauges(app: web.Application) -> dict[str, float]:
    """How this worker is at the moment."""
    return {
        names.IN_FLIGHT_BYTES: app[MEMORY].used_bytes,
        names.IN_FLIGHT_REQUESTS: app[METRICS].in_flight_requests,
        names.LOOP_LAG: app[METRICS].loop_lag_s,
    }


def settle(app: web.Application) -> None:
    """Bring this worker's numbers up to date."""
    app[ACCOUNTS].settle()
    pictures = app[PICTURES]
    app[METRICS].note_events({**app[STORES].counts, **(pictures.counts if pictures else {})})


async def leave_snapshot(app: web.Application) -> None:
    """Write this worker's numbers where the others find them."""
    settle(app)
    metrics = app[METRICS]
    if metrics.folder is not None:
        await run_cpu(
            write_snapshot, metrics.folder, metrics.worker, metrics.snapshot(), worker_gauges(app)
        )
