"""Tiles: which voxels each of them shows (data plane 9.4).

A tile has 512 x 512 pixels. Along x and y a pixel is a voxel, and tile 0 begins at coordinate 0,
wherever the dataset begins; along z rows are stretched to the shape of a voxel, and tile 0 begins
with the first slice. What lies outside the data is blank.
"""

import math
import sys
from typing import NamedTuple

from ndcass.errors import OutOfBounds
from ndcass.geometry import Box, Level

TILE_PIXELS = 512


class Tile(NamedTuple):
    """The voxels of a tile, and where they lie on it.

    Attributes
    ----------
    box : Box
        In coordinates of the dataset, one voxel thick (maximum projections: more).
    left, top : int
        The pixel at which the box begins.
    rows : tuple of int or None
        Where z runs downward: the slice of the box that each row of pixels shows, from the first
        row on; rows beyond these are blank. None where rows are voxels.
    """

    box: Box
    left: int
    top: int
    rows: tuple[int, ...] | None = None


def xy_tile(level: Level, z: int, row: int, column: int, *, around: int = 0) -> Tile:
    """A tile of slice `z`, or of the slices up to `around` before and behind it.

    Raises
    ------
    OutOfBounds
        If no pixel of it is in the image.
    """
    (z0, y0, x0), (z1, y1, x1) = level.box.start_zyx, level.box.stop_zyx
    _check(z, z0, z1, "z")
    first_y, stop_y = _span(row, y0, y1, "rows")
    first_x, stop_x = _span(column, x0, x1, "columns")
    box = Box((max(z - around, z0), first_y, first_x), (min(z + around + 1, z1), stop_y, stop_x))
    return Tile(box, first_x - column * TILE_PIXELS, first_y - row * TILE_PIXELS)


def xz_tile(level: Level, y: int, row: int, column: int) -> Tile:
    """A tile of the plane at `y`; z runs downward. Raises as `xy_tile`."""
    (z0, y0, x0), (z1, y1, x1) = level.box.start_zyx, level.box.stop_zyx
    _check(y, y0, y1, "y")
    first, rows = _rows(row, z1 - z0, level.xz_aspect)
    first_x, stop_x = _span(column, x0, x1, "columns")
    start_z = z0 + first
    box = Box((start_z, y, first_x), (start_z + rows[-1] + 1, y + 1, stop_x))
    return Tile(box, first_x - column * TILE_PIXELS, 0, rows)


def yz_tile(level: Level, x: int, row: int, column: int) -> Tile:
    """A tile of the plane at `x`; y runs to the right, z downward. Raises as `xy_tile`."""
    (z0, y0, x0), (z1, y1, x1) = level.box.start_zyx, level.box.stop_zyx
    _check(x, x0, x1, "x")
    first, rows = _rows(row, z1 - z0, level.yz_aspect)
    first_y, stop_y = _span(column, y0, y1, "columns")
    start_z = z0 + first
    box = Box((start_z, first_y, x), (start_z + rows[-1] + 1, stop_y, x + 1))
    return Tile(box, first_y - column * TILE_PIXELS, 0, rows)


def _check(coordinate: int, start: int, stop: int, axis: str) -> None:
    if not start <= coordinate < stop:
        raise OutOfBounds(f"{axis} {coordinate} is outside {start}..{stop - 1}")


def _span(index: int, start: int, stop: int, what: str) -> tuple[int, int]:
    """The voxels of an axis that a tile covers; tile 0 begins at coordinate 0."""
    first, last = index * TILE_PIXELS, (index + 1) * TILE_PIXELS
    if last <= start or first >= stop:
        raise OutOfBounds(f"tile {index} of the {what} ({first},{last}) is outside {start},{stop}")
    return max(first, start), min(last, stop)


def _rows(index: int, slices: int, aspect: float) -> tuple[int, tuple[int, ...]]:
    """The first slice of a tile, and the slices of its rows counted from there.

    Row q of the whole picture shows slice ``floor(q / aspect)``.
    """
    aspect = max(aspect, sys.float_info.min)  # a quotient of extreme voxel sizes may be 0
    first_row = index * TILE_PIXELS
    shown: list[int] = []
    for row in range(first_row, first_row + TILE_PIXELS):
        position = row / aspect
        if position >= slices:
            break
        shown.append(math.floor(position))
    if not shown:
        raise OutOfBounds(f"tile {index} of the rows begins behind the last of {slices} slices")
    return shown[0], tuple(slice_ - shown[0] for slice_ in shown)
