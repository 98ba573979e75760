"""What a region says of its labels: which, how large, what touches, what lies under them.

Answers are computed beside the data, block by block, in memory that does not grow with the region.
An object's voxels are those where its label is painted and its exceptions; only touching looks at
painted labels alone. Regions are stored boxes of a level that is stored.
"""

from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ndcass.concurrency import run_cpu
from ndcass.errors import InvalidRequest
from ndcass.geometry import Box
from ndcass.label_tables import (
    MOMENTS,
    SIZES,
    TOUCHES,
    Table,
    Total,
    add_moments,
    add_sizes,
    add_touches,
    deviations,
    moments_of,
    sizes_of,
    touches_of,
)
from ndcass.label_voxels import look_at
from ndcass.merge import Cuboid
from ndcass.place import Place, Slab, Voxels
from ndcass.plan import plan_blocks
from ndcass.store.base import Stores
from ndcass.volume import Usage, read_slab

# Labels that are looked at in one go; what is computed of them takes some ten times as much.
BLOCK_BYTES = 4 << 20
# Rows of an answer: some 50 MB.
MOST_ROWS = 1 << 20
# What a question may have in memory.
QUESTION_BYTES = 20 * BLOCK_BYTES + 3 * MOST_ROWS * MOMENTS.itemsize

Column = npt.NDArray[Any]  # which type depends on the column
Columns = dict[str, Column]


class Region(NamedTuple):
    """What is asked about: a stored box of one timestep of a channel of labels."""

    place: Place
    t: int
    box: Box


class _Block(NamedTuple):
    """Some of a region."""

    box: Box
    voxels: Voxels
    # Exceptions in it: their places in `voxels`, flat, and their labels.
    offsets: npt.NDArray[np.intp]
    labels: Voxels


async def ids(stores: Stores, region: Region, *, usage: Usage) -> Columns:
    """The labels in a region, ascending."""
    sized = await sizes(stores, region, usage=usage)
    return {"label": sized["label"]}


async def sizes(stores: Stores, region: Region, *, usage: Usage) -> Columns:
    """The labels in a region, ascending, and how many voxels of it each has."""

    def look(block: _Block) -> Table:
        return sizes_of(block.voxels, block.labels)

    total = Total(SIZES, add_sizes, MOST_ROWS)
    return _columns(await _asked(stores, region, look, total, usage))


async def touches(stores: Stores, region: Region, *, usage: Usage) -> Columns:
    """Pairs of labels of which voxels in a region share faces, and how many faces.

    Each pair once, the lower label first.
    """
    total = Total(TOUCHES, add_touches, MOST_ROWS)
    _check(region.place)
    for core in _cores(region):
        box = _with_neighbours(core, region.box)
        voxels = await _read(stores, region.place, region.t, box, usage)
        table = await run_cpu(touches_of, voxels, core.shape_zyx)
        await run_cpu(total.take, table)
    return _columns(await run_cpu(total.table))


def _with_neighbours(core: Box, region: Box) -> Box:
    z, y, x = (
        min(stop + 1, limit) for stop, limit in zip(core.stop_zyx, region.stop_zyx, strict=True)
    )
    return Box(core.start_zyx, (z, y, x))


async def statistics(
    stores: Stores, region: Region, image: Place, image_t: int, *, usage: Usage
) -> Columns:
    """Count, mean, standard deviation, least and greatest voxel of an image under each label.

    Raises
    ------
    InvalidRequest
        If image and labels are not of the same level.
    """
    _check(image)
    if image.channel.is_annotation or image.level != region.place.level:
        raise InvalidRequest("statistics are of an image channel, at the level of the labels")
    total = Total(MOMENTS, add_moments, MOST_ROWS)
    async for block in _blocks(stores, region, usage):
        values = await _read(stores, image, image_t, block.box, usage)
        await run_cpu(total.take, await run_cpu(_moments, block, values))
    table = await run_cpu(total.table)
    columns = _columns(table)
    del columns["m2"]
    names = ("label", "voxels", "mean", "std", "min", "max")
    columns["std"] = deviations(table)
    return {name: columns[name] for name in names}


