"""Which cuboids of which level derive from which voxels, as data.

A channel holds data of its own at its base level. Each plain level above it derives from the plain
level below; the near-isotropic twin of a level, which datasets of slices have where its factor is
above 1, derives from the plain level below as well, two slices becoming one. A `Stage` is one such
step. Boxes are stored boxes; cuboids are named by their Morton codes. How voxels are computed is in
``downsample.py``.
"""

import math
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ndcass import morton
from ndcass.geometry import Box, Geometry, Level, Zyx, level_of

# Cuboids of a box whose codes are computed at once.
_CODES_HELD = 4096


class Stage(NamedTuple):
    """One derived level: what it is and what it is made from."""

    level: Level
    source: Level  # plain
    neariso: bool
    pairs: bool  # whether two slices become one

    @property
    def size_zyx(self) -> Zyx:
        """Of the derived level; that of the near-isotropic twin may have no slice at all."""
        return self.level.neariso_size_zyx if self.neariso else self.level.size_zyx

    @property
    def factor_zyx(self) -> Zyx:
        """How many voxels of the source become one, on each axis."""
        return (2 if self.pairs else 1, 2, 2)

    def derived_box(self, source_box: Box) -> Box | None:
        """The voxels that derive from some of the source; None where there are none."""
        start = _divided(source_box.start_zyx, self.factor_zyx)
        last = _divided(_moved(source_box.stop_zyx, -1), self.factor_zyx)
        return _within(start, _moved(last, +1), self.size_zyx)

    def cuboid_box(self, code: int) -> Box | None:
        """The voxels of a derived cuboid that are inside the level; None where none is."""
        corner = _times(morton.decode(code), self.level.cuboid_zyx)
        z, y, x = corner
        depth, height, width = self.level.cuboid_zyx
        return _within(corner, (z + depth, y + height, x + width), self.size_zyx)

    def is_inner(self, derived_box: Box) -> bool:
        """Whether a box is of a whole cuboid, and every voxel of it has all of its sources."""
        if derived_box.shape_zyx != self.level.cuboid_zyx:
            return False
        (z, y, x), (fz, fy, fx) = derived_box.stop_zyx, self.factor_zyx
        depth, height, width = self.source.size_zyx
        return z * fz <= depth and y * fy <= height and x * fx <= width

    def first_source(self, derived_box: Box) -> Zyx:
        """The place in the grid of the first cuboid that a whole derived one is made from."""
        (z, y, x), (fz, fy, fx) = derived_box.start_zyx, self.factor_zyx
        depth, height, width = self.source.cuboid_zyx
        return (z * fz // depth, y * fy // height, x * fx // width)

    def source_box(self, derived_box: Box) -> Box:
        """The voxels that some of the derived level are made from, as far as there are any."""
        start = _times(derived_box.start_zyx, self.factor_zyx)
        stop = _times(derived_box.stop_zyx, self.factor_zyx)
        box = _within(start, stop, self.source.size_zyx)
        assert box is not None  # a derived voxel has at least its first source voxel
        return box


@lru_cache(maxsize=256)
def stages(geometry: Geometry, base: int) -> tuple[Stage, ...]:
    """All that derives from a base level, in an order in which it can be built."""
    found = []
    for number in range(base + 1, geometry.scaling_levels + 1):
        level, source = level_of(geometry, number), level_of(geometry, number - 1)
        if not geometry.isotropic and level.neariso_scaledown > 1:
            found.append(Stage(level, source, neariso=True, pairs=True))
        found.append(Stage(level, source, neariso=False, pairs=geometry.isotropic))
    return tuple(found)


def descendants(geometry: Geometry, box: Box, *, level: int) -> Iterator[tuple[Stage, Box]]:
    """All that derives, directly or not, from some voxels of a plain level, finest first."""
    source: Box | None = box
    for stage in stages(geometry, level):
        if source is None:
            return
        derived = stage.derived_box(source)
        if derived is not None:
            yield stage, derived
        if not stage.neariso:
            source = derived


def child_stages(geometry: Geometry, stage: Stage) -> tuple[Stage, ...]:
    """What derives directly from a derived level; nothing from a near-isotropic one."""
    if stage.neariso:
        return ()
    above = stages(geometry, stage.level.level)
    return tuple(child for child in above if child.source.level == stage.level.level)


def derived_codes(stage: Stage, codes: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """The cuboids that derive from some cuboids of the source, each once, ascending.

    Parameters
    ----------
    codes : ndarray of uint64, shape (n,)
        Morton codes.

    Notes
    -----
    What derives from one cuboid lies in one cuboid: cuboids are as large as at the level below or
    turn from flat to cubic ones, and either way a whole number of halves fits.
    """
    grid = morton.decode_many(codes)
    sizes = np.array([stage.source.cuboid_zyx, stage.factor_zyx], dtype=np.uint64)
    derived = grid * sizes[0] // sizes[1]
    inside = (derived < np.array(stage.size_zyx, dtype=np.uint64)).all(axis=1)
    grid = derived[inside] // np.array(stage.level.cuboid_zyx, dtype=np.uint64)
    return np.unique(morton.encode_many(grid))


def cuboids_of(box: Box, cuboid_zyx: Zyx) -> Sequence[int]:
    """Morton codes of the cuboids that a box touches, in no particular order."""
    return list(each_cuboid(box, cuboid_zyx))


def cuboid_count(box: Box, cuboid_zyx: Zyx) -> int:
    """How many cuboids a box touches."""
    return math.prod(map(len, _grid_spans(box, cuboid_zyx)))


def each_cuboid(box: Box, cuboid_zyx: Zyx) -> Iterator[int]:
    """As `cuboids_of`, one after the other: never more than some of them are held."""
    spans = _grid_spans(box, cuboid_zyx)
    shape = tuple(map(len, spans))
    count = math.prod(shape)
    first = (spans[0][0], spans[1][0], spans[2][0])
    if count == 1:
        yield morton.encode(first)
        return
    for begin in range(0, count, _CODES_HELD):
        places = np.arange(begin, min(begin + _CODES_HELD, count))
        grid = np.stack(np.unravel_index(places, shape), axis=1) + np.array(first)
        yield from map(int, morton.encode_many(grid.astype(np.uint64)))


def _grid_spans(box: Box, cuboid_zyx: Zyx) -> tuple[range, ...]:
    """The positions of the cuboids that a box touches, on each axis."""
    return tuple(
        range(start // size, -(-stop // size))
        for start, stop, size in zip(box.start_zyx, box.stop_zyx, cuboid_zyx, strict=True)
    )


def _within(start_zyx: Zyx, stop_zyx: Zyx, size_zyx: Zyx) -> Box | None:
    z, y, x = (min(stop, size) for stop, size in zip(stop_zyx, size_zyx, strict=True))
    if start_zyx[0] >= z or start_zyx[1] >= y or start_zyx[2] >= x:
        return None
    return Box(start_zyx, (z, y, x))


def _times(point_zyx: Zyx, factor_zyx: Zyx) -> Zyx:
    (z, y, x), (fz, fy, fx) = point_zyx, factor_zyx
    return (z * fz, y * fy, x * fx)


def _divided(point_zyx: Zyx, factor_zyx: Zyx) -> Zyx:
    (z, y, x), (fz, fy, fx) = point_zyx, factor_zyx
    return (z // fz, y // fy, x // fx)


def _moved(point_zyx: Zyx, by: int) -> Zyx:
    z, y, x = point_zyx
    return (z + by, y + by, x + by)
