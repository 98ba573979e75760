"""Connected components of a mask, and what its labels are asked for: by numpy on whole arrays."""

from typing import Any

import numpy as np
import numpy.typing as npt

Voxels = npt.NDArray[Any]  # labels of any type


def components(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.uint32]:
    """Numbers from 1 on, one for all voxels that are joined by faces, in the order of the first.

    Every voxel begins with a number of its own; neighbours take the lower one, and whoever has a
    number follows where that went, until nothing changes.
    """
    number = np.cumsum(mask.reshape(-1)).reshape(mask.shape) - 1
    pairs = []
    for axis in range(mask.ndim):
        front, back = _neighbours(number, axis)
        joined = np.logical_and(*_neighbours(mask, axis))
        pairs.append(np.stack((front[joined], back[joined])))
    low, high = np.concatenate(pairs, axis=1)
    root = np.arange(np.count_nonzero(mask))
    while True:
        a, b = root[low], root[high]
        if np.array_equal(a, b):
            break
        np.minimum.at(root, np.maximum(a, b), np.minimum(a, b))
        while not np.array_equal(root[root], root):
            root = root[root]
    found = np.zeros(mask.shape, dtype="<u4")
    found[mask] = np.unique(root, return_inverse=True)[1].reshape(-1) + 1
    return found


def places(labels: Voxels) -> dict[int, npt.NDArray[np.int64]]:
    """The flat indices of each label's voxels, without 0; labels below 65,536."""
    flat = np.flatnonzero(labels)
    values = labels.reshape(-1)[flat].astype(np.uint16)  # numpy sorts those without comparing
    order = np.argsort(values, kind="stable")
    found, starts = np.unique(values[order], return_index=True)
    groups = np.split(flat[order], starts[1:]) if len(found) else []
    return dict(zip(found.tolist(), groups, strict=True))


def sizes(labels: Voxels) -> list[list[int]]:
    """Label and number of voxels, without 0."""
    return [[label, len(flat)] for label, flat in places(labels).items()]


def touches(labels: Voxels) -> list[list[int]]:
    """Lower label, higher label, and how many faces they share."""
    pairs = []
    for axis in range(labels.ndim):
        front, back = _neighbours(labels, axis)
        differ = (front != back) & (front != 0) & (back != 0)
        pairs.append(np.sort(np.stack((front[differ], back[differ])), axis=0))
    found, counts = np.unique(np.concatenate(pairs, axis=1), axis=1, return_counts=True)
    return [[int(a), int(b), int(n)] for (a, b), n in zip(found.T, counts, strict=True)]


def statistics(labels: Voxels, image: Voxels) -> list[list[float]]:
    """Label, voxels, mean, deviation, least and greatest voxel of the image under it."""
    rows = []
    for label, flat in places(labels).items():
        under = image.reshape(-1)[flat].astype(np.float64)
        rows.append([label, len(flat), under.mean(), under.std(), under.min(), under.max()])
    return rows


def _neighbours(array: Voxels, axis: int) -> tuple[Voxels, Voxels]:
    whole = [slice(None)] * array.ndim
    front, back = list(whole), list(whole)
    front[axis], back[axis] = slice(None, -1), slice(1, None)
    return array[tuple(front)], array[tuple(back)]
