"""Write a cutout: voxels go to the store as they come, and become visible together.

The one place where a box of a channel becomes cuboids; ``volume.py`` goes the other way. Boxes here
are stored boxes, counted from zero (`Level.stored_box`).
"""

import contextlib
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from ndcass.concurrency import OneBehind, run_cpu
from ndcass.errors import BadBody, NotFound, ReadOnly
from ndcass.geometry import Box, Zyx
from ndcass.label_index import IndexEntries
from ndcass.merge import WriteOp
from ndcass.model import NOT_PROPAGATED, Channel
from ndcass.place import Place, Slab, shaped, together
from ndcass.plan import plan_parts, plan_slabs
from ndcass.propagation import check_unlocked
from ndcass.store.base import PLAIN, CuboidAddress, CuboidBatch, CuboidWrite, Stores
from ndcass.store.derived import descendants_of
from ndcass.volume import SLAB_BYTES, Usage

# Voxels that are encoded in one go.
ENCODE_BYTES = 8 << 20
ENCODE_CUBOIDS = 512
# Above this, a layer of a posted box is written before the next is received: two would be too much.
DOUBLE_BUFFER_BYTES = 64 << 20

Voxels = npt.NDArray[Any]  # which type is only known at run time


class CutoutWriter:
    """A write of any number of boxes that becomes visible at its commit; see `cutout_writer`."""

    def __init__(self, stores: Stores, batch: CuboidBatch, op: WriteOp, usage: Usage) -> None:
        self._stores = stores
        self._batch = batch
        self._op = op
        self._usage = usage
        self._channels: dict[int, Channel] = {}
        self._marked: set[int] = set()  # channels whose levels this write marks
        self._written: list[tuple[Place, int, Box]] = []
        self._entries = IndexEntries(stores.labels)

    async def write(self, place: Place, t: int, box: Box, voxels: Voxels) -> None:
        """Take the voxels of a box (order z, y, x, of the box's shape and the channel's type).

        The array may be used again when this returns.
        """
        await self.write_slabs([(Slab(place, t, box), voxels)])

    async def write_slabs(
        self, slabs: Sequence[tuple[Slab, Voxels]], *, op: WriteOp | None = None
    ) -> None:
        """Take the voxels of several boxes, as `write`; quicker than one by one.

        With `op` they are merged so, and not as the writer's other voxels are.
        """
        began = time.perf_counter()
        writes: list[CuboidWrite] = []
        for slab, voxels in slabs:
            if slab.place is not None and slab.place.channel.id not in self._channels:
                await check_unlocked(self._stores, slab.place.channel)
            writes += self._writes(slab, voxels, self._op if op is None else op)
        for group in _groups(writes):
            await self._batch.add(await self._noted(group))
        self._usage.cuboids_written += len(writes)
        self._usage.codec_s += time.perf_counter() - began

    async def _noted(self, group: Sequence[CuboidWrite]) -> Sequence[CuboidWrite]:
        """The writes of a group, once the index has the labels of those that have any."""
        labelled = [write for write in group if self._is_labelled(write)]
        if not labelled:
            return group
        noted = await self._entries.note(labelled)
        if len(labelled) == len(group):
            return noted
        others = iter(noted)  # a write may have channels of both kinds
        return [next(others) if self._is_labelled(write) else write for write in group]

    def _is_labelled(self, write: CuboidWrite) -> bool:
        return self._channels[write.address.channel_id].is_annotation

    def _writes(self, slab: Slab, voxels: Voxels, op: WriteOp) -> Iterator[CuboidWrite]:
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
                op=op,
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
            # Levels may have been built since this write began: then it marks as one of after.
            live = await self._live(channel)
            if live.propagate != NOT_PROPAGATED or channel.propagate != NOT_PROPAGATED:
                self._batch.mark_stale(await self._derived(channel))
                self._marked.add(channel.id)
        await self._entries.append()
        await self._batch.commit()
        await self._entries.append_late()
        for channel in self._channels.values():
            try:
                live = await self._live(channel)
            except NotFound:
                await self._batch.strand()
                raise
            # A pyramid that was begun before this moment may have been built without what was
            # written; one that is begun later is not.
            if live.propagate != NOT_PROPAGATED and channel.id not in self._marked:
                await self._stores.stale.mark(await self._derived(channel))
        self._usage.store_s += time.perf_counter() - began

    async def _live(self, channel: Channel) -> Channel:
        """A channel as it is now."""
        live = await self._stores.catalog.live_channel(channel.id)
        if live is None:
            raise NotFound(
                "the channel was deleted, or its type or geometry changed, while it was "
                "written to: what was written into it is lost"
            )
        return live

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
    context manager, `feed` it (or fill its `room`), then `finish`.
    """

    def __init__(
        self, writer: CutoutWriter, places: Sequence[Place], times: Sequence[int | None], box: Box
    ) -> None:
        self._writer = writer
        self._dtype = places[0].channel.dtype
        self._behind = OneBehind()
        total, count = _buffering(places[0], box, len(places) * len(times))
        self._buffers = [np.empty(total // count, dtype=np.uint8) for _ in range(count)]
        self._rooms = [buffer.data for buffer in self._buffers]
        limit = total // count // self._dtype.itemsize
        self._groups = together(_plan_layers(places, times, box), limit)
        self._turn = 0
        self._next_group()

    @staticmethod
    def buffer_bytes(place: Place, box: Box, volumes: int) -> int:
        """What a body of so many channels times timesteps takes in memory."""
        return _buffering(place, box, volumes)[0]

    def room(self) -> memoryview:
        """Where the next bytes go, as many as `filled` is told; empty at the end of the box."""
        return self._rooms[self._turn][self._filled : self._wanted]

    async def filled(self, count: int) -> None:
        """So many bytes have been put where `room` said."""
        self._filled += count
        if self._filled == self._wanted:
            await self._store(self._group, self._buffers[self._turn][: self._wanted])

    async def feed(self, voxels: bytes | bytearray | memoryview) -> None:
        """Take the next bytes; BadBody if there are more than the box has."""
        view = memoryview(voxels).cast("B")
        while view:
            room = self.room()
            if not room:
                raise BadBody("the body holds more voxels than the box")
            taken = min(len(view), len(room))
            room[:taken] = view[:taken]
            await self.filled(taken)
            view = view[taken:]

    async def finish(self) -> None:
        """Wait until all is with the store; BadBody if bytes are missing."""
        if self._group:
            raise BadBody("the body holds fewer voxels than the box")
        await self._behind.drained()

    async def _store(self, group: Sequence[Slab], buffer: npt.NDArray[np.uint8]) -> None:
        slabs = list(shaped(group, buffer.view(self._dtype)))
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
