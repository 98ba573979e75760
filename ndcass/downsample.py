"""One resolution level to the next: the rules, on arrays.

Every rule halves y and x; with `pairs` it also makes one slice of two (isotropic levels, and the
near-isotropic ones). Which cuboids derive from which is in ``pyramid.py``. Where an image ends at
an odd size the caller pads it with zeros: voxels outside the image count as 0.

Source of NEAREST and of the rule for labels: the public ndstore service, state of May 2017
(control plane 5.4), with its two faults mended: RGBA is averaged a component at a time, and a label
that only the last voxel of a block has is not lost.
"""

import enum
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ndcass.errors import InvalidRequest

Voxels = npt.NDArray[Any]  # which type is only known at run time

# An image channel of this type holds RGBA pixels.
RGBA = np.dtype("<u4")
# All but the lowest bit of each component.
_HIGH_BITS = np.uint32(0xFEFEFEFE)
# Sums of up to 8 voxels: the next wider type. 64 bits have none, see `_mean_wide`.
_WIDER = {1: "2", 2: "4", 4: "8"}
_LARGEST_ITEM = 8


class Rule(enum.Enum):
    """How a block of voxels becomes one."""

    NEAREST = "nearest"  # the voxel at the odd place; of two slices the mean, where both have one
    LABEL = "label"  # a label beats background, one that occurs again beats one that does not
    MEAN = "mean"  # of all voxels, rounded to the nearest, ties to even
    MODE = "mode"  # the most frequent value, background included


