"""Cutouts on the in-memory store: every kind of box, and what happens when something fails."""

import asyncio
import contextlib
import tracemalloc
from collections.abc import AsyncIterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ndcass import volume
from ndcass.errors import StoreTimeout
from ndcass.geometry import Box, Zyx
from ndcass.merge import WriteOp
from ndcass.model import Dataset
from ndcass.place import Place, Slab
from ndcass.store.base import CuboidAddress, StoredCuboid
from ndcass.volume import Usage
from ndcass.writer import BodyWriter, cutout_writer, write_box
from tests.volumes import boxes, random_voxels, read, stores_with_channel

Voxels = npt.NDArray[Any]


@settings(max_examples=30, deadline=None)
@given(written=boxes(), asked=boxes(), limit=st.sampled_from([1, 1000, 40_000, 1 << 22]))
def test_a_box_reads_back_as_written_with_zeros_around(
    written: Box, asked: Box, limit: int
) -> None:
    async def run() -> None:
        stores, place = await stores_with_channel()
        model = np.zeros((90, 300, 400), dtype=np.uint8)
        voxels = random_voxels(written.shape_zyx)
        model[written.slices()] = voxels
        await write_box(stores, place, 0, written, voxels)
        slabs = list(
            volume.plan_answer(
                [place],
                [0],
                asked,
                cuboid_zyx=place.cuboid_zyx,
                dtype=voxels.dtype,
                limit_bytes=limit,
            )
        )
        pieces = [
            slab.tobytes()
            async for slab in volume.stream_slabs(
                stores.cuboids, slabs, dtype=voxels.dtype, usage=Usage()
            )
        ]
        assert b"".join(pieces) == model[asked.slices()].tobytes()

    asyncio.run(run())


class FailingStore:
    """A real store whose reads of one cuboid fail, as with a lost disk or node."""

    def __init__(self, inner: Any, bad_morton: int) -> None:
        self._inner = inner
        self._bad_morton = bad_morton

    def read_now(self, addresses: Sequence[CuboidAddress]) -> None:
        return None

    async def read(
        self, addresses: Sequence[CuboidAddress]
    ) -> AsyncIterator[Sequence[StoredCuboid]]:
        for address in addresses:
            if address.morton == self._bad_morton:
                raise StoreTimeout("too late")
            async for batch in self._inner.read([address]):
                yield batch


async def test_a_cuboid_that_cannot_be_read_is_an_error_and_no_gap() -> None:
    stores, place = await stores_with_channel()
    box = Box((0, 0, 0), (16, 128, 256))
    await write_box(stores, place, 0, box, random_voxels(box.shape_zyx))
    failing: Any = FailingStore(stores.cuboids, bad_morton=1)
    with pytest.raises(StoreTimeout):
        await volume.read_box(failing, place, 0, box)


async def test_leaving_a_stream_early_ends_the_read_that_had_begun() -> None:
    stores, place = await stores_with_channel()
    box = Box((0, 0, 0), (90, 300, 400))
    slabs = list(
        volume.plan_answer(
            [place],
            [0],
            box,
            cuboid_zyx=place.cuboid_zyx,
            dtype=np.dtype("u1"),
            limit_bytes=1 << 20,
        )
    )
    assert len(slabs) > 3
    before = asyncio.all_tasks()
    stream = volume.stream_slabs(stores.cuboids, slabs, dtype=np.dtype("u1"), usage=Usage())
    async with contextlib.aclosing(stream):
        await anext(stream)
    assert asyncio.all_tasks() == before


async def test_memory_does_not_grow_with_the_box() -> None:
    dataset = Dataset(
        dataset_name="d", ximagesize=4096, yimagesize=4096, zimagesize=64, user=1, zvoxelres=4.0
    )
    stores, place = await stores_with_channel()
    place = Place(place.channel, dataset.level(0))
    box = Box((0, 0, 0), (64, 4096, 4096))
    slabs = list(
        volume.plan_answer([place], [0], box, cuboid_zyx=place.cuboid_zyx, dtype=np.dtype("u1"))
    )
    assert sum(slab.box.voxels for slab in slabs) == 1 << 30
    tracemalloc.start()
    try:
        async for _ in volume.stream_slabs(
            stores.cuboids, slabs[:16], dtype=np.dtype("u1"), usage=Usage()
        ):
            pass
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4 * volume.SLAB_BYTES


async def test_a_series_of_tiny_volumes_is_read_and_written_together() -> None:
    stores, place = await stores_with_channel()
    box = Box((3, 5, 7), (4, 6, 8))
    times = 3000
    voxels = random_voxels((times, 1, 1, 1), seed=5) + np.uint8(1)
    adds = []
    async with cutout_writer(stores) as writer:
        real = writer._batch.add

        async def add(writes: Any) -> None:
            adds.append(len(writes))
            await real(writes)

        writer._batch.add = add  # type: ignore[method-assign]
        async with BodyWriter(writer, [place], list(range(times)), box) as into:
            await into.feed(voxels.tobytes())
            await into.finish()
        await writer.commit()
    assert sum(adds) == times
    assert len(adds) < 20
    slabs = volume.plan_answer(
        [place, place], range(times), box, cuboid_zyx=place.cuboid_zyx, dtype=voxels.dtype
    )
    pieces = [
        piece.tobytes()
        async for piece in volume.stream_slabs(
            stores.cuboids, slabs, dtype=voxels.dtype, usage=Usage()
        )
    ]
    assert b"".join(pieces) == voxels.tobytes() * 2
    assert len(pieces) < 40


async def test_an_all_zero_channel_needs_no_store() -> None:
    stores, _ = await stores_with_channel()
    out = np.ones((1, 2, 3), dtype=np.uint8)
    slab = Slab(None, 0, Box((0, 0, 0), (1, 2, 3)))
    await volume.read_slab(stores.cuboids, slab, out, usage=Usage())
    assert not out.any()


@pytest.mark.parametrize("dtype", "u1 <u2 <u4 <u8 i1 <i2 <i4 <i8 <f4 <f8".split())
async def test_every_type_comes_back_bit_for_bit(dtype: str) -> None:
    stores, place = await stores_with_channel(channel_datatype=np.dtype(dtype).name)
    shape: Zyx = (5, 30, 140)
    raw = np.random.default_rng(3).integers(0, 256, 5 * 30 * 140 * np.dtype(dtype).itemsize)
    voxels = raw.astype(np.uint8).view(dtype).reshape(shape)
    box = Box((3, 100, 100), (8, 130, 240))
    await write_box(stores, place, 0, box, voxels, op=WriteOp.REPLACE)
    found = await read(stores, place, box)
    assert found.tobytes() == voxels.tobytes()
