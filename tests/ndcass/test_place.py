"""Levels that are stored and that are not, on the in-memory store."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from ndcass import morton, volume
from ndcass.errors import InvalidRequest, TooLarge
from ndcass.geometry import Box
from ndcass.model import Dataset
from ndcass.place import Place, reading_place, writing_place
from ndcass.volume import Usage
from ndcass.writer import write_box
from tests.volumes import (
    random_voxels,
    read,
    read_level,
    stores_with_channel,
    the_channel,
    view_with_channel,
)

Voxels = npt.NDArray[Any]


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
    await write_box(stores, neariso, 0, box, voxels)
    assert np.array_equal(await read(stores, neariso, box), voxels)
    assert not (await read(stores, Place(place.channel, flat.level(0)), box)).any()


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
    place = writing_place(view, the_channel(view), 1)
    await write_box(stores, place, 0, whole, model)
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
    place = writing_place(view, channel, 2)
    voxels = random_voxels(view.level(2).size_zyx)
    await write_box(stores, place, 0, Box((0, 0, 0), voxels.shape), voxels)
    for level in (0, 3):
        place = reading_place(view, channel, level)
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
    await write_box(stores, writing_place(view, channel, 0), 0, box, voxels)
    assert not (await read_level(stores, view, 1, box)).any()
    await write_box(stores, writing_place(view, channel, 1), 0, box, voxels)
    assert np.array_equal(await read_level(stores, view, 1, box), voxels)


@pytest.mark.parametrize(("level", "propagate"), [(0, 0), (0, 2), (2, 0)])
async def test_what_could_not_be_read_again_is_not_written(level: int, propagate: int) -> None:
    _, view = await view_with_channel(resolution=1, propagate=propagate)
    with pytest.raises(InvalidRequest, match="write to level 1"):
        writing_place(view, the_channel(view), level)


async def test_near_isotropic_levels_hold_what_was_written_to_them() -> None:
    stores, view = await view_with_channel(zvoxelres=0.5, resolution=1)
    channel = the_channel(view)
    box = Box((0, 0, 0), (3, 4, 5))
    for level in (1, 2):  # also above the base, without a pyramid
        voxels = random_voxels(box.shape_zyx, seed=level)
        place = writing_place(view, channel, level, neariso=True)
        await write_box(stores, place, 0, box, voxels)
        assert np.array_equal(await read_level(stores, view, level, box, neariso=True), voxels)
        assert not (await read_level(stores, view, level, box)).any()
    # What is finer repeats the base, whatever was asked for.
    assert not (await read_level(stores, view, 0, box, neariso=True)).any()


@pytest.mark.parametrize("written", [False, True])
async def test_where_slices_are_not_merged_near_isotropic_is_the_ordinary(written: bool) -> None:
    stores, view = await view_with_channel(zvoxelres=8.0)
    box = Box((0, 0, 0), (3, 4, 5))
    voxels = random_voxels(box.shape_zyx)
    place = writing_place(view, the_channel(view), 0, neariso=written)
    await write_box(stores, place, 0, box, voxels)
    assert np.array_equal(await read_level(stores, view, 0, box, neariso=not written), voxels)


async def test_labels_are_never_written_near_isotropic() -> None:
    stores, view = await view_with_channel(
        zvoxelres=0.5, channel_type="annotation", channel_datatype="uint32"
    )
    box = Box((0, 0, 0), (3, 4, 5))
    voxels = random_voxels(box.shape_zyx, "u4")
    place = writing_place(view, the_channel(view), 0, neariso=True)
    await write_box(stores, place, 0, box, voxels)
    assert np.array_equal(await read_level(stores, view, 0, box), voxels)


async def test_a_coarse_read_decodes_only_cuboids_that_it_shows() -> None:
    stores, view = await view_with_channel(channel_type="image")
    channel = the_channel(view)
    whole = Box((0, 0, 0), view.level(0).size_zyx)
    stored = writing_place(view, channel, 0)
    await write_box(stores, stored, 0, whole, random_voxels(whole.shape_zyx))
    place = reading_place(view, channel, 4)
    usage = Usage()
    box = Box((40, 0, 9), (41, 9, 10))  # rows 0 to 128 of the base, column 144
    await volume.read_box(stores.cuboids, place, 0, box, usage=usage)
    cuboid_bytes = 16 * 128 * 128
    assert usage.cuboids_read == 2
    assert volume.source_bytes([place], box, 1) == 2 * cuboid_bytes
    assert [a.morton for a in place.addresses(0, box)] == [morton.encode((2, y, 1)) for y in (0, 1)]
    small = Usage(max_source_bytes=2 * cuboid_bytes - 1)
    with pytest.raises(TooLarge, match="not propagated"):
        await volume.read_box(stores.cuboids, place, 0, box, usage=small)


async def test_a_stream_of_single_planes_counts_no_cuboid_twice() -> None:
    """What may be read as one box may be read in pieces: the answer has begun by then."""
    stores, view = await view_with_channel(channel_type="image")
    place = reading_place(view, the_channel(view), 2)
    box = Box((0, 0, 0), place.level.size_zyx)
    usage = Usage(max_source_bytes=volume.source_bytes([place], box, 1))
    dtype = np.dtype(np.uint8)
    slabs = list(
        volume.plan_answer(
            [place], [0], box, cuboid_zyx=place.level.cuboid_zyx, dtype=dtype, limit_bytes=1
        )
    )
    assert len(slabs) >= box.shape_zyx[0]
    stream = volume.stream_slabs(stores.cuboids, slabs, dtype=dtype, usage=usage)
    assert sum([slab.size async for slab in stream]) == box.voxels


async def test_a_coarse_read_takes_its_cuboids_in_bounded_groups(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(volume, "CUBOIDS_TOGETHER", 3)
    stores, view = await view_with_channel(channel_type="image")
    channel = the_channel(view)
    whole = Box((0, 0, 0), view.level(0).size_zyx)
    voxels = random_voxels(whole.shape_zyx)
    await write_box(stores, writing_place(view, channel, 0), 0, whole, voxels)
    box = Box((0, 0, 0), view.level(2).size_zyx)
    assert np.array_equal(await read_level(stores, view, 2, box), voxels[:, ::4, ::4])
