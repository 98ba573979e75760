"""Histograms of channels: ordered, found and listed. The work itself is a job (``jobs/histogram``).

A channel has one histogram of its whole, at its base resolution and its first timestep, and one for
every region (ROI) that somebody asked for; each is replaced when it is asked for again. A region is
a box of the coordinates that data requests at the base resolution have, with the dataset's offset.
"""

import re
from collections.abc import Sequence

from ndcass.concurrency import bounded_map
from ndcass.errors import InvalidRequest, NotFound, TooLarge
from ndcass.geometry import Box, Level
from ndcass.histogram import Histogram, Tally, bins_of
from ndcass.model import Channel, TokenView
from ndcass.store.base import Job, JobState, Stores

HISTOGRAM_JOB = "histogram"
# Kinds of side records: histograms, and those that are being counted.
KIND = "histogram"
COUNTING_KIND = "histogram counting"
# Keys of records: a region as `region_text` writes it, or the whole channel.
WHOLE = "whole"

# Regions of one request; each is a job.
MOST_REGIONS = 100
# Jobs of a channel that may be open at once; two requests at the same time may go a little beyond.
MOST_OPEN = 200
_SUBMITTED_AT_ONCE = 8

_COORDINATE = r"0*([0-9]{1,19})"
_POINT = ",".join([_COORDINATE] * 3)
_REGION = re.compile(rf"{_POINT}-{_POINT}/?")


def region_of(text: str) -> Box:
    """A region as clients write it, ``x0,y0,z0-x1,y1,z1``.

    Raises
    ------
    InvalidRequest
        If it is none.
    """
    found = _REGION.fullmatch(text)
    if found is None:
        raise InvalidRequest(f"{text[:200]!r} is no region: x0,y0,z0-x1,y1,z1")
    x0, y0, z0, x1, y1, z1 = map(int, found.groups())
    return Box((z0, y0, x0), (z1, y1, x1))


def region_text(region: Box) -> str:
    """`region` as clients write it; the key that its histogram is stored under."""
    low, high = region.start_zyx[::-1], region.stop_zyx[::-1]
    return "-".join(",".join(map(str, corner)) for corner in (low, high))


def base_level(view: TokenView, channel: Channel) -> Level:
    """The level whose voxels are counted: the one that was uploaded."""
    return view.level(channel.resolution)


async def order(
    stores: Stores, view: TokenView, channel: Channel, regions: Sequence[Box] | None = None
) -> list[Job]:
    """Have histograms made: of some regions, or of the whole channel; a job for each, in order.

    A job that has not begun yet serves all who ask for the same.

    Raises
    ------
    InvalidRequest
        If the channel is read-only or of a type that is not counted, or a region reaches beyond
        the image. Nothing is ordered then.
    TooLarge
        If there are too many regions, or too many jobs of the channel have not ended yet. Nothing
        is ordered then.
    """
    bins_of(channel.channel_datatype)
    if channel.readonly:
        raise InvalidRequest(f"channel {channel.name} is read-only: no histogram is made of it")
    if regions is not None and len(regions) > MOST_REGIONS:
        raise TooLarge("regions", asked=len(regions), limit=MOST_REGIONS, unit="regions")
    for region in regions or ():
        base_level(view, channel).stored_box(region)
    keys = [WHOLE] if regions is None else [region_text(region) for region in regions]
    jobs = await stores.jobs.jobs(channel_id=channel.id)
    open_states = (JobState.PENDING, JobState.STARTED)
    unended = [job for job in jobs if job.kind == HISTOGRAM_JOB and job.state in open_states]
    waiting = {str(job.detail.get("key")): job for job in unended if job.state is JobState.PENDING}

    async def submit(key: str) -> Job:
        return await stores.jobs.submit(HISTOGRAM_JOB, channel.id, {"key": key})

    new = [key for key in dict.fromkeys(keys) if key not in waiting]
    if new and len(unended) + len(new) > MOST_OPEN:
        raise TooLarge(
            f"histograms of channel {channel.name} at once",
            asked=len(unended) + len(new),
            limit=MOST_OPEN,
            unit="jobs",
        )
    submitted = await bounded_map(submit, new, limit=_SUBMITTED_AT_ONCE)
    waiting |= dict(zip(new, submitted, strict=True))
    return [waiting[key] for key in keys]


async def job_of(stores: Stores, channel: Channel, job_id: str) -> Job:
    """A job that `order` submitted for this channel; NotFound if there is none of that id."""
    job = await stores.jobs.job(job_id)
    if job.kind != HISTOGRAM_JOB or job.channel_id != channel.id:
        raise NotFound(f"there is no job {job_id[:80]}")
    return job


async def histogram_of(stores: Stores, channel: Channel, region: Box | None = None) -> Histogram:
    """The latest histogram of a region, or of the whole channel; NotFound if there is none."""
    key = WHOLE if region is None else region_text(region)
    value = await stores.records.get(channel.id, KIND, key)
    if value is None:
        what = "" if region is None else f" of region {key}"
        raise NotFound(f"channel {channel.name} has no histogram{what}; genhist makes one")
    return Histogram(Tally.from_bytes(value).counts)


async def regions_of(stores: Stores, channel: Channel) -> list[Box]:
    """The regions that have a histogram, by their coordinates from x on."""
    keys = await stores.records.keys(channel.id, KIND)
    regions = [region_of(key) for key in keys if key != WHOLE]
    return sorted(regions, key=lambda region: (region.start_zyx[::-1], region.stop_zyx[::-1]))
