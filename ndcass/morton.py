"""Morton (Z-order) codes of grid positions: one, many, and runs of consecutive codes.

The bits of x, y and z are interleaved, x lowest: cuboids that are near each other in space are near
each other along the curve. 21 bits an axis, so that a code fits 63 bits.

Source: G. M. Morton (1966), "A computer oriented geodetic data base", IBM Ottawa technical report;
the spreading of bits by shift and mask is the common one, as in H. S. Warren, "Hacker's Delight".
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from ndcass.errors import InvalidRequest
from ndcass.geometry import Zyx

AXIS_BITS = 21
CODE_BITS = 3 * AXIS_BITS

# (shift, mask): each step halves the groups of bits that still lie together, until there are two
# free places behind every bit.
_SPREAD = (
    (32, 0x001F00000000FFFF),
    (16, 0x001F0000FF0000FF),
    (8, 0x100F00F00F00F00F),
    (4, 0x10C30C30C30C30C3),
    (2, 0x1249249249249249),
)
# The same steps backwards: what a step moved apart comes together again.
_GATHER = tuple(
    (shift, mask)
    for (shift, _), (_, mask) in zip(
        reversed(_SPREAD), [*reversed(_SPREAD[:-1]), (0, (1 << AXIS_BITS) - 1)], strict=True
    )
)


def _spread(axis: int) -> int:
    """The bits of `axis` with two zeros behind each."""
    for shift, mask in _SPREAD:
        axis = (axis | axis << shift) & mask
    return axis


def _gather(code: int) -> int:
    """Every third bit of `code`, from the lowest: the inverse of `_spread`."""
    code &= _SPREAD[-1][1]
    for shift, mask in _GATHER:
        code = (code | code >> shift) & mask
    return code


# Half an axis at a time by table: about 0.4 us a code, where spreading all three takes 2.
_TABLE_BITS = 11
_TABLE_MASK = (1 << _TABLE_BITS) - 1
_TABLE = tuple(_spread(axis) for axis in range(1 << _TABLE_BITS))


def encode(grid_zyx: Zyx) -> int:
    """Morton code of one cuboid.

    Parameters
    ----------
    grid_zyx : tuple of int
        Grid position in cuboids (not voxels).

    Raises
    ------
    InvalidRequest
        If a position is negative or needs more than 21 bits.
    """
    z, y, x = grid_zyx
    every = z | y | x
    if every >> _TABLE_BITS == 0:
        return _TABLE[x] | _TABLE[y] << 1 | _TABLE[z] << 2
    if every >> AXIS_BITS != 0:  # a negative position shifts to -1
        raise InvalidRequest(f"grid position {grid_zyx} is outside 0..{(1 << AXIS_BITS) - 1}")
    low = _TABLE[x & _TABLE_MASK] | _TABLE[y & _TABLE_MASK] << 1 | _TABLE[z & _TABLE_MASK] << 2
    high = _TABLE[x >> _TABLE_BITS] | _TABLE[y >> _TABLE_BITS] << 1 | _TABLE[z >> _TABLE_BITS] << 2
    return low | high << 3 * _TABLE_BITS


def decode(code: int) -> Zyx:
    """Grid position of one Morton code.

    Raises
    ------
    InvalidRequest
        If the code is negative or needs more than 63 bits.
    """
    if code >> CODE_BITS != 0:
        raise InvalidRequest(f"Morton code {code} is outside 0..{(1 << CODE_BITS) - 1}")
    return _gather(code >> 2), _gather(code >> 1), _gather(code)


def encode_many(grid_zyx: npt.NDArray[Any]) -> npt.NDArray[np.uint64]:
    """Morton codes of many cuboids.

    Parameters
    ----------
    grid_zyx : ndarray of an integer type, shape (n, 3)
        Grid positions in cuboids (not voxels), columns z, y, x.

    Returns
    -------
    ndarray of uint64, shape (n,)
        One code per row, in input order.

    Raises
    ------
    InvalidRequest
        If a position is negative or needs more than 21 bits, or the array is no such array.

    Notes
    -----
    One pass per step of spreading over whole columns.
    """
    if grid_zyx.ndim != 2 or grid_zyx.shape[1] != 3 or grid_zyx.dtype.kind not in "iu":
        raise InvalidRequest(f"no grid positions: {grid_zyx.dtype} of shape {grid_zyx.shape}")
    if grid_zyx.size and (grid_zyx.min() < 0 or int(grid_zyx.max()) >> AXIS_BITS):
        raise InvalidRequest(f"grid positions reach outside 0..{(1 << AXIS_BITS) - 1}")
    codes = np.zeros(len(grid_zyx), dtype=np.uint64)
    for column, place in ((2, 0), (1, 1), (0, 2)):
        axis = grid_zyx[:, column].astype(np.uint64)
        for shift, mask in _SPREAD:
            axis |= axis << np.uint64(shift)
            axis &= np.uint64(mask)
        codes |= axis << np.uint64(place)
    return codes


def decode_many(codes: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Grid positions of many Morton codes.

    Parameters
    ----------
    codes : ndarray of uint64, shape (n,)

    Returns
    -------
    ndarray of uint64, shape (n, 3)
        Columns z, y, x.

    Raises
    ------
    InvalidRequest
        If a code needs more than 63 bits, or the array is no such array.
    """
    if codes.ndim != 1 or codes.dtype != np.uint64:
        raise InvalidRequest(f"no Morton codes: {codes.dtype} of shape {codes.shape}")
    if codes.size and int(codes.max()) >> CODE_BITS:
        raise InvalidRequest(f"Morton codes reach beyond {(1 << CODE_BITS) - 1}")
    grid_zyx = np.empty((len(codes), 3), dtype=np.uint64)
    for column, place in ((2, 0), (1, 1), (0, 2)):
        axis = codes >> np.uint64(place)
        axis &= np.uint64(_SPREAD[-1][1])
        for shift, mask in _GATHER:
            axis |= axis >> np.uint64(shift)
            axis &= np.uint64(mask)
        grid_zyx[:, column] = axis
    return grid_zyx


def runs(codes: npt.NDArray[np.uint64]) -> list[tuple[int, int]]:
    """Maximal runs of consecutive codes.

    Parameters
    ----------
    codes : ndarray of uint64, shape (n,)
        Ascending; a code that comes twice counts once.

    Returns
    -------
    list of (start, stop)
        Half-open ranges of codes, ascending, with at least one missing code between two of them.
    """
    if not len(codes):
        return []
    breaks = np.flatnonzero(codes[1:] > codes[:-1] + np.uint64(1))
    firsts = codes[np.concatenate(([0], breaks + 1))]
    lasts = codes[np.concatenate((breaks, [len(codes) - 1]))]
    return [(first, last + 1) for first, last in zip(firsts.tolist(), lasts.tolist(), strict=True)]
