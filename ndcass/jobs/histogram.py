"""The job that counts the voxels of a channel, or of a region of it: along the curve.

What was counted so far is kept with how far that is in one record, so that a job that is taken over
goes on where the last note was and counts nothing twice.
"""

import math
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ndcass import morton
from ndcass.concurrency import run_cpu
from ndcass.errors import NotFound
from ndcass.geometry import Box, level_of
from ndcass.histogram import Counts, Tally, bins_of, count
from ndcass.jobs.pyramid import Turn, at_once
from ndcass.jobs.runner import Progress
from ndcass.place import Place, Slab
from ndcass.plan import plan_parts
from ndcass.propagation import geometry_of
from ndcass.statistics import COUNTING_KIND, KIND, WHOLE, region_of
from ndcass.store.base import CuboidAddress, Job, Stores
from ndcass.volume import Usage, Voxels, read_slabs

# What is read and counted in one go: a unit. Larger ones are not quicker, and hold a worker longer.
UNIT_BYTES = 8 << 20
UNIT_CUBOIDS = 64
# A note is up to half a megabyte and a write to disk; less than this is soon counted again.
NOTE_EVERY_S = 2.0
# A region of more cuboids is counted by walking over what is stored, a smaller one by its grid.
MOST_LISTED = 1 << 16
_LAST_CODE = (1 << 63) - 1


