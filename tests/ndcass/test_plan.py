import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ndcass import morton
from ndcass.errors import InvalidRequest
from ndcass.geometry import Box
from ndcass.plan import plan_blocks, plan_parts, plan_slabs

CUBOIDS = st.sampled_from([(2, 3, 4), (1, 1, 1), (4, 8, 8), (16, 128, 128), (5, 2, 7)])


@st.composite
def boxes(draw: st.DrawFn, most: int = 20) -> Box:
    start = draw(st.tuples(*[st.integers(0, 40)] * 3))
    shape = draw(st.tuples(*[st.integers(1, most)] * 3))
    (z, y, x), (dz, dy, dx) = start, shape
    return Box((z, y, x), (z + dz, y + dy, x + dx))


@given(boxes(), CUBOIDS)
def test_the_parts_cover_every_voxel_once(box: Box, cuboid: tuple[int, int, int]) -> None:
    seen = np.zeros(box.shape_zyx, dtype=np.int64)
    for part in plan_parts(box, cuboid):
        seen[part.target] += 1
    assert (seen == 1).all()


@given(boxes(), CUBOIDS)
def test_a_part_is_the_same_voxels_in_the_cuboid_and_in_the_box(
    box: Box, cuboid: tuple[int, int, int]
) -> None:
    for part in plan_parts(box, cuboid):
        grid = morton.decode(part.morton)
        for axis in range(3):
            source, target = part.source[axis], part.target[axis]
            assert 0 <= source.start < source.stop <= cuboid[axis]
            origin = grid[axis] * cuboid[axis]
            assert origin + source.start == box.start_zyx[axis] + target.start
            assert origin + source.stop == box.start_zyx[axis] + target.stop
        shape = tuple(s.stop - s.start for s in part.source)
        assert part.whole == (shape == cuboid)


@given(boxes(), CUBOIDS)
def test_parts_come_in_morton_order_each_cuboid_once(
    box: Box, cuboid: tuple[int, int, int]
) -> None:
    codes = [part.morton for part in plan_parts(box, cuboid)]
    assert codes == sorted(set(codes))


def test_an_aligned_box_is_made_of_whole_cuboids() -> None:
    parts = plan_parts(Box((16, 128, 0), (48, 256, 256)), (16, 128, 128))
    assert [part.morton for part in parts] == sorted(
        morton.encode(grid) for grid in [(1, 1, 0), (1, 1, 1), (2, 1, 0), (2, 1, 1)]
    )
    assert all(part.whole for part in parts)


def test_a_changed_plan_does_not_change_the_next() -> None:
    box = Box((0, 0, 0), (2, 2, 2))
    plan_parts(box, (1, 1, 1)).clear()
    assert len(plan_parts(box, (1, 1, 1))) == 8


def test_a_large_plan_is_as_exact_as_a_small_one() -> None:
    parts = plan_parts(Box((0, 0, 0), (8, 8, 8)), (1, 1, 1))
    assert [part.morton for part in parts] == list(range(512))


def test_a_cuboid_beyond_the_grid_is_refused() -> None:
    with pytest.raises(InvalidRequest):
        plan_parts(Box((0, 0, 1 << 21), (1, 1, (1 << 21) + 1)), (1, 1, 1))


# -- slabs

LIMITS = st.integers(1, 5000)


@given(boxes(), CUBOIDS, LIMITS, st.sampled_from([1, 2, 8]))
def test_slabs_follow_each_other_in_c_order_and_cover_the_box(
    box: Box, cuboid: tuple[int, int, int], limit: int, itemsize: int
) -> None:
    slabs = plan_slabs(box, cuboid, plane_step=1, itemsize=itemsize, limit_bytes=limit)
    (z, y, x), (_, height, width) = box.start_zyx, box.shape_zyx
    at = 0
    for slab in slabs:
        (z0, y0, x0), (dz, dy, dx) = slab.start_zyx, slab.shape_zyx
        assert ((z0 - z) * height + (y0 - y)) * width + (x0 - x) == at
        assert dx == width
        assert dy == height or dz == 1  # else its bytes would not be one piece of the answer
        at += slab.voxels
    assert at == box.voxels


@given(boxes(), CUBOIDS, LIMITS, st.sampled_from([1, 2, 8]))
def test_slabs_are_within_the_limit_or_as_small_as_can_be(
    box: Box, cuboid: tuple[int, int, int], limit: int, itemsize: int
) -> None:
    slabs = plan_slabs(box, cuboid, plane_step=1, itemsize=itemsize, limit_bytes=limit)
    for slab in slabs:
        dz, dy, _ = slab.shape_zyx
        smallest = dz == 1 and dy <= cuboid[1]
        assert slab.voxels * itemsize <= limit or smallest


def test_a_slab_is_a_layer_of_cuboids_where_that_fits() -> None:
    box = Box((5, 0, 0), (50, 256, 256))
    slabs = plan_slabs(box, (16, 128, 128), plane_step=1, itemsize=1, limit_bytes=2 << 20)
    assert [(s.start_zyx[0], s.stop_zyx[0]) for s in slabs] == [(5, 32), (32, 50)]


def test_a_slab_of_part_of_a_layer_is_whole_blocks() -> None:
    box = Box((0, 0, 0), (16, 256, 256))
    slabs = plan_slabs(box, (16, 128, 128), plane_step=4, itemsize=1, limit_bytes=10 * 65536)
    assert [s.shape_zyx[0] for s in slabs] == [8, 8]


def test_a_plane_that_is_too_large_is_cut_at_cuboid_rows() -> None:
    box = Box((0, 100, 0), (2, 600, 1000))
    slabs = plan_slabs(box, (16, 128, 128), plane_step=1, itemsize=1, limit_bytes=300_000)
    assert [(s.start_zyx[1], s.stop_zyx[1]) for s in slabs if s.start_zyx[0] == 0] == [
        (100, 256),
        (256, 512),
        (512, 600),
    ]


@given(boxes(most=60), CUBOIDS, st.integers(1, 4000))
def test_blocks_cover_every_voxel_once_and_share_no_cuboid(
    box: Box, cuboid: tuple[int, int, int], limit: int
) -> None:
    seen = np.zeros(box.shape_zyx, dtype=np.int64)
    cuboids: list[int] = []
    (z, y, x) = box.start_zyx
    for block in plan_blocks(box, cuboid, itemsize=2, limit_bytes=limit):
        seen[block.shifted((-z, -y, -x)).slices()] += 1
        cuboids += [part.morton for part in plan_parts(block, cuboid)]
        one = 2 * cuboid[0] * cuboid[1] * cuboid[2]
        assert 2 * block.voxels <= max(limit, one)
    assert (seen == 1).all()
    assert len(cuboids) == len(set(cuboids))


def test_the_cuboids_of_a_block_follow_each_other_along_the_curve() -> None:
    box = Box((0, 0, 0), (64, 512, 512))
    blocks = plan_blocks(box, (16, 128, 128), itemsize=1, limit_bytes=8 * 16 * 128 * 128)
    for block in blocks:
        codes = [part.morton for part in plan_parts(block, (16, 128, 128))]
        assert codes == list(range(codes[0], codes[0] + 8))
