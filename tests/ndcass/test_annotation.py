"""Voxels of objects on two engines, compared with a model that is one large array."""

import dataclasses
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from ndcass import morton
from ndcass.annotation import (
    ObjectVoxels,
    erase_labels,
    labels_in_box,
    merge_labels,
    object_box,
    object_cuboids,
    read_object_block,
    read_object_points,
    write_object_voxels,
)
from ndcass.errors import InvalidRequest, OutOfBounds, ReadOnly, TooLarge
from ndcass.geometry import Box
from ndcass.merge import WriteOp
from ndcass.place import Place
from ndcass.store.base import Stores
from ndcass.store.embedded import open_embedded
from ndcass.store.memory import MemoryStores
from ndcass.volume import Usage, read_box
from ndcass.writer import write_box
from tests.labelled import SIZE_ZYX, Model, Volume, annotated

EVERYTHING = Box((0, 0, 0), SIZE_ZYX)
LARGE = 1 << 28
OPS = (WriteOp.MERGE, WriteOp.PRESERVE, WriteOp.EXCEPTION, WriteOp.REDUCE)


@pytest.fixture(params=["memory", "embedded"])
async def stores(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Stores]:
    opened: Stores = MemoryStores() if request.param == "memory" else await open_embedded(tmp_path)
    yield opened
    await opened.close()


@pytest.fixture
async def volume(stores: Stores) -> Volume:
    return await annotated(stores, exceptions=1)


def of_points(label: int, points: Any, level: int = 0) -> ObjectVoxels:
    return ObjectVoxels(label, level, np.array(points, dtype=np.int64), ())


def of_block(label: int, box: Box, level: int = 0) -> ObjectVoxels:
    mask = np.ones(box.shape_zyx, dtype=np.bool_)
    return ObjectVoxels(label, level, None, ((box.start_zyx, mask),))


async def write(volume: Volume, *objects: ObjectVoxels, op: WriteOp = WriteOp.MERGE) -> None:
    await write_object_voxels(*volume.target, objects, op, usage=Usage())


async def points_of(volume: Volume, *labels: int, level: int = 0) -> set[tuple[int, ...]]:
    points = await read_object_points(*volume.target, labels, level, limit_bytes=LARGE)
    found = set(map(tuple, points.tolist()))
    assert len(found) == len(points)  # each once
    return found


def where(mask: npt.NDArray[np.bool_]) -> set[tuple[int, ...]]:
    return set(map(tuple, np.argwhere(mask).tolist()))


def random_object(rng: np.random.Generator, label: int) -> tuple[ObjectVoxels, Any]:
    """Points, a block or both around a few places, and where they are in the level."""
    mask = np.zeros(SIZE_ZYX, dtype=np.bool_)
    corner = rng.integers((0, 0, 0), (20, 120, 200))
    points = corner + rng.integers((0, 0, 0), (20, 80, 80), (300, 3))
    start = rng.integers((0, 0, 0), (20, 120, 200))
    block = rng.random(rng.integers((1, 1, 1), (20, 80, 80))) < 0.5
    has_points, has_block = rng.choice([(True, False), (False, True), (True, True)])
    if has_points:
        mask[tuple(points.T)] = True
    if has_block:
        stop = start + block.shape
        mask[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))] |= block
    blocks = ((tuple(start.tolist()), block),) if has_block else ()
    return ObjectVoxels(label, 0, points if has_points else None, blocks), mask


async def test_objects_of_any_op_are_as_if_written_into_one_array(volume: Volume) -> None:
    rng = np.random.default_rng(3)
    model = Model()
    for _ in range(12):
        op = OPS[rng.integers(len(OPS))]
        batch = [random_object(rng, int(label)) for label in rng.integers(1, 6, 2)]
        await write(volume, *(item for item, _ in batch), op=op)
        for item, mask in batch:
            model.write(op, item.label, mask)
    assert len(model.cuboid.exceptions)
    painted = await read_box(
        volume.stores.cuboids, Place(volume.channel, volume.view.level(0)), 0, EVERYTHING
    )
    assert np.array_equal(painted, model.cuboid.voxels)
    for labels in ([1], [2], [3, 4], [1, 2, 3, 4, 5]):
        mask = model.mask(labels)
        assert await points_of(volume, *labels) == where(mask)
        block = await read_object_block(*volume.target, labels, 0, EVERYTHING, limit_voxels=LARGE)
        assert block is not None
        assert np.array_equal(block[1], mask)
        corners = np.argwhere(mask)
        box = await object_box(*volume.target, labels, 0)
        assert box is not None
        assert box.start_zyx == tuple(corners.min(axis=0))
        assert box.stop_zyx == tuple(corners.max(axis=0) + 1)
        made = np.zeros((48, 256, 384), dtype=np.bool_)
        async for corner, one in object_cuboids(*volume.target, labels, 0):
            made[Box(corner, tuple(np.add(corner, one.shape).tolist())).slices()] = one
        assert np.array_equal(made[EVERYTHING.slices()], mask)
    for box in (EVERYTHING, Box((10, 100, 120), (20, 140, 180)), Box((3, 4, 5), (4, 5, 6))):
        assert (await labels_in_box(*volume.target, 0, box)).tolist() == model.labels(box)


