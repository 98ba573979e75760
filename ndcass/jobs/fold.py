"""The job that folds a channel, or drains it: bucket by bucket along the curve."""

import time

from ndcass.errors import Conflict, CorruptValue, NotFound
from ndcass.jobs.runner import Progress
from ndcass.store.base import Job, Stores
from ndcass.store.folding import Folding, HasFolding

# A note of progress is a transaction; more often nobody looks.
NOTE_EVERY_S = 1.0


def folding_of(stores: Stores) -> Folding:
    """What folds a store; Conflict if it has nothing to fold."""
    if not isinstance(stores, HasFolding):
        raise Conflict("this store merges when it writes: there is nothing to fold or to drain")
    return stores.folding


async def fold_channel(stores: Stores, job: Job, progress: Progress) -> None:
    """Fold what of the job's channel is old enough; with ``drain`` in its detail all of that.

    May stop anywhere and be run again: it goes on behind the last bucket that was noted.

    Raises
    ------
    NotFound
        If the channel is gone.
    CorruptValue
        If some of it is damaged; the rest is folded.
    """
    folding = folding_of(stores)
    if not await stores.catalog.is_live(job.channel_id):
        raise NotFound(f"there is no channel {job.channel_id} any more")
    drain, place = bool(job.detail.get("drain")), list(job.detail.get("place", ()))
    done = {name: int(job.detail.get(name, 0)) for name in ("cuboids", "rows", "size_bytes")}
    buckets = job.done_units
    damage = str(job.detail.get("damage", ""))
    total = job.total_units or await folding.count(job.channel_id)
    noted_s = time.monotonic()

    async def note() -> None:
        # Buckets come while a channel is written to.
        detail = {"drain": drain, "place": place, **done}
        if damage:
            detail["damage"] = damage
        await progress(buckets, max(total, buckets), detail)

    await note()
    async for part in folding.fold_channel(job.channel_id, drain=drain, after=place):
        place = list(part.place)
        buckets += part.buckets
        done["cuboids"] += part.cuboids
        done["rows"] += part.rows
        done["size_bytes"] += part.size_bytes
        damage = damage or part.damage
        if time.monotonic() - noted_s >= NOTE_EVERY_S:
            noted_s = time.monotonic()
            await note()
    total = buckets
    await note()
    if damage:
        raise CorruptValue(damage)
