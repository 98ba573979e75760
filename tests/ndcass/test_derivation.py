"""Derived cuboids from stored ones; whole pyramids are compared in ``jobs/test_pyramid.py``."""

import math
from collections.abc import AsyncIterator, Sequence

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ndcass import morton
from ndcass.concurrency import CPU_CORES
from ndcass.derivation import Derivation, shares
from ndcass.downsample import Rule, downsample
from ndcass.errors import CorruptValue
from ndcass.geometry import Box
from ndcass.model import Dataset
from ndcass.plan import plan_parts
from ndcass.pyramid import cuboids_of, stages
from ndcass.store.base import PLAIN, CuboidAddress, StoredCuboid
from ndcass.store.memory import MemoryStores
from ndcass.volume import THREAD_BYTES, read_box
from tests.pyramids import Volume, volume_of, whole


async def flat_volume(**dataset: int) -> Volume:
    """One whose cuboids are flat at every level."""
    return await volume_of(MemoryStores(), dataset={"zvoxelres": 10.0, **dataset})


async def first_level(volume: Volume, rule: Rule = Rule.NEAREST) -> Derivation:
    stage = next(s for s in stages(volume.geometry, 0) if not s.neariso)
    return Derivation(await volume.now(), stage, rule)


def at(level: Derivation, morton: int) -> CuboidAddress:
    return CuboidAddress(level.channel.id, PLAIN, level.stage.level.level, 0, morton)


async def made(
    volume: Volume, level: Derivation, mortons: Sequence[int]
) -> list[npt.NDArray[np.uint8]]:
    writes = await level.writes(volume.stores.cuboids, [at(level, code) for code in mortons])
    return [write.voxels for write in writes]


@given(
    sizes=st.tuples(*[st.integers(1, 3000)] * 3),
    zvoxelres=st.sampled_from([0.1, 0.4, 1.0, 3.0, 10.0]),
    isotropic=st.booleans(),
)
def test_no_block_of_voxels_lies_in_two_cuboids(
    sizes: tuple[int, int, int], zvoxelres: float, isotropic: bool
) -> None:
    x, y, z = sizes
    dataset = Dataset(
        "d", x, y, z, user=1, scalinglevels=5, zvoxelres=zvoxelres, scalingoption=int(isotropic)
    )
    for stage in stages(dataset.geometry, 0):
        if not stage.size_zyx[0]:
            continue
        box = stage.cuboid_box(0)
        assert box is not None
        for part in plan_parts(stage.source_box(box), stage.source.cuboid_zyx):
            for axis, factor in zip(part.target, stage.factor_zyx, strict=True):
                assert axis.start % factor == 0


