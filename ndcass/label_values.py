"""Which labels an array holds, and where some of them are. Zero is no label.

Everything here is quick where labels lie in lumps, as they do, and no disaster on noise.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Voxels = npt.NDArray[Any]  # which type is only known at run time
Labels = npt.NDArray[Any]  # of the voxels' type, ascending, each once, without 0
Mask = npt.NDArray[np.bool_]

# Labels up to this are counted in a table, above it by sorting.
TABLE_LABELS = 1 << 20
# So few labels are compared one by one.
FEW_LABELS = 4


def unique_labels(voxels: Voxels) -> Labels:
    """Every label of an array.

    Parameters
    ----------
    voxels : ndarray of integers, order z, y, x
        Not necessarily contiguous.

    Notes
    -----
    The first voxel of a label, in C order, differs from the one in front of it on every axis, and
    few others do: comparing replaces nearly all of the sorting, which would take longer than
    writing the voxels (`make bench`, labels). Whole passes of comparisons are quicker than looking
    at the other axes only where a plane differs from the one before.
    """
    if not voxels.size:
        return np.empty(0, dtype=voxels.dtype)
    voxels = np.ascontiguousarray(voxels)
    flat, plane, row = voxels.reshape(-1), voxels[0].size, voxels.shape[2]
    behind = flat[plane:]
    # In front of the first voxel of a row is the last of another, which is as good.
    first = behind != flat[:-plane]
    first &= behind != flat[plane - 1 : -1]
    first &= behind != flat[plane - row : -row]
    values = np.concatenate((voxels[0][_may_be_first(voxels[0])], behind[first]))
    return sorted_labels(values)


def _may_be_first(plane: Voxels) -> Mask:
    first = np.empty(plane.shape, dtype=np.bool_)
    first[:, 0] = True
    np.not_equal(plane[:, 1:], plane[:, :-1], out=first[:, 1:])
    first[1:] &= plane[1:] != plane[:-1]
    return first


def sorted_labels(values: npt.NDArray[Any]) -> Labels:
    """The labels of a flat array; for one that is not mostly repetitions."""
    # numpy's unique makes a hash table, which takes a hundred times as long on noise.
    ordered = np.sort(values)
    is_new = np.ones(len(ordered), dtype=np.bool_)
    np.not_equal(ordered[1:], ordered[:-1], out=is_new[1:])
    is_new &= ordered != 0
    return ordered[is_new]


def joined_labels(some: Labels, others: npt.NDArray[Any]) -> Labels:
    """The labels of both; `others` may be in any order."""
    if not len(others):
        return some
    return sorted_labels(np.concatenate((some, others.astype(some.dtype, copy=False))))


def count_labels(voxels: Voxels) -> tuple[Labels, npt.NDArray[np.int64]]:
    """Every label of an array, and how many voxels have it."""
    labels = unique_labels(voxels)
    if not len(labels):
        return labels, np.empty(0, dtype=np.int64)
    flat = voxels.reshape(-1)
    if labels[0] > 0 and labels[-1] < TABLE_LABELS:
        table = np.bincount(flat.astype(np.intp, copy=False), minlength=int(labels[-1]) + 1)
        return labels, table[labels.astype(np.intp)].astype(np.int64, copy=False)
    ordered = np.sort(flat)
    first = np.searchsorted(ordered, labels, side="left")
    last = np.searchsorted(ordered, labels, side="right")
    return labels, (last - first).astype(np.int64, copy=False)


def has_label(voxels: Voxels, labels: Labels) -> Mask:
    """Where an array has one of some labels.

    Parameters
    ----------
    labels : ndarray
        Of the voxels' type, ascending.
    """
    if not len(labels):
        return np.zeros(voxels.shape, dtype=np.bool_)
    if len(labels) <= FEW_LABELS:
        found: Mask = voxels == labels[0]
        for label in labels[1:]:
            found |= voxels == label
        return found
    # Most cuboids of an object hold few of its labels.
    here = np.intersect1d(unique_labels(voxels), labels, assume_unique=True)
    if len(here) <= FEW_LABELS:
        return has_label(voxels, here)
    return np.isin(voxels, here)


def as_labels(labels: Sequence[int], dtype: np.dtype[Any]) -> Labels:
    """Labels as voxels of a type have them; those that it cannot hold are in no voxel."""
    limits = np.iinfo(dtype)
    held = sorted({int(label) for label in labels if 0 < label <= limits.max})
    return np.array(held, dtype=dtype)
