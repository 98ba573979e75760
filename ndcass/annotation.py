"""The voxels of objects: written, read, erased and merged through the label index.

What lives here: what an object's voxels are at any level of a channel. What does not: the fields of
objects, and any file format. Points, corners and boxes are stored ones, counted from zero; they may
lie beyond the image, where cuboids cost nothing. Voxels of objects are at timestep 0.
"""

import math
import time
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from ndcass import morton, resample
from ndcass.concurrency import run_cpu
from ndcass.errors import InvalidRequest, OutOfBounds, TooLarge
from ndcass.geometry import Box, Zyx
from ndcass.label_painting import ObjectVoxels, Painting, Points, joined, painted, some_of, zyx
from ndcass.label_values import Labels, Mask, as_labels, joined_labels, sorted_labels, unique_labels
from ndcass.label_voxels import (
    Found,
    box_of,
    corner_of,
    cuboids_of_labels,
    find,
    look_at,
    mask_of,
    points_of,
    union_of,
    whole_box,
)
from ndcass.merge import Cuboid, WriteOp
from ndcass.model import Channel, TokenView
from ndcass.place import Place, Slab, reading_place, writing_place
from ndcass.plan import Part
from ndcass.store.base import Stores
from ndcass.volume import Usage
from ndcass.writer import CutoutWriter, check_writable, cutout_writer

__all__ = [
    "ObjectVoxels",
    "Points",
    "erase_labels",
    "labels_in_box",
    "merge_labels",
    "object_box",
    "object_cuboids",
    "read_object_block",
    "read_object_points",
    "write_object_voxels",
]

OBJECT_OPS = (WriteOp.MERGE, WriteOp.PRESERVE, WriteOp.EXCEPTION, WriteOp.REDUCE)
# Cuboids under a box of a level that is not stored.
MOST_CUBOIDS = 1 << 16
# Cuboids that are changed in one transaction when an object is erased or merged.
CHANGED_AT_ONCE = 64
POINT_BYTES = 24


# -- writing


async def write_object_voxels(
    stores: Stores,
    view: TokenView,
    channel: Channel,
    objects: Sequence[ObjectVoxels],
    op: WriteOp,
    *,
    usage: Usage,
) -> None:
    """Write the voxels of some objects as one batch: the index first, then the voxels.

    Parameters
    ----------
    objects : sequence of ObjectVoxels
        Where several want a voxel, they meet it in this order.
    op : WriteOp
        MERGE (the new label wins), PRESERVE, EXCEPTION or REDUCE. Points of an EXCEPTION to a
        channel that keeps none are written as PRESERVE (data plane 5.2).

    Raises
    ------
    InvalidRequest
        If a label, a level or a place cannot be, or blocks are exceptions of a channel that keeps
        none. Nothing is written then.
    ReadOnly, Conflict
        If nothing may be written to the channel (now).
    """
    if op not in OBJECT_OPS:
        raise ValueError(f"{op!r} is no way to write objects")
    check_writable(channel)
    _check_labels(channel, [item.label for item in objects])
    places = {item.level: writing_place(view, channel, item.level) for item in objects}
    for item in objects:
        _check_places(item, places[item.level])
    if op is WriteOp.EXCEPTION and not channel.exceptions:
        if any(item.blocks for item in objects):
            raise InvalidRequest(f"channel {channel.channel_name} keeps no exceptions")
        op = WriteOp.PRESERVE
    async with cutout_writer(stores, op=op, usage=usage) as writer:
        # Small objects together: a change of thread for each would take longer than they do.
        await _write_painted(writer, joined(_all_painted(objects, places)))
        await writer.commit()


def _all_painted(
    objects: Sequence[ObjectVoxels], places: Mapping[int, Place]
) -> Iterator[Painting]:
    for item in objects:
        yield from painted(item, places[item.level])


def _check_labels(channel: Channel, labels: Iterable[int]) -> None:
    if not channel.is_annotation:
        raise InvalidRequest(f"channel {channel.channel_name} is no annotation channel")
    most = int(np.iinfo(channel.dtype).max)
    for label in labels:
        if not 0 < label <= most:
            raise InvalidRequest(
                f"{label} is no label of {channel.channel_datatype}: those are 1 to {most}"
            )


