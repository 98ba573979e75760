"""A batch of cuboid writes on its way into the cluster: encoded, held, then sent bucket by bucket.

Nothing is sent before the commit, so that a body which turns out to be bad changes nothing. What is
held is bounded: beyond that it goes to a temporary file. A commit is atomic a cuboid, not as a
whole; one that fails is indeterminate.
"""

import asyncio
import os
import tempfile
import threading
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from types import TracebackType
from typing import IO, TYPE_CHECKING, NamedTuple, Self

from ndcass import codec
from ndcass.concurrency import bounded_map, run_cpu
from ndcass.errors import StoreFull, StoreTimeout
from ndcass.merge import WriteOp, is_blank, without_negative_zeros
from ndcass.store.base import CuboidAddress, CuboidWrite, StaleMark
from ndcass.store.cassandra.driver import Consistency, Driver, Entries, Statement
from ndcass.store.cassandra.layouts import Layouts
from ndcass.store.cassandra.occupancy import Occupancy
from ndcass.store.cassandra.rows import (
    PART_BYTES,
    WRITE,
    Bucket,
    Head,
    pack_header,
    parts_of,
    timestamp_us,
)
from ndcass.store.cassandra.tiers import Windows
from ndcass.store.clock import WriteClock, milliseconds_of

if TYPE_CHECKING:
    from ndcass.store.cassandra.stale import CassandraStale, FixedClock

# Encoded voxels that all batches of a store keep in memory.
HELD_BYTES = 256 << 20
# One mutation: 4 MiB of voxels and what goes with them. Nearly twice as fast as half of it, and
# well below what a node takes at most (`make bench-cassandra`).
MUTATION_BYTES = (4 << 20) + (64 << 10)
# What a row takes in a mutation beside its payload: key, header, timestamp. Many constant cuboids
# have no more than this.
ROW_BYTES = 512
# Mutations under way; how many bytes is the driver's affair.
WRITES_AT_ONCE = 8

INSERT = (
    "INSERT INTO cuboids "
    "(channel, pyramid, level, t, bucket, morton, kind, write_id, part, header, payload) "
    "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) USING TIMESTAMP ?"
)
INSERT_PART = (
    "INSERT INTO cuboids "
    "(channel, pyramid, level, t, bucket, morton, kind, write_id, part, payload) "
    "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) USING TIMESTAMP ?"
)


class _Encoded(NamedTuple):
    """A write that waits for its id: the front of the payload is sealed again with it."""

    address: CuboidAddress
    op: WriteOp
    corner_zyx: tuple[int, int, int]
    shape_zyx: tuple[int, int, int]
    cuboid_zyx: tuple[int, int, int]
    front: bytes
    body: "bytes | _Spooled"
    body_bytes: int


class _Spooled(NamedTuple):
    """Where a body is in the temporary file."""

    offset: int
    size: int


class HeldBytes:
    """What the batches of a store hold in memory, together; any thread may ask."""

    def __init__(self) -> None:
        self.used = 0
        self._lock = threading.Lock()

    def take(self, size: int) -> bool:
        """Whether there is room for so many bytes, which are then taken."""
        with self._lock:
            if self.used + size > HELD_BYTES:
                return False
            self.used += size
            return True

    def give(self, size: int) -> None:
        """Let go of bytes that were taken."""
        with self._lock:
            self.used -= size


class RowWriter:
    """Sends rows of ``cuboids`` to one tier."""

    def __init__(self, driver: Driver, insert: Statement, insert_part: Statement) -> None:
        self._driver = driver
        self._insert = insert
        self._insert_part = insert_part

    @classmethod
    async def prepare(cls, driver: Driver, keyspace: str, data_centre: str) -> Self:
        """For a keyspace whose tables exist."""
        insert = await driver.prepare(INSERT, keyspace=keyspace, data_centre=data_centre)
        part = await driver.prepare(INSERT_PART, keyspace=keyspace, data_centre=data_centre)
        return cls(driver, insert, part)

    async def send(self, bucket: Bucket, rows: Sequence[tuple[Head, bytes]]) -> None:
        """Rows of one bucket with their payloads, acknowledged by a quorum when this returns.

        Rows that fit one mutation are one; of a larger one the parts come first and the header
        last, so that no reader meets a header without its payload.
        """
        entries: list[tuple[Statement, Sequence[object]]] = []
        size = 0
        for head, payload in rows:
            pieces = self._pieces(bucket, head, payload)
            row_bytes = sum(piece_bytes for _, piece_bytes in pieces)
            for entry, piece_bytes in pieces:
                # A row that fits one mutation is not torn apart.
                room = row_bytes if row_bytes <= MUTATION_BYTES else piece_bytes
                if entries and size + room > MUTATION_BYTES:
                    await self._send(entries, size)
                    entries, size = [], 0
                entries.append(entry)
                size += piece_bytes
                row_bytes -= piece_bytes
        await self._send(entries, size)

    def _pieces(
        self, bucket: Bucket, head: Head, payload: bytes
    ) -> list[tuple[tuple[Statement, Sequence[object]], int]]:
        """The parts of a row, the one with the header last; each with its bytes."""
        view = memoryview(payload)
        stamp = timestamp_us(head.write_id)
        key = (*bucket, head.morton, head.kind, head.write_id)
        pieces: list[tuple[tuple[Statement, Sequence[object]], int]] = []
        for part in range(head.parts - 1, 0, -1):
            piece = view[part * PART_BYTES : (part + 1) * PART_BYTES]
            values: Sequence[object] = (*key, part, piece, stamp)
            pieces.append(((self._insert_part, values), len(piece) + ROW_BYTES))
        first = view[:PART_BYTES]
        header = pack_header(head, bucket.address(head.morton))
        values = (*key, 0, header, first, stamp)
        pieces.append(((self._insert, values), len(first) + ROW_BYTES))
        return pieces

    async def _send(self, entries: Entries, size_bytes: int) -> None:
        if entries:
            await self._driver.execute_batch(
                entries, consistency=Consistency.LOCAL_QUORUM, size_bytes=size_bytes
            )


