"""Cutouts on the in-memory store: every kind of box, and what happens when something fails."""

import asyncio
import contextlib
import dataclasses
import tracemalloc
from collections.abc import AsyncIterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ndcass import morton, volume
from ndcass.errors import (
    BadBody,
    InvalidRequest,
    NotFound,
    ReadOnly,
    StoreTimeout,
    TooLarge,
)
from ndcass.geometry import Box, Zyx
from ndcass.merge import WriteOp
from ndcass.model import Channel, Dataset, Project, Token, TokenView
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


# -- levels that are not stored


async def view_with_channel(
    *, isotropic: bool = False, zvoxelres: float = 4.0, **fields: Any
) -> tuple[Stores, TokenView]:
    stores = MemoryStores()
    dataset = dataclasses.replace(
        DATASET, scalinglevels=5, scalingoption=int(isotropic), zvoxelres=zvoxelres
    )
    await stores.catalog.create_dataset(dataset)
    await stores.catalog.create_project(Project(project_name="p", user=1, dataset="d"))
    await stores.catalog.create_token(Token(token_name="t", user=1, project="p"))
    given: dict[str, Any] = {"channel_type": "timeseries", "channel_datatype": "uint8", **fields}
    await stores.catalog.create_channel(Channel(id=0, project="p", channel_name="c", **given))
    return stores, await stores.catalog.token_view("t")


def the_channel(view: TokenView) -> Channel:
    channel = view.channel("c")
    assert channel is not None
    return channel


async def read_level(
    stores: Stores, view: TokenView, level: int, box: Box, *, neariso: bool = False
) -> Voxels:
    place = volume.reading_place(view, the_channel(view), level, neariso=neariso)
    return await read(stores, place, box)


@pytest.mark.parametrize("isotropic", [False, True])
@pytest.mark.parametrize("datatype", ["uint8", "uint32", "float32", "int64"])
async def test_levels_below_and_above_the_only_one_are_made_from_it(
    datatype: str, isotropic: bool
) -> None:
    stores, view = await view_with_channel(
        isotropic=isotropic, channel_datatype=datatype, resolution=1, channel_type="image"
    )
    base = view.level(1)
    model = random_voxels(base.size_zyx, datatype)
    whole = Box((0, 0, 0), base.size_zyx)
    place = volume.writing_place(view, the_channel(view), 1)
    await volume.write_box(stores, place, 0, whole, model)
    fine = model.repeat(2, axis=1).repeat(2, axis=2)
    fine = fine.repeat(2, axis=0) if isotropic else fine
    box = Box((5, 33, 101), (60, 290, 399))
    assert np.array_equal(await read_level(stores, view, 0, box), fine[box.slices()])
    for level in (2, 4):
        step = 1 << (level - 1)
        coarse = model[:: step if isotropic else 1, ::step, ::step]
        box = Box((1, 2, 3), view.level(level).size_zyx)
        assert np.array_equal(await read_level(stores, view, level, box), coarse[box.slices()])


async def test_a_stream_of_levels_that_are_not_stored_is_a_whole_read() -> None:
    stores, view = await view_with_channel(resolution=2)
    channel = the_channel(view)
    place = volume.writing_place(view, channel, 2)
    voxels = random_voxels(view.level(2).size_zyx)
    await volume.write_box(stores, place, 0, Box((0, 0, 0), voxels.shape), voxels)
    for level in (0, 3):
        place = volume.reading_place(view, channel, level)
        box = Box((3, 5, 7), place.level.size_zyx)
        slabs = volume.plan_answer(
            [place, None],
            [0],
            box,
            cuboid_zyx=place.level.cuboid_zyx,
            dtype=voxels.dtype,
            limit_bytes=5000,
        )
        streamed = [
            slab.copy()
            async for slab in volume.stream_slabs(
                stores.cuboids, slabs, dtype=voxels.dtype, usage=Usage()
            )
        ]
        found = np.concatenate(streamed).reshape(2, *box.shape_zyx)
        assert np.array_equal(found[0], await read(stores, place, box))
        assert not found[1].any()
        assert found[0].any()


