"""Read or write a cutout: plan -> store -> merge -> assemble.

The one place where a box of a channel becomes cuboids and back. Reads come slab by slab, so that
memory does not grow with the box; writes are handed to the store as their bytes arrive and become
visible together. Boxes here are stored boxes, counted from zero (`Level.stored_box`).
"""

import contextlib
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from ndcass import codec
from ndcass.assemble import assemble, view_part
from ndcass.concurrency import CPU_CORES, OneBehind, bounded_map, one_ahead, run_cpu
from ndcass.errors import BadBody, NotFound, ReadOnly
from ndcass.geometry import Box, Level, Zyx
from ndcass.merge import WriteOp
from ndcass.model import Channel
from ndcass.plan import Part, plan_parts, plan_slabs
from ndcass.store.base import (
    NEARISO,
    PLAIN,
    CuboidAddress,
    CuboidBatch,
    CuboidStore,
    CuboidWrite,
    StoredCuboid,
    Stores,
)

# What is sent while the next of it is read. Larger slabs leave the processor's cache before they
# are sent, smaller ones cost more changes of thread (`make bench`, rest_box).
SLAB_BYTES = 4 << 20
# A read of at most this much is decoded on the event loop, if it blocks on no disk: a change of
# thread costs more than the copy.
INLINE_BYTES = 1 << 20
# The least that is worth another thread when a box is read at once.
THREAD_BYTES = 2 << 20
# Voxels that are encoded in one go.
ENCODE_BYTES = 8 << 20
# Above this, a layer of a posted box is written before the next is received: two would be too much.
DOUBLE_BUFFER_BYTES = 64 << 20

Voxels = npt.NDArray[Any]  # which type is only known at run time


@dataclass(slots=True)
class Usage:
    """What a request took, for its log line and the metrics."""

    cuboids_read: int = 0
    cuboids_written: int = 0
    store_s: float = 0.0
    codec_s: float = 0.0


class Place(NamedTuple):
    """One level of a channel, plain or near-isotropic."""

    channel: Channel
    level: Level
    neariso: bool = False

    @property
    def pyramid(self) -> int:
        """Which of the two pyramids; where the factor is 1 both are the plain one."""
        return NEARISO if self.neariso and self.level.neariso_scaledown > 1 else PLAIN

    @property
    def cuboid_zyx(self) -> Zyx:
        return self.level.cuboid_zyx

    def address(self, t: int, morton: int) -> CuboidAddress:
        """Where a cuboid of this place is stored."""
        return CuboidAddress(self.channel.id, self.pyramid, self.level.level, t, morton)


class Slab(NamedTuple):
    """A piece of an answer. Without a place it is zeros."""

    place: Place | None
    t: int
    box: Box


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
    store: CuboidStore, slabs: Sequence[Slab], *, dtype: np.dtype[Any], usage: Usage
) -> AsyncGenerator[Voxels, None]:
    """The voxels of some slabs, in order; while one is used the next is read.

    An array is only good until the next one is asked for: two buffers take turns.

    Raises
    ------
    StoreError
        If a cuboid could not be read.
    """
    most = max((slab.box.voxels for slab in slabs), default=0)
    buffers = [np.empty(most, dtype=dtype) for _ in range(min(2, len(slabs)))]

    async def fill(numbered: tuple[int, Slab]) -> Voxels:
        number, slab = numbered
        flat = buffers[number % len(buffers)]
        out = flat[: slab.box.voxels].reshape(slab.box.shape_zyx)
        await read_slab(store, slab, out, usage=usage)
        return out

    if len(slabs) == 1:  # no task for what most requests are
        yield await fill((0, slabs[0]))
        return
    async with contextlib.aclosing(one_ahead(fill, enumerate(slabs))) as filled:
        async for out in filled:
            yield out


async def read_small(
    store: CuboidStore, slab: Slab, *, dtype: np.dtype[Any], usage: Usage
) -> Voxels:
    """The voxels of a slab; read-only and without a copy where they lie together in one cuboid."""
    if slab.place is not None:
        found = _as_it_lies(store, slab.place, slab, dtype, usage)
        if found is not None:
            return found
    out = np.empty(slab.box.shape_zyx, dtype=dtype)
    await read_slab(store, slab, out, usage=usage)
    return out


def _as_it_lies(
    store: CuboidStore, place: Place, slab: Slab, dtype: np.dtype[Any], usage: Usage
) -> Voxels | None:
    depth, height, width = place.cuboid_zyx
    (z0, y0, x0), shape = slab.box.start_zyx, slab.box.shape_zyx
    if shape[1:] != (height, width) or y0 % height or x0 % width or z0 % depth + shape[0] > depth:
        return None
    (part,) = plan_parts(slab.box, place.cuboid_zyx)
    found = store.read_now([place.address(slab.t, part.morton)])
    if not found or len(found[0][1]) != 1:
        return None
    ((address, (row,)),) = found
    voxels = view_part(part, address, row, dtype=dtype, cuboid_zyx=place.cuboid_zyx)
    usage.cuboids_read += voxels is not None
    return voxels


