"""The pyramid of a channel: its state, who may change it, and what of it is old.

A channel is not propagated (0), under propagation (1) or propagated (2). From 0 a client starts a
job that builds every level (``jobs/pyramid.py``); from then on writes mark what derives from them,
and a job of its own rebuilds just that.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

from ndcass.concurrency import run_cpu
from ndcass.errors import Conflict, InvalidRequest, NotFound, ReadOnly
from ndcass.geometry import Box, Geometry
from ndcass.model import NOT_PROPAGATED, PROPAGATED, UNDER_PROPAGATION, Channel
from ndcass.place import Place
from ndcass.pyramid import cuboid_count, each_cuboid, stages
from ndcass.store.base import REFRESH_JOB, CuboidAddress, Job, JobState, Stores
from ndcass.store.derived import pyramid_of

# The job that builds all levels of a channel.
PROPAGATE_JOB = "propagate"

# Cuboids whose marks are asked for at once.
ASKED = 1024
# How often a change of the state is tried while others change the channel.
MOST_TRIES = 8

_OPEN_STATES = (JobState.PENDING, JobState.STARTED)
# Jobs that make levels as new as the base.
_KEEPERS = (PROPAGATE_JOB, REFRESH_JOB)


# -- the state


async def set_propagation(
    stores: Stores, channels: Sequence[Channel], values: Sequence[int]
) -> None:
    """Start building channels (1) or give their levels up (0); all are checked before any is.

    Raises
    ------
    InvalidRequest
        If a channel is named twice, or there is another number of values than one or one a channel.
    ReadOnly, Conflict
        If the state of a channel does not allow it.
    """
    if len(values) == 1:
        values = [values[0]] * len(channels)
    if len(values) != len(channels):
        raise InvalidRequest(f"{len(values)} values for {len(channels)} channels")
    if len({channel.id for channel in channels}) < len(channels):
        raise InvalidRequest("a channel is named twice")
    for channel, value in zip(channels, values, strict=True):
        _check_change(channel, value)
    for channel, value in zip(channels, values, strict=True):
        if value == UNDER_PROPAGATION:
            await start(stores, channel)
        elif channel.propagate != NOT_PROPAGATED:
            await _reset(stores, channel)


def _check_change(channel: Channel, value: int) -> None:
    """The table of the contract (control plane 5.2)."""
    name = channel.channel_name
    if value not in (NOT_PROPAGATED, UNDER_PROPAGATION):
        raise InvalidRequest(f"propagate can be set to 0 and 1, not to {value}")
    if channel.propagate == UNDER_PROPAGATION:
        raise Conflict(f"channel {name} is under propagation")
    if value == UNDER_PROPAGATION and channel.propagate == PROPAGATED:
        raise Conflict(f"channel {name} is propagated already; set it to 0 first")
    if channel.readonly and value != channel.propagate:
        raise ReadOnly(f"channel {name} is read-only")


async def start(stores: Stores, channel: Channel) -> Job:
    """Submit the job that builds a channel, and note that it is under propagation.

    In this order: whoever dies in between leaves a job, which notes it itself, and not a channel
    that says for ever that it is being built.
    """
    job = await stores.jobs.submit(PROPAGATE_JOB, channel.id, {})
    try:
        if await change_state(stores, channel.id, NOT_PROPAGATED, UNDER_PROPAGATION):
            return job
        # Somebody else was quicker; if that was our job, all is well.
        if (await stores.jobs.job(job.id)).state != JobState.PENDING:
            return job
        raise Conflict(f"channel {channel.channel_name} is under propagation")
    except (Conflict, NotFound):
        await stores.jobs.cancel(job.id)
        raise


async def _reset(stores: Stores, channel: Channel) -> None:
    if not await change_state(stores, channel.id, PROPAGATED, NOT_PROPAGATED):
        raise Conflict(f"the state of channel {channel.channel_name} was changed meanwhile")
    # Marks stay: its levels are not read any more, and taking marks away could meet those of the
    # next build.


async def change_state(stores: Stores, channel_id: int, now: int, to: int) -> bool:
    """Change the state from `now`; False if it is another one. NotFound if the channel is gone."""
    for _ in range(MOST_TRIES):
        channel = await stores.catalog.live_channel(channel_id)
        if channel is None:
            raise NotFound(f"there is no channel {channel_id} any more")
        if channel.propagate != now:
            return False
        changed = dataclasses.replace(channel, propagate=to)
        try:
            await stores.catalog.update_channel(changed, expected=channel)
        except Conflict:  # somebody changed something else of the channel
            continue
        return True
    raise Conflict("too many change the channel at once: try again")


async def is_being_built(stores: Stores, channel: Channel) -> bool:
    """Whether a job builds all levels; a channel may be *made* with state 1, and then none does."""
    if channel.propagate != UNDER_PROPAGATION:
        return False
    jobs = await stores.jobs.jobs(channel_id=channel.id)
    return any(job.kind == PROPAGATE_JOB and job.state in _OPEN_STATES for job in jobs)


async def check_unlocked(stores: Stores, channel: Channel) -> None:
    """Conflict while all of a channel is being built; a refresh never locks."""
    if await is_being_built(stores, channel):
        raise Conflict(f"channel {channel.channel_name} is under propagation: not writable now")


async def cancel_job(stores: Stores, job_id: str) -> bool:
    """Cancel a job; a channel that it was building is not propagated then. False if it had ended.

    Raises
    ------
    NotFound
        If there is no such job.
    """
    job = await stores.jobs.job(job_id)
    was_open = await stores.jobs.cancel(job_id)
    if job.kind == PROPAGATE_JOB:
        await reset_abandoned(stores, job.channel_id)
    return was_open


async def reset_abandoned(stores: Stores, channel_id: int) -> None:
    """Let a channel be not propagated whose jobs have ended without noting how.

    One that was made with state 1, and never built, stays.
    """
    channel = await stores.catalog.live_channel(channel_id)
    if channel is None or channel.propagate != UNDER_PROPAGATION:
        return
    jobs = await stores.jobs.jobs(channel_id=channel_id)
    states = [job.state for job in jobs if job.kind == PROPAGATE_JOB]
    if states and not any(state in _OPEN_STATES for state in states):
        await change_state(stores, channel_id, UNDER_PROPAGATION, NOT_PROPAGATED)


async def geometry_of(stores: Stores, channel: Channel) -> Geometry:
    """The geometry of a channel's dataset."""
    project = await stores.catalog.project(channel.project)
    return (await stores.catalog.dataset(project.dataset)).geometry


