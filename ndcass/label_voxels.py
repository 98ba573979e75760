"""Where the voxels of some labels are, cuboid by cuboid, as the index says and the voxels confirm.

Reads only. Boxes and corners are stored ones, of a level that is stored; how levels that are not
stored follow from it is in ``annotation.py``.
"""

import contextlib
import logging
import time
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence, Set
from typing import NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from ndcass import morton
from ndcass.assemble import merged
from ndcass.concurrency import bounded_map, run_cpu
from ndcass.errors import CorruptValue, StoreError
from ndcass.geometry import Box, Zyx
from ndcass.label_values import Labels, Mask, as_labels, has_label, joined_labels, unique_labels
from ndcass.merge import Cuboid, CuboidRow
from ndcass.place import Place, Voxels
from ndcass.store.base import CuboidAddress, StoredCuboid, Stores

log = logging.getLogger(__name__)

T = TypeVar("T")

# Voxels of objects are here, and nowhere else (annotation plane 0.5).
OBJECT_TIMESTEP = 0
# Lists of the index that are read at once, for objects of many labels.
LISTS_AT_ONCE = 16
# Cuboids that are asked for in one go; a reader that leaves early has not read the others.
CUBOIDS_AT_ONCE = 128


class Found(NamedTuple):
    """The voxels of some labels in one cuboid."""

    corner_zyx: Zyx  # of the cuboid
    mask: Mask  # of the whole cuboid
    morton: int


async def cuboids_of_labels(
    stores: Stores, place: Place, labels: Sequence[int], *, t: int = OBJECT_TIMESTEP
) -> list[int]:
    """Morton codes of the cuboids that may hold one of some labels, ascending."""

    async def listed(label: int) -> Sequence[tuple[int, int]]:
        return await stores.labels.mortons(place.channel.id, place.stored_level.level, label)

    wanted = sorted(set(labels))
    lists = await bounded_map(listed, wanted, limit=LISTS_AT_ONCE)
    return sorted({code for found in lists for its_t, code in found if its_t == t})


async def look_at(
    stores: Stores,
    place: Place,
    codes: Sequence[int],
    look: Callable[[int, Cuboid], T],
    *,
    t: int = OBJECT_TIMESTEP,
) -> AsyncGenerator[list[T], None]:
    """What `look` makes of the stored ones of some cuboids, a few at a time, in any order.

    `look` gets a Morton code and a cuboid, on a thread; it must not keep the voxels.

    Raises
    ------
    StoreError
        If a cuboid cannot be read.
    """

    def looked(batch: Sequence[StoredCuboid]) -> list[T]:
        scratch = np.empty(place.cuboid_zyx, dtype=place.channel.dtype)
        return [
            look(address.morton, _cuboid(place, address, rows, scratch)) for address, rows in batch
        ]

    for first in range(0, len(codes), CUBOIDS_AT_ONCE):
        addresses = [place.address(t, code) for code in codes[first : first + CUBOIDS_AT_ONCE]]
        async for batch in stores.cuboids.read(addresses):
            try:
                yield await run_cpu(looked, batch)
            except CorruptValue:
                # Another replica, where there is one, may have it whole.
                async for again in stores.cuboids.reread([address for address, _ in batch]):
                    yield await run_cpu(looked, again)


def _cuboid(
    place: Place, address: CuboidAddress, rows: Sequence[CuboidRow], scratch: Voxels
) -> Cuboid:
    return merged(
        address, rows, cuboid_zyx=place.cuboid_zyx, dtype=place.channel.dtype, scratch=scratch
    )


async def find(
    stores: Stores, place: Place, labels: Sequence[int], look: Callable[[Found], T]
) -> AsyncGenerator[list[T], None]:
    """What `look` makes of every cuboid that holds one of some labels, exceptions included.

    A list of the index that turns out to be wrong is mended as far as it is old enough.
    """
    wanted = as_labels(labels, place.channel.dtype)
    began_s = time.monotonic()
    codes = await cuboids_of_labels(stores, place, wanted.tolist())
    empty = set(codes)

    def check(code: int, cuboid: Cuboid) -> tuple[int, T] | None:
        mask = mask_of(cuboid, wanted)
        if not mask.any():
            return None
        return code, look(Found(corner_of(code, place.cuboid_zyx), mask, code))

    async for looked in look_at(stores, place, codes, check):
        held = [one for one in looked if one is not None]
        empty.difference_update(code for code, _ in held)
        yield [made for _, made in held]
    if empty and len(wanted) == 1:  # of several, each would have to be looked for by itself
        await _forget(stores, place, int(wanted[0]), empty, began_s)