def _check_places(item: ObjectVoxels, place: Place) -> None:
    """Refuse voxels in front of the volume, or beyond what cuboids can be numbered for."""
    # First and last voxels, as Python's numbers: clients send some that fit into no other type.
    ends: list[tuple[Sequence[int], Sequence[int]]] = [
        (corner, [a + size - 1 for a, size in zip(corner, mask.shape, strict=True)])
        for corner, mask in item.blocks
    ]
    points = item.points_zyx
    if points is not None and len(points):
        if points.ndim != 2 or points.shape[1] != 3:
            raise InvalidRequest(f"points of shape {points.shape} are not (n, 3)")
        ends.append((points.min(axis=0).tolist(), points.max(axis=0).tolist()))
    for first, last in ends:
        if min(first) < 0:
            raise OutOfBounds(f"object {item.label} has voxels below the offset of the dataset")
        if any(
            at // size >> morton.AXIS_BITS for at, size in zip(last, place.cuboid_zyx, strict=True)
        ):
            raise OutOfBounds(f"object {item.label} has voxels beyond what can be stored")


async def _write_painted(
    writer: CutoutWriter, paintings: Iterator[Painting], *, op: WriteOp | None = None
) -> None:
    while group := await run_cpu(some_of, paintings):
        await writer.write_slabs(group, op=op)


# -- reading


async def read_object_points(
    stores: Stores,
    view: TokenView,
    channel: Channel,
    labels: Sequence[int],
    level: int,
    *,
    limit_bytes: int,
) -> Points:
    """Every voxel that has one of some labels, exceptions included, each once, in no order.

    Finer than the base of the channel each voxel of the base is repeated; coarser there is nothing
    where no pyramid was built (annotation plane 3.2).

    Raises
    ------
    TooLarge
        If the answer takes more than `limit_bytes`, 24 a voxel.
    """
    place = reading_place(view, channel, level)
    source = place.source
    if source is not None and not source.is_coarser:
        return np.empty((0, 3), dtype=np.int64)
    factor = source.factor_zyx if source is not None else (1, 1, 1)
    repeats = math.prod(factor)
    pieces: list[Points] = []
    voxels = 0
    async for found in find(stores, place, labels, points_of):
        pieces += found
        voxels += repeats * sum(len(points) for points in found)
        if voxels * POINT_BYTES > limit_bytes:
            raise TooLarge("voxels of objects", asked=voxels * POINT_BYTES, limit=limit_bytes)
    if not pieces:
        return np.empty((0, 3), dtype=np.int64)
    return await run_cpu(_repeated, np.concatenate(pieces), factor)


def _repeated(points: Points, factor_zyx: Zyx) -> Points:
    if factor_zyx == (1, 1, 1):
        return points
    within = np.indices(factor_zyx).reshape(3, -1).T
    repeated: Points = (points[:, None] * np.array(factor_zyx) + within[None]).reshape(-1, 3)
    return repeated


async def object_box(
    stores: Stores, view: TokenView, channel: Channel, labels: Sequence[int], level: int
) -> Box | None:
    """The least box around all voxels of some labels, exceptions included; None without any.

    At levels that are not stored, that around the box of the base.
    """
    place = reading_place(view, channel, level)
    box: Box | None = None
    async for found in find(stores, place, labels, box_of):
        box = union_of(found if box is None else [box, *found])
    return None if box is None else _at_level(place, box)


def _at_level(place: Place, stored: Box) -> Box:
    """A box of the level that is stored as one of the level that was asked for."""
    source = place.source
    if source is None:
        return stored
    factor = source.factor_zyx
    if source.is_coarser:
        start = zyx(a * f for a, f in zip(stored.start_zyx, factor, strict=True))
        return Box(start, zyx(b * f for b, f in zip(stored.stop_zyx, factor, strict=True)))
    return resample.coarse_box(stored, source)


