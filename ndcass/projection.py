"""Projections: the least or the greatest voxel along one axis of a box (data plane 9.1).

The box is read block by block, each of them reduced while the next is read, so that memory grows
with the picture and not with the box.
"""

import contextlib
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from ndcass.concurrency import one_ahead, run_cpu
from ndcass.geometry import Box
from ndcass.place import Place
from ndcass.plan import plan_blocks
from ndcass.store.base import CuboidStore
from ndcass.volume import Usage, read_box

# A block that is reduced while the next is read: small enough to stay in the processor's cache for
# a while, large enough to be worth a change of thread.
BLOCK_BYTES = 4 << 20

Voxels = npt.NDArray[Any]  # which type is only known at run time


async def project(
    store: CuboidStore,
    place: Place,
    t: int,
    box: Box,
    *,
    axis: int,
    greatest: bool,
    prepare: Callable[[Voxels], Voxels],
    usage: Usage,
    on_block: Callable[[], None],
) -> Voxels:
    """The projection of a box of one timestep along an axis.

    Parameters
    ----------
    store : CuboidStore
    place : Place
    t : int
    box : Box
        Stored box.
    axis : int
        0 is z, 1 is y, 2 is x.
    greatest : bool
        Whether the greatest voxel is taken, else the least.
    prepare : callable
        What happens to the voxels before they are compared; may change their type.
    usage : Usage
    on_block : callable
        Called after each block: the answer of a large box takes a while.

    Returns
    -------
    ndarray, shape of the box without `axis`
        NaN only where there is nothing else.

    Raises
    ------
    StoreError
        If a cuboid could not be read.
    """
    shape = tuple(np.delete(box.shape_zyx, axis))
    dtype = prepare(np.zeros(1, dtype=place.channel.dtype)).dtype
    out = np.full(shape, _neutral(dtype, greatest=greatest), dtype=dtype)
    pick = _pick(dtype, greatest=greatest)
    z, y, x = box.start_zyx
    to_start = (-z, -y, -x)

    def reduce(block: Box, voxels: Voxels) -> None:
        where = list(block.shifted(to_start).slices())
        del where[axis]
        target = out[tuple(where)]
        pick(target, pick.reduce(prepare(voxels), axis=axis), out=target)

    async def read(block: Box) -> tuple[Box, Voxels]:
        return block, await read_box(store, place, t, block, usage=usage)

    blocks = plan_blocks(
        box, place.cuboid_zyx, itemsize=place.channel.dtype.itemsize, limit_bytes=BLOCK_BYTES
    )
    async with contextlib.aclosing(one_ahead(read, blocks)) as found:
        async for block, voxels in found:
            await run_cpu(reduce, block, voxels)
            on_block()
    return out


def _pick(dtype: np.dtype[Any], *, greatest: bool) -> np.ufunc:
    """What compares: a number that is none never wins."""
    if dtype.kind == "f":
        return np.fmax if greatest else np.fmin
    return np.maximum if greatest else np.minimum


def _neutral(dtype: np.dtype[Any], *, greatest: bool) -> float:
    """What loses against every voxel."""
    if dtype.kind == "f":
        return float("nan")
    limits = np.iinfo(dtype)
    return int(limits.min if greatest else limits.max)
