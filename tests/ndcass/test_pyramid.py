"""Which cuboids derive from which, against a map of single voxels."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ndcass import morton
from ndcass.geometry import Box, Geometry, Zyx, level_of
from ndcass.pyramid import (
    child_stages,
    cuboid_count,
    cuboids_of,
    derived_codes,
    descendants,
    each_cuboid,
    stages,
)


def geometry(
    size: Zyx = (40, 500, 700), *, isotropic: bool = False, z_res: float = 3.0, levels: int = 3
) -> Geometry:
    return Geometry(
        size_zyx=size,
        offset_zyx=(0, 0, 0),
        voxelres_zyx=(z_res, 1.0, 1.0),
        isotropic=isotropic,
        scaling_levels=levels,
    )


geometries = st.builds(
    geometry,
    st.tuples(st.integers(1, 40), st.integers(1, 900), st.integers(1, 900)),
    isotropic=st.booleans(),
    z_res=st.sampled_from([0.5, 1.0, 3.0, 30.0]),
    levels=st.integers(0, 5),
)


def boxes(size: Zyx) -> st.SearchStrategy[Box]:
    def axis(most: int) -> st.SearchStrategy[tuple[int, int]]:
        return st.integers(0, most - 1).flatmap(
            lambda a: st.tuples(st.just(a), st.integers(a + 1, most))
        )

    def box(spans: tuple[tuple[int, int], ...]) -> Box:
        (z0, z1), (y0, y1), (x0, x1) = spans
        return Box((z0, y0, x0), (z1, y1, x1))

    return st.tuples(*map(axis, size)).map(box)


def names(geometry: Geometry, base: int) -> list[tuple[int, bool]]:
    return [(stage.level.level, stage.neariso) for stage in stages(geometry, base)]


def test_every_level_above_the_base_is_derived() -> None:
    assert names(geometry(isotropic=True, z_res=1.0), 0) == [(1, False), (2, False), (3, False)]
    assert names(geometry(isotropic=True, z_res=1.0), 2) == [(3, False)]
    assert names(geometry(), 3) == []


def test_a_dataset_of_slices_has_near_isotropic_levels_where_the_factor_is_above_one() -> None:
    # A voxel is 3 high and 1, 2, 4, 8 wide: 4/3 rounds to one slice, 8/3 to three.
    assert names(geometry(z_res=3.0), 0) == [(1, False), (2, False), (3, True), (3, False)]
    assert names(geometry(z_res=30.0), 0) == [(1, False), (2, False), (3, False)]


@given(geometries, st.data())
def test_what_derives_from_a_box_is_what_its_voxels_are_part_of(
    geometry: Geometry, data: st.DataObject
) -> None:
    for stage in stages(geometry, 0):
        box = data.draw(boxes(stage.source.size_zyx))
        derived = stage.derived_box(box)
        corners = itertools.product(*zip(box.start_zyx, _last(box), strict=True))
        for corner in corners:
            parent = tuple(c // f for c, f in zip(corner, stage.factor_zyx, strict=True))
            exists = all(p < size for p, size in zip(parent, stage.size_zyx, strict=True))
            assert exists == (derived is not None and _holds(derived, parent))


@given(geometries, st.data())
def test_a_box_and_what_it_is_made_from_agree(geometry: Geometry, data: st.DataObject) -> None:
    for stage in stages(geometry, 0):
        if stage.size_zyx[0]:
            box = data.draw(boxes(stage.size_zyx))
            assert stage.derived_box(stage.source_box(box)) == box


@given(geometries, st.data())
def test_the_cuboids_of_a_level_are_cut_at_its_end(geometry: Geometry, data: st.DataObject) -> None:
    for stage in stages(geometry, 0):
        whole = Box((0, 0, 0), stage.level.size_zyx)
        found = [stage.cuboid_box(code) for code in cuboids_of(whole, stage.level.cuboid_zyx)]
        voxels = sum(box.voxels for box in found if box is not None)
        z, y, x = stage.size_zyx
        assert voxels == z * y * x


@given(geometries, st.data())
def test_descendants_are_children_of_children(geometry: Geometry, data: st.DataObject) -> None:
    box = data.draw(boxes(geometry.size_zyx))
    expected = []
    frontier = [
        (stage, derived)
        for stage in stages(geometry, 0)
        if stage.source.level == 0 and (derived := stage.derived_box(box)) is not None
    ]
    while frontier:
        expected += frontier
        frontier = [
            (child, derived)
            for stage, its in frontier
            for child in child_stages(geometry, stage)
            if (derived := child.derived_box(its)) is not None
        ]
    assert set(descendants(geometry, box, level=0)) == set(expected)


@given(geometries, st.data())
def test_a_box_lies_in_its_cuboids(geometry: Geometry, data: st.DataObject) -> None:
    level = level_of(geometry, 0)
    box = data.draw(boxes(level.size_zyx))
    codes = cuboids_of(box, level.cuboid_zyx)
    grid = [morton.decode(code) for code in codes]
    spans = [
        range(a // size, (b - 1) // size + 1)
        for a, b, size in zip(box.start_zyx, box.stop_zyx, level.cuboid_zyx, strict=True)
    ]
    assert sorted(grid) == sorted(itertools.product(*spans))


@given(geometries, st.data())
def test_what_derives_from_a_cuboid_lies_in_one(geometry: Geometry, data: st.DataObject) -> None:
    for stage in stages(geometry, 0):
        depth, height, width = stage.source.cuboid_zyx
        whole = Box((0, 0, 0), stage.source.size_zyx)
        codes = data.draw(
            st.lists(st.sampled_from(list(cuboids_of(whole, (depth, height, width)))))
        )
        expected = set()
        for code in codes:
            z, y, x = morton.decode(code)
            corner = (z * depth, y * height, x * width)
            box = whole.intersection(Box((0, 0, 0), (depth, height, width)).shifted(corner))
            assert box is not None
            derived = stage.derived_box(box)
            if derived is not None:
                [found] = cuboids_of(derived, stage.level.cuboid_zyx)
                expected.add(found)
        made = derived_codes(stage, np.array(codes, dtype=np.uint64))
        assert made.tolist() == sorted(expected)


@pytest.mark.parametrize("isotropic", [False, True])
def test_a_single_voxel_makes_one_cuboid_of_each_level_stale(isotropic: bool) -> None:
    volume = geometry((200, 5000, 7000), isotropic=isotropic, levels=6)
    voxel = Box((100, 4000, 6000), (101, 4001, 6001))
    for stage, box in descendants(volume, voxel, level=0):
        assert len(cuboids_of(box, stage.level.cuboid_zyx)) == 1


def _last(box: Box) -> Zyx:
    z, y, x = box.stop_zyx
    return (z - 1, y - 1, x - 1)


def _holds(box: Box, point: tuple[int, ...]) -> bool:
    return all(a <= p < b for a, p, b in zip(box.start_zyx, point, box.stop_zyx, strict=True))


@given(boxes((40, 900, 900)), st.sampled_from([(1, 3, 5), (16, 64, 64), (64, 64, 64)]))
def test_the_cuboids_of_a_box_are_counted_without_listing_them(box: Box, cuboid: Zyx) -> None:
    assert cuboid_count(box, cuboid) == len(set(cuboids_of(box, cuboid)))


def test_the_cuboids_of_the_largest_box_come_one_by_one() -> None:
    box = Box((0, 0, 0), (1 << 20, 1 << 26, 1 << 26))
    found = list(itertools.islice(each_cuboid(box, (16, 128, 128)), 10_000))
    assert len(set(found)) == len(found) == 10_000