async def read_object_block(
    stores: Stores,
    view: TokenView,
    channel: Channel,
    labels: Sequence[int],
    level: int,
    box: Box | None,
    *,
    limit_voxels: int,
) -> tuple[Box, Mask] | None:
    """Where in a box the voxels of some labels are, exceptions included.

    Without a box it is the least one of whole cuboids of the level around all cuboids that the
    index names, also those that lost the labels since (annotation plane 3.3); None if none of them
    holds any.

    Raises
    ------
    TooLarge
        If the box has more than `limit_voxels`, or too many cuboids of a finer level lie under it.
    """
    place = reading_place(view, channel, level)
    codes = await cuboids_of_labels(stores, place, labels)
    asked = box
    if box is None:
        stored = union_of(whole_box(code, place.cuboid_zyx) for code in codes)
        if stored is None:
            return None
        box = _of_whole_cuboids(_at_level(place, stored), place.level.cuboid_zyx)
    if box.voxels > limit_voxels:
        raise TooLarge("block of an object", asked=box.voxels, limit=limit_voxels, unit="voxels")
    out = np.zeros(box.shape_zyx, dtype=np.bool_)
    stored_out, stored_box = out, box
    if place.source is not None and place.source.is_coarser:
        stored_box = resample.coarse_box(box, place.source)
        stored_out = np.zeros(stored_box.shape_zyx, dtype=np.bool_)
    wanted = as_labels(labels, channel.dtype)
    parts = _parts(place, box)

    def look(code: int, cuboid: Cuboid) -> bool:
        part = parts[code]
        share = mask_of(cuboid, wanted)[part.source]
        stored_out[part.target] = share
        return bool(share.any())

    held = False
    async for looked in look_at(stores, place, [c for c in codes if c in parts], look):
        held = held or any(looked)
    if asked is None and not held:
        return None
    if stored_out is not out and place.source is not None:
        await run_cpu(resample.enlarge, stored_out, place.source, box, out)
    return box, out


