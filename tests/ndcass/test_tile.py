"""Which voxels a tile shows, against asking every pixel."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ndcass.errors import OutOfBounds
from ndcass.geometry import Geometry, Level, level_of
from ndcass.tile import TILE_PIXELS, Tile, xy_tile, xz_tile, yz_tile


def level(
    size: tuple[int, int, int],
    offset: tuple[int, int, int] = (0, 0, 0),
    voxel: tuple[float, float, float] = (1.0, 1.0, 1.0),
) -> Level:
    """Level 0 of a dataset, order z, y, x."""
    return level_of(Geometry(size, offset, voxel, isotropic=False, scaling_levels=0), 0)


@given(
    size=st.integers(1, 2000),
    offset=st.integers(0, 1500),
    row=st.integers(0, 8),
    column=st.integers(0, 8),
)
def test_every_pixel_of_an_xy_tile_is_its_own_voxel(
    size: int, offset: int, row: int, column: int
) -> None:
    here = level((4, size, 900), (2, offset, 7))
    shown_y = [y for y in range(512 * row, 512 * (row + 1)) if offset <= y < offset + size]
    shown_x = [x for x in range(512 * column, 512 * (column + 1)) if 7 <= x < 907]
    if not shown_y or not shown_x:
        with pytest.raises(OutOfBounds):
            xy_tile(here, 3, row, column)
        return
    tile = xy_tile(here, 3, row, column)
    assert tile.box.start_zyx == (3, shown_y[0], shown_x[0])
    assert tile.box.stop_zyx == (4, shown_y[-1] + 1, shown_x[-1] + 1)
    assert (tile.top, tile.left) == (shown_y[0] - 512 * row, shown_x[0] - 512 * column)
    assert tile.rows is None


@given(
    slices=st.integers(1, 3000),
    offset=st.integers(0, 50),
    aspect=st.sampled_from([0.01, 0.3, 0.75, 1.0, 2.0, 7.5, 10.0, 600.0]),
    row=st.integers(0, 12),
)
def test_every_row_of_a_tile_across_shows_the_slice_at_its_height(
    slices: int, offset: int, aspect: float, row: int
) -> None:
    here = level((slices, 40, 40), (offset, 0, 0), (aspect, 1.0, 1.0))
    shown = [math.floor(q / aspect) for q in range(512 * row, 512 * (row + 1))]
    shown = [z for z in shown if z < slices]
    for make in (xz_tile, yz_tile):
        if not shown:
            with pytest.raises(OutOfBounds):
                make(here, 5, row, 0)
            continue
        tile = make(here, 5, row, 0)
        assert tile.rows is not None
        assert [tile.box.start_zyx[0] + z for z in tile.rows] == [z + offset for z in shown]
        assert tile.box.stop_zyx[0] == shown[-1] + offset + 1
        assert tile.top == 0


def test_planes_across_have_their_own_aspect() -> None:
    here = level((100, 40, 40), voxel=(8.0, 4.0, 2.0))
    assert rows(xz_tile(here, 0, 0, 0))[:4] == (0, 0, 1, 1)
    assert rows(yz_tile(here, 0, 0, 0))[:8] == (0, 0, 0, 0, 1, 1, 1, 1)


def rows(tile: Tile) -> tuple[int, ...]:
    assert tile.rows is not None
    return tile.rows


@pytest.mark.parametrize(("z", "start", "stop"), [(2, 2, 6), (4, 2, 8), (9, 6, 10)])
def test_slices_around_end_with_the_data(z: int, start: int, stop: int) -> None:
    tile = xy_tile(level((8, 40, 40), (2, 0, 0)), z, 0, 0, around=3)
    assert (tile.box.start_zyx[0], tile.box.stop_zyx[0]) == (start, stop)


@pytest.mark.parametrize("make", [xy_tile, xz_tile, yz_tile])
@pytest.mark.parametrize("coordinate", [4, 45])
def test_a_plane_outside_has_no_tile(make: type, coordinate: int) -> None:
    here = level((40, 40, 40), (5, 5, 5))
    with pytest.raises(OutOfBounds):
        make(here, coordinate, 0, 0)
    assert make(here, coordinate + (1 if coordinate == 4 else -1), 0, 0)


def test_a_tile_is_as_large_as_viewers_expect() -> None:
    assert TILE_PIXELS == 512