# -- what is old


async def is_fresh(
    stores: Stores, place: Place, times: Sequence[int | None], box: Box
) -> bool | None:
    """Whether a box is as new as every write that was acknowledged; None where none derives.

    Parameters
    ----------
    times : sequence of int or None
        Timesteps; None means the channel's start time.
    box : Box
        Stored box of the place's level.
    """
    channel, level = place.channel, place.level
    if channel.propagate == NOT_PROPAGATED or level.level <= channel.resolution:
        return None
    if place.source is not None:  # made from the base as it is now
        return None
    if await is_being_built(stores, channel):
        return False
    is_large = cuboid_count(box, level.cuboid_zyx) * len(times) > ASKED
    if is_large:
        counts = await stores.stale.counts(channel.id)
        if not counts.get((place.pyramid, level.level)):
            return True
    addresses = (
        place.address(channel.starttime if t is None else t, code)
        for t in times
        for code in each_cuboid(box, level.cuboid_zyx)
    )

    def next_addresses() -> list[CuboidAddress]:
        return list(islice(addresses, ASKED))

    while some := await run_cpu(next_addresses) if is_large else next_addresses():
        if await stores.stale.marked(some):
            return False
    return True


@dataclass(frozen=True, slots=True)
class LevelState:
    """One derived level.

    Attributes
    ----------
    level : int
    neariso : bool
    state : str
        ``absent``: it is not stored; ``building``: it may lack anything; ``stale``: some cuboids
        are older than what they derive from; ``fresh``.
    stale_cuboids : int
        How many those are.
    """

    level: int
    neariso: bool
    state: str
    stale_cuboids: int


async def trouble_of(stores: Stores, channel: Channel) -> str:
    """Why the last of the jobs that keep a channel's levels failed or is put off, or nothing.

    Those that wait, or run for the first time, have nothing to say yet.
    """
    for job in await stores.jobs.jobs(channel_id=channel.id):
        if job.kind in _KEEPERS and (job.error or job.state not in _OPEN_STATES):
            return job.error
    return ""


async def level_states(stores: Stores, channel: Channel, geometry: Geometry) -> list[LevelState]:
    """Every derived level of a channel, finest first."""
    counts = await stores.stale.counts(channel.id)
    building = await is_being_built(stores, channel)
    found = []
    for stage in stages(geometry, channel.resolution):
        stale = counts.get((pyramid_of(stage), stage.level.level), 0)
        if channel.propagate == NOT_PROPAGATED:
            state, stale = "absent", 0
        elif building:
            state = "building"
        else:
            state = "stale" if stale else "fresh"
        found.append(LevelState(stage.level.level, stage.neariso, state, stale))
    return found
