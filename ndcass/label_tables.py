"""What is counted of labels in one block of voxels, and adding the tables of many blocks up.

A table is a structured array with a row for each label, or pair of labels, ascending by it. Nothing
here reads anything.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from ndcass.errors import TooLarge
from ndcass.label_values import Labels, count_labels, sorted_labels, unique_labels

Voxels = npt.NDArray[Any]  # which type is only known at run time
Table = npt.NDArray[np.void]  # structured: the columns are its fields

SIZES = np.dtype([("label", "<u8"), ("voxels", "<i8")])
TOUCHES = np.dtype([("label", "<u8"), ("other", "<u8"), ("faces", "<i8")])
# `m2` is the sum of the squared distances from the mean: unlike sums of squares, it adds up without
# losing digits (Chan, Golub, LeVeque: 1979).
MOMENTS = np.dtype(
    [
        ("label", "<u8"),
        ("voxels", "<i8"),
        ("mean", "<f8"),
        ("m2", "<f8"),
        ("min", "<f8"),
        ("max", "<f8"),
    ]
)
# Rows that wait until they are added up.
WAITING_ROWS = 1 << 18


class Total:
    """The sum of many tables, of at most so many rows."""

    def __init__(self, dtype: np.dtype[Any], add: Callable[[Table], Table], most_rows: int) -> None:
        self._added = np.empty(0, dtype=dtype)
        self._add = add
        self._most_rows = most_rows
        self._waiting: list[Table] = []
        self._waiting_rows = 0

    def take(self, table: Table) -> None:
        """Add one.

        Raises
        ------
        TooLarge
            If the sum has too many rows.
        """
        self._waiting.append(table)
        self._waiting_rows += len(table)
        if self._waiting_rows > max(WAITING_ROWS, len(self._added)):
            self.table()

    def table(self) -> Table:
        """All so far, ascending."""
        self._added = self._add(np.concatenate([self._added, *self._waiting]))
        self._waiting, self._waiting_rows = [], 0
        if len(self._added) > self._most_rows:
            raise TooLarge(
                "rows of the answer", asked=len(self._added), limit=self._most_rows, unit="rows"
            )
        return self._added


# -- sizes


def sizes_of(voxels: Voxels, also: Labels) -> Table:
    """How many voxels each label has; `also` are the labels of exceptions, one a voxel."""
    labels, counts = count_labels(voxels)
    table = np.empty(len(labels), dtype=SIZES)
    table["label"], table["voxels"] = labels, counts
    if not len(also):
        return table
    more = np.ones(len(also), dtype=SIZES)
    more["label"] = also
    return add_sizes(np.concatenate((table, more)))


def add_sizes(rows: Table) -> Table:
    """The sum of the rows of each label."""
    rows, starts = _by_label(rows)
    table = rows[starts]
    if len(table):
        table["voxels"] = np.add.reduceat(rows["voxels"], starts)
    return table


def _by_label(rows: Table) -> tuple[Table, npt.NDArray[np.intp]]:
    rows = rows[np.argsort(rows["label"], kind="stable")]
    return rows, _starts(rows["label"])


def _starts(ordered: npt.NDArray[Any]) -> npt.NDArray[np.intp]:
    is_new = np.ones(len(ordered), dtype=np.bool_)
    is_new[1:] = ordered[1:] != ordered[:-1]
    return np.flatnonzero(is_new)


# -- touches


def touches_of(voxels: Voxels, core_zyx: tuple[int, ...]) -> Table:
    """Which painted labels share faces of voxels, and how many faces.

    Parameters
    ----------
    voxels : ndarray, order z, y, x
        A block, and behind it on each axis one more layer of its neighbours where there are any.
    core_zyx : tuple of int
        Shape of the block alone: faces behind a voxel belong to that voxel's block.
    """
    labels = unique_labels(voxels)
    dtype = voxels.dtype
    z, y, x = core_zyx
    pairs: list[npt.NDArray[np.uint64]] = []
    for axis in range(3):
        behind = [slice(0, z), slice(0, y), slice(0, x)]
        behind[axis] = slice(1, core_zyx[axis] + 1)
        second = voxels[tuple(behind)]
        dz, dy, dx = second.shape
        first = voxels[:dz, :dy, :dx]
        meet = (first != second) & (first != 0) & (second != 0)
        a, b = first[meet], second[meet]
        low, high = np.minimum(a, b), np.maximum(a, b)
        # Two places among the labels of the block fit one number of 64 bits, whatever the type.
        numbers = np.searchsorted(labels, low.astype(dtype, copy=False)).astype(np.uint64)
        numbers <<= np.uint64(32)
        pairs.append(numbers | np.searchsorted(labels, high).astype(np.uint64))
    numbers = np.sort(np.concatenate(pairs))
    starts = _starts(numbers)
    table = np.empty(len(starts), dtype=TOUCHES)
    table["label"] = labels[(numbers[starts] >> np.uint64(32)).astype(np.intp)]
    table["other"] = labels[(numbers[starts] & np.uint64(0xFFFFFFFF)).astype(np.intp)]
    table["faces"] = np.diff(starts, append=len(numbers))
    return table


def add_touches(rows: Table) -> Table:
    """The sum of the rows of each pair."""
    rows = rows[np.lexsort((rows["other"], rows["label"]))]
    is_new = np.ones(len(rows), dtype=np.bool_)
    for name in ("label", "other"):
        same = rows[name][1:] == rows[name][:-1]
        is_new[1:] = ~same if name == "label" else is_new[1:] | ~same
    starts = np.flatnonzero(is_new)
    table = rows[starts]
    if len(table):
        table["faces"] = np.add.reduceat(rows["faces"], starts)
    return table


# -- moments


def moments_of(labels: npt.NDArray[Any], values: npt.NDArray[Any]) -> Table:
    """Count, mean, spread, least and greatest value under each label.

    Parameters
    ----------
    labels, values : ndarray, shape (n,)
        Label and value of each voxel that has a label; of one that has several, each.
    """
    known = sorted_labels(labels)
    place = np.searchsorted(known, labels)
    numbers = values.astype(np.float64)
    table = np.empty(len(known), dtype=MOMENTS)
    table["label"] = known
    table["voxels"] = counts = np.bincount(place, minlength=len(known))
    table["mean"] = np.bincount(place, numbers, len(known)) / counts
    table["m2"] = np.bincount(place, (numbers - table["mean"][place]) ** 2, len(known))
    table["min"], table["max"] = np.inf, -np.inf
    with np.errstate(invalid="ignore"):  # what is no number makes its label none, as it should
        np.minimum.at(table["min"], place, numbers)
        np.maximum.at(table["max"], place, numbers)
    return table


def add_moments(rows: Table) -> Table:
    """The rows of each label as one."""
    rows, starts = _by_label(rows)
    table = rows[starts]
    if not len(table):
        return table
    counts = np.add.reduceat(rows["voxels"], starts)
    mean = np.add.reduceat(rows["voxels"] * rows["mean"], starts) / counts
    apart = rows["mean"] - np.repeat(mean, np.diff(starts, append=len(rows)))
    table["m2"] = np.add.reduceat(rows["m2"] + rows["voxels"] * apart**2, starts)
    table["voxels"], table["mean"] = counts, mean
    with np.errstate(invalid="ignore"):
        table["min"] = np.minimum.reduceat(rows["min"], starts)
        table["max"] = np.maximum.reduceat(rows["max"], starts)
    return table


def deviations(table: Table) -> npt.NDArray[np.float64]:
    """The standard deviation of each row of moments, of all voxels and not of a sample."""
    found: npt.NDArray[np.float64] = np.sqrt(table["m2"] / table["voxels"])
    return found
