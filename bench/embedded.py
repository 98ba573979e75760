"""The embedded engine in process, against numpy."""

import tempfile
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ndcass import resample, volume
from ndcass.geometry import Box
from ndcass.merge import WriteOp
from ndcass.model import Channel, Dataset
from ndcass.place import Place, Slab
from ndcass.plan import plan_parts
from ndcass.store.base import CuboidWrite, Stores
from ndcass.store.embedded import open_embedded

SHAPE = (256, 512, 512)


async def read_warm_box(rounds: int) -> tuple[list[float], list[float]]:
    """Seconds for the box through the library and by numpy, taking turns."""
    voxels = np.random.default_rng(7).integers(0, 256, SHAPE, dtype=np.uint8)
    dataset = Dataset(
        dataset_name="b", ximagesize=512, yimagesize=512, zimagesize=256, user=1, zvoxelres=10.0
    )
    channel = Channel(
        id=1, project="b", channel_name="b", channel_type="image", channel_datatype="uint8"
    )
    place = Place(channel, dataset.level(0))
    box = Box((0, 0, 0), SHAPE)
    parts = plan_parts(box, place.cuboid_zyx)
    cuboids = [np.ascontiguousarray(voxels[part.target]) for part in parts]
    library_s: list[float] = []
    numpy_s: list[float] = []
    with tempfile.TemporaryDirectory(prefix="ndcass-bench-") as folder:
        stores = await open_embedded(Path(folder))
        await _fill(stores, place, voxels)
        out = np.empty(SHAPE, dtype=np.uint8)
        for turn in range(rounds + 3):
            began = time.perf_counter()
            for part, cuboid in zip(parts, cuboids, strict=True):
                out[part.target] = cuboid[part.source]
            between = time.perf_counter()
            slab = Slab(place, 0, box)
            await volume.read_slab(stores.cuboids, slab, out, usage=volume.Usage())
            ended = time.perf_counter()
            if turn >= 3:
                numpy_s.append(between - began)
                library_s.append(ended - between)
        if not np.array_equal(out, voxels):
            raise RuntimeError("the box that came back is not the one that was written")
        await stores.close()
    return library_s, numpy_s


async def _fill(stores: Stores, place: Place, voxels: npt.NDArray[np.uint8]) -> None:
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


# Shape of a box at the level, for each level that is made from level 1.
OTHER_LEVELS = {0: (64, 1024, 1024), 2: (256, 256, 256)}


async def read_other_level(level: int, rounds: int) -> tuple[list[float], list[float]]:
    """Seconds for a box that is made from level 1, through the library and by numpy in RAM."""
    voxels = np.random.default_rng(7).integers(0, 256, SHAPE, dtype=np.uint8)
    dataset = Dataset(
        dataset_name="b",
        ximagesize=1024,
        yimagesize=1024,
        zimagesize=256,
        user=1,
        zvoxelres=10.0,
        scalinglevels=2,
    )
    channel = Channel(
        id=1,
        project="b",
        channel_name="b",
        channel_type="image",
        channel_datatype="uint8",
        resolution=1,
    )
    stored = Place(channel, dataset.level(1))
    source = resample.source_of(dataset.geometry, level, 1)
    place = Place(channel, dataset.level(level), source=source)
    shape = OTHER_LEVELS[level]
    box = Box((0, 0, 0), shape)
    out = np.empty(shape, dtype=np.uint8)
    library_s: list[float] = []
    numpy_s: list[float] = []
    with tempfile.TemporaryDirectory(prefix="ndcass-bench-") as folder:
        stores = await open_embedded(Path(folder))
        await _fill(stores, stored, voxels)
        for turn in range(rounds + 3):
            began = time.perf_counter()
            if level == 0:
                expected = voxels[: shape[0]].repeat(2, axis=1).repeat(2, axis=2)
            else:
                expected = np.ascontiguousarray(voxels[:, ::2, ::2])
            between = time.perf_counter()
            slab = Slab(place, 0, box)
            await volume.read_slab(stores.cuboids, slab, out, usage=volume.Usage())
            ended = time.perf_counter()
            if turn >= 3:
                numpy_s.append(between - began)
                library_s.append(ended - between)
        if not np.array_equal(out, expected):
            raise RuntimeError("the box that came back is not the one that was written")
        await stores.close()
    return library_s, numpy_s