class CassandraBatch:
    """One write of many cuboids; see `store.base.CuboidBatch`.

    `wrote` is told of every row that was acknowledged: its bucket and Morton code.
    """

    def __init__(
        self,
        writer: RowWriter,
        layouts: Layouts,
        occupancy: Occupancy,
        clock: WriteClock,
        windows: Windows,
        stale: "CassandraStale",
        memory: HeldBytes,
        *,
        wrote: Callable[[Bucket, Sequence[int]], None],
    ) -> None:
        self._writer = writer
        self._layouts = layouts
        self._occupancy = occupancy
        self._clock = clock
        self._windows = windows
        self._stale = stale
        self._wrote = wrote
        self._derived: set[CuboidAddress] = set()
        self._pending = stale.pending(())
        self._cleared: Sequence[StaleMark] = ()
        self._fixed: FixedClock | None = None
        self._held: list[_Encoded] = []
        self._memory = memory
        self._held_bytes = 0
        self._buckets: list[Bucket] = []
        # Of one cuboid, by channel.
        self._cuboid_bytes: dict[int, int] = {}
        self._keeping = threading.Lock()
        self._spool: IO[bytes] | None = None
        self._spool_end = 0

    async def add(self, writes: Sequence[CuboidWrite]) -> None:
        """As `CuboidBatch.add`."""
        for encoded in await run_cpu(self._encoded, writes):
            depth, height, width = encoded.cuboid_zyx
            cuboid_bytes = depth * height * width * writes[0].voxels.itemsize
            self._cuboid_bytes.setdefault(encoded.address.channel_id, cuboid_bytes)
            self._held.append(encoded)

    def mark_stale(self, addresses: Collection[CuboidAddress]) -> None:
        """As `CuboidBatch.mark_stale`."""
        self._derived.update(addresses)

    def clears(self, marks: Sequence[StaleMark], clock: "FixedClock") -> None:
        """With the commit clear marks that were read; `clock` takes the id of all rows."""
        self._cleared, self._fixed = marks, clock

    async def commit(self) -> None:
        """As `CuboidBatch.commit`."""
        held, self._held = self._held, []
        self._pending = self._stale.pending(self._derived)
        await self._pending.keep()
        if held:
            await self._send_all(held)
        await self._pending.settle()
        await self._stale.clear(self._cleared)

    async def strand(self) -> None:
        """As `CuboidBatch.strand`."""
        # Whoever deleted the channel may have forgotten them after they were noted, and before
        # this batch wrote.
        await self._occupancy.note(self._buckets, again=True)

    async def _send_all(self, held: Sequence[_Encoded]) -> None:
        by_bucket = await self._by_bucket(held)
        self._buckets = list(by_bucket)
        await self._occupancy.note(by_bucket)
        ids = await bounded_map(self._send, _chunks(by_bucket), limit=WRITES_AT_ONCE)
        # Whoever writes after this acknowledgement, through whichever gateway, gets a later id.
        past_ms = milliseconds_of(max(ids)) + 2 * self._windows.max_clock_skew_ms
        wait_ms = past_ms - self._clock.now_ms()
        if wait_ms >= 0:
            await asyncio.sleep((wait_ms + 1) / 1000)

    async def _by_bucket(self, held: Sequence[_Encoded]) -> dict[Bucket, list[_Encoded]]:
        """The writes of each bucket, in their order."""
        bits = {
            channel_id: (await self._layouts.settle(channel_id, cuboid_bytes)).bucket_bits
            for channel_id, cuboid_bytes in self._cuboid_bytes.items()
        }
        found: defaultdict[Bucket, list[_Encoded]] = defaultdict(list)
        for encoded in held:
            address = encoded.address
            found[Bucket.of(address, bits[address.channel_id])].append(encoded)
        return found

    async def __aenter__(self) -> Self:
        if self._fixed is not None:
            await self._fixed.take()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._held = []
        self._memory.give(self._held_bytes)
        self._held_bytes = 0
        if self._spool is not None:
            self._spool.close()

    async def _send(self, chunk: tuple[Bucket, list[_Encoded]]) -> bytes:
        """Send some writes of a bucket; the last of the ids that they got."""
        bucket, writes = chunk
        # Before anything is awaited: two chunks of a bucket get their ids in their order.
        ids = [self._clock.next_id() for _ in writes]
        try:
            async with asyncio.timeout(self._left_s(ids[0])):
                await self._pending.keep()
                rows = await run_cpu(self._sealed, writes, ids)
                await self._writer.send(bucket, rows)
        except TimeoutError:
            raise _late() from None
        # The timer stands still while a machine sleeps, the clock of the folds does not.
        if self._left_s(ids[0]) < 0:
            raise _late()
        self._wrote(bucket, [write.address.morton for write in writes])
        return ids[-1]

    def _left_s(self, write_id: bytes) -> float:
        """What is left of the write window of an id; one of a derivation was taken long before."""
        age_ms = self._clock.now_ms() - milliseconds_of(write_id)
        return self._windows.write_window_s - max(0, age_ms) / 1000

    # -- on a thread

    def _encoded(self, writes: Sequence[CuboidWrite]) -> list[_Encoded]:
        return [
            self._encode(write)
            for write in writes
            # Zeros mean "nothing here", so a row of them would only cost its reader time.
            if write.op in (WriteOp.BASE, WriteOp.REPLACE) or not is_blank(write.voxels)
        ]

    def _encode(self, write: CuboidWrite) -> _Encoded:
        z, y, x = write.voxels.shape
        voxels = without_negative_zeros(write.voxels, write.op)
        front, *blocks = codec.encode_parts(voxels, identity=b"")
        body = b"".join(blocks)
        return _Encoded(
            address=write.address,
            op=write.op,
            corner_zyx=write.corner_zyx,
            shape_zyx=(z, y, x),
            cuboid_zyx=write.cuboid_zyx,
            front=bytes(front),
            body=self._kept(body),
            body_bytes=len(body),
        )

    def _kept(self, body: bytes) -> bytes | _Spooled:
        """The body itself, or where it is in the temporary file once memory is used up."""
        if self._memory.take(len(body)):
            with self._keeping:
                self._held_bytes += len(body)
            return body
        try:
            file, at = self._reserved(len(body))
            view = memoryview(body)
            while view:
                written = os.pwrite(file.fileno(), view, at + len(body) - len(view))
                view = view[written:]
        except OSError as error:
            raise StoreFull("no space to hold a large write until it is whole") from error
        return _Spooled(at, len(body))

    def _reserved(self, size: int) -> tuple[IO[bytes], int]:
        """The temporary file, and where in it so many bytes may be put."""
        with self._keeping:
            if self._spool is None:
                # Closed with the batch.
                self._spool = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115
            at, self._spool_end = self._spool_end, self._spool_end + size
            return self._spool, at

    def _body(self, encoded: _Encoded) -> bytes:
        body = encoded.body
        if not isinstance(body, _Spooled):
            return body
        assert self._spool is not None
        pieces: list[bytes] = []
        left = body.size
        while left:
            piece = os.pread(self._spool.fileno(), left, body.offset + body.size - left)
            if not piece:
                raise StoreFull("the file that held a large write was cut short")
            pieces.append(piece)
            left -= len(piece)
        return b"".join(pieces)

    def _sealed(self, writes: Sequence[_Encoded], ids: Sequence[bytes]) -> list[tuple[Head, bytes]]:
        """Rows with the checksums that their ids make."""
        rows: list[tuple[Head, bytes]] = []
        for write, write_id in zip(writes, ids, strict=True):
            size = len(write.front) + write.body_bytes
            head = Head(
                morton=write.address.morton,
                kind=WRITE,
                write_id=write_id,
                op=write.op,
                corner_zyx=write.corner_zyx,
                shape_zyx=write.shape_zyx,
                cuboid_zyx=write.cuboid_zyx,
                size_bytes=size,
                parts=parts_of(size),
            )
            front = codec.seal(write.front, head.identity(write.address))
            rows.append((head, b"".join((front, self._body(write)))))
        return rows


def _late() -> StoreTimeout:
    return StoreTimeout("the store took too long; whether the write happened is unknown")


def _chunks(held: Mapping[Bucket, Sequence[_Encoded]]) -> list[tuple[Bucket, list[_Encoded]]]:
    """The writes of each bucket in pieces of about one mutation."""
    chunks: list[tuple[Bucket, list[_Encoded]]] = []
    for bucket, writes in held.items():
        chunk: list[_Encoded] = []
        size = 0
        for write in writes:
            row_bytes = len(write.front) + write.body_bytes + ROW_BYTES
            if chunk and size + row_bytes > MUTATION_BYTES:
                chunks.append((bucket, chunk))
                chunk, size = [], 0
            chunk.append(write)
            size += row_bytes
        chunks.append((bucket, chunk))
    return chunks