@dataclass(frozen=True, slots=True)
class _Target:
    """What is counted: one timestep of one level, whole or the part of it in a stored box."""

    place: Place
    t: int
    box: Box
    whole: bool

    @property
    def is_listed(self) -> bool:
        """Whether its cuboids are taken from the grid, whatever is stored of them."""
        ends = zip(self.box.start_zyx, self.box.stop_zyx, self.place.cuboid_zyx, strict=True)
        cells = math.prod(-(-stop // size) - start // size for start, stop, size in ends)
        return not self.whole and cells <= MOST_LISTED

    def owner(self, job: Job) -> str:
        """Whose notes may be gone on with: this job's, of this level and timestep."""
        return f"{job.id} {self.place.level.level} {self.t}"

    def slab(self, code: int) -> Slab | None:
        """The share of one cuboid, if it has any."""
        grid, size = morton.decode(code), self.place.cuboid_zyx
        corner = (grid[0] * size[0], grid[1] * size[1], grid[2] * size[2])
        share = Box((0, 0, 0), size).shifted(corner).intersection(self.box)
        return None if share is None else Slab(self.place, self.t, share)


async def count_channel(
    stores: Stores, job: Job, progress: Progress, *, turn: Turn = at_once
) -> None:
    """Make the histogram that the job's detail names.

    May stop anywhere and be run again; each unit waits for its `turn`.

    Raises
    ------
    NotFound
        If the channel is gone, or has got another type or geometry.
    """
    key = str(job.detail["key"])
    target = await _target_of(stores, job, key)
    tally = await _begun(stores, job, key, target)
    total = await _total(stores, target)
    counts, cuboids = tally.counts, tally.cuboids
    noted_s = time.monotonic()
    await progress(cuboids, max(total, cuboids), job.detail)
    async for codes in _units(stores, target, after=-1 if tally.place is None else tally.place):
        async with turn():
            counts = counts + await _counted(stores, target, codes, len(counts))
        cuboids += len(codes)
        if time.monotonic() - noted_s >= NOTE_EVERY_S:
            noted_s = time.monotonic()
            note = Tally(tally.owner, codes[-1], cuboids, counts)
            # Not if the job was lost: the note is in a record that its next owner writes, too.
            await progress(cuboids, max(total, cuboids), job.detail)
            await _put(stores, job, COUNTING_KIND, key, note)
    await progress(cuboids, cuboids, job.detail)
    await _put(stores, job, KIND, key, Tally(tally.owner, None, cuboids, counts))
    await stores.records.delete(job.channel_id, COUNTING_KIND, key)


async def _target_of(stores: Stores, job: Job, key: str) -> _Target:
    channel = await stores.catalog.live_channel(job.channel_id)
    if channel is None:
        raise NotFound(f"there is no channel {job.channel_id} any more")
    level = level_of(await geometry_of(stores, channel), channel.resolution)
    whole = key == WHOLE
    box = level.stored_box(level.box if whole else region_of(key))
    return _Target(Place(channel, level), channel.starttime, box, whole)


async def _begun(stores: Stores, job: Job, key: str, target: _Target) -> Tally:
    """What this job has counted before it was taken over, else nothing."""
    owner = target.owner(job)
    value = await stores.records.get(job.channel_id, COUNTING_KIND, key)
    if value is not None:
        tally = Tally.from_bytes(value)
        if tally.owner == owner:
            return tally
    bins = bins_of(target.place.channel.channel_datatype)
    return Tally(owner, -1, 0, np.zeros(bins, dtype=np.int64))


async def _put(stores: Stores, job: Job, kind: str, key: str, tally: Tally) -> None:
    """Write a record, and take it back if the channel was deleted meanwhile."""
    await stores.records.put(job.channel_id, kind, key, await run_cpu(tally.to_bytes))
    if not await stores.catalog.is_live(job.channel_id):
        await stores.records.delete(job.channel_id, kind, key)
        raise NotFound(f"there is no channel {job.channel_id} any more")


# -- units


async def _total(stores: Stores, target: _Target) -> int:
    """How many cuboids there are to count; more may be written meanwhile."""
    total = 0
    async for codes in _pages(stores, target, after=-1):
        total += len(codes)
    return total


async def _units(stores: Stores, target: _Target, *, after: int) -> AsyncIterator[Sequence[int]]:
    """Codes of cuboids in the order of the curve, as many as are counted in one go."""
    size_bytes = math.prod(target.place.cuboid_zyx) * target.place.channel.dtype.itemsize
    step = max(1, min(UNIT_CUBOIDS, UNIT_BYTES // size_bytes))
    async for codes in _pages(stores, target, after=after):
        for first in range(0, len(codes), step):
            yield codes[first : first + step]


async def _pages(stores: Stores, target: _Target, *, after: int) -> AsyncIterator[Sequence[int]]:
    """Codes behind `after` of cuboids with a share: those stored, or all of a small region."""
    if target.is_listed:
        parts = plan_parts(target.box, target.place.cuboid_zyx)
        yield [part.morton for part in parts if part.morton > after]
        return
    place, t = target.place, target.t
    behind: CuboidAddress | None = None
    if after >= 0:
        behind = place.address(t, after)
    elif t > 0:
        behind = place.address(t - 1, _LAST_CODE)
    scan = stores.cuboids.scan(
        place.channel.id, pyramid=place.pyramid, level=place.level.level, after=behind
    )
    async for page in scan:
        yield list(_shares(page, target))
        if page[-1].t > t:
            return


def _shares(page: Sequence[CuboidAddress], target: _Target) -> Iterator[int]:
    for address in page:
        if address.t == target.t and target.slab(address.morton) is not None:
            yield address.morton


async def _counted(stores: Stores, target: _Target, codes: Sequence[int], bins: int) -> Counts:
    slabs = [slab for code in codes if (slab := target.slab(code)) is not None]
    dtype = target.place.channel.dtype
    filled = [(slab, np.empty(slab.box.shape_zyx, dtype=dtype)) for slab in slabs]
    await read_slabs(stores.cuboids, filled, usage=Usage())
    return await run_cpu(_sum, [voxels for _, voxels in filled], bins)


def _sum(arrays: Sequence[Voxels], bins: int) -> Counts:
    """One cuboid after the other: numpy's count takes eight bytes a voxel beside them."""
    total = np.zeros(bins, dtype=np.int64)
    for voxels in arrays:
        total += count(voxels, bins)
    return total
