"""Voxels that belong to several objects: the painted label and its exceptions, by box."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ndcass.concurrency import run_cpu
from ndcass.errors import TooLarge
from ndcass.geometry import Box, Level, Zyx
from ndcass.label_voxels import corner_of, look_at
from ndcass.merge import Cuboid
from ndcass.model import Channel
from ndcass.place import Place
from ndcass.plan import plan_parts
from ndcass.store.base import Stores

# Voxels of one answer.
MAX_SHARED = 1 << 20
AXES = 3

Ids = npt.NDArray[np.uint64]


class _Shared(NamedTuple):
    """Voxels (x, y, z; stored) of one cuboid, and the labels of each: as many lines as labels."""

    points_xyz: Ids
    labels: Ids
    voxel: npt.NDArray[np.int64]  # which of the points a label belongs to


async def shared_in_box(
    stores: Stores, channel: Channel, level: Level, box: Box, *, clipped: bool
) -> Ids:
    """The voxels of a box at timestep 0 that have more than one label.

    Parameters
    ----------
    stores : Stores
    channel : Channel
    level : Level
        A level that is stored.
    box : Box
        Stored box.
    clipped : bool
        Whether voxels beyond the box that lie in its cuboids are left out.

    Returns
    -------
    ndarray of uint64, shape (n, 3 + m)
        x, y, z (stored) and the labels, ascending, padded with zeros to the longest row.

    Raises
    ------
    TooLarge
        If they are more than `MAX_SHARED`.
    """
    place = Place(channel, level)
    codes = [part.morton for part in plan_parts(box, place.cuboid_zyx)]

    def look(code: int, cuboid: Cuboid) -> _Shared | None:
        return _shared(cuboid, corner_of(code, place.cuboid_zyx), box if clipped else None)

    found: list[_Shared] = []
    count = 0
    async for looked in look_at(stores, place, codes, look):
        some = [one for one in looked if one is not None]
        found += some
        count += sum(len(one.points_xyz) for one in some)
        if count > MAX_SHARED:
            raise TooLarge("shared voxels", asked=count, limit=MAX_SHARED, unit="voxels")
    return await run_cpu(_rows, found)


def _shared(cuboid: Cuboid, corner_zyx: Zyx, clip: Box | None) -> _Shared | None:
    exceptions = cuboid.exceptions
    if not len(exceptions):
        return None
    offsets, voxel = np.unique(exceptions.offsets, return_inverse=True)
    zyx = np.stack(np.unravel_index(offsets, cuboid.voxels.shape), axis=1).astype(np.int64)
    zyx += np.array(corner_zyx, dtype=np.int64)
    painted = cuboid.voxels.reshape(-1)[offsets].astype(np.uint64)
    labels = np.concatenate((painted, exceptions.labels))
    voxel = np.concatenate((np.arange(len(offsets)), voxel)).astype(np.int64)
    held = labels != 0
    if clip is not None:
        start, stop = np.array(clip.start_zyx), np.array(clip.stop_zyx)
        inside: Any = ((zyx >= start) & (zyx < stop)).all(axis=1)
        held &= inside[voxel]
        if not inside.any():
            return None
        renumbered = np.cumsum(inside) - 1
        zyx, voxel = zyx[inside], renumbered[voxel]
    return _Shared(zyx[:, ::-1].astype(np.uint64), labels[held], voxel[held])


def _rows(found: Sequence[_Shared]) -> Ids:
    if not found:
        return np.empty((0, AXES), dtype=np.uint64)
    points = np.concatenate([one.points_xyz for one in found])
    firsts = np.cumsum([0, *(len(one.points_xyz) for one in found[:-1])])
    voxel = np.concatenate([one.voxel + first for one, first in zip(found, firsts, strict=True)])
    labels = np.concatenate([one.labels for one in found])
    order = np.lexsort((labels, voxel))
    voxel, labels = voxel[order], labels[order]
    counts: npt.NDArray[Any] = np.bincount(voxel, minlength=len(points))
    column = np.arange(len(voxel)) - np.repeat(np.cumsum(counts) - counts, counts)
    rows = np.zeros((len(points), AXES + int(counts.max())), dtype=np.uint64)
    rows[:, :AXES] = points
    rows[voxel, AXES + column] = labels
    return rows