async def test_coarse_levels_of_a_pyramid_are_what_is_stored_there() -> None:
    stores, view = await view_with_channel(propagate=2)
    channel = the_channel(view)
    box = Box((0, 0, 0), (3, 4, 5))
    voxels = random_voxels(box.shape_zyx)
    await volume.write_box(stores, volume.writing_place(view, channel, 0), 0, box, voxels)
    assert not (await read_level(stores, view, 1, box)).any()
    await volume.write_box(stores, volume.writing_place(view, channel, 1), 0, box, voxels)
    assert np.array_equal(await read_level(stores, view, 1, box), voxels)


@pytest.mark.parametrize(("level", "propagate"), [(0, 0), (0, 2), (2, 0)])
async def test_what_could_not_be_read_again_is_not_written(level: int, propagate: int) -> None:
    _, view = await view_with_channel(resolution=1, propagate=propagate)
    with pytest.raises(InvalidRequest, match="write to level 1"):
        volume.writing_place(view, the_channel(view), level)


async def test_near_isotropic_levels_hold_what_was_written_to_them() -> None:
    stores, view = await view_with_channel(zvoxelres=0.5, resolution=1)
    channel = the_channel(view)
    box = Box((0, 0, 0), (3, 4, 5))
    for level in (1, 2):  # also above the base, without a pyramid
        voxels = random_voxels(box.shape_zyx, seed=level)
        place = volume.writing_place(view, channel, level, neariso=True)
        await volume.write_box(stores, place, 0, box, voxels)
        assert np.array_equal(await read_level(stores, view, level, box, neariso=True), voxels)
        assert not (await read_level(stores, view, level, box)).any()
    # What is finer repeats the base, whatever was asked for.
    assert not (await read_level(stores, view, 0, box, neariso=True)).any()


@pytest.mark.parametrize("written", [False, True])
async def test_where_slices_are_not_merged_near_isotropic_is_the_ordinary(written: bool) -> None:
    stores, view = await view_with_channel(zvoxelres=8.0)
    box = Box((0, 0, 0), (3, 4, 5))
    voxels = random_voxels(box.shape_zyx)
    place = volume.writing_place(view, the_channel(view), 0, neariso=written)
    await volume.write_box(stores, place, 0, box, voxels)
    assert np.array_equal(await read_level(stores, view, 0, box, neariso=not written), voxels)


async def test_labels_are_never_written_near_isotropic() -> None:
    stores, view = await view_with_channel(
        zvoxelres=0.5, channel_type="annotation", channel_datatype="uint32"
    )
    box = Box((0, 0, 0), (3, 4, 5))
    voxels = random_voxels(box.shape_zyx, "u4")
    place = volume.writing_place(view, the_channel(view), 0, neariso=True)
    await volume.write_box(stores, place, 0, box, voxels)
    assert np.array_equal(await read_level(stores, view, 0, box), voxels)


async def test_a_coarse_read_decodes_only_cuboids_that_it_shows() -> None:
    stores, view = await view_with_channel(channel_type="image")
    channel = the_channel(view)
    whole = Box((0, 0, 0), view.level(0).size_zyx)
    stored = volume.writing_place(view, channel, 0)
    await volume.write_box(stores, stored, 0, whole, random_voxels(whole.shape_zyx))
    place = volume.reading_place(view, channel, 4)
    usage = Usage()
    box = Box((40, 0, 9), (41, 9, 10))  # rows 0 to 128 of the base, column 144
    await volume.read_box(stores.cuboids, place, 0, box, usage=usage)
    cuboid_bytes = 16 * 128 * 128
    assert usage.cuboids_read == 2
    assert usage.source_bytes == volume.source_bytes([place], box, 1) == 2 * cuboid_bytes
    assert [a.morton for a in place.addresses(0, box)] == [morton.encode((2, y, 1)) for y in (0, 1)]
    small = Usage(max_source_bytes=2 * cuboid_bytes - 1)
    with pytest.raises(TooLarge, match="not propagated"):
        await volume.read_box(stores.cuboids, place, 0, box, usage=small)


async def test_a_coarse_read_takes_its_cuboids_in_bounded_groups(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(volume, "CUBOIDS_TOGETHER", 3)
    stores, view = await view_with_channel(channel_type="image")
    channel = the_channel(view)
    whole = Box((0, 0, 0), view.level(0).size_zyx)
    voxels = random_voxels(whole.shape_zyx)
    await volume.write_box(stores, volume.writing_place(view, channel, 0), 0, whole, voxels)
    box = Box((0, 0, 0), view.level(2).size_zyx)
    assert np.array_equal(await read_level(stores, view, 2, box), voxels[:, ::4, ::4])


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
