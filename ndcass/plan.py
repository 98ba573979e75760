"""A box -> what to read or write of which cuboid, as data.

`plan_parts` cuts a box along the cuboid grid, `plan_slabs` cuts it into pieces that follow each
other in C order, so that an answer can be sent while the next piece is read, `plan_blocks` into
pieces of whole cuboids. Nothing here reads or writes.
"""

import math
from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from ndcass import morton
from ndcass.geometry import Box, Zyx

Slices = tuple[slice, slice, slice]
EVERY_VOXEL: Zyx = (1, 1, 1)

# Below this many cuboids the scalar Morton code is quicker than an array's.
_FEW = 16
# Plans of about this many cuboids at most are remembered; all of them take a few MiB.
_REMEMBERED = 64


class Part(NamedTuple):
    """The share of one cuboid in a box.

    `source` are the voxels inside the cuboid, `target` the same voxels inside the box, both in the
    order z, y, x. `source` has steps where a box takes only some of the voxels.
    """

    morton: int
    source: Slices
    target: Slices
    whole: bool  # the box covers all of the cuboid


def plan_parts(box: Box, cuboid_zyx: Zyx, step_zyx: Zyx = EVERY_VOXEL) -> list[Part]:
    """The cuboids that a box touches, in Morton order.

    Parameters
    ----------
    box : Box
        Stored box: counted from zero, inside the level.
    cuboid_zyx : tuple of int
    step_zyx : tuple of int
        Where the box is one of a coarser level: voxel p of it is voxel ``p * step`` of the cuboids.

    Raises
    ------
    InvalidRequest
        If a cuboid lies beyond 2^21 on an axis.
    """
    if step_zyx != EVERY_VOXEL or box.voxels > _REMEMBERED * math.prod(cuboid_zyx):
        return _parts(box, cuboid_zyx, step_zyx)
    return list(_remembered_parts(box, cuboid_zyx))


@lru_cache(maxsize=256)
def _remembered_parts(box: Box, cuboid_zyx: Zyx) -> tuple[Part, ...]:
    return tuple(_parts(box, cuboid_zyx, EVERY_VOXEL))


def _parts(box: Box, cuboid_zyx: Zyx, step_zyx: Zyx) -> list[Part]:
    axes = [
        list(_cut(*axis))
        for axis in zip(box.start_zyx, box.stop_zyx, cuboid_zyx, step_zyx, strict=True)
    ]
    zs, ys, xs = axes
    codes = _codes([[cell.grid for cell in axis] for axis in axes])
    parts = [
        Part(
            codes[k],
            (z.source, y.source, x.source),
            (z.target, y.target, x.target),
            z.whole and y.whole and x.whole,
        )
        for k, (z, y, x) in enumerate((z, y, x) for z in zs for y in ys for x in xs)
    ]
    parts.sort(key=lambda part: part.morton)
    return parts


class _Cell(NamedTuple):
    """One cuboid's share of one axis."""

    grid: int
    source: slice
    target: slice
    whole: bool


