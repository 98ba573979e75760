"""The voxels of an object -> arrays to be written, one a cuboid. Nothing here reads or writes."""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ndcass import morton
from ndcass.geometry import Box, Zyx
from ndcass.label_values import Mask
from ndcass.label_voxels import OBJECT_TIMESTEP, corner_of, union_of
from ndcass.place import Place, Slab, Voxels
from ndcass.plan import plan_parts

Points = npt.NDArray[np.int64]  # shape (n, 3), order z, y, x

# Voxels that are painted before they are handed over.
PAINTED_BYTES = 8 << 20
# Paintings among which those of one cuboid are looked for.
JOINED_AT_ONCE = 4096


@dataclass(frozen=True, slots=True, eq=False)
class ObjectVoxels:
    """The voxels that one object brings.

    Attributes
    ----------
    label : int
    level : int
    points_zyx : ndarray of int64, shape (n, 3), or None
        Written before the blocks.
    blocks : sequence of (corner, mask)
        Where a mask (order z, y, x) is true, the voxel belongs to the object.
    """

    label: int
    level: int
    points_zyx: Points | None
    blocks: Sequence[tuple[Zyx, Mask]]


# The label where an object's voxels are in a box, else 0.
Painting = tuple[Slab, Voxels]


def painted(item: ObjectVoxels, place: Place) -> Iterator[Painting]:
    """All that an object brings, points first; each array within one cuboid."""
    if item.points_zyx is not None and len(item.points_zyx):
        yield from _painted_points(item.label, item.points_zyx, place)
    for corner, mask in item.blocks:
        yield from _painted_block(item.label, corner, mask, place)


def _painted_points(label: int, points: Points, place: Place) -> Iterator[Painting]:
    """One box a cuboid."""
    grid = points // np.array(place.cuboid_zyx, dtype=np.int64)
    codes = morton.encode_many(grid.astype(np.uint64))
    order = np.argsort(codes, kind="stable")
    points = points[order]
    for first, stop in _equal_runs(codes[order]):
        own = points[first:stop]
        low = own.min(axis=0)
        shape = own.max(axis=0) - low + 1
        voxels = np.zeros(shape.tolist(), dtype=place.channel.dtype)
        voxels[tuple((own - low).T)] = label
        box = Box((0, 0, 0), voxels.shape).shifted(zyx(low))
        yield Slab(place, OBJECT_TIMESTEP, box), voxels


def _equal_runs(ordered: npt.NDArray[Any]) -> Iterator[tuple[int, int]]:
    edges = np.flatnonzero(ordered[1:] != ordered[:-1]) + 1
    starts = [0, *edges.tolist()]
    yield from zip(starts, [*starts[1:], len(ordered)], strict=True)


def _painted_block(label: int, corner: Zyx, mask: Mask, place: Place) -> Iterator[Painting]:
    """One box a cuboid; none where the mask has nothing."""
    if not mask.size:
        return
    box = Box((0, 0, 0), zyx(mask.shape)).shifted(corner)
    for part in plan_parts(box, place.cuboid_zyx):
        share = mask[part.target]
        if share.any():
            offset = corner_of(part.morton, place.cuboid_zyx)
            start = zyx([at.start for at in part.source])
            its_box = Box((0, 0, 0), zyx(share.shape)).shifted(start).shifted(offset)
            voxels = share.astype(place.channel.dtype)
            voxels *= place.channel.dtype.type(label)
            yield Slab(place, OBJECT_TIMESTEP, its_box), voxels


def joined(paintings: Iterator[Painting]) -> Iterator[Painting]:
    """Those of one cuboid as one, unless they overlap; a cuboid's stay in their order.

    A cuboid that ten small objects lie in is then read, merged and stored once. All are of one
    channel.
    """
    while some := _next_to_join(paintings):
        by_cuboid: dict[tuple[int, Zyx], list[Painting]] = {}
        for painting in some:
            slab = painting[0]
            assert slab.place is not None  # `painted` gave it one
            size = slab.place.cuboid_zyx
            at = zyx(a // n for a, n in zip(slab.box.start_zyx, size, strict=True))
            by_cuboid.setdefault((slab.place.level.level, at), []).append(painting)
        for group in by_cuboid.values():
            yield from group if len(group) == 1 else _joined(group)


def _next_to_join(paintings: Iterator[Painting]) -> list[Painting]:
    found: list[Painting] = []
    size = 0
    for painting in itertools.islice(paintings, JOINED_AT_ONCE):
        found.append(painting)
        size += painting[1].nbytes
        if size >= PAINTED_BYTES:
            break
    return found


def _joined(group: Sequence[Painting]) -> Iterator[Painting]:
    slab = group[0][0]
    box = union_of(slab.box for slab, _ in group)
    assert box is not None  # there is at least one
    z, y, x = box.start_zyx
    out: Voxels | None = None
    for its_slab, voxels in group:
        where = its_slab.box.shifted((-z, -y, -x)).slices()
        if out is not None and np.logical_and(out[where], voxels).any():
            yield Slab(slab.place, OBJECT_TIMESTEP, box), out
            out = None
        if out is None:
            out = np.zeros(box.shape_zyx, dtype=voxels.dtype)
        out[where] |= voxels
    if out is not None:
        yield Slab(slab.place, OBJECT_TIMESTEP, box), out


def some_of(paintings: Iterator[Painting]) -> list[Painting]:
    """The next of them, until they take `PAINTED_BYTES`."""
    group: list[Painting] = []
    size = 0
    for item in paintings:
        group.append(item)
        size += item[1].nbytes
        if size >= PAINTED_BYTES:
            break
    return group


def zyx(numbers: Iterable[Any]) -> Zyx:
    """Three numbers, of numpy or not, as plain ones."""
    z, y, x = (int(number) for number in numbers)
    return (z, y, x)
