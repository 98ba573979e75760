"""Where the voxels of a level that is not stored come from: index arithmetic (data plane 6).

A channel without a pyramid has its voxels at one level, its base. Finer levels repeat them, coarser
ones take the first voxel of each block. Coordinates count from zero at either level, so voxel p of
a level k steps coarser than the base is voxel ``p << k`` of the base, and of one k steps finer
``p >> k``. What lives here: which voxels, and repeating them. What does not: reading them.
"""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ndcass.geometry import Box, Geometry, Level, Zyx, level_of

Voxels = npt.NDArray[Any]  # which type is only known at run time


class Source(NamedTuple):
    """The level that holds the voxels of another one.

    Attributes
    ----------
    level : Level
    steps : int
        How many levels coarser than this one the other is; below zero where it is finer.
    isotropic : bool
        Whether z is halved from level to level as x and y are.
    """

    level: Level
    steps: int
    isotropic: bool

    @property
    def is_coarser(self) -> bool:
        """Whether its voxels are repeated, not left out."""
        return self.steps < 0

    @property
    def factor_zyx(self) -> Zyx:
        """Voxels of the finer of the two levels in one of the coarser."""
        factor = 1 << abs(self.steps)
        return (factor if self.isotropic else 1, factor, factor)


def source_of(geometry: Geometry, level: int, base: int) -> Source:
    """Where the voxels of a level are if only level `base` is stored.

    Raises
    ------
    OutOfBounds
        If the dataset has no level `base`.
    """
    return Source(level_of(geometry, base), level - base, geometry.isotropic)


def coarse_box(box: Box, source: Source) -> Box:
    """The voxels of a coarser source that a stored box of the finer level shows."""
    start, stop, factor = box.start_zyx, box.stop_zyx, source.factor_zyx
    return Box(
        (start[0] // factor[0], start[1] // factor[1], start[2] // factor[2]),
        (-(-stop[0] // factor[0]), -(-stop[1] // factor[1]), -(-stop[2] // factor[2])),
    )


def enlarge(voxels: Voxels, source: Source, box: Box, out: Voxels) -> None:
    """Fill `out` with a box of the finer level from those of the coarser source.

    Parameters
    ----------
    voxels : ndarray, order z, y, x
        What `coarse_box` names.
    source : Source
    box : Box
        Stored box of the finer level.
    out : ndarray, order z, y, x
        Of the box's shape and the voxels' type.
    """
    factor_zyx = source.factor_zyx
    axes = [axis for axis in (2, 1, 0) if factor_zyx[axis] > 1]
    # From the innermost axis on: the work of each is a small share of the next one's.
    for axis in axes[:-1]:
        shape = list(voxels.shape)
        shape[axis] = out.shape[axis]
        wider = np.empty(shape, dtype=out.dtype)
        _repeat(voxels, wider, axis, box.start_zyx[axis], factor_zyx[axis])
        voxels = wider
    _repeat(voxels, out, axes[-1], box.start_zyx[axes[-1]], factor_zyx[axes[-1]])


def _repeat(voxels: Voxels, out: Voxels, axis: int, start: int, factor: int) -> None:
    """Position i of `out` on an axis becomes position ``(start + i) // factor`` of the source."""
    voxels, out = np.moveaxis(voxels, axis, 0), np.moveaxis(out, axis, 0)
    length, first = len(out), start // factor
    if len(voxels) < factor:
        for index in range(len(voxels)):
            begin = max(0, (first + index) * factor - start)
            out[begin : (first + index + 1) * factor - start] = voxels[index]
        return
    # All positions that lie alike in their block, in one go: it is never more steps than blocks.
    for begin in range(min(factor, length)):
        share = out[begin::factor]
        at = (start + begin) // factor - first
        share[...] = voxels[at : at + len(share)]


def cuboids_under(box: Box, source: Source) -> int:
    """How many cuboids of a finer source a stored box of the coarser level takes voxels of."""
    return math.prod(_cells(box, source))


def pieces(box: Box, source: Source, most: int) -> Iterator[Box]:
    """A stored box in pieces that take voxels of at most `most` cuboids of a finer source each.

    Cut where cuboids end, so that none is read twice.
    """
    cells = _cells(box, source)
    if math.prod(cells) <= most:
        yield box
        return
    axis = max(range(3), key=lambda axis: cells[axis])
    start, stop = list(box.start_zyx), list(box.stop_zyx)
    cuboid, factor = source.level.cuboid_zyx[axis], source.factor_zyx[axis]
    # Voxels of the box in one cuboid are a power of two, as are both of these.
    each = max(1, cuboid // factor)
    middle = (start[axis] + stop[axis]) // 2 // each * each
    if middle <= start[axis]:
        middle += each
    for a, b in ((start[axis], middle), (middle, stop[axis])):
        start[axis], stop[axis] = a, b
        piece = Box((start[0], start[1], start[2]), (stop[0], stop[1], stop[2]))
        yield from pieces(piece, source, most)


def _cells(box: Box, source: Source) -> list[int]:
    """Cuboids of a finer source along each axis."""
    return [
        stop - start
        if factor >= cuboid
        else (stop - 1) * factor // cuboid - start * factor // cuboid + 1
        for start, stop, factor, cuboid in zip(
            box.start_zyx, box.stop_zyx, source.factor_zyx, source.level.cuboid_zyx, strict=True
        )
    ]