async def read_box(
    store: CuboidStore, place: Place, t: int, box: Box, *, usage: Usage | None = None
) -> Voxels:
    """One box of one timestep as an array of order z, y, x."""
    out = np.empty(box.shape_zyx, dtype=place.channel.dtype)
    await read_slab(store, Slab(place, t, box), out, usage=usage or Usage())
    return out


async def read_slab(store: CuboidStore, slab: Slab, out: Voxels, *, usage: Usage) -> None:
    """Fill `out`, of the slab's shape, with its voxels; where nothing is stored, with zeros."""
    place = slab.place
    if place is None:
        out[...] = 0
        return
    parts = plan_parts(slab.box, place.cuboid_zyx)
    part_of = {place.address(slab.t, part.morton): part for part in parts}
    addresses = list(part_of)
    missing = set(addresses)
    began = time.perf_counter()
    if out.nbytes <= INLINE_BYTES:
        found = store.read_now(addresses)
        if found is not None:
            usage.store_s += time.perf_counter() - began
            missing.difference_update(address for address, _ in found)
            _copy(found, part_of, out, place.cuboid_zyx, usage)
            _clear(missing, part_of, out)
            return
    async for batch in store.read(addresses):
        usage.store_s += time.perf_counter() - began
        missing.difference_update(address for address, _ in batch)
        shares = _shares(batch, out.nbytes)
        if len(shares) == 1:
            await run_cpu(_copy, batch, part_of, out, place.cuboid_zyx, usage)
        else:
            await bounded_map(
                lambda share: run_cpu(_copy, share, part_of, out, place.cuboid_zyx, usage),
                shares,
                limit=len(shares),
            )
        began = time.perf_counter()
    if missing:
        await run_cpu(_clear, missing, part_of, out)


