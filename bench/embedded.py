"""The embedded engine in process, against numpy."""

import dataclasses
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ndcass import resample, volume
from ndcass.geometry import Box, Zyx
from ndcass.merge import WriteOp
from ndcass.model import Channel, Dataset
from ndcass.place import Place, Slab
from ndcass.plan import plan_parts
from ndcass.store.base import CuboidWrite, Stores
from ndcass.store.embedded import open_embedded

SHAPE = (256, 512, 512)

Voxels = npt.NDArray[np.uint8]

WARM_UPS = 3
_CHANNEL = Channel(
    id=1, project="b", channel_name="b", channel_type="image", channel_datatype="uint8"
)


async def read_warm_box(rounds: int) -> tuple[list[float], list[float]]:
    """Seconds for the box through the library and by numpy, taking turns."""
    voxels = _noise()
    dataset = Dataset(
        dataset_name="b", ximagesize=512, yimagesize=512, zimagesize=256, user=1, zvoxelres=10.0
    )
    place = Place(_CHANNEL, dataset.level(0))
    parts = plan_parts(Box((0, 0, 0), SHAPE), place.cuboid_zyx)
    cuboids = [np.ascontiguousarray(voxels[part.target]) for part in parts]

    def by_numpy(out: Voxels) -> None:
        for part, cuboid in zip(parts, cuboids, strict=True):
            out[part.target] = cuboid[part.source]

    return await _take_turns(voxels, place, place, SHAPE, by_numpy, rounds)


# Shape of a box at the level, for each level that is made from level 1.
OTHER_LEVELS = {0: (64, 1024, 1024), 2: (256, 256, 256)}


async def read_other_level(level: int, rounds: int) -> tuple[list[float], list[float]]:
    """Seconds for a box that is made from level 1, through the library and by numpy in RAM."""
    voxels = _noise()
    dataset = Dataset(
        dataset_name="b",
        ximagesize=1024,
        yimagesize=1024,
        zimagesize=256,
        user=1,
        zvoxelres=10.0,
        scalinglevels=2,
    )
    channel = dataclasses.replace(_CHANNEL, resolution=1)
    stored = Place(channel, dataset.level(1))
    source = resample.source_of(dataset.geometry, level, 1)
    place = Place(channel, dataset.level(level), source=source)
    shape = OTHER_LEVELS[level]

    def by_numpy(out: Voxels) -> None:
        if level == 0:
            # Quicker than `repeat`, and than broadcasting.
            out[:, ::2, ::2] = out[:, ::2, 1::2] = voxels[: shape[0]]
            out[:, 1::2] = out[:, ::2]
        else:
            out[...] = voxels[:, ::2, ::2]

    return await _take_turns(voxels, stored, place, shape, by_numpy, rounds)


async def _take_turns(
    voxels: Voxels,
    stored: Place,
    place: Place,
    shape: Zyx,
    by_numpy: Callable[[Voxels], None],
    rounds: int,
) -> tuple[list[float], list[float]]:
    """Seconds for a box from zero on of `place`, through the library and by numpy.

    `voxels` are those of the place that is stored. Both fill an array that was touched before.
    """
    library_s: list[float] = []
    numpy_s: list[float] = []
    slab = Slab(place, 0, Box((0, 0, 0), shape))
    out, expected = np.zeros(shape, dtype=np.uint8), np.zeros(shape, dtype=np.uint8)
    with tempfile.TemporaryDirectory(prefix="ndcass-bench-") as folder:
        stores = await open_embedded(Path(folder))
        await _fill(stores, stored, voxels)
        for turn in range(rounds + WARM_UPS):
            began = time.perf_counter()
            by_numpy(expected)
            between = time.perf_counter()
            await volume.read_slab(stores.cuboids, slab, out, usage=volume.Usage())
            ended = time.perf_counter()
            if turn >= WARM_UPS:
                numpy_s.append(between - began)
                library_s.append(ended - between)
        if not np.array_equal(out, expected):
            raise RuntimeError("the box that came back is not the one that was written")
        await stores.close()
    return library_s, numpy_s


async def _fill(stores: Stores, place: Place, voxels: Voxels) -> None:
    """Store voxels cuboid by cuboid, below a channel that no catalogue knows."""
    async with stores.cuboids.batch() as batch:
        await batch.add(
            [
                CuboidWrite(
                    place.address(0, part.morton),
                    WriteOp.REPLACE,
                    place.cuboid_zyx,
                    (0, 0, 0),
                    voxels[part.target],
                )
                for part in plan_parts(Box((0, 0, 0), SHAPE), place.cuboid_zyx)
            ]
        )
        await batch.commit()


def _noise() -> Voxels:
    return np.random.default_rng(7).integers(0, 256, SHAPE, dtype=np.uint8)
