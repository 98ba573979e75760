"""Cuboids <-> an array: the one loop that copies voxels.

A voxel is copied once on its way out: from the stored payload into the answer.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ndcass import codec
from ndcass.errors import CorruptValue
from ndcass.geometry import Zyx
from ndcass.merge import Cuboid, CuboidRow, Exceptions, WriteOp, merge_rows
from ndcass.plan import Part

# What was read of one cuboid: its share of a box, its address, its rows in order, and the box.
Found = tuple[Part, tuple[int, ...], Sequence[CuboidRow], npt.NDArray[Any]]

# A tuple, for the first is nearly always the one, and identity is quicker than a hash.
_PAINTING = (WriteOp.BASE, WriteOp.REPLACE, WriteOp.MERGE, WriteOp.PRESERVE, WriteOp.EXCEPTION)


def assemble(found: Iterable[Found], *, cuboid_zyx: Zyx) -> None:
    """Copy the shares of some cuboids into their boxes.

    Parameters
    ----------
    found : iterable of (Part, address, rows, out)
        Rows of one cuboid, in the order of their ids; `out` is a writable array of the box's shape,
        order z, y, x. Where no cuboid was found it is left alone: clear it.
    cuboid_zyx : tuple of int

    Raises
    ------
    CorruptValue
        Naming the cuboid, if a payload does not fit its checksum. `out` is then not to be used.
    """
    for part, address, rows, out in found:
        target = out[part.target]
        first = rows[0]
        if len(rows) > 1 or not _covers(first, cuboid_zyx):
            cuboid = merged(address, rows, cuboid_zyx=cuboid_zyx, dtype=out.dtype)
            target[...] = cuboid.voxels[part.source]
            continue
        try:
            codec.decode_into(
                first.payload,
                part.source,
                target,
                identity=_identity(address, first),
                header=first.header,
            )
        except CorruptValue as error:
            raise CorruptValue(f"{address}: {error}") from error


def planes_as_stored(
    address: tuple[int, ...],
    row: CuboidRow,
    start: int,
    stop: int,
    *,
    dtype: np.dtype[Any],
    cuboid_zyx: Zyx,
) -> memoryview | None:
    """The bytes of planes [start, stop) of a cuboid, checked; None where they need work first."""
    if not _covers(row, cuboid_zyx):
        return None
    try:
        return codec.raw_planes(
            row.payload,
            start,
            stop,
            dtype=dtype,
            identity=_identity(address, row),
            header=row.header,
        )
    except CorruptValue as error:
        raise CorruptValue(f"{address}: {error}") from error


def merged(
    address: tuple[int, ...],
    rows: Sequence[CuboidRow],
    *,
    cuboid_zyx: Zyx,
    dtype: np.dtype[Any],
    scratch: npt.NDArray[Any] | None = None,
) -> Cuboid:
    """The voxels and exceptions of one cuboid from its rows; CorruptValue names it.

    With `scratch`, an array of a cuboid, they are good only until that is used again.
    """
    if len(rows) > 1:  # a row must outlive the decoding of the next
        scratch = None
    return merge_rows(cuboid_zyx, dtype, (_decoded(address, row, scratch) for row in rows))


def _decoded(
    address: tuple[int, ...], row: CuboidRow, scratch: npt.NDArray[Any] | None = None
) -> tuple[WriteOp, Zyx, npt.NDArray[Any], Exceptions]:
    try:
        voxels, exceptions = codec.decode(
            row.payload, identity=_identity(address, row), header=row.header, scratch=scratch
        )
    except CorruptValue as error:
        raise CorruptValue(f"{address}: {error}") from error
    return row.op, row.corner_zyx, voxels, exceptions


def _identity(address: tuple[int, ...], row: CuboidRow) -> bytes:
    """What the row's checksum covers beside its payload; not needed where that was checked."""
    if row.header is not None:
        return b""
    return codec.row_identity(address, row.write_id, row.op, row.corner_zyx, row.shape_zyx)


def _covers(row: CuboidRow, cuboid_zyx: Zyx) -> bool:
    """Whether a row alone says what every voxel of its cuboid is."""
    return row.op in _PAINTING and row.shape_zyx == cuboid_zyx
