import dataclasses
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ndcass.errors import InvalidRequest, OutOfBounds
from ndcass.geometry import (
    Box,
    Geometry,
    automatic_scaling_levels,
    level_of,
    levels_of,
    text_xyz,
)

FLAT, CUBIC = (16, 128, 128), (64, 64, 64)

POINT = st.tuples(*[st.integers(-50, 50)] * 3)
SIZE = st.tuples(*[st.integers(1, 60)] * 3)


@st.composite
def boxes(draw: st.DrawFn) -> Box:
    (z, y, x), (dz, dy, dx) = draw(POINT), draw(SIZE)
    return Box((z, y, x), (z + dz, y + dy, x + dx))


def geometry(
    size_xyz: tuple[int, int, int],
    offset_xyz: tuple[int, int, int],
    res_xyz: tuple[float, float, float],
    *,
    levels: int,
    isotropic: bool = False,
) -> Geometry:
    """A geometry from values in the order that the contract's tables have them."""
    (sx, sy, sz), (ox, oy, oz), (rx, ry, rz) = size_xyz, offset_xyz, res_xyz
    return Geometry((sz, sy, sx), (oz, oy, ox), (rz, ry, rx), isotropic, levels)


KASTHURI = geometry((21504, 26624, 1850), (0, 0, 1), (1, 1, 10), levels=7)
SMALL = geometry((1000, 1000, 100), (0, 0, 1), (4, 4, 3), levels=5)
ISOTROPIC = geometry((1001, 999, 129), (5, 3, 9), (1, 1, 1), levels=3, isotropic=True)
UNIT_TEST = geometry((10000, 10000, 1000), (0, 0, 1), (4, 4, 3), levels=5)


@pytest.mark.parametrize(
    ("level", "size_xyz", "voxelres_xyz", "cuboid_zyx", "scaledown"),
    [
        (0, (21504, 26624, 1850), (1, 1, 10), FLAT, 1),
        (4, (1344, 1664, 1850), (16, 16, 10), FLAT, 2),
        (5, (672, 832, 1850), (32, 32, 10), CUBIC, 3),
        (6, (336, 416, 1850), (64, 64, 10), CUBIC, 6),
        (7, (168, 208, 1850), (128, 128, 10), CUBIC, 13),
    ],
)
def test_levels_of_slices_halve_x_and_y_only(
    level: int,
    size_xyz: tuple[int, int, int],
    voxelres_xyz: tuple[float, float, float],
    cuboid_zyx: tuple[int, int, int],
    scaledown: int,
) -> None:
    found = level_of(KASTHURI, level)
    assert found.level == level
    assert found.size_zyx == size_xyz[::-1]
    assert found.offset_zyx == (1, 0, 0)
    assert found.voxelres_zyx == voxelres_xyz[::-1]
    assert found.cuboid_zyx == cuboid_zyx
    assert found.neariso_scaledown == scaledown


def test_sizes_are_rounded_up_and_cuboids_turn_cubic() -> None:
    levels = levels_of(SMALL)
    sides = (1000, 500, 250, 125, 63, 32)
    assert [level.size_zyx for level in levels] == [(100, side, side) for side in sides]
    assert [level.voxelres_zyx for level in levels] == [(3, 4 << r, 4 << r) for r in range(6)]
    assert [level.cuboid_zyx for level in levels] == [FLAT] + [CUBIC] * 5
    assert [level.neariso_scaledown for level in levels] == [1, 3, 5, 11, 21, 43]


def test_isotropic_levels_halve_every_axis() -> None:
    levels = levels_of(ISOTROPIC)
    assert [level.size_zyx[::-1] for level in levels] == [
        (1001, 999, 129),
        (501, 500, 65),
        (251, 250, 33),
        (126, 125, 17),
    ]
    assert [level.offset_zyx[::-1] for level in levels] == [
        (5, 3, 9),
        (2, 1, 4),
        (1, 0, 2),
        (0, 0, 1),
    ]
    assert [level.voxelres_zyx for level in levels] == [(1 << r,) * 3 for r in range(4)]
    assert {level.cuboid_zyx for level in levels} == {CUBIC}
    assert {level.neariso_scaledown for level in levels} == {1}


def test_near_isotropic_values_of_the_unit_test_dataset() -> None:
    levels = levels_of(UNIT_TEST)
    assert [level.size_zyx for level in levels] == [
        (1000, side, side) for side in (10000, 5000, 2500, 1250, 625, 313)
    ]
    assert [level.neariso_scaledown for level in levels] == [1, 3, 5, 11, 21, 43]
    assert [level.neariso_size_zyx[0] for level in levels] == [1000, 333, 200, 90, 47, 23]
    assert [level.neariso_voxelres_zyx[0] for level in levels] == [3, 9, 15, 33, 63, 129]
    offsets = [level.neariso_offset_zyx for level in levels]
    assert [z for z, _, _ in offsets] == pytest.approx([1, 1 / 3, 1 / 5, 1 / 11, 1 / 21, 1 / 43])
    assert all(isinstance(value, float) for offset in offsets for value in offset)
    assert [level.xz_aspect for level in levels] == [0.75 / 2**r for r in range(6)]


def test_aspects_are_crossed_as_in_the_original() -> None:
    level = level_of(geometry((10, 10, 10), (0, 0, 0), (2, 5, 20), levels=0), 0)
    assert (level.xz_aspect, level.yz_aspect) == (4, 10)