def downsample(voxels: Voxels, rule: Rule, *, pairs: bool) -> Voxels:
    """The next coarser level of a box; see `downsample_into`."""
    z, y, x = voxels.shape
    made = np.empty((z // 2 if pairs else z, y // 2, x // 2), dtype=voxels.dtype)
    downsample_into(voxels, rule, made, pairs=pairs)
    return made


def downsample_into(voxels: Voxels, rule: Rule, out: Voxels, *, pairs: bool) -> None:
    """Fill `out` with the next coarser level of a box.

    Parameters
    ----------
    voxels : ndarray, order z, y, x
        Even in y and x, with `pairs` also in z. uint32 is RGBA to NEAREST and MEAN.
    rule : Rule
    out : ndarray
        Of the same type, half as large on each axis that is halved.
    pairs : bool
        Whether two slices become one.

    Raises
    ------
    InvalidRequest
        If a size is odd, or a rule for labels meets floats.
    """
    z, y, x = voxels.shape
    if y % 2 or x % 2 or (pairs and z % 2):
        raise InvalidRequest(f"a box of {voxels.shape} voxels cannot be halved")
    if rule in (Rule.LABEL, Rule.MODE) and voxels.dtype.kind not in "iu":
        raise InvalidRequest(f"voxels of {voxels.dtype} are no labels")
    if rule is Rule.NEAREST and not pairs:
        out[...] = voxels[:, 1::2, 1::2]
    else:
        out[...] = _RULES[rule](voxels, pairs=pairs)


def _blocks(voxels: Voxels, *, pairs: bool) -> list[Voxels]:
    """The voxels of every block, one view a place in the block, in C order."""
    slices = (slice(0, None, 2), slice(1, None, 2)) if pairs else (slice(None),)
    return [voxels[z, y::2, x::2] for z in slices for y in (0, 1) for x in (0, 1)]


# -- images


def _nearest(voxels: Voxels, *, pairs: bool) -> Voxels:
    """One slice of two: their mean where both have a voxel, else the voxel of the one that has."""
    assert pairs  # one slice is copied
    odd = voxels[:, 1::2, 1::2]
    first, second = np.ascontiguousarray(odd[0::2]), np.ascontiguousarray(odd[1::2])
    both = (first != 0) & (second != 0)
    # Where one is 0 their bits together are the other; for floats a sum says the same.
    if first.dtype.kind == "f":
        # A NaN in one of them is a value; the sum of two infinities may be none.
        with np.errstate(invalid="ignore"):
            either = np.where(second == 0, first, second)
            return np.where(both, _float_mean([first, second]), either)
    return np.where(both, _integer_mean(first, second), first | second)


def _integer_mean(first: Voxels, second: Voxels) -> Voxels:
    """(a + b) / 2 toward zero, without a sum that may overflow."""
    differing = first ^ second
    if first.dtype == RGBA:
        mean: Voxels = (first & second) + ((differing & _HIGH_BITS) >> np.uint32(1))
        return mean
    mean = (first & second) + (differing >> first.dtype.type(1))
    if first.dtype.kind == "i":  # that was rounded down
        mean += (differing & 1) & (mean < 0)
    return mean


def _mean(voxels: Voxels, *, pairs: bool) -> Voxels:
    if voxels.dtype.kind == "f":
        return _float_mean(_blocks(voxels, pairs=pairs))
    if voxels.dtype == RGBA:
        voxels = np.ascontiguousarray(voxels)
        components = voxels.view(np.uint8).reshape(*voxels.shape, 4)
        mean = _integer_means(_blocks(components, pairs=pairs))
        return mean.reshape(*mean.shape[:2], -1).view(voxels.dtype)
    return _integer_means(_blocks(voxels, pairs=pairs))


def _float_mean(values: Sequence[Voxels]) -> Voxels:
    """The mean, rounded once for float32; never infinite for finite voxels."""
    dtype = values[0].dtype
    with np.errstate(over="ignore", invalid="ignore"):
        total = values[0].astype(np.float64)
        for value in values[1:]:
            total += value
        total /= len(values)
        if not np.isfinite(total).all():  # rare: then each voxel is divided first
            scaled = sum(value.astype(np.float64) / len(values) for value in values)
            total = np.where(np.isfinite(total), total, scaled)
        return total.astype(dtype, copy=False)


def _integer_means(values: Sequence[Voxels]) -> Voxels:
    """The exact mean of 4 or 8 integers, rounded to the nearest, ties to even."""
    dtype = values[0].dtype
    bits = {4: 2, 8: 3}[len(values)]
    half = (1 << bits - 1) - 1  # what is below a half is dropped, what is above carries
    if dtype.itemsize == _LARGEST_ITEM:
        return _mean_wide(values, bits)
    wide = np.dtype(dtype.kind + _WIDER[dtype.itemsize])
    total = values[0].astype(wide)
    for value in values[1:]:
        total += value
    total += (total >> wide.type(bits)) & wide.type(1)
    total += wide.type(half)
    total >>= wide.type(bits)
    return total.astype(dtype)


def _mean_wide(values: Sequence[Voxels], bits: int) -> Voxels:
    """As `_integer_means`, of 64 bits: high and low parts are added apart, for nothing is wider."""
    dtype = values[0].dtype
    shift, mask, one = dtype.type(bits), dtype.type((1 << bits) - 1), dtype.type(1)
    mean: Voxels = values[0] >> shift
    rest = values[0] & mask
    for value in values[1:]:
        mean += value >> shift
        rest += value & mask
    mean += rest >> shift
    rest &= mask
    rest += mean & one
    rest += dtype.type((1 << bits - 1) - 1)
    mean += rest >> shift
    return mean


# -- labels


def _label(voxels: Voxels, *, pairs: bool) -> Voxels:
    if not pairs:
        return _label_of(_blocks(voxels, pairs=False))
    first = _label_of(_blocks(voxels[0::2], pairs=False))
    empty = first == 0
    if not empty.any():
        return first
    second = _label_of(_blocks(voxels[1::2], pairs=False))
    return np.where(empty, second, first)


def _label_of(block: Sequence[Voxels]) -> Voxels:
    """The rule for the labels of 2x2 voxels."""
    a, b, c, d = map(np.ascontiguousarray, block)
    label = a.copy()
    np.copyto(label, b, where=a == 0)
    # That c is as a changes nothing: then it is held already.
    takes = (c == b) & (c != 0)
    takes |= label == 0
    np.copyto(label, c, where=takes)
    takes = (d == a) | (d == b)
    takes |= d == c
    takes &= d != 0
    takes |= label == 0
    np.copyto(label, d, where=takes)
    return label


def _mode(voxels: Voxels, *, pairs: bool) -> Voxels:
    """The most frequent value; of several the first in C order, but background last."""
    block = [np.ascontiguousarray(value) for value in _blocks(voxels, pairs=pairs)]
    best = block[0].copy()
    if len(block) == 4:  # a pair in four is the most frequent, or as frequent as the other pair
        a, b, c, d = block
        np.copyto(best, c, where=c == d)
        np.copyto(best, b, where=(b == c) | (b == d))
        np.copyto(best, a, where=(a == b) | (a == c) | (a == d))
        unsure = best == 0  # which has to be more frequent than any label
    else:
        unsure = np.ones(best.shape, dtype=np.bool_)
    differs = block[0] != block[1]
    for value in block[2:]:
        differs |= block[0] != value
    unsure &= differs
    if unsure.any():
        best[unsure] = _most_frequent([value[unsure] for value in block])
    return best


def _most_frequent(values: Sequence[Voxels]) -> Voxels:
    """As `_mode`, by counting."""
    # Twice how often a value occurs, and one more for a label: so background loses ties.
    scores = [(value != 0).astype(np.uint8) for value in values]
    for i, value in enumerate(values):
        for j in range(i):
            same = (value == values[j]).astype(np.uint8) << 1
            scores[i] += same
            scores[j] += same
    best, score = values[0], scores[0]
    for value, its_score in zip(values[1:], scores[1:], strict=True):
        better = its_score > score
        best = np.where(better, value, best)
        score = np.where(better, its_score, score)
    return best


_RULES: Mapping[Rule, Callable[..., Voxels]] = {
    Rule.NEAREST: _nearest,
    Rule.LABEL: _label,
    Rule.MEAN: _mean,
    Rule.MODE: _mode,
}
