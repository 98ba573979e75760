"""Read a cutout: plan -> store -> merge -> assemble.

The one place where cuboids become a box of a channel; ``writer.py`` goes the other way. Reads come
slab by slab, so that memory does not grow with the box. Boxes here are stored boxes, counted from
zero (`Level.stored_box`).
"""

import contextlib
import itertools
import math
import time
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Sequence, Set
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ndcass import codec, morton, resample
from ndcass.assemble import assemble, planes_as_stored
from ndcass.concurrency import one_ahead, run_cpu, run_shares
from ndcass.errors import CorruptValue, TooLarge
from ndcass.geometry import Box, Zyx
from ndcass.place import Place, Slab, shaped, together
from ndcass.plan import Part, plan_parts, plan_slabs
from ndcass.resample import Source
from ndcass.store.base import CuboidAddress, CuboidStore, StoredCuboid

# What is sent while the next of it is read. Smaller slabs cost more changes of thread, larger ones
# leave the processor's cache before they are sent and take more memory (`make bench`, reads).
SLAB_BYTES = 12 << 20
# A read of at most this much is decoded on the event loop, if it blocks on no disk: a change of
# thread costs more than the copy.
INLINE_BYTES = 1 << 20
INLINE_CUBOIDS = 64
# The least that is worth another thread when a box is read at once; with less, threads mostly wait
# for each other, and other clients pay for it.
THREAD_BYTES = 8 << 20
# Cuboids that a coarse read of a channel without a pyramid takes in one go.
CUBOIDS_TOGETHER = 2048

Voxels = npt.NDArray[Any]  # which type is only known at run time


@dataclass(slots=True)
class Usage:
    """What a request took, for its log line and the metrics, and what it may take.

    `max_source_bytes` is of finer cuboids that a box takes only some voxels of: without a pyramid,
    a small picture of much needs nearly all that is stored.
    """

    cuboids_read: int = 0
    cuboids_written: int = 0
    store_s: float = 0.0
    codec_s: float = 0.0
    max_source_bytes: int | None = None

    def check_source(self, size_bytes: int) -> None:
        """TooLarge if a box takes voxels of more bytes of finer cuboids than the request may."""
        most = self.max_source_bytes
        if most is not None and size_bytes > most:
            what = "finer voxels under a box of a channel that is not propagated"
            raise TooLarge(what, asked=size_bytes, limit=most)


def plan_answer(
    places: Sequence[Place | None],
    times: Sequence[int | None],
    box: Box,
    *,
    cuboid_zyx: Zyx,
    dtype: np.dtype[Any],
    limit_bytes: int = SLAB_BYTES,
) -> Iterator[Slab]:
    """The slabs of an answer of shape ``(channel, [t,] z, y, x)``, in C order.

    Parameters
    ----------
    places : sequence of Place or None
        One a channel of the answer; None is an all-zero channel.
    times : sequence of int or None
        Timesteps; None means the channel's start time.
    box : Box
        Stored box, the same in every channel.
    cuboid_zyx : tuple of int
    dtype : dtype
        Of the stored voxels.
    limit_bytes : int
        About how large a slab may become.
    """
    step = codec.block_planes(cuboid_zyx, dtype.itemsize)
    boxes = plan_slabs(
        box, cuboid_zyx, plane_step=step, itemsize=dtype.itemsize, limit_bytes=limit_bytes
    )
    for place in places:
        for t in times:
            start = place.channel.starttime if place is not None else 0
            for slab in boxes:
                yield Slab(place, start if t is None else t, slab)


