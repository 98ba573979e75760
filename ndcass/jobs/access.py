"""Who may see and cancel jobs: the owner of the project of their channel, and superusers."""

from collections.abc import Sequence
from dataclasses import dataclass

from ndcass.errors import Conflict, NotFound, Unauthenticated
from ndcass.model import Channel, User
from ndcass.propagation import cancel_job
from ndcass.store.base import Job, Stores


@dataclass(frozen=True, slots=True)
class ShownJob:
    """A job and its channel; None if that is deleted."""

    job: Job
    channel: Channel | None


async def visible_jobs(stores: Stores, caller: User | None) -> list[ShownJob]:
    """The jobs that the caller may see, newest first; of all the last thousand are looked at.

    Raises
    ------
    Unauthenticated
        If nobody knows who asks.
    """
    user = _known(caller)
    jobs = await stores.jobs.jobs()
    channels = {job.channel_id: None for job in jobs}
    mine = dict(await _channels_of(stores, user, list(channels)))
    return [
        ShownJob(job, mine.get(job.channel_id))
        for job in jobs
        if user.superuser or job.channel_id in mine
    ]


async def visible_job(stores: Stores, caller: User | None, job_id: str) -> ShownJob:
    """One job; NotFound also if it is somebody else's."""
    user = _known(caller)
    job = await stores.jobs.job(job_id)
    mine = dict(await _channels_of(stores, user, [job.channel_id]))
    if not user.superuser and job.channel_id not in mine:
        raise NotFound(f"there is no job {job_id[:80]}")
    return ShownJob(job, mine.get(job.channel_id))


async def cancel_visible_job(stores: Stores, caller: User | None, job_id: str) -> ShownJob:
    """Cancel a job that the caller may see; as it is then.

    Raises
    ------
    Conflict
        If it has ended.
    """
    shown = await visible_job(stores, caller, job_id)
    if not await cancel_job(stores, job_id):
        raise Conflict(f"job {job_id[:80]} has ended: {shown.job.state}")
    return await visible_job(stores, caller, job_id)


def _known(caller: User | None) -> User:
    if caller is None:
        raise Unauthenticated("this needs an API key: Authorization: Token KEY")
    return caller


async def _channels_of(
    stores: Stores, user: User, channel_ids: Sequence[int]
) -> list[tuple[int, Channel]]:
    """Those of some channels that are there and whose project is the user's (or any's)."""
    owners: dict[str, int] = {}
    found = []
    for channel_id in channel_ids:
        channel = await stores.catalog.live_channel(channel_id)
        if channel is None:
            continue
        if channel.project not in owners:
            owners[channel.project] = (await stores.catalog.project(channel.project)).user
        if user.superuser or owners[channel.project] == user.id:
            found.append((channel_id, channel))
    return found
