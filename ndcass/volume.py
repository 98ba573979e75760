"""Read or write a cutout: plan -> store -> merge -> assemble.

The one place where a box of a channel becomes cuboids and back. Reads come slab by slab, so that
memory does not grow with the box; writes are handed to the store as their bytes arrive and become
visible together. Boxes here are stored boxes, counted from zero (`Level.stored_box`).
"""

import contextlib
import itertools
import math
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from ndcass import codec, morton, resample
from ndcass.assemble import assemble, planes_as_stored
from ndcass.concurrency import CPU_CORES, OneBehind, bounded_map, one_ahead, run_cpu
from ndcass.errors import BadBody, CorruptValue, InvalidRequest, NotFound, ReadOnly, TooLarge
from ndcass.geometry import Box, Level, Zyx
from ndcass.merge import WriteOp
from ndcass.model import NOT_PROPAGATED, PROPAGATED, UNDER_PROPAGATION, Channel, TokenView
from ndcass.plan import Part, plan_parts, plan_slabs
from ndcass.propagation import check_unlocked
from ndcass.resample import Source
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
from ndcass.store.derived import descendants_of

# What is sent while the next of it is read. Smaller slabs cost more changes of thread, larger ones
# leave the processor's cache before they are sent and take more memory (`make bench`, reads).
SLAB_BYTES = 12 << 20
# A read of at most this much is decoded on the event loop, if it blocks on no disk: a change of
# thread costs more than the copy.
INLINE_BYTES = 1 << 20
INLINE_CUBOIDS = 64
# Slabs that are read in one go at most.
SLABS_TOGETHER = 256
# The least that is worth another thread when a box is read at once; with less, threads mostly wait
# for each other, and other clients pay for it.
THREAD_BYTES = 8 << 20
# Cuboids that a coarse read of a channel without a pyramid takes in one go.
CUBOIDS_TOGETHER = 2048
# Voxels that are encoded in one go.
ENCODE_BYTES = 8 << 20
ENCODE_CUBOIDS = 512
# Above this, a layer of a posted box is written before the next is received: two would be too much.
DOUBLE_BUFFER_BYTES = 64 << 20

Voxels = npt.NDArray[Any]  # which type is only known at run time


@dataclass(slots=True)
class Usage:
    """What a request took, for its log line and the metrics, and what it may take.

    `source_bytes` are those of finer cuboids that it took only some voxels of: without a pyramid, a
    small picture of much needs nearly all that is stored.
    """

    cuboids_read: int = 0
    cuboids_written: int = 0
    store_s: float = 0.0
    codec_s: float = 0.0
    source_bytes: int = 0
    max_source_bytes: int | None = None

    def check_source(self, size_bytes: int) -> None:
        """TooLarge if the request may not take so many bytes of finer cuboids."""
        asked, most = self.source_bytes + size_bytes, self.max_source_bytes
        if most is not None and asked > most:
            what = "finer voxels under a box of a channel that is not propagated"
            raise TooLarge(what, asked=asked, limit=most)

    def take_source(self, size_bytes: int) -> None:
        """Count bytes of finer cuboids; TooLarge as `check_source`."""
        self.check_source(size_bytes)
        self.source_bytes += size_bytes


class Place(NamedTuple):
    """One level of a channel, plain or near-isotropic, and where its voxels are.

    Boxes of a place are boxes of `level`. The cuboids (`cuboid_zyx`, `address`, `pyramid`) are
    those that are stored, at another level where there is a `source`; `addresses` tells which.
    """

    channel: Channel
    level: Level
    neariso: bool = False
    source: Source | None = None

    @property
    def pyramid(self) -> int:
        """Which of the two pyramids; where the factor is 1 both are the plain one."""
        return NEARISO if self.neariso and self.level.neariso_scaledown > 1 else PLAIN

    @property
    def stored_level(self) -> Level:
        """The level whose cuboids hold the voxels."""
        return self.level if self.source is None else self.source.level

    @property
    def cuboid_zyx(self) -> Zyx:
        return self.stored_level.cuboid_zyx

    def address(self, t: int, morton: int) -> CuboidAddress:
        """Where a cuboid of this place is stored."""
        return CuboidAddress(self.channel.id, self.pyramid, self.stored_level.level, t, morton)

    def parts(self, box: Box) -> list[Part]:
        """The stored cuboids under a box of `level`; `target` is no use where they are coarser."""
        source = self.source
        if source is None:
            return plan_parts(box, self.cuboid_zyx)
        if source.is_coarser:
            return plan_parts(resample.coarse_box(box, source), self.cuboid_zyx)
        return plan_parts(box, self.cuboid_zyx, source.factor_zyx)

    def addresses(self, t: int, box: Box) -> list[CuboidAddress]:
        """The stored cuboids under a box of `level` at one timestep."""
        return [self.address(t, part.morton) for part in self.parts(box)]


