"""Boxes of voxels and the shape of a dataset at each resolution level.

What lives here: half-open boxes, the derived values of a level (sizes, offsets, cuboid shapes,
near-isotropic values). What does not: which cuboids a box touches (``plan.py``) and names
(``model.py``). Everything is in the order z, y, x.
"""

import math
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple

from ndcass.errors import InvalidRequest, OutOfBounds

Zyx = tuple[int, int, int]
ZyxFloat = tuple[float, float, float]

FLAT_CUBOID_ZYX: Zyx = (16, 128, 128)
CUBIC_CUBOID_ZYX: Zyx = (64, 64, 64)
# A supercuboid was the unit of the original's object store; clients still read its shape.
SUPERCUBOID_FACTOR = 4
# 21 bits an axis fit a 63-bit Morton code, whatever an image size says.
MAX_GRID = 1 << 21
MAX_SCALING_LEVELS = 20
# Auto-ingest stops halving below this many voxels an axis (control plane 1.9).
AUTO_LEVEL_LIMIT = 1000


@dataclass(frozen=True, slots=True)
class Box:
    """Half-open box of voxels: ``start <= p < stop`` on each axis, order z, y, x."""

    start_zyx: Zyx
    stop_zyx: Zyx

    def __post_init__(self) -> None:
        (z0, y0, x0), (z1, y1, x1) = self.start_zyx, self.stop_zyx
        if z0 >= z1 or y0 >= y1 or x0 >= x1:
            raise InvalidRequest(f"empty or inverted box: {self.start_zyx}..{self.stop_zyx}")

    @property
    def shape_zyx(self) -> Zyx:
        (z0, y0, x0), (z1, y1, x1) = self.start_zyx, self.stop_zyx
        return (z1 - z0, y1 - y0, x1 - x0)

    @property
    def voxels(self) -> int:
        return math.prod(self.shape_zyx)

    def shifted(self, by_zyx: Zyx) -> "Box":
        """The same box, moved by so many voxels."""
        (z0, y0, x0), (z1, y1, x1), (dz, dy, dx) = self.start_zyx, self.stop_zyx, by_zyx
        return Box((z0 + dz, y0 + dy, x0 + dx), (z1 + dz, y1 + dy, x1 + dx))

    def intersection(self, other: "Box") -> "Box | None":
        """The voxels in both boxes, or None if there are none."""
        (az, ay, ax), (bz, by, bx) = self.start_zyx, other.start_zyx
        (cz, cy, cx), (dz, dy, dx) = self.stop_zyx, other.stop_zyx
        start = (max(az, bz), max(ay, by), max(ax, bx))
        stop = (min(cz, dz), min(cy, dy), min(cx, dx))
        if start[0] >= stop[0] or start[1] >= stop[1] or start[2] >= stop[2]:
            return None
        return Box(start, stop)

    def contains(self, other: "Box") -> bool:
        """Whether every voxel of `other` is in this box."""
        (az, ay, ax), (bz, by, bx) = self.start_zyx, other.start_zyx
        (cz, cy, cx), (dz, dy, dx) = self.stop_zyx, other.stop_zyx
        return az <= bz and ay <= by and ax <= bx and dz <= cz and dy <= cy and dx <= cx

    def slices(self) -> tuple[slice, slice, slice]:
        """The box as an index into an array of order z, y, x."""
        (z0, y0, x0), (z1, y1, x1) = self.start_zyx, self.stop_zyx
        return (slice(z0, z1), slice(y0, y1), slice(x0, x1))


class Geometry(NamedTuple):
    """What a dataset says of its space at level 0; see `model.Dataset` for the checks."""

    size_zyx: Zyx
    offset_zyx: Zyx
    voxelres_zyx: ZyxFloat
    isotropic: bool
    scaling_levels: int


