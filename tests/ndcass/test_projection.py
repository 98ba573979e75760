"""Projections of stored boxes, against numpy on the whole box."""

import asyncio
import tracemalloc
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ndcass.errors import StoreTimeout
from ndcass.geometry import Box
from ndcass.model import Channel, Dataset, Project
from ndcass.place import Place
from ndcass.projection import BLOCK_BYTES, project
from ndcass.store.base import Stores
from ndcass.store.memory import MemoryStores
from ndcass.volume import Usage
from ndcass.writer import write_box

Voxels = npt.NDArray[Any]  # whatever type a channel has

DATASET = Dataset(
    dataset_name="d", ximagesize=400, yimagesize=300, zimagesize=1000, user=1, zvoxelres=4.0
)
WRITTEN = Box((20, 30, 40), (70, 290, 330))


async def stored(voxels: Voxels) -> tuple[Stores, Place]:
    """A store with these voxels in the box `WRITTEN`."""
    stores = MemoryStores()
    await stores.catalog.create_dataset(DATASET)
    await stores.catalog.create_project(Project(project_name="p", user=1, dataset="d"))
    channel = Channel(0, "p", "c", "image", voxels.dtype.name)
    place = Place(await stores.catalog.create_channel(channel), DATASET.level(0))
    await write_box(stores, place, 0, WRITTEN, voxels)
    return stores, place


async def projected(
    stores: Stores, place: Place, box: Box, *, axis: int, greatest: bool, blocks: Any = None
) -> Voxels:
    return await project(
        stores.cuboids,
        place,
        0,
        box,
        axis=axis,
        greatest=greatest,
        prepare=lambda voxels: voxels,
        usage=Usage(),
        on_block=blocks or (lambda: None),
    )


def random_voxels(dtype: str) -> Voxels:
    rng = np.random.default_rng(1)
    if np.dtype(dtype).kind == "f":
        return rng.normal(size=WRITTEN.shape_zyx).astype(dtype)
    limits = np.iinfo(dtype)
    return rng.integers(limits.min, limits.max, WRITTEN.shape_zyx, dtype, endpoint=True)


@pytest.mark.parametrize("dtype", ["u1", "<i2", "<u4", "<u8", "<i8", "<f4"])
async def test_every_type_and_axis_is_reduced_as_numpy_does(dtype: str) -> None:
    voxels = random_voxels(dtype)
    stores, place = await stored(voxels)
    for axis in range(3):
        for greatest in (True, False):
            found = await projected(stores, place, WRITTEN, axis=axis, greatest=greatest)
            expected = voxels.max(axis=axis) if greatest else voxels.min(axis=axis)
            assert found.dtype == voxels.dtype
            assert np.array_equal(found, expected)


@st.composite
def boxes(draw: st.DrawFn) -> Box:
    start, stop = [], []
    for size in (90, 300, 400):
        a = draw(st.integers(0, size - 1))
        start.append(a)
        stop.append(draw(st.integers(a + 1, size)))
    return Box((start[0], start[1], start[2]), (stop[0], stop[1], stop[2]))


@settings(max_examples=20, deadline=None)
@given(boxes(), st.integers(0, 2), st.booleans())
def test_any_box_counts_what_is_not_written_as_zero(box: Box, axis: int, greatest: bool) -> None:
    async def run() -> None:
        voxels = random_voxels("<i2")
        stores, place = await stored(voxels)
        model = np.zeros((90, 300, 400), dtype=np.int16)
        model[WRITTEN.slices()] = voxels
        found = await projected(stores, place, box, axis=axis, greatest=greatest)
        of = model[box.slices()]
        assert np.array_equal(found, of.max(axis=axis) if greatest else of.min(axis=axis))

    asyncio.run(run())


async def test_a_number_that_is_none_never_wins() -> None:
    voxels = random_voxels("<f4")
    voxels[3:] = np.nan
    stores, place = await stored(voxels)
    for greatest in (True, False):
        found = await projected(stores, place, WRITTEN, axis=0, greatest=greatest)
        assert np.array_equal(found, voxels[:3].max(axis=0) if greatest else voxels[:3].min(axis=0))


async def test_voxels_are_prepared_before_they_are_compared() -> None:
    voxels = random_voxels("<u4")
    stores, place = await stored(voxels)
    found = await project(
        stores.cuboids,
        place,
        0,
        WRITTEN,
        axis=1,
        greatest=False,
        prepare=lambda found: found.astype(np.uint8),
        usage=Usage(),
        on_block=lambda: None,
    )
    assert np.array_equal(found, voxels.astype(np.uint8).min(axis=1))


async def test_memory_does_not_grow_with_the_box() -> None:
    stores, place = await stored(np.ones(WRITTEN.shape_zyx, dtype=np.uint8))
    blocks = 0

    def count() -> None:
        nonlocal blocks
        blocks += 1

    box = DATASET.level(0).dataset_box()
    tracemalloc.start()
    try:
        found = await projected(stores, place, box, axis=0, greatest=True, blocks=count)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert found.sum() == 260 * 290
    assert blocks >= box.voxels // BLOCK_BYTES
    assert box.voxels > 100_000_000
    assert peak < 6 * BLOCK_BYTES


async def test_a_store_that_fails_fails_the_projection(monkeypatch: pytest.MonkeyPatch) -> None:
    stores, place = await stored(random_voxels("u1"))

    def fail(addresses: Any) -> None:
        raise StoreTimeout("too late")

    monkeypatch.setattr(stores.cuboids, "read", fail)
    with pytest.raises(StoreTimeout):
        await projected(stores, place, WRITTEN, axis=0, greatest=True)