@given(
    sizes=st.tuples(*[st.integers(1, 3000)] * 3),
    zvoxelres=st.sampled_from([0.1, 0.4, 1.0, 3.0, 10.0]),
    isotropic=st.booleans(),
    data=st.data(),
)
def test_a_cuboid_is_made_from_what_the_plan_of_its_sources_says(
    sizes: tuple[int, int, int], zvoxelres: float, isotropic: bool, data: st.DataObject
) -> None:
    """Also where it is not planned, since it is like others."""
    x, y, z = sizes
    dataset = Dataset(
        "d", x, y, z, user=1, scalinglevels=5, zvoxelres=zvoxelres, scalingoption=int(isotropic)
    )
    stage = data.draw(st.sampled_from(stages(dataset.geometry, 0)))
    last = (
        (size - 1) // cuboid
        for size, cuboid in zip(stage.size_zyx, stage.level.cuboid_zyx, strict=True)
    )
    grid = tuple(data.draw(st.integers(0, max(0, most))) for most in last)
    box = stage.cuboid_box(morton.encode((grid[0], grid[1], grid[2])))
    if box is None:
        return
    found = list(shares(stage, box))
    parts = plan_parts(stage.source_box(box), stage.source.cuboid_zyx)
    assert [share.morton for share in found] == [part.morton for part in parts]
    assert [share.source for share in found] == [part.source for part in parts]
    for share, part in zip(found, parts, strict=True):
        for target, whole_target, factor in zip(
            share.target, part.target, stage.factor_zyx, strict=True
        ):
            assert target == slice(whole_target.start // factor, -(-whole_target.stop // factor))


async def test_voxels_beyond_the_end_of_an_odd_level_count_as_zeros() -> None:
    volume = await flat_volume(ximagesize=131, yimagesize=7)
    await volume.write()
    level = await first_level(volume, Rule.MEAN)
    box = whole(volume.base.level)
    base = await read_box(volume.stores.cuboids, volume.base, 0, box)
    even = np.pad(base, [(0, 0), (0, 1), (0, 1)])
    expected = np.zeros((16, 128, 128), dtype=np.uint8)
    expected[:, :4, :66] = downsample(even[:16], Rule.MEAN, pairs=False)
    [found] = await made(volume, level, [0])
    assert np.array_equal(found, expected)


async def test_sources_that_are_not_stored_are_zeros() -> None:
    volume = await flat_volume()
    await volume.write(Box((0, 0, 0), (16, 128, 128)))
    level = await first_level(volume)
    [found] = await made(volume, level, [0])
    base = await read_box(volume.stores.cuboids, volume.base, 0, Box((0, 0, 0), (16, 256, 256)))
    assert np.array_equal(found, base[:, 1::2, 1::2])
    assert not found[:, 64:].any()


async def test_a_cuboid_outside_its_level_is_zeros() -> None:
    volume = await flat_volume()
    await volume.write()
    level = await first_level(volume)
    [found] = await made(volume, level, [1 << 20])
    assert found.shape == level.stage.level.cuboid_zyx
    assert not found.any()


async def test_what_is_not_stored_yet_counts_in_the_place_of_what_is() -> None:
    volume = await flat_volume()
    await volume.write()
    level = await first_level(volume)
    source = CuboidAddress(level.channel.id, PLAIN, 0, 0, 0)
    newer = np.full(volume.base.cuboid_zyx, 9, dtype=np.uint8)
    [before] = await made(volume, level, [0])
    cuboids = volume.stores.cuboids
    [write] = await level.writes(cuboids, [at(level, 0)], {source: newer})
    assert (write.voxels[:, :64, :64] == 9).all()
    assert np.array_equal(write.voxels[:, 64:], before[:, 64:])


async def test_many_cuboids_are_made_as_each_by_itself() -> None:
    """Of more bytes than one thread takes."""
    volume = await flat_volume(ximagesize=2000, zimagesize=70)
    await volume.write()
    level = await first_level(volume)
    codes = cuboids_of(Box((0, 0, 0), level.stage.size_zyx), level.stage.level.cuboid_zyx)
    assert len(codes) * 4 * math.prod(volume.base.cuboid_zyx) > CPU_CORES * THREAD_BYTES
    together = await made(volume, level, codes)
    for code, found in zip(codes, together, strict=True):
        [alone] = await made(volume, level, [code])
        assert np.array_equal(found, alone)


async def test_a_damaged_source_is_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    volume = await flat_volume()
    await volume.write()
    level = await first_level(volume)
    expected = await made(volume, level, [0, 1])
    cuboids = volume.stores.cuboids
    read = cuboids.read

    async def damaged(
        addresses: Sequence[CuboidAddress],
    ) -> AsyncIterator[Sequence[StoredCuboid]]:
        async for batch in read(addresses):
            yield [
                (address, [row._replace(payload=bytes(row.payload)[:-1] + b"\0\1") for row in rows])
                for address, rows in batch
            ]

    monkeypatch.setattr(cuboids, "read", damaged)
    monkeypatch.setattr(cuboids, "reread", read)
    for found, wanted in zip(await made(volume, level, [0, 1]), expected, strict=True):
        assert np.array_equal(found, wanted)
    monkeypatch.setattr(cuboids, "reread", damaged)
    with pytest.raises(CorruptValue):
        await made(volume, level, [0, 1])