@dataclass(frozen=True, slots=True)
class Level:
    """Every derived value of one resolution level (control plane 1.8).

    Sizes and offsets are in voxels of the level, `voxelres_zyx` in the dataset's own unit.
    """

    level: int
    size_zyx: Zyx
    offset_zyx: Zyx
    voxelres_zyx: ZyxFloat
    cuboid_zyx: Zyx
    neariso_scaledown: int
    # What all levels of the dataset follow from, for whoever needs the others too.
    geometry: "Geometry" = field(repr=False)
    # The legal coordinates, offset included; kept, for every request asks for them.
    box: Box = field(init=False, repr=False)
    neariso_box: Box | None = field(init=False, repr=False)

    def __post_init__(self) -> None:
        box = Box((0, 0, 0), self.size_zyx).shifted(self.offset_zyx)
        object.__setattr__(self, "box", box)
        neariso = None
        if self.neariso_size_zyx[0]:
            neariso = Box((0, 0, 0), self.neariso_size_zyx).shifted(self.offset_zyx)
        object.__setattr__(self, "neariso_box", neariso)

    @property
    def supercuboid_zyx(self) -> Zyx:
        z, y, x = self.cuboid_zyx
        return (z * SUPERCUBOID_FACTOR, y * SUPERCUBOID_FACTOR, x * SUPERCUBOID_FACTOR)

    @property
    def neariso_size_zyx(self) -> Zyx:
        z, y, x = self.size_zyx
        return (z // self.neariso_scaledown, y, x)

    @property
    def neariso_voxelres_zyx(self) -> ZyxFloat:
        z, y, x = self.voxelres_zyx
        return (z * self.neariso_scaledown, y, x)

    @property
    def neariso_offset_zyx(self) -> ZyxFloat:
        """Reported only: a near-isotropic request still subtracts the ordinary offset."""
        z, y, x = self.offset_zyx
        return (z / self.neariso_scaledown, float(y), float(x))

    @property
    def xz_aspect(self) -> float:
        """Height of a voxel in an xz picture; the original divides by the y size (data plane 1)."""
        return self.voxelres_zyx[0] / self.voxelres_zyx[1]

    @property
    def yz_aspect(self) -> float:
        """Height of a voxel in a yz picture; the original divides by the x size (data plane 1)."""
        return self.voxelres_zyx[0] / self.voxelres_zyx[2]

    def dataset_box(self, *, neariso: bool = False) -> Box:
        """The legal coordinates at this level, offset included.

        Raises
        ------
        OutOfBounds
            If the level has no near-isotropic slice at all.
        """
        box = self.neariso_box if neariso else self.box
        if box is None:
            raise OutOfBounds(f"level {self.level} has no near-isotropic slices")
        return box

    def stored_box(self, dataset_box: Box, *, neariso: bool = False) -> Box:
        """`dataset_box` counted from zero.

        Raises
        ------
        OutOfBounds
            If the box reaches beyond the level.
        """
        legal = self.dataset_box(neariso=neariso)
        if not legal.contains(dataset_box):
            raise OutOfBounds(
                f"box {text_xyz(dataset_box)} reaches beyond {text_xyz(legal)}, "
                f"the extent of level {self.level}"
            )
        z, y, x = self.offset_zyx
        if not (z or y or x):
            return dataset_box
        return dataset_box.shifted((-z, -y, -x))


def text_xyz(box: Box) -> str:
    """`box` as clients write it: ``x0,x1/y0,y1/z0,z1``."""
    pairs = list(zip(box.start_zyx, box.stop_zyx, strict=True))
    return "/".join(f"{a},{b}" for a, b in reversed(pairs))


@lru_cache(maxsize=1024)
def level_of(geometry: Geometry, level: int) -> Level:
    """The derived values of one level.

    Raises
    ------
    OutOfBounds
        If the dataset has no such level.

    Notes
    -----
    Source: the public ndstore service, state of May 2017 (control plane 1.8). Its exception for
    one dataset of 135424 voxels is dropped.
    """
    if not 0 <= level <= geometry.scaling_levels:
        raise OutOfBounds(f"level {level} is outside 0..{geometry.scaling_levels}")
    factor = 1 << level
    factor_z = factor if geometry.isotropic else 1
    size_z, size_y, size_x = geometry.size_zyx
    offset_z, offset_y, offset_x = geometry.offset_zyx
    res_z, res_y, res_x = geometry.voxelres_zyx
    voxelres_zyx = (res_z * factor_z, res_y * factor, res_x * factor)
    return Level(
        level=level,
        size_zyx=(
            (size_z - 1) // factor_z + 1,
            (size_y - 1) // factor + 1,
            (size_x - 1) // factor + 1,
        ),
        offset_zyx=(offset_z // factor_z, offset_y // factor, offset_x // factor),
        voxelres_zyx=voxelres_zyx,
        cuboid_zyx=_cuboid_zyx(geometry, factor),
        neariso_scaledown=_neariso_scaledown(voxelres_zyx),
        geometry=geometry,
    )


def levels_of(geometry: Geometry) -> tuple[Level, ...]:
    """Every level of a dataset, finest first; there are ``scaling_levels + 1``."""
    return tuple(level_of(geometry, level) for level in range(geometry.scaling_levels + 1))


def automatic_scaling_levels(size_zyx: Zyx) -> int:
    """How many levels above 0 auto-ingest makes where none are asked for (control plane 1.9)."""
    _, y, x = size_zyx
    levels = 0
    while (x > AUTO_LEVEL_LIMIT or y > AUTO_LEVEL_LIMIT) and min(x, y) > AUTO_LEVEL_LIMIT // 2:
        x, y, levels = x // 2, y // 2, levels + 1
    return levels


def _cuboid_zyx(geometry: Geometry, factor: int) -> Zyx:
    """Flat cuboids while the voxels are flatter than long, cubic ones above."""
    if geometry.isotropic:
        return CUBIC_CUBOID_ZYX
    ratio = geometry.voxelres_zyx[0] / geometry.voxelres_zyx[2] / factor
    return FLAT_CUBOID_ZYX if ratio > 0.5 else CUBIC_CUBOID_ZYX


def _neariso_scaledown(voxelres_zyx: ZyxFloat) -> int:
    """How many slices would make a voxel about isotropic, ties upward."""
    ratio = voxelres_zyx[0] / voxelres_zyx[1]
    return 1 if ratio >= 1 else math.floor(1 / ratio + 0.5)