async def test_an_object_reads_back_beyond_the_image_and_not_below_it(volume: Volume) -> None:
    far = [(1849, 10, 20), (5, 70_000, 1), (0, 0, 0)]
    await write(volume, of_points(7, far))
    assert await points_of(volume, 7) == set(far)
    with pytest.raises(OutOfBounds, match="below"):
        await write(volume, of_points(8, [(-1, 0, 0), (1, 1, 1)]))
    with pytest.raises(OutOfBounds, match="beyond"):
        await write(volume, of_points(8, [(0, 0, 128 << 21)]))
    for far_corner in ((1 << 63) - 1, 1 << 64):
        block = ObjectVoxels(8, 0, None, [((0, 0, far_corner), np.ones((1, 1, 1), dtype=np.bool_))])
        with pytest.raises(OutOfBounds, match="beyond"):
            await write(volume, block)
    assert await points_of(volume, 8) == set()


async def test_a_tight_block_is_of_whole_cuboids_and_holds_the_object(volume: Volume) -> None:
    await write(volume, of_points(5, [(17, 130, 5), (3, 140, 10)]))
    found = await read_object_block(*volume.target, [5], 0, None, limit_voxels=LARGE)
    assert found is not None
    box, mask = found
    assert box == Box((0, 128, 0), (32, 256, 128))
    assert where(mask) == {(17, 2, 5), (3, 12, 10)}
    nothing = await read_object_block(*volume.target, [6], 0, None, limit_voxels=LARGE)
    assert nothing is None


async def test_a_block_without_voxels_is_of_the_size_asked_for(volume: Volume) -> None:
    found = await read_object_block(*volume.target, [6], 0, EVERYTHING, limit_voxels=LARGE)
    assert found is not None
    assert not found[1].any()
    with pytest.raises(TooLarge):
        await read_object_block(*volume.target, [6], 0, EVERYTHING, limit_voxels=1000)


async def test_points_are_limited_before_they_are_all_there(volume: Volume) -> None:
    await write(volume, of_block(5, Box((0, 0, 0), (4, 100, 100))))
    with pytest.raises(TooLarge):
        await read_object_points(*volume.target, [5], 0, limit_bytes=40_000 * 24 - 1)
    assert len(await points_of(volume, 5)) == 40_000


async def test_levels_that_are_not_stored_follow_from_the_base(stores: Stores) -> None:
    volume = await annotated(stores, resolution=1)
    points = {(3, 5, 7), (3, 5, 8), (20, 70, 90)}
    await write(volume, of_points(5, sorted(points), level=1))
    assert await points_of(volume, 5, level=1) == points
    finer = {(z, 2 * y + b, 2 * x + a) for z, y, x in points for a in (0, 1) for b in (0, 1)}
    assert await points_of(volume, 5, level=0) == finer
    assert await points_of(volume, 5, level=2) == set()
    assert await object_box(*volume.target, [5], 0) == Box((3, 10, 14), (21, 142, 182))
    box = Box((3, 9, 13), (4, 13, 19))
    found = await read_object_block(*volume.target, [5], 0, box, limit_voxels=LARGE)
    assert found is not None
    assert where(found[1]) == {(z - 3, y - 9, x - 13) for z, y, x in finer if z == 3}
    coarse = await read_object_block(
        *volume.target, [5], 2, Box((20, 35, 45), (21, 36, 46)), limit_voxels=LARGE
    )
    assert coarse is not None
    assert coarse[1].all()
    assert (await labels_in_box(*volume.target, 2, Box((3, 0, 0), (4, 10, 10)))).tolist() == []
    tight = await read_object_block(*volume.target, [5], 0, None, limit_voxels=LARGE)
    assert tight is not None
    assert tight[0] == Box((0, 0, 0), (32, 256, 256))
    assert where(tight[1]) == finer
    assert [c async for c in object_cuboids(*volume.target, [5], 0)] == []


async def test_exceptions_need_a_channel_that_keeps_them(stores: Stores) -> None:
    volume = await annotated(stores)
    await write(volume, of_points(1, [(0, 0, 0)]))
    await write(volume, of_points(2, [(0, 0, 0), (0, 0, 1)]), op=WriteOp.EXCEPTION)
    assert await points_of(volume, 2) == {(0, 0, 1)}
    block = of_block(3, Box((0, 0, 0), (1, 1, 3)))
    with pytest.raises(InvalidRequest, match="keeps no exceptions"):
        await write(volume, of_points(2, [(0, 0, 2)]), block, op=WriteOp.EXCEPTION)
    assert await points_of(volume, 2, 3) == {(0, 0, 1)}