async def stream_slabs(
    store: CuboidStore, slabs: Iterable[Slab], *, dtype: np.dtype[Any], usage: Usage
) -> AsyncGenerator[Voxels, None]:
    """The voxels of some slabs, in order, flat; while some are used the next are read.

    Small slabs come together. An array is only good until the next one is asked for: two buffers
    take turns.

    Raises
    ------
    StoreError
        If a cuboid could not be read.
    """
    buffers = [np.empty(0, dtype=dtype), np.empty(0, dtype=dtype)]

    async def fill(numbered: tuple[int, list[Slab]]) -> Voxels:
        number, group = numbered
        voxels = sum(slab.box.voxels for slab in group)
        if buffers[number % 2].size < voxels:
            buffers[number % 2] = np.empty(voxels, dtype=dtype)
        flat = buffers[number % 2][:voxels]
        await read_slabs(store, list(shaped(group, flat)), usage=usage)
        return flat

    groups = enumerate(together(slabs, SLAB_BYTES // dtype.itemsize))
    first = next(groups, None)
    if first is None:
        return
    second = next(groups, None)
    if second is None:  # no task for what most requests are
        yield await fill(first)
        return
    numbered = itertools.chain((first, second), groups)
    async with contextlib.aclosing(one_ahead(fill, numbered)) as filled:
        async for out in filled:
            yield out


async def read_small(
    store: CuboidStore, place: Place, t: int, box: Box, *, usage: Usage
) -> memoryview:
    """The voxels of a small box as bytes; no copy where they lie together in one cuboid."""
    found = _as_it_lies(store, place, t, box, usage)
    if found is not None:
        return found
    return (await read_box(store, place, t, box, usage=usage)).data.cast("B")


def _as_it_lies(
    store: CuboidStore, place: Place, t: int, box: Box, usage: Usage
) -> memoryview | None:
    """Whole planes of one cuboid that is in memory and needs no work, else None."""
    if place.source is not None:
        return None
    depth, height, width = place.cuboid_zyx
    (z0, y0, x0), (z1, y1, x1) = box.start_zyx, box.stop_zyx
    first, last = z0 % depth, z0 % depth + z1 - z0
    if y1 - y0 != height or x1 - x0 != width or y0 % height or x0 % width or last > depth:
        return None
    address = place.address(t, morton.encode((z0 // depth, y0 // height, x0 // width)))
    began = time.perf_counter()
    found = store.read_now([address])
    between = time.perf_counter()
    usage.store_s += between - began
    if not found or len(found[0][1]) != 1:
        return None
    ((_, (row,)),) = found
    planes = planes_as_stored(
        address, row, first, last, dtype=place.channel.dtype, cuboid_zyx=place.cuboid_zyx
    )
    usage.codec_s += time.perf_counter() - between
    usage.cuboids_read += planes is not None
    return planes


async def read_box(
    store: CuboidStore, place: Place, t: int, box: Box, *, usage: Usage | None = None
) -> Voxels:
    """One box of one timestep as an array of order z, y, x."""
    out = np.empty(box.shape_zyx, dtype=place.channel.dtype)
    await read_slab(store, Slab(place, t, box), out, usage=usage or Usage())
    return out


async def read_slab(store: CuboidStore, slab: Slab, out: Voxels, *, usage: Usage) -> None:
    """Fill `out`, of the slab's shape, with its voxels; where nothing is stored, with zeros."""
    await read_slabs(store, [(slab, out)], usage=usage)


# What of a cuboid goes where; the same cuboid may be asked for more than once.
_Targets = dict[CuboidAddress, list[tuple[Part, Voxels]]]


async def read_slabs(
    store: CuboidStore, slabs: Sequence[tuple[Slab, Voxels]], *, usage: Usage
) -> None:
    """Fill the arrays of some slabs of one level, each of its slab's shape."""
    targets: _Targets = {}
    cuboid_zyx: Zyx = (0, 0, 0)
    for slab, out in slabs:
        if slab.place is None:
            out[...] = 0
            continue
        if slab.place.source is not None:
            await _read_resampled(store, slab, slab.place, slab.place.source, out, usage)
            continue
        cuboid_zyx = slab.place.cuboid_zyx
        channel, level, pyramid = slab.place.channel.id, slab.place.level.level, slab.place.pyramid
        for part in plan_parts(slab.box, cuboid_zyx):
            address = CuboidAddress(channel, pyramid, level, slab.t, part.morton)
            if address in targets:
                targets[address].append((part, out))
            else:
                targets[address] = [(part, out)]
    if targets:
        await _fill(store, targets, sum(out.nbytes for _, out in slabs), cuboid_zyx, usage)


async def _read_resampled(
    store: CuboidStore, slab: Slab, place: Place, source: Source, out: Voxels, usage: Usage
) -> None:
    if source.is_coarser:
        stored = Place(place.channel, source.level)
        box = resample.coarse_box(slab.box, source)
        voxels = await read_box(store, stored, slab.t, box, usage=usage)
        if out.nbytes <= INLINE_BYTES:
            resample.enlarge(voxels, source, slab.box, out)
        else:
            await run_cpu(resample.enlarge, voxels, source, slab.box, out)
        return
    usage.check_source(source_bytes([place], slab.box, 1))
    cuboid_bytes = math.prod(place.cuboid_zyx) * out.dtype.itemsize
    z, y, x = slab.box.start_zyx
    # Piece by piece, for a plan of all cuboids could take more memory than the voxels.
    for piece in resample.pieces(slab.box, source, CUBOIDS_TOGETHER):
        into = out[piece.shifted((-z, -y, -x)).slices()]
        targets = {place.address(slab.t, p.morton): [(p, into)] for p in place.parts(piece)}
        await _fill(store, targets, len(targets) * cuboid_bytes, place.cuboid_zyx, usage)


def source_bytes(places: Iterable[Place | None], box: Box, timesteps: int) -> int:
    """Bytes of the finer cuboids that a box takes voxels of, for `Usage.check_source`."""
    return timesteps * sum(
        resample.cuboids_under(box, place.source)
        * math.prod(place.cuboid_zyx)
        * place.channel.dtype.itemsize
        for place in places
        if place is not None and place.source is not None and not place.source.is_coarser
    )


async def _fill(
    store: CuboidStore, targets: _Targets, size: int, cuboid_zyx: Zyx, usage: Usage
) -> None:
    def copy(found: Sequence[StoredCuboid]) -> None:
        _copy(found, targets, cuboid_zyx, usage)

    missing = await use_cuboids(store, list(targets), copy, size_bytes=size, usage=usage)
    if size <= INLINE_BYTES:
        _clear(missing, targets)
    elif missing:
        await run_cpu(_clear, missing, targets)


async def use_cuboids(
    store: CuboidStore,
    addresses: Sequence[CuboidAddress],
    use: Callable[[Sequence[StoredCuboid]], None],
    *,
    size_bytes: int,
    usage: Usage,
) -> Set[CuboidAddress]:
    """Have the stored ones of some cuboids used; those that are not stored.

    Parameters
    ----------
    use : callable
        Decodes some cuboids and does something with them; in several threads at once where so many
        bytes are worth it. If it raises CorruptValue it is called again with other replicas.
    size_bytes : int
        About how many bytes it works on, all in all.
    """
    missing = set(addresses)
    began = time.perf_counter()
    if size_bytes <= INLINE_BYTES and len(addresses) <= INLINE_CUBOIDS:
        found = store.read_now(addresses)
        if found is not None:
            usage.store_s += time.perf_counter() - began
            missing.difference_update(address for address, _ in found)
            use(found)
            return missing
    async for batch in store.read(addresses):
        usage.store_s += time.perf_counter() - began
        missing.difference_update(address for address, _ in batch)
        try:
            await run_shares(use, batch, size_bytes=size_bytes, share_bytes=THREAD_BYTES)
        except CorruptValue:
            # Another replica, where there is one, may have it whole.
            async for again in store.reread([address for address, _ in batch]):
                await run_shares(use, again, size_bytes=size_bytes, share_bytes=THREAD_BYTES)
        began = time.perf_counter()
    return missing


def _copy(batch: Sequence[StoredCuboid], targets: _Targets, cuboid_zyx: Zyx, usage: Usage) -> None:
    began = time.perf_counter()
    assemble(
        ((part, address, rows, out) for address, rows in batch for part, out in targets[address]),
        cuboid_zyx=cuboid_zyx,
    )
    usage.cuboids_read += len(batch)
    usage.codec_s += time.perf_counter() - began


def _clear(missing: Set[CuboidAddress], targets: _Targets) -> None:
    for address in missing:
        for part, out in targets[address]:
            out[part.target] = 0
