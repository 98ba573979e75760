"""Has channels refreshed that have marks: soon after an edit, and after a look at all marks.

The refresh itself is a job, see ``pyramid.py``.
"""

import asyncio
import logging
import time

from ndcass.errors import StoreError
from ndcass.model import PROPAGATED, UNDER_PROPAGATION
from ndcass.propagation import reset_abandoned
from ndcass.store.base import REFRESH_JOB, JobState, Stores

log = logging.getLogger(__name__)

# How often all marks are looked at, and how soon again if that failed.
SWEEP_EVERY_S = 10.0
RETRY_S = 1.0
# A refresh that failed is not begun again before, unless somebody edits the channel.
FAILED_AGAIN_S = 3600.0
# Edits of a channel that come within this share a job.
GATHER_S = 0.1


async def refresh_stale(stores: Stores, stop: asyncio.Event) -> None:
    """Have channels refreshed as soon as this process marks something in them, until `stop`.

    The first edit of a channel at once, those that follow closely together. What processes that
    died have marked is found by a look at all marks now and then.
    """
    looked_s = -SWEEP_EVERY_S
    submitted_s: dict[int, float] = {}
    waiting: set[int] = set()
    found: set[int] = set()  # those of `waiting` that nobody has just edited
    with stores.stale.bell.listener() as listener:
        while not stop.is_set():
            now_s = time.monotonic()
            gathered_s = (submitted_s.get(channel_id, 0.0) + GATHER_S for channel_id in waiting)
            due_s = min([looked_s + SWEEP_EVERY_S, *gathered_s])
            edited = await listener.wait(max(0.0, due_s - now_s), stop=stop)
            waiting |= edited
            found -= edited
            now_s = time.monotonic()
            submitted_s = {c: at_s for c, at_s in submitted_s.items() if at_s + GATHER_S > now_s}
            try:
                if now_s >= looked_s + SWEEP_EVERY_S:
                    found = {*await stores.stale.channels()} - waiting
                    waiting |= found
                    looked_s = now_s
                for channel_id in waiting - submitted_s.keys():
                    waiting.discard(channel_id)
                    submitted_s[channel_id] = now_s
                    await submit_refresh(stores, channel_id, found=channel_id in found)
            except StoreError as error:  # the marks stay, and are found by the next look
                log.warning("no refresh could be submitted: %s", error)
                await listener.wait(RETRY_S, stop=stop)


async def submit_refresh(stores: Stores, channel_id: int, *, found: bool) -> None:
    """Have a channel refreshed that has marks; `found` if a look at all marks has found them."""
    channel = await stores.catalog.live_channel(channel_id)
    if channel is None:
        return
    if channel.propagate == UNDER_PROPAGATION and found:
        await reset_abandoned(stores, channel_id)
    if channel.propagate != PROPAGATED or (found and await _failed_lately(stores, channel_id)):
        return
    await stores.jobs.submit_once(REFRESH_JOB, channel_id)


async def _failed_lately(stores: Stores, channel_id: int) -> bool:
    """Whether the last refresh failed, which one more would do at once."""
    jobs = await stores.jobs.jobs(channel_id=channel_id)
    last = next((job for job in jobs if job.kind == REFRESH_JOB), None)
    if last is None or last.state is not JobState.FAILURE:
        return False
    return time.time() - last.created_s < FAILED_AGAIN_S
