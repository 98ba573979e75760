"""Cutouts on the in-memory store: every kind of box, and what happens when something fails."""

import asyncio
import contextlib
import tracemalloc
from collections.abc import AsyncIterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ndcass import volume
from ndcass.errors import BadBody, NotFound, ReadOnly, StoreTimeout
from ndcass.geometry import Box, Zyx
from ndcass.merge import WriteOp
from ndcass.model import Channel, Dataset, Project
from ndcass.store.base import CuboidAddress, StoredCuboid, Stores
from ndcass.store.memory import MemoryStores
from ndcass.volume import BodyWriter, Place, Slab, Usage

Voxels = npt.NDArray[Any]

DATASET = Dataset(
    dataset_name="d", ximagesize=400, yimagesize=300, zimagesize=90, user=1, zvoxelres=4.0
)


async def stores_with_channel(**fields: Any) -> tuple[Stores, Place]:
    stores = MemoryStores()
    await stores.catalog.create_dataset(DATASET)
    await stores.catalog.create_project(Project(project_name="p", user=1, dataset="d"))
    defaults = {"channel_type": "timeseries", "channel_datatype": "uint8"}
    channel = await stores.catalog.create_channel(
        Channel(id=0, project="p", channel_name="c", **{**defaults, **fields})
    )
    return stores, Place(channel, DATASET.level(0))


def random_voxels(shape: Sequence[int], dtype: str = "u1", seed: int = 0) -> Voxels:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 200, shape).astype(np.dtype(dtype))


async def read(stores: Stores, place: Place, box: Box, t: int = 0) -> Voxels:
    return await volume.read_box(stores.cuboids, place, t, box)


@st.composite
def boxes(draw: st.DrawFn) -> Box:
    start, stop = [], []
    for size in (90, 300, 400):
        a = draw(st.integers(0, size - 1))
        start.append(a)
        stop.append(draw(st.integers(a + 1, min(size, a + 150))))
    return Box((start[0], start[1], start[2]), (stop[0], stop[1], stop[2]))


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
        await volume.write_box(stores, place, 0, written, voxels)
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


@settings(max_examples=20, deadline=None)
@given(box=boxes(), cuts=st.lists(st.integers(1, 200_000), max_size=6), times=st.integers(1, 2))
def test_a_body_may_arrive_in_any_pieces(box: Box, cuts: list[int], times: int) -> None:
    async def run() -> None:
        stores, place = await stores_with_channel(channel_datatype="uint16")
        voxels = random_voxels((times, *box.shape_zyx), "<u2")
        body = voxels.tobytes()
        edges = sorted({0, len(body), *(cut for cut in cuts if cut < len(body))})
        async with (
            volume.cutout_writer(stores) as writer,
            BodyWriter(writer, [place], list(range(times)), box) as into,
        ):
            for a, b in pairwise(edges):
                await into.feed(body[a:b])
            await into.finish()
            await writer.commit()
        for t in range(times):
            assert np.array_equal(await read(stores, place, box, t), voxels[t])

    asyncio.run(run())


async def post(stores: Stores, place: Place, box: Box, body: bytes) -> None:
    async with (
        volume.cutout_writer(stores) as writer,
        BodyWriter(writer, [place], [0], box) as into,
    ):
        await into.feed(body)
        await into.finish()
        await writer.commit()


async def test_a_short_body_changes_nothing() -> None:
    stores, place = await stores_with_channel()
    box = Box((0, 0, 0), (40, 50, 50))
    with pytest.raises(BadBody, match="fewer"):
        await post(stores, place, box, random_voxels((39, 50, 50)).tobytes())
    assert not (await read(stores, place, box)).any()


async def test_a_long_body_changes_nothing() -> None:
    stores, place = await stores_with_channel()
    box = Box((0, 0, 0), (2, 50, 50))
    with pytest.raises(BadBody, match="more"):
        await post(stores, place, box, bytes(2 * 50 * 50 + 1))
    assert not (await read(stores, place, box)).any()


async def test_a_write_of_another_type_is_refused() -> None:
    stores, place = await stores_with_channel()
    with pytest.raises(BadBody, match="uint16"):
        await volume.write_box(
            stores, place, 0, Box((0, 0, 0), (1, 1, 1)), np.ones((1, 1, 1), dtype=np.uint16)
        )


async def test_a_read_only_channel_takes_nothing() -> None:
    stores, place = await stores_with_channel(readonly=1)
    with pytest.raises(ReadOnly):
        await volume.write_box(
            stores, place, 0, Box((0, 0, 0), (1, 1, 1)), np.ones((1, 1, 1), dtype=np.uint8)
        )


async def test_a_write_into_a_channel_that_was_deleted_meanwhile_is_not_acknowledged() -> None:
    stores, place = await stores_with_channel()
    async with volume.cutout_writer(stores) as writer:
        box = Box((0, 0, 0), (1, 1, 1))
        await writer.write(place, 0, box, np.ones((1, 1, 1), dtype=np.uint8))
        await stores.catalog.delete_channel("p", "c")
        with pytest.raises(NotFound, match="deleted"):
            await writer.commit()


async def test_near_isotropic_and_plain_voxels_are_apart() -> None:
    stores, place = await stores_with_channel()
    flat = Dataset(
        dataset_name="d",
        ximagesize=400,
        yimagesize=300,
        zimagesize=90,
        user=1,
        zvoxelres=0.4,
        scalinglevels=1,
    )
    neariso = Place(place.channel, flat.level(0), neariso=True)
    assert neariso.level.neariso_scaledown == 3
    box = Box((0, 0, 0), (4, 5, 6))
    voxels = random_voxels(box.shape_zyx)
    await volume.write_box(stores, neariso, 0, box, voxels)
    assert np.array_equal(await read(stores, neariso, box), voxels)
    assert not (await read(stores, Place(place.channel, flat.level(0)), box)).any()


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
    await volume.write_box(stores, place, 0, box, random_voxels(box.shape_zyx))
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
    async with volume.cutout_writer(stores) as writer:
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
    await volume.write_box(stores, place, 0, box, voxels, op=WriteOp.REPLACE)
    found = await read(stores, place, box)
    assert found.tobytes() == voxels.tobytes()