def _shares(batch: Sequence[StoredCuboid], size: int) -> list[Sequence[StoredCuboid]]:
    """A batch cut for several threads, where it is worth that."""
    threads = max(1, min(CPU_CORES, size // THREAD_BYTES, len(batch)))
    step = -(-len(batch) // threads)
    return [batch[at : at + step] for at in range(0, len(batch), step)]


def _copy(
    batch: Sequence[StoredCuboid],
    part_of: dict[CuboidAddress, Part],
    out: Voxels,
    cuboid_zyx: Zyx,
    usage: Usage,
) -> None:
    began = time.perf_counter()
    found = ((part_of[address], address, tuple(rows)) for address, rows in batch)
    assemble(found, out, cuboid_zyx=cuboid_zyx)
    usage.cuboids_read += len(batch)
    usage.codec_s += time.perf_counter() - began


def _clear(missing: set[CuboidAddress], part_of: dict[CuboidAddress, Part], out: Voxels) -> None:
    if len(missing) == len(part_of):
        out[...] = 0
        return
    for address in missing:
        out[part_of[address].target] = 0


# -- writing


class CutoutWriter:
    """A write of any number of boxes that becomes visible at its commit; see `cutout_writer`."""

    def __init__(self, stores: Stores, batch: CuboidBatch, op: WriteOp, usage: Usage) -> None:
        self._stores = stores
        self._batch = batch
        self._op = op
        self._usage = usage
        self._channels: set[int] = set()

    async def write(self, place: Place, t: int, box: Box, voxels: Voxels) -> None:
        """Take the voxels of a box (order z, y, x, of the box's shape and the channel's type).

        The array may be used again when this returns.
        """
        if voxels.shape != box.shape_zyx or voxels.dtype != place.channel.dtype:
            raise BadBody(
                f"voxels of {voxels.dtype} {voxels.shape} do not fit a box of "
                f"{place.channel.dtype} {box.shape_zyx}"
            )
        self._channels.add(place.channel.id)
        began = time.perf_counter()
        writes = [
            CuboidWrite(
                address=place.address(t, part.morton),
                op=self._op,
                cuboid_zyx=place.cuboid_zyx,
                corner_zyx=(part.source[0].start, part.source[1].start, part.source[2].start),
                voxels=voxels[part.target],
                keeps_exceptions=bool(place.channel.exceptions),
            )
            for part in plan_parts(box, place.cuboid_zyx)
        ]
        for group in _groups(writes):
            await self._batch.add(group)
        self._usage.cuboids_written += len(writes)
        self._usage.codec_s += time.perf_counter() - began

    async def commit(self) -> None:
        """Make it durable and visible.

        Raises
        ------
        NotFound
            If a channel was deleted meanwhile: what was written into it is lost with it.
        StoreError
            If it could not be stored.
        """
        began = time.perf_counter()
        await self._batch.commit()
        self._usage.store_s += time.perf_counter() - began
        for channel_id in self._channels:
            if not await self._stores.catalog.is_live(channel_id):
                raise NotFound("the channel was deleted while it was written to")


@contextlib.asynccontextmanager
async def cutout_writer(
    stores: Stores, *, op: WriteOp = WriteOp.MERGE, usage: Usage | None = None
) -> AsyncIterator[CutoutWriter]:
    """A write: ``async with cutout_writer(stores) as writer``, then `write` and `commit`.

    Leaving the block without a commit changes nothing.
    """
    async with stores.cuboids.batch() as batch:
        yield CutoutWriter(stores, batch, op, usage or Usage())


async def write_box(
    stores: Stores,
    place: Place,
    t: int,
    box: Box,
    voxels: Voxels,
    *,
    op: WriteOp = WriteOp.MERGE,
) -> None:
    """Write one box of one timestep and make it durable."""
    check_writable(place.channel)
    async with cutout_writer(stores, op=op) as writer:
        await writer.write(place, t, box, voxels)
        await writer.commit()


def check_writable(channel: Channel) -> None:
    """ReadOnly if nothing may be written to a channel."""
    if channel.readonly:
        raise ReadOnly(f"channel {channel.channel_name} is read-only")


class BodyWriter:
    """Writes a body of shape ``(channel, [t,] z, y, x)`` whose voxels arrive as bytes in C order.

    A layer of cuboids is gathered, then merged and stored while the next arrives; two layers is
    what it takes in memory, one if a layer is large. Use as an async context manager, `feed` it,
    then `finish`.
    """

    def __init__(
        self, writer: CutoutWriter, places: Sequence[Place], times: Sequence[int | None], box: Box
    ) -> None:
        self._writer = writer
        self._dtype = places[0].channel.dtype
        self._layers = _plan_layers(places, times, box)
        self._behind = OneBehind()
        self._layer = next(self._layers, None)
        layers = _layer_boxes(box, places[0].cuboid_zyx)
        total, count = _buffering(layers, self._dtype.itemsize)
        self._buffers = [np.empty(total // count, dtype=np.uint8) for _ in range(count)]
        self._turn = 0
        self._filled = 0

    @staticmethod
    def buffer_bytes(place: Place, box: Box) -> int:
        """What the layers of a body take in memory."""
        layers = _layer_boxes(box, place.cuboid_zyx)
        return _buffering(layers, place.channel.dtype.itemsize)[0]

    async def feed(self, voxels: bytes | bytearray | memoryview) -> None:
        """Take the next bytes; BadBody if there are more than the box has."""
        view = memoryview(voxels).cast("B")
        while view:
            if self._layer is None:
                raise BadBody("the body holds more voxels than the box")
            wanted = self._layer.box.voxels * self._dtype.itemsize
            taken = min(len(view), wanted - self._filled)
            buffer = self._buffers[self._turn]
            buffer[self._filled : self._filled + taken] = np.frombuffer(view[:taken], np.uint8)
            self._filled += taken
            view = view[taken:]
            if self._filled == wanted:
                await self._store(self._layer, buffer[:wanted])

    async def finish(self) -> None:
        """Wait until all is with the store; BadBody if bytes are missing."""
        if self._layer is not None:
            raise BadBody("the body holds fewer voxels than the box")
        await self._behind.drained()

    async def _store(self, layer: "_Layer", buffer: npt.NDArray[np.uint8]) -> None:
        voxels = buffer.view(self._dtype).reshape(layer.box.shape_zyx)
        await self._behind.run(self._writer.write(layer.place, layer.t, layer.box, voxels))
        if len(self._buffers) == 1:
            await self._behind.drained()
        self._layer = next(self._layers, None)
        self._turn = (self._turn + 1) % len(self._buffers)
        self._filled = 0

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._behind.__aexit__(kind, error, trace)


def _buffering(layers: Sequence[Box], itemsize: int) -> tuple[int, int]:
    """Bytes of all buffers for some layers, and how many buffers those are."""
    most = max(layer.voxels for layer in layers) * itemsize
    count = 2 if most <= DOUBLE_BUFFER_BYTES else 1
    return most * count, count


class _Layer(NamedTuple):
    place: Place
    t: int
    box: Box


def _plan_layers(
    places: Sequence[Place], times: Sequence[int | None], box: Box
) -> Iterator[_Layer]:
    for place in places:
        for t in times:
            for layer in _layer_boxes(box, place.cuboid_zyx):
                yield _Layer(place, place.channel.starttime if t is None else t, layer)


def _layer_boxes(box: Box, cuboid_zyx: Zyx) -> list[Box]:
    """A box cut at the cuboids' z limits: no cuboid is written twice, and C order stays."""
    plane_bytes = 1  # any limit of exactly one layer will do
    return plan_slabs(
        box,
        cuboid_zyx,
        plane_step=cuboid_zyx[0],
        itemsize=plane_bytes,
        limit_bytes=cuboid_zyx[0] * box.shape_zyx[1] * box.shape_zyx[2],
    )


def _groups(writes: Sequence[CuboidWrite]) -> Iterator[Sequence[CuboidWrite]]:
    """Writes in groups of about `ENCODE_BYTES`, so that encoding does not double a large layer."""
    step = max(1, ENCODE_BYTES // max(1, max((w.voxels.nbytes for w in writes), default=1)))
    for first in range(0, len(writes), step):
        yield writes[first : first + step]
