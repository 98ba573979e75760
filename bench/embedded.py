"""The embedded engine in process, against numpy."""

import tempfile
import time
from pathlib import Path

import numpy as np

from ndcass import volume
from ndcass.geometry import Box
from ndcass.merge import WriteOp
from ndcass.model import Channel, Dataset
from ndcass.plan import plan_parts
from ndcass.store.base import CuboidWrite
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
    place = volume.Place(channel, dataset.level(0))
    box = Box((0, 0, 0), SHAPE)
    parts = plan_parts(box, place.cuboid_zyx)
    cuboids = [np.ascontiguousarray(voxels[part.target]) for part in parts]
    library_s: list[float] = []
    numpy_s: list[float] = []
    with tempfile.TemporaryDirectory(prefix="ndcass-bench-") as folder:
        stores = await open_embedded(Path(folder))
        async with stores.cuboids.batch() as batch:
            await batch.add(
                [
                    CuboidWrite(
                        place.address(0, part.morton),
                        WriteOp.REPLACE,
                        place.cuboid_zyx,
                        (0, 0, 0),
                        cuboid,
                    )
                    for part, cuboid in zip(parts, cuboids, strict=True)
                ]
            )
            await batch.commit()
        out = np.empty(SHAPE, dtype=np.uint8)
        for turn in range(rounds + 3):
            began = time.perf_counter()
            for part, cuboid in zip(parts, cuboids, strict=True):
                out[part.target] = cuboid[part.source]
            between = time.perf_counter()
            slab = volume.Slab(place, 0, box)
            await volume.read_slab(stores.cuboids, slab, out, usage=volume.Usage())
            ended = time.perf_counter()
            if turn >= 3:
                numpy_s.append(between - began)
                library_s.append(ended - between)
        if not np.array_equal(out, voxels):
            raise RuntimeError("the box that came back is not the one that was written")
        await stores.close()
    return library_s, numpy_s