@pytest.mark.parametrize(
    ("res_xyz", "scaledown"),
    [((2, 2, 2), 1), ((1, 2, 3), 1), ((1, 5, 2), 3), ((5, 2, 4), 1), ((8, 7, 2), 4)],
)
def test_the_scaledown_compares_z_with_y_and_rounds_ties_up(
    res_xyz: tuple[float, float, float], scaledown: int
) -> None:
    found = level_of(geometry((10, 10, 10), (0, 0, 0), res_xyz, levels=0), 0)
    assert found.neariso_scaledown == scaledown


def test_cuboids_are_flat_only_above_a_ratio_of_one_half() -> None:
    at_half = geometry((10, 10, 10), (0, 0, 0), (2, 1, 1), levels=0)
    above = geometry((10, 10, 10), (0, 0, 0), (2, 1, 1.01), levels=0)
    assert level_of(at_half, 0).cuboid_zyx == CUBIC
    assert level_of(above, 0).cuboid_zyx == FLAT


def test_a_supercuboid_is_four_cuboids_along_each_axis() -> None:
    assert level_of(KASTHURI, 0).supercuboid_zyx == (64, 512, 512)
    assert level_of(KASTHURI, 7).supercuboid_zyx == (256, 256, 256)


@pytest.mark.parametrize("level", [-1, 8])
def test_a_level_that_is_not_there_is_out_of_bounds(level: int) -> None:
    with pytest.raises(OutOfBounds, match=r"0\.\.7"):
        level_of(KASTHURI, level)


def test_there_is_one_more_level_than_scaling_levels() -> None:
    assert [level.level for level in levels_of(KASTHURI)] == list(range(8))


@pytest.mark.parametrize(
    ("x", "y", "levels"),
    [
        (2000, 2000, 1),
        (1000, 1000, 0),
        (10000, 10000, 4),
        (21504, 26624, 5),
        (5000, 600, 1),
        (600, 5000, 1),
        (5000, 500, 0),
        (1001, 501, 1),
        (1, 1, 0),
    ],
)
def test_automatic_levels_look_at_x_and_y_only(x: int, y: int, levels: int) -> None:
    assert automatic_scaling_levels((1, y, x)) == levels
    assert automatic_scaling_levels((100_000, y, x)) == levels


# -- boxes


@pytest.mark.parametrize("stop", [(1, 5, 5), (5, 1, 5), (5, 5, 0)])
def test_empty_and_inverted_boxes_are_refused(stop: tuple[int, int, int]) -> None:
    with pytest.raises(InvalidRequest, match="empty or inverted"):
        Box((1, 1, 1), stop)


def test_a_box_knows_its_shape() -> None:
    box = Box((1, 2, 3), (2, 4, 6))
    assert box.shape_zyx == (1, 2, 3)
    assert box.voxels == 6
    assert box.slices() == (slice(1, 2), slice(2, 4), slice(3, 6))
    assert text_xyz(box) == "3,6/2,4/1,2"


@given(boxes(), POINT)
def test_a_box_that_is_moved_back_is_the_same(box: Box, by: tuple[int, int, int]) -> None:
    there = box.shifted(by)
    assert there.shape_zyx == box.shape_zyx
    assert there.shifted((-by[0], -by[1], -by[2])) == box


@given(boxes(), boxes(), POINT)
def test_an_intersection_holds_exactly_what_both_hold(
    one: Box, other: Box, point: tuple[int, int, int]
) -> None:
    def holds(box: Box | None) -> bool:
        return box is not None and all(
            a <= p < b for a, p, b in zip(box.start_zyx, point, box.stop_zyx, strict=True)
        )

    common = one.intersection(other)
    assert common == other.intersection(one)
    assert holds(common) == (holds(one) and holds(other))
    assert one.contains(other) == (common == other)


def test_stored_boxes_count_from_zero() -> None:
    level = level_of(ISOTROPIC, 1)
    assert level.dataset_box() == Box((4, 1, 2), (69, 501, 503))
    assert level.stored_box(level.dataset_box()) == Box((0, 0, 0), (65, 500, 501))
    assert level.stored_box(Box((5, 1, 3), (6, 2, 503))) == Box((1, 0, 1), (2, 1, 501))


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("end", ["start", "stop"])
def test_a_box_one_voxel_beyond_the_level_is_refused(axis: int, end: str) -> None:
    level = level_of(ISOTROPIC, 1)
    legal = level.dataset_box()
    start, stop = list(legal.start_zyx), list(legal.stop_zyx)
    if end == "start":
        start[axis] -= 1
    else:
        stop[axis] += 1
    beyond = dataclasses.replace(
        legal,
        start_zyx=(start[0], start[1], start[2]),
        stop_zyx=(stop[0], stop[1], stop[2]),
    )
    with pytest.raises(OutOfBounds, match="2,503/1,501/4,69"):
        level.stored_box(beyond)


def test_near_isotropic_boxes_are_shorter_but_use_the_ordinary_offset() -> None:
    level = level_of(UNIT_TEST, 1)
    assert level.dataset_box(neariso=True) == Box((1, 0, 0), (334, 5000, 5000))
    box = Box((1, 0, 0), (334, 5000, 5000))
    assert level.stored_box(box, neariso=True) == Box((0, 0, 0), (333, 5000, 5000))
    with pytest.raises(OutOfBounds):
        level.stored_box(Box((1, 0, 0), (335, 1, 1)), neariso=True)


@given(st.integers(1, 1 << 40), st.integers(0, 20))
def test_every_voxel_of_a_level_covers_one_of_the_finest(size: int, level: int) -> None:
    found = level_of(geometry((size, 1, 1), (0, 0, 0), (1, 1, 1), levels=20), level)
    assert found.size_zyx[2] == math.ceil(size / (1 << level))