def reading_place(
    view: TokenView,
    channel: Channel,
    level: int,
    *,
    neariso: bool = False,
    unfinished: bool = True,
) -> Place:
    """Where the voxels of a channel at some level are read (data plane 6).

    What is finer than the base of the channel repeats it, also near-isotropic. What is coarser is
    the pyramid if there is one or, with `unfinished`, one is being built; else every so many-th
    voxel of the base. The near-isotropic levels stand for themselves: what is in them was written
    there.

    Raises
    ------
    OutOfBounds
        If the dataset has no such level.
    """
    asked = view.level(level)
    base = channel.resolution
    if level == base:
        return Place(channel, asked, neariso)
    built = channel.propagate == PROPAGATED
    built = built or (unfinished and channel.propagate == UNDER_PROPAGATION)
    own = built or (neariso and asked.neariso_scaledown > 1)
    if level > base and own:
        return Place(channel, asked, neariso)
    return Place(channel, asked, source=resample.source_of(view.dataset.geometry, level, base))


def writing_place(view: TokenView, channel: Channel, level: int, *, neariso: bool = False) -> Place:
    """Where voxels that are sent for some level are written.

    Raises
    ------
    OutOfBounds
        If the dataset has no such level.
    InvalidRequest
        If nothing written there could be read again.
    """
    # Labels were never written to the near-isotropic levels (data plane 5.1).
    place = reading_place(view, channel, level, neariso=neariso and not channel.is_annotation)
    if place.source is not None:
        raise InvalidRequest(
            f"channel {channel.channel_name} holds level {channel.resolution}, from which level "
            f"{level} is made: write to level {channel.resolution}"
        )
    return place


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
        await read_slabs(store, list(_shaped(group, flat)), usage=usage)
        return flat

    groups = enumerate(_together(slabs, SLAB_BYTES // dtype.itemsize))
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


def _together(slabs: Iterable[Slab], limit_voxels: int) -> Iterator[list[Slab]]:
    """Slabs that follow each other in groups of about `limit_voxels`.

    A series of many timesteps of a few voxels each would otherwise take a change of thread for
    each.
    """
    group: list[Slab] = []
    voxels = 0
    for slab in slabs:
        if group and (voxels + slab.box.voxels > limit_voxels or len(group) == SLABS_TOGETHER):
            yield group
            group, voxels = [], 0
        group.append(slab)
        voxels += slab.box.voxels
    if group:
        yield group


def _shaped(group: Sequence[Slab], flat: Voxels) -> Iterator[tuple[Slab, Voxels]]:
    """Each slab of a group with its share of a flat array, in its shape."""
    at = 0
    for slab in group:
        yield slab, flat[at : at + slab.box.voxels].reshape(slab.box.shape_zyx)
        at += slab.box.voxels


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
    cuboid_bytes = math.prod(place.cuboid_zyx) * out.dtype.itemsize
    z, y, x = slab.box.start_zyx
    usage.check_source(resample.cuboids_under(slab.box, source) * cuboid_bytes)
    # Piece by piece, for a plan of all cuboids could take more memory than the voxels.
    for piece in resample.pieces(slab.box, source, CUBOIDS_TOGETHER):
        into = out[piece.shifted((-z, -y, -x)).slices()]
        targets = {place.address(slab.t, p.morton): [(p, into)] for p in place.parts(piece)}
        size = len(targets) * cuboid_bytes
        usage.take_source(size)
        await _fill(store, targets, size, place.cuboid_zyx, usage)


def source_bytes(places: Iterable[Place | None], box: Box, timesteps: int) -> int:
    """Bytes of finer cuboids that reading a box takes, see `Usage.source_bytes`."""
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
    addresses = list(targets)
    missing = set(addresses)
    began = time.perf_counter()
    if size <= INLINE_BYTES and len(addresses) <= INLINE_CUBOIDS:
        found = store.read_now(addresses)
        if found is not None:
            usage.store_s += time.perf_counter() - began
            missing.difference_update(address for address, _ in found)
            _copy(found, targets, cuboid_zyx, usage)
            _clear(missing, targets)
            return
    async for batch in store.read(addresses):
        usage.store_s += time.perf_counter() - began
        missing.difference_update(address for address, _ in batch)
        try:
            await _copied(batch, targets, size, cuboid_zyx, usage)
        except CorruptValue:
            # Another replica, where there is one, may have it whole.
            async for again in store.reread([address for address, _ in batch]):
                await _copied(again, targets, size, cuboid_zyx, usage)
        began = time.perf_counter()
    if missing:
        await run_cpu(_clear, missing, targets)


async def _copied(
    batch: Sequence[StoredCuboid], targets: _Targets, size: int, cuboid_zyx: Zyx, usage: Usage
) -> None:
    """Decode a batch into its targets, in as many threads as it is worth."""
    shares = _shares(batch, size)
    if len(shares) == 1:
        await run_cpu(_copy, batch, targets, cuboid_zyx, usage)
        return
    await bounded_map(
        lambda share: run_cpu(_copy, share, targets, cuboid_zyx, usage), shares, limit=len(shares)
    )


def _shares(batch: Sequence[StoredCuboid], size: int) -> list[Sequence[StoredCuboid]]:
    """A batch cut for several threads, where it is worth that."""
    threads = max(1, min(CPU_CORES, size // THREAD_BYTES, len(batch)))
    step = -(-len(batch) // threads)
    return [batch[at : at + step] for at in range(0, len(batch), step)]


def _copy(batch: Sequence[StoredCuboid], targets: _Targets, cuboid_zyx: Zyx, usage: Usage) -> None:
    began = time.perf_counter()
    assemble(
        ((part, address, rows, out) for address, rows in batch for part, out in targets[address]),
        cuboid_zyx=cuboid_zyx,
    )
    usage.cuboids_read += len(batch)
    usage.codec_s += time.perf_counter() - began


def _clear(missing: set[CuboidAddress], targets: _Targets) -> None:
    for address in missing:
        for part, out in targets[address]:
            out[part.target] = 0


# -- writing


class CutoutWriter:
    """A write of any number of boxes that becomes visible at its commit; see `cutout_writer`."""

    def __init__(self, stores: Stores, batch: CuboidBatch, op: WriteOp, usage: Usage) -> None:
        self._stores = stores
        self._batch = batch
        self._op = op
        self._usage = usage
        self._channels: dict[int, Channel] = {}
        self._written: list[tuple[Place, int, Box]] = []

    async def write(self, place: Place, t: int, box: Box, voxels: Voxels) -> None:
        """Take the voxels of a box (order z, y, x, of the box's shape and the channel's type).

        The array may be used again when this returns.
        """
        await self.write_slabs([(Slab(place, t, box), voxels)])

    async def write_slabs(self, slabs: Sequence[tuple[Slab, Voxels]]) -> None:
        """Take the voxels of several boxes, as `write`; quicker than one by one."""
        began = time.perf_counter()
        writes: list[CuboidWrite] = []
        for slab, voxels in slabs:
            if slab.place is not None and slab.place.channel.id not in self._channels:
                await check_unlocked(self._stores, slab.place.channel)
            writes += self._writes(slab, voxels)
        for group in _groups(writes):
            await self._batch.add(group)
        self._usage.cuboids_written += len(writes)
        self._usage.codec_s += time.perf_counter() - began

    def _writes(self, slab: Slab, voxels: Voxels) -> Iterator[CuboidWrite]:
        place, t, box = slab
        if place is None or voxels.shape != box.shape_zyx or voxels.dtype != place.channel.dtype:
            wanted = "no channel" if place is None else f"a box of {place.channel.dtype}"
            raise BadBody(
                f"voxels of {voxels.dtype} {voxels.shape} do not fit {wanted} {box.shape_zyx}"
            )
        self._channels[place.channel.id] = place.channel
        self._written.append((place, t, box))
        for part in plan_parts(box, place.cuboid_zyx):
            yield CuboidWrite(
                address=place.address(t, part.morton),
                op=self._op,
                cuboid_zyx=place.cuboid_zyx,
                corner_zyx=(part.source[0].start, part.source[1].start, part.source[2].start),
                voxels=voxels[part.target],
                keeps_exceptions=bool(place.channel.exceptions),
            )

    async def commit(self) -> None:
        """Make it durable and visible.

        Raises
        ------
        NotFound
            If a channel was deleted meanwhile, or got another type or geometry: what was written
            is lost with what it was.
        StoreError
            If it could not be stored.
        """
        began = time.perf_counter()
        for channel in self._channels.values():
            if channel.propagate != NOT_PROPAGATED:
                self._batch.mark_stale(await self._derived(channel))
        await self._batch.commit()
        for channel in self._channels.values():
            live = await self._stores.catalog.live_channel(channel.id)
            if live is None:
                raise NotFound(
                    "the channel was deleted, or its type or geometry changed, while it was "
                    "written to: what was written into it is lost"
                )
            # A pyramid that was begun before this moment may have been built without what was
            # written; one that is begun later is not.
            if live.propagate != NOT_PROPAGATED and channel.propagate == NOT_PROPAGATED:
                await self._stores.stale.mark(await self._derived(channel))
        self._usage.store_s += time.perf_counter() - began

    async def _derived(self, channel: Channel) -> set[CuboidAddress]:
        """The cuboids that derive from what was written into a channel."""
        written = [item for item in self._written if item[0].channel.id == channel.id]
        if len(written) == 1:
            return _derived_from(written)
        return await run_cpu(_derived_from, written)


def _derived_from(written: Sequence[tuple[Place, int, Box]]) -> set[CuboidAddress]:
    found: set[CuboidAddress] = set()
    for place, t, box in written:
        channel, level = place.channel, place.level
        # Finer than the base there is no data; from near-isotropic levels nothing derives.
        if place.pyramid == PLAIN and level.level >= channel.resolution:
            found |= descendants_of(level.geometry, channel.id, level.level, t, box)
    return found


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

    A layer of cuboids (several, where they are small) is gathered, then merged and stored while the
    next arrives; two of them is what it takes in memory, one if a layer is large. Use as an async
    context manager, `feed` it, then `finish`.
    """

    def __init__(
        self, writer: CutoutWriter, places: Sequence[Place], times: Sequence[int | None], box: Box
    ) -> None:
        self._writer = writer
        self._dtype = places[0].channel.dtype
        self._behind = OneBehind()
        total, count = _buffering(places[0], box, len(places) * len(times))
        self._buffers = [np.empty(total // count, dtype=np.uint8) for _ in range(count)]
        limit = total // count // self._dtype.itemsize
        self._groups = _together(_plan_layers(places, times, box), limit)
        self._turn = 0
        self._next_group()

    @staticmethod
    def buffer_bytes(place: Place, box: Box, volumes: int) -> int:
        """What a body of so many channels times timesteps takes in memory."""
        return _buffering(place, box, volumes)[0]

    async def feed(self, voxels: bytes | bytearray | memoryview) -> None:
        """Take the next bytes; BadBody if there are more than the box has."""
        view = memoryview(voxels).cast("B")
        while view:
            if not self._group:
                raise BadBody("the body holds more voxels than the box")
            taken = min(len(view), self._wanted - self._filled)
            buffer = self._buffers[self._turn]
            buffer[self._filled : self._filled + taken] = np.frombuffer(view[:taken], np.uint8)
            self._filled += taken
            view = view[taken:]
            if self._filled == self._wanted:
                await self._store(self._group, buffer[: self._wanted])

    async def finish(self) -> None:
        """Wait until all is with the store; BadBody if bytes are missing."""
        if self._group:
            raise BadBody("the body holds fewer voxels than the box")
        await self._behind.drained()

    async def _store(self, group: Sequence[Slab], buffer: npt.NDArray[np.uint8]) -> None:
        slabs = list(_shaped(group, buffer.view(self._dtype)))
        await self._behind.run(self._writer.write_slabs(slabs))
        if len(self._buffers) == 1:
            await self._behind.drained()
        self._turn = (self._turn + 1) % len(self._buffers)
        self._next_group()

    def _next_group(self) -> None:
        self._group = next(self._groups, [])
        self._wanted = sum(slab.box.voxels for slab in self._group) * self._dtype.itemsize
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


def _buffering(place: Place, box: Box, volumes: int) -> tuple[int, int]:
    """Bytes of all buffers for the layers of a body, and how many buffers those are."""
    layers = _layer_boxes(box, place.cuboid_zyx)
    itemsize = place.channel.dtype.itemsize
    whole = box.voxels * itemsize * volumes
    most = max(max(layer.voxels for layer in layers) * itemsize, min(whole, SLAB_BYTES))
    most -= most % itemsize
    count = 2 if most <= DOUBLE_BUFFER_BYTES else 1
    return most * count, count


def _plan_layers(places: Sequence[Place], times: Sequence[int | None], box: Box) -> Iterator[Slab]:
    layers = _layer_boxes(box, places[0].cuboid_zyx)
    for place in places:
        for t in times:
            for layer in layers:
                yield Slab(place, place.channel.starttime if t is None else t, layer)


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
    most = max((write.voxels.nbytes for write in writes), default=1)
    step = max(1, min(ENCODE_CUBOIDS, ENCODE_BYTES // max(1, most)))
    for first in range(0, len(writes), step):
        yield writes[first : first + step]