@pytest.mark.parametrize("label", [0, -1, 1 << 32])
async def test_numbers_that_are_no_labels_are_refused(volume: Volume, label: int) -> None:
    with pytest.raises(InvalidRequest, match="no label"):
        await write(volume, of_points(label, [(0, 0, 0)]))


async def test_labels_of_64_bits_are_labels_in_channels_of_such(stores: Stores) -> None:
    volume = await annotated(stores, channel_datatype="uint64")
    largest = (1 << 64) - 1
    await write(volume, of_points(largest, [(0, 0, 0)]), of_points(1 << 40, [(0, 0, 1)]))
    assert await points_of(volume, largest) == {(0, 0, 0)}
    assert (await labels_in_box(*volume.target, 0, EVERYTHING)).tolist() == [1 << 40, largest]
    await erase_labels(*volume.target, [largest])
    assert await points_of(volume, largest) == set()


async def test_a_read_only_channel_is_left_alone(volume: Volume) -> None:
    await write(volume, of_points(5, [(0, 0, 0)]))
    channel = dataclasses.replace(volume.channel, readonly=1)
    target = (volume.stores, volume.view, channel)
    with pytest.raises(ReadOnly):
        await write_object_voxels(*target, [of_points(5, [(0, 0, 1)])], OPS[0], usage=Usage())
    with pytest.raises(ReadOnly):
        await erase_labels(*target, [5])
    with pytest.raises(ReadOnly):
        await merge_labels(*target, [5], 6)
    assert await points_of(volume, 5) == {(0, 0, 0)}


async def test_an_erased_label_is_gone_from_every_level_and_exceptions_come_to_light(
    volume: Volume,
) -> None:
    await write(volume, of_block(5, Box((0, 0, 0), (30, 150, 150))))
    await write(volume, of_block(6, Box((0, 0, 140), (1, 1, 160))), op=WriteOp.EXCEPTION)
    await write(volume, of_points(5, [(0, 0, 155)]), op=WriteOp.EXCEPTION)
    coarse = Place(volume.channel, volume.view.level(1))
    await write_box(
        volume.stores, coarse, 0, Box((0, 0, 0), (1, 1, 2)), np.array([[[5, 6]]], dtype="<u4")
    )
    await erase_labels(*volume.target, [5, 77])
    assert await points_of(volume, 5) == set()
    assert await points_of(volume, 6) == {(0, 0, x) for x in range(140, 160)}
    painted = await read_box(
        volume.stores.cuboids, Place(volume.channel, volume.view.level(0)), 0, EVERYTHING
    )
    assert set(np.unique(painted).tolist()) == {0, 6}
    row = await read_box(volume.stores.cuboids, coarse, 0, Box((0, 0, 0), (1, 1, 2)))
    assert row.tolist() == [[[0, 6]]]


async def test_merged_labels_are_one_with_all_their_voxels(volume: Volume) -> None:
    rng = np.random.default_rng(4)
    model = Model()
    for label in (1, 2, 3, 4):
        for op in (WriteOp.MERGE, WriteOp.EXCEPTION):
            item, mask = random_object(rng, label)
            await write(volume, item, op=op)
            model.write(op, label, mask)
    own, other = model.mask([1, 2, 3]), model.mask([4])
    await merge_labels(*volume.target, [2, 3, 1], 1)
    assert await points_of(volume, 1) == where(own)
    assert await points_of(volume, 4) == where(other)
    assert await points_of(volume, 2, 3) == set()
    assert (await labels_in_box(*volume.target, 0, EVERYTHING)).tolist() == [1, 4]


async def test_only_cuboids_of_the_index_are_read(volume: Volume) -> None:
    await write(volume, of_points(5, [(0, 0, 0), (0, 0, 130)]), of_points(6, [(0, 130, 0)]))
    mortons = await volume.stores.labels.mortons(volume.channel.id, 0, 5)
    assert list(mortons) == [(0, morton.encode((0, 0, 0))), (0, morton.encode((0, 0, 1)))]


async def test_dense_writes_are_indexed_whatever_their_op(volume: Volume) -> None:
    place = Place(volume.channel, volume.view.level(0))
    voxels = np.zeros((20, 140, 10), dtype="<u4")
    voxels[0, 0, 0], voxels[19, 139, 9], voxels[0, 139, 5] = 7, 7, 8
    for op in (WriteOp.MERGE, WriteOp.PRESERVE, WriteOp.EXCEPTION, WriteOp.REPLACE):
        shifted = np.where(voxels, voxels + 10 * op, 0).astype("<u4")
        await write_box(volume.stores, place, 0, Box((0, 0, 0), (20, 140, 10)), shifted, op=op)
        listed = await volume.stores.labels.mortons(volume.channel.id, 0, 7 + 10 * op)
        assert [code for _, code in listed] == [0, morton.encode((1, 1, 0))]
        listed = await volume.stores.labels.mortons(volume.channel.id, 0, 8 + 10 * op)
        assert [code for _, code in listed] == [morton.encode((0, 1, 0))]