async def is_painted(stores: Stores, place: Place, label: int) -> bool:
    """Whether any voxel of a place has a label, exceptions included."""
    async with contextlib.aclosing(find(stores, place, [label], _is_there)) as looked:
        async for found in looked:
            if found:
                return True
    return False


def _is_there(_: Found) -> bool:
    return True


async def _forget(
    stores: Stores, place: Place, label: int, codes: Set[int], began_s: float
) -> None:
    """Drop entries of the index that are wrong, unless a write may be about to make them right."""
    older_than_s = stores.labels.window_s + time.monotonic() - began_s
    channel_id, level = place.channel.id, place.stored_level.level
    wrong = [
        entry
        for entry in await stores.labels.mortons(channel_id, level, label)
        if entry[0] == OBJECT_TIMESTEP and entry[1] in codes
    ]
    try:
        await stores.labels.discard(channel_id, level, label, wrong, older_than_s=older_than_s)
    except StoreError as error:  # what was read is right all the same
        log.warning("entries of the label index that are wrong stay: %s", error)


def mask_of(cuboid: Cuboid, labels: Labels) -> Mask:
    """Where a cuboid has one of some labels, painted or as an exception."""
    mask = has_label(cuboid.voxels, labels)
    exceptions = cuboid.exceptions
    if len(exceptions):
        also = np.isin(exceptions.labels, labels.astype(np.uint64))
        mask.reshape(-1)[exceptions.offsets[also]] = True
    return mask


def labels_of(cuboid: Cuboid) -> Labels:
    """The labels of a cuboid, ascending, exceptions included."""
    labels = unique_labels(cuboid.voxels)
    return joined_labels(labels, cuboid.exceptions.labels)


def corner_of(code: int, cuboid_zyx: Zyx) -> Zyx:
    """The first voxel of a cuboid."""
    (gz, gy, gx), (z, y, x) = morton.decode(code), cuboid_zyx
    return (gz * z, gy * y, gx * x)


def points_of(found: Found) -> npt.NDArray[np.int64]:
    """The voxels of a cuboid's mask, shape (n, 3), order z, y, x."""
    flat = np.flatnonzero(found.mask)
    points = np.stack(np.unravel_index(flat, found.mask.shape), axis=1).astype(np.int64, copy=False)
    points += np.array(found.corner_zyx, dtype=np.int64)
    return points


def box_of(found: Found) -> Box:
    """The least box around the voxels of a cuboid's mask, which is not empty."""
    start, stop = [], []
    for axis, corner in enumerate(found.corner_zyx):
        others = tuple(other for other in range(3) if other != axis)
        held = np.flatnonzero(found.mask.any(axis=others))
        start.append(corner + int(held[0]))
        stop.append(corner + int(held[-1]) + 1)
    return Box((start[0], start[1], start[2]), (stop[0], stop[1], stop[2]))


def whole_box(code: int, cuboid_zyx: Zyx) -> Box:
    """All voxels of a cuboid."""
    return Box((0, 0, 0), cuboid_zyx).shifted(corner_of(code, cuboid_zyx))


def union_of(boxes: Iterable[Box]) -> Box | None:
    """The least box around some others; None if there are none."""
    found: Box | None = None
    for box in boxes:
        if found is None:
            found = box
            continue
        (az, ay, ax), (bz, by, bx) = found.start_zyx, box.start_zyx
        (cz, cy, cx), (dz, dy, dx) = found.stop_zyx, box.stop_zyx
        found = Box(
            (min(az, bz), min(ay, by), min(ax, bx)), (max(cz, dz), max(cy, dy), max(cx, dx))
        )
    return found