def _cut(start: int, stop: int, size: int, step: int) -> Iterator[_Cell]:
    at = start
    while at < stop:
        grid = at * step // size
        origin = grid * size
        end = min(stop, -(-(origin + size) // step))
        yield _Cell(
            grid,
            slice(at * step - origin, (end - 1) * step - origin + 1, step if step > 1 else None),
            slice(at - start, end - start),
            end - at == size,
        )
        at = end


def _codes(grids: list[list[int]]) -> list[int]:
    """Morton codes of the product of three lists of grid positions, in C order."""
    if math.prod(map(len, grids)) <= _FEW:
        z_codes, y_codes, x_codes = (
            [morton.encode((g, 0, 0)) for g in grids[0]],
            [morton.encode((0, g, 0)) for g in grids[1]],
            [morton.encode((0, 0, g)) for g in grids[2]],
        )
        return [z | y | x for z in z_codes for y in y_codes for x in x_codes]
    mesh = np.meshgrid(*(np.array(g, dtype=np.uint64) for g in grids), indexing="ij")
    return [int(c) for c in morton.encode_many(np.stack([m.ravel() for m in mesh], axis=1))]


def plan_slabs(
    box: Box, cuboid_zyx: Zyx, *, plane_step: int, itemsize: int, limit_bytes: int
) -> list[Box]:
    """Boxes that cover `box`, follow each other in C order and have at most about `limit_bytes`.

    A slab is a layer of cuboids where that fits, else a few z planes (a multiple of `plane_step`,
    the planes that are stored as one block), else rows of cuboids of one plane. One row of cuboids
    of one plane is the least, whatever its size.

    Parameters
    ----------
    box : Box
        Stored box.
    cuboid_zyx : tuple of int
    plane_step : int
        A divisor of the cuboid's depth.
    itemsize : int
        Bytes of a voxel.
    limit_bytes : int
    """
    (z0, y0, x0), (z1, y1, x1) = box.start_zyx, box.stop_zyx
    plane_bytes = (y1 - y0) * (x1 - x0) * itemsize
    if plane_bytes > limit_bytes:
        rows = max(1, limit_bytes // ((x1 - x0) * itemsize))
        step = max(cuboid_zyx[1], rows - rows % cuboid_zyx[1])
        return [
            Box((z, a, x0), (z + 1, b, x1)) for z in range(z0, z1) for a, b in _steps(y0, y1, step)
        ]
    planes = max(1, limit_bytes // plane_bytes)
    return [
        Box((a, y0, x0), (b, y1, x1))
        for a, b in _steps(z0, z1, _planes(planes, cuboid_zyx[0], plane_step))
    ]


def plan_blocks(box: Box, cuboid_zyx: Zyx, *, itemsize: int, limit_bytes: int) -> Iterator[Box]:
    """Boxes that cover `box`, each of whole cuboids as far as it goes, of at most `limit_bytes`.

    Every cuboid is in one of them only; a single one is the least, whatever its size. The cuboids
    of a block follow each other along the Morton curve, as they do in the store. For who needs all
    voxels of a box once and in no order.
    """
    cuboids = max(1, limit_bytes // (itemsize * math.prod(cuboid_zyx)))
    spans = [
        -(-stop // size) - start // size
        for start, stop, size in zip(box.start_zyx, box.stop_zyx, cuboid_zyx, strict=True)
    ]
    (z0, y0, x0), (z1, y1, x1) = box.start_zyx, box.stop_zyx
    along_z, along_y, along_x = _curve_block(spans, cuboids)
    for za, zb in _steps(z0, z1, along_z * cuboid_zyx[0]):
        for ya, yb in _steps(y0, y1, along_y * cuboid_zyx[1]):
            for xa, xb in _steps(x0, x1, along_x * cuboid_zyx[2]):
                yield Box((za, ya, xa), (zb, yb, xb))


def _curve_block(spans: list[int], cuboids: int) -> tuple[int, int, int]:
    """Cuboids of a block along z, y, x: powers of two, x is doubled first, then y, then z."""
    block = [1, 1, 1]
    growing = True
    while growing:
        growing = False
        for axis in (2, 1, 0):
            if block[axis] < spans[axis] and 2 * math.prod(block) <= cuboids:
                block[axis] *= 2
                growing = True
    return block[0], block[1], block[2]


def _planes(most: int, depth: int, plane_step: int) -> int:
    """The best number of planes in a slab: whole layers, halves of one, blocks, then one plane."""
    if most >= depth:
        # A power of two of layers lies together along the curve.
        return depth << ((most // depth).bit_length() - 1)
    while depth > most and depth % 2 == 0 and depth // 2 >= plane_step:
        depth //= 2
    return depth if depth <= most else 1


def _steps(start: int, stop: int, step: int) -> Iterator[tuple[int, int]]:
    """[start, stop) cut at the multiples of `step`."""
    while start < stop:
        end = min(stop, (start // step + 1) * step)
        yield start, end
        start = end
