"""What every level of a channel has to be, computed on whole volumes in memory."""

from typing import Any

import numpy as np
import numpy.typing as npt

from ndcass.downsample import Rule, downsample
from ndcass.geometry import Box, Geometry, Level, level_of
from ndcass.model import Channel
from ndcass.place import Place
from ndcass.pyramid import Stage, stages
from ndcass.store.base import Stores
from ndcass.volume import read_box

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
