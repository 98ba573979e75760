"""How a volume is cut for the way: bands that are read at once, boxes that are sent at once.

Cuts follow the cuboid grid, so that no cuboid is in two boxes. Bands have the full width of the
volume and the depth of one layer of cuboids; that is the order in which files hold voxels.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from ndcass.geometry import Box, Zyx

# The most voxels of a source in memory at once, twice: one band is sent while the next is read.
BAND_BYTES = 256 << 20


@dataclass(frozen=True, slots=True)
class Band:
    """Some rows of some sections, and the boxes that it is sent as."""

    box: Box
    boxes: tuple[Box, ...]


def plan_bands(
    box: Box,
    *,
    origin_zyx: Zyx,
    cuboid_zyx: Zyx,
    itemsize: int,
    box_bytes: int,
    band_bytes: int = BAND_BYTES,
) -> Iterator[Band]:
    """Cut a box.

    Parameters
    ----------
    box : Box
    origin_zyx : tuple of int
        Where the cuboid grid begins, in the coordinates of `box`.
    cuboid_zyx : tuple of int
    itemsize : int
        Bytes of a voxel.
    box_bytes, band_bytes : int
        The most that a box and a band may have, but for a single cuboid and a single row of them.

    Yields
    ------
    Band
        In the order z, y; the boxes of each in the order y, x. Together they are `box`.
    """
    layer_z, row_y, column_x = cuboid_zyx
    _, _, width = box.shape_zyx
    # Boxes as wide as possible, then as high as possible.
    cuboid_bytes = layer_z * row_y * column_x * itemsize
    columns = min(max(1, box_bytes // cuboid_bytes), -(-width // column_x) + 1)
    rows = max(1, box_bytes // (columns * cuboid_bytes))
    band_rows = max(1, band_bytes // (layer_z * row_y * width * itemsize))
    band_rows = max(rows, band_rows - band_rows % rows)
    for z0, z1 in cuts(box.start_zyx[0], box.stop_zyx[0], origin=origin_zyx[0], step=layer_z):
        y_range = (box.start_zyx[1], box.stop_zyx[1])
        for y0, y1 in cuts(*y_range, origin=origin_zyx[1], step=row_y * band_rows):
            band = Box((z0, y0, box.start_zyx[2]), (z1, y1, box.stop_zyx[2]))
            yield Band(band, tuple(_boxes(band, origin_zyx, row_y * rows, column_x * columns)))


def cuts(start: int, stop: int, *, origin: int, step: int) -> Iterator[tuple[int, int]]:
    """Cut ``start..stop`` wherever the distance from `origin` is a multiple of `step`."""
    while start < stop:
        following = min(stop, start + step - (start - origin) % step)
        yield start, following
        start = following


def _boxes(band: Box, origin_zyx: Zyx, step_y: int, step_x: int) -> Iterator[Box]:
    (z0, y_first, x_first), (z1, y_last, x_last) = band.start_zyx, band.stop_zyx
    for y0, y1 in cuts(y_first, y_last, origin=origin_zyx[1], step=step_y):
        for x0, x1 in cuts(x_first, x_last, origin=origin_zyx[2], step=step_x):
            yield Box((z0, y0, x0), (z1, y1, x1))
