"""The job that removes what a deleted channel leaves behind: voxels, annotations, side records."""

from ndcass.errors import Conflict
from ndcass.jobs.runner import Progress
from ndcass.store.base import Job, Stores


async def delete_channel(stores: Stores, job: Job, progress: Progress) -> None:
    """Remove all that is stored under the job's channel id.

    May stop anywhere and be run again: what is gone already costs nothing.

    Raises
    ------
    Conflict
        If the channel is still in the catalogue; nothing is removed then.
    """
    channel_id = job.channel_id
    if await stores.catalog.is_live(channel_id):
        raise Conflict(f"channel {channel_id} is in use, its data stay")
    steps = (
        stores.objects.delete_channel,
        stores.labels.delete_channel,
        stores.stale.delete_channel,
        stores.records.delete_channel,
        stores.cuboids.delete_channel,
    )
    for done, step in enumerate(steps):
        await progress(done, len(steps), job.detail)
        await step(channel_id)
    await progress(len(steps), len(steps), job.detail)
