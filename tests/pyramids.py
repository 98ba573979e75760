"""Channels with a pyramid, and what every level has to be, computed on whole volumes in memory."""

import asyncio
import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from ndcass.downsample import Rule, downsample
from ndcass.geometry import Box, Geometry, Level, level_of
from ndcass.jobs import HANDLERS
from ndcass.jobs.runner import run_jobs
from ndcass.merge import WriteOp
from ndcass.model import Channel, Dataset, Project
from ndcass.place import Place
from ndcass.propagation import set_propagation
from ndcass.pyramid import Stage, stages
from ndcass.store.base import REFRESH_JOB, Job, JobState, Stores
from ndcass.volume import read_box
from ndcass.writer import write_box

Voxels = npt.NDArray[Any]  # whatever type a test is about


def whole(level: Level) -> Box:
    return Box((0, 0, 0), level.size_zyx)


def recomputed(
    base: Voxels, geometry: Geometry, channel: Channel, rule: Rule
) -> dict[Stage, Voxels]:
    """Each derived level from all of the base: padded with zeros, halved, cut to its size."""
    found: dict[Stage, Voxels] = {}
    plain = base
    for stage in stages(geometry, channel.resolution):
        even = [
            (0, size % factor) for size, factor in zip(plain.shape, stage.factor_zyx, strict=True)
        ]
        made = downsample(np.pad(plain, even), rule, pairs=stage.pairs)
        z, y, x = stage.size_zyx
        found[stage] = made[:z, :y, :x]
        if not stage.neariso:
            plain = made
    return found


async def stored(stores: Stores, channel: Channel, stage: Stage, t: int = 0) -> Voxels:
    """A derived level as it is stored."""
    if not stage.size_zyx[0]:
        return np.zeros(stage.size_zyx, dtype=channel.dtype)
    place = Place(channel, stage.level, stage.neariso)
    return await read_box(stores.cuboids, place, t, Box((0, 0, 0), stage.size_zyx))


async def wrong_levels(
    stores: Stores, channel: Channel, geometry: Geometry, rule: Rule, t: int = 0
) -> list[tuple[int, bool]]:
    """The derived levels that are not what the base makes them, as (level, neariso)."""
    level = level_of(geometry, channel.resolution)
    base = await read_box(stores.cuboids, Place(channel, level), t, whole(level))
    wrong = []
    for stage, expected in recomputed(base, geometry, channel, rule).items():
        found = await stored(stores, channel, stage, t)
        if not np.array_equal(found, expected, equal_nan=channel.dtype.kind == "f"):
            wrong.append((stage.level.level, stage.neariso))
    return wrong


OPEN = (JobState.PENDING, JobState.STARTED)


class Volume:
    """A dataset with one channel."""

    def __init__(self, stores: Stores, dataset: Dataset, channel: Channel) -> None:
        self.stores = stores
        self.dataset = dataset
        self.geometry = dataset.geometry
        self.channel = channel
        self.rng = np.random.default_rng(5)

    async def now(self) -> Channel:
        name = self.channel.channel_name
        self.channel = await self.stores.catalog.channel("proj", name)
        return self.channel

    @property
    def base(self) -> Place:
        return Place(self.channel, self.dataset.level(self.channel.resolution))

    def random(self, box: Box) -> Any:
        """Voxels of any value, or a few labels."""
        dtype = self.channel.dtype
        if self.channel.is_annotation:
            return self.rng.integers(0, 4, box.shape_zyx).astype(dtype)
        if dtype.kind == "f":
            return self.rng.standard_normal(box.shape_zyx).astype(dtype)
        info = np.iinfo(dtype)
        return self.rng.integers(info.min, info.max, box.shape_zyx, dtype=dtype, endpoint=True)

    async def write(self, box: Box | None = None, *, t: int = 0, zeros: bool = False) -> None:
        await self.now()
        box = box or whole(self.base.level)
        voxels = self.random(box)
        if zeros:
            voxels[...] = 0
        await write_box(self.stores, self.base, t, box, voxels, op=WriteOp.REPLACE)

    async def propagate(self) -> Job:
        await set_propagation(self.stores, [await self.now()], [1])
        return await self.finished()

    async def finished(self) -> Job:
        """Work on jobs until none is open; the newest one."""
        stop = asyncio.Event()
        work = asyncio.create_task(
            run_jobs(self.stores, HANDLERS, owner="w", stop=stop, poll_s=0.01)
        )
        try:
            async with asyncio.timeout(50):
                while any(job.state in OPEN for job in await self.stores.jobs.jobs()):
                    await asyncio.sleep(0.01)
        finally:
            stop.set()
            await work
        await self.now()
        return (await self.stores.jobs.jobs())[0]

    async def beside(self, name: str) -> "Volume":
        """Another channel of the same kind, with nothing in it."""
        channel = dataclasses.replace(self.channel, id=0, channel_name=name)
        made = await self.stores.catalog.create_channel(channel)
        return Volume(self.stores, self.dataset, made)

    async def refresh(self) -> Job:
        await self.stores.jobs.submit_once(REFRESH_JOB, self.channel.id)
        return await self.finished()

    async def wrong(self, rule: Rule = Rule.NEAREST, t: int = 0) -> list[tuple[int, bool]]:
        return await wrong_levels(self.stores, self.channel, self.geometry, rule, t)

    async def stale(self) -> int:
        return sum((await self.stores.stale.counts(self.channel.id)).values())


async def volume_of(
    stores: Stores, *, dataset: Mapping[str, Any] | None = None, **channel: Any
) -> Volume:
    """Small, of sizes that are no power of two, with three levels above the base."""
    fields = {"ximagesize": 301, "yimagesize": 263, "zimagesize": 37, "scalinglevels": 3}
    made = Dataset("brain", user=1, **{**fields, **(dataset or {})})
    await stores.catalog.create_dataset(made)
    await stores.catalog.create_project(Project("proj", 1, "brain"))
    kind = {"channel_type": "image", "channel_datatype": "uint8", **channel}
    stored_channel = await stores.catalog.create_channel(Channel(0, "proj", "em", **kind))
    return Volume(stores, made, stored_channel)