def _of_whole_cuboids(box: Box, cuboid_zyx: Zyx) -> Box:
    start = zyx(a // size * size for a, size in zip(box.start_zyx, cuboid_zyx, strict=True))
    stop = zyx(-(-b // size) * size for b, size in zip(box.stop_zyx, cuboid_zyx, strict=True))
    return Box(start, stop)


def _parts(place: Place, box: Box) -> dict[int, Part]:
    """The stored cuboids under a box, by their Morton codes."""
    source = place.source
    if source is not None and not source.is_coarser:
        cuboids = resample.cuboids_under(box, source)
        if cuboids > MOST_CUBOIDS:
            what = "finer cuboids under a box of a channel that is not propagated"
            raise TooLarge(what, asked=cuboids, limit=MOST_CUBOIDS, unit="cuboids")
    return {part.morton: part for part in place.parts(box)}


async def object_cuboids(
    stores: Stores, view: TokenView, channel: Channel, labels: Sequence[int], level: int
) -> AsyncIterator[tuple[Zyx, Mask]]:
    """Corner and mask of every cuboid that holds one of some labels, exceptions included.

    Of what is stored at this very level (annotation plane 3.6).
    """
    place = Place(channel, view.level(level))
    async for found in find(stores, place, labels, _itself):
        for one in found:
            yield one.corner_zyx, one.mask


def _itself(found: Found) -> Found:
    return found


async def labels_in_box(
    stores: Stores, view: TokenView, channel: Channel, level: int, box: Box
) -> Labels:
    """The labels in a box at timestep 0, ascending, exceptions included.

    Raises
    ------
    TooLarge
        If too many cuboids of a finer level lie under the box.
    """
    place = reading_place(view, channel, level)
    parts = _parts(place, box)

    def look(code: int, cuboid: Cuboid) -> Labels:
        return _labels_of_part(cuboid, parts[code], channel.dtype)

    labels = np.empty(0, dtype=channel.dtype)
    async for looked in look_at(stores, place, list(parts), look):
        labels = await run_cpu(joined_labels, labels, np.concatenate(looked))
    return labels


def _labels_of_part(cuboid: Cuboid, part: Part, dtype: np.dtype[Any]) -> Labels:
    labels = unique_labels(cuboid.voxels[part.source])
    exceptions = cuboid.exceptions
    if not len(exceptions):
        return labels
    inside = np.zeros(cuboid.voxels.shape, dtype=np.bool_)
    inside[part.source] = True
    also = exceptions.labels[inside.reshape(-1)[exceptions.offsets]]
    return sorted_labels(np.concatenate((labels, also.astype(dtype))))


# -- erasing and merging


async def erase_labels(
    stores: Stores, view: TokenView, channel: Channel, labels: Sequence[int]
) -> None:
    """Take some labels away from every level and timestep: voxels, exceptions, index.

    Where a voxel belongs to others as well, the lowest of them comes to light. May be interrupted
    and run again. What somebody writes meanwhile is gone or stays, cuboid by cuboid.

    Raises
    ------
    ReadOnly, Conflict
        If nothing may be written to the channel (now).
    """
    check_writable(channel)
    _check_labels(channel, labels)
    for place in _stored_places(view, channel):
        for label in dict.fromkeys(labels):
            await _erase(stores, place, label)


def _stored_places(view: TokenView, channel: Channel) -> list[Place]:
    """Every level that may hold voxels of a channel."""
    levels = range(channel.resolution, view.dataset.scalinglevels + 1)
    return [Place(channel, view.level(level)) for level in levels]


async def _erase(stores: Stores, place: Place, label: int) -> None:
    began_s = time.monotonic()
    level = place.level.level
    entries = await stores.labels.mortons(place.channel.id, level, label)
    # Not read before: what is erased is the label wherever it is when this is merged.
    everywhere = np.full(place.cuboid_zyx, label, dtype=place.channel.dtype)
    for first in range(0, len(entries), CHANGED_AT_ONCE):
        async with cutout_writer(stores, op=WriteOp.ERASE) as writer:
            await writer.write_slabs(
                [
                    (Slab(place, t, whole_box(code, place.cuboid_zyx)), everywhere)
                    for t, code in entries[first : first + CHANGED_AT_ONCE]
                ]
            )
            await writer.commit()
    await _forget_all(stores, place, label, entries, began_s)


async def _forget_all(
    stores: Stores,
    place: Place,
    label: int,
    entries: Sequence[tuple[int, int]],
    began_s: float,
) -> None:
    """Drop entries whose label was taken away, but none that somebody may be about to fill."""
    older_than_s = stores.labels.window_s + time.monotonic() - began_s
    await stores.labels.discard(
        place.channel.id, place.level.level, label, entries, older_than_s=older_than_s
    )


async def merge_labels(
    stores: Stores, view: TokenView, channel: Channel, labels: Sequence[int], into: int
) -> None:
    """Make some labels another one at every level: voxels, exceptions, index.

    May be interrupted and run again.

    Raises
    ------
    ReadOnly, Conflict
        If nothing may be written to the channel (now).
    """
    check_writable(channel)
    _check_labels(channel, [*labels, into])
    for place in _stored_places(view, channel):
        for label in dict.fromkeys(labels):
            if label != into:
                await _merge(stores, place, label, into)


async def _merge(stores: Stores, place: Place, label: int, into: int) -> None:
    began_s = time.monotonic()
    entries = await stores.labels.mortons(place.channel.id, place.level.level, label)
    codes_at: dict[int, list[int]] = {}
    for t, code in entries:
        codes_at.setdefault(t, []).append(code)
    wanted = as_labels([label], place.channel.dtype)

    def look(code: int, cuboid: Cuboid) -> Found:
        return Found(corner_of(code, place.cuboid_zyx), mask_of(cuboid, wanted), code)

    for t, codes in codes_at.items():
        for first in range(0, len(codes), CHANGED_AT_ONCE):
            some = codes[first : first + CHANGED_AT_ONCE]
            found = [f async for page in look_at(stores, place, some, look, t=t) for f in page]
            await _relabel(stores, place, t, [f for f in found if f.mask.any()], label, into)
    await _forget_all(stores, place, label, entries, began_s)


async def _relabel(
    stores: Stores, place: Place, t: int, found: Sequence[Found], label: int, into: int
) -> None:
    """Take a label away where it was found, and put another one in its place.

    As two writes that look at what is there when they are merged, so that a third label that
    somebody paints over the first meanwhile stays. The second one is an exception where another
    label is painted, as the first one was.
    """
    op = WriteOp.EXCEPTION if place.channel.exceptions else WriteOp.PRESERVE
    async with cutout_writer(stores) as writer:
        for one in found:
            box = box_of(one)
            z, y, x = one.corner_zyx
            mask = one.mask[box.shifted((-z, -y, -x)).slices()]
            slab = Slab(place, t, box)
            dtype = place.channel.dtype
            await writer.write_slabs([(slab, mask * dtype.type(label))], op=WriteOp.REDUCE)
            await writer.write_slabs([(slab, mask * dtype.type(into))], op=op)
        await writer.commit()