def _moments(block: _Block, values: Voxels) -> Table:
    flat, numbers = block.voxels.reshape(-1), values.reshape(-1)
    held = np.flatnonzero(flat)
    labels = np.concatenate((flat[held], block.labels))
    return moments_of(labels, np.concatenate((numbers[held], numbers[block.offsets])))


# -- blocks


async def _asked(
    stores: Stores, region: Region, look: Callable[[_Block], Table], total: Total, usage: Usage
) -> Table:
    async for block in _blocks(stores, region, usage):
        await run_cpu(total.take, await run_cpu(look, block))
    return await run_cpu(total.table)


def _columns(table: Table) -> Columns:
    return {name: np.ascontiguousarray(table[name]) for name in table.dtype.names or ()}


def _check(place: Place) -> None:
    if place.source is not None:
        raise InvalidRequest(
            f"level {place.level.level} of channel {place.channel.channel_name} is not stored: ask "
            f"about level {place.channel.resolution}"
        )


def _cores(region: Region) -> Sequence[Box]:
    place = region.place
    itemsize = place.channel.dtype.itemsize
    return list(
        plan_blocks(region.box, place.cuboid_zyx, itemsize=itemsize, limit_bytes=BLOCK_BYTES)
    )


async def _blocks(stores: Stores, region: Region, usage: Usage) -> AsyncIterator[_Block]:
    """A region in blocks of whole cuboids, each voxel in one of them."""
    place = region.place
    _check(place)
    if not place.channel.is_annotation:
        raise InvalidRequest(f"channel {place.channel.channel_name} is no annotation channel")
    for box in _cores(region):
        if place.channel.exceptions:
            yield await _with_exceptions(stores, place, region.t, box, usage)
            continue
        voxels = await _read(stores, place, region.t, box, usage)
        nothing = np.empty(0, dtype=place.channel.dtype)
        yield _Block(box, voxels, np.empty(0, dtype=np.intp), nothing)


async def _read(stores: Stores, place: Place, t: int, box: Box, usage: Usage) -> Voxels:
    voxels = np.empty(box.shape_zyx, dtype=place.channel.dtype)
    await read_slab(stores.cuboids, Slab(place, t, box), voxels, usage=usage)
    return voxels


async def _with_exceptions(stores: Stores, place: Place, t: int, box: Box, usage: Usage) -> _Block:
    voxels = np.zeros(box.shape_zyx, dtype=place.channel.dtype)
    parts = {part.morton: part for part in place.parts(box)}

    def look(code: int, cuboid: Cuboid) -> tuple[npt.NDArray[np.intp], Voxels]:
        part = parts[code]
        voxels[part.target] = cuboid.voxels[part.source]
        exceptions = cuboid.exceptions
        places = np.unravel_index(exceptions.offsets, cuboid.voxels.shape)
        inside = np.ones(len(exceptions), dtype=np.bool_)
        moved = []
        for axis, source, target in zip(places, part.source, part.target, strict=True):
            inside &= (axis >= source.start) & (axis < source.stop)
            moved.append(axis - source.start + target.start)
        where = tuple(axis[inside] for axis in moved)
        offsets: npt.NDArray[np.intp] = np.ravel_multi_index(where, voxels.shape)
        return offsets, exceptions.labels[inside].astype(voxels.dtype)

    found = [one async for page in look_at(stores, place, list(parts), look, t=t) for one in page]
    usage.cuboids_read += len(found)
    offsets = [np.empty(0, dtype=np.intp), *(offsets for offsets, _ in found)]
    labels = [np.empty(0, dtype=voxels.dtype), *(labels for _, labels in found)]
    return _Block(box, voxels, np.concatenate(offsets), np.concatenate(labels))
