"""Cuboids on one machine: payloads in segment files, the index over them in LMDB.

A write appends payloads to the segment of its process, while the body still arrives, and touches
the index only at its commit: sync the segment, then one LMDB transaction that puts all of its
entries or none. Commits that come meanwhile share the next sync and transaction.

A write that covers a cuboid in part merges with what the index showed when it was added. Its entry
says so, and if another write was faster the transaction finds another value there, merges again and
appends the result: nothing is locked while a body arrives, and no voxel of either is lost.

Index key: see ``index.py``. Value: kind, write id, then a location, or the payload itself where it
is small (a constant cuboid needs no record). A cuboid of nothing but zeros and no exceptions has no
entry.
"""

import contextlib
import fcntl
import logging
import os
import struct
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Collection, Iterator, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import lmdb
import numpy as np
import numpy.typing as npt

from ndcass import codec
from ndcass.concurrency import run_cpu, run_shares, to_its_end
from ndcass.errors import CorruptValue, NdcassError, StoreError
from ndcass.geometry import Zyx
from ndcass.merge import (
    EMPTY,
    Cuboid,
    CuboidRow,
    Exceptions,
    WriteOp,
    apply_in_place,
    is_blank,
    without_negative_zeros,
)
from ndcass.shared_calls import GroupRunner
from ndcass.store.base import CuboidAddress, CuboidWrite, StaleMark, StoredCuboid
from ndcass.store.clock import WRITE_ID_BYTES, WriteClock
from ndcass.store.embedded.entries import (
    AT,
    IN_INDEX,
    IN_SEGMENT,
    INLINE,
    ORIGIN,
    Commit,
    Entry,
    Redo,
    RedoFrom,
    base_identity,
    changes_nothing,
    count_location,
    is_independent,
    paints,
    prepare_entry,
    segment_of,
)
from ndcass.store.embedded.index import (
    KEY,
    PAGE,
    PREFIX,
    channels_in,
    index_error,
    index_errors,
)
from ndcass.store.embedded.segments import (
    SEGMENT_BYTES,
    Location,
    Record,
    SegmentGone,
    SegmentReader,
    SegmentWriter,
    is_resident,
    records_in,
    segment_path,
    store_error,
    sync_folder,
)
from ndcass.store.embedded.stale import EmbeddedStale, MarkTable
from ndcass.store.versions import versions_digest

log = logging.getLogger(__name__)

# Address space for the index, not disk: about a thousand million cuboids.
INDEX_MAP_BYTES = 1 << 37
# Posted voxels that a commit may have to merge again are kept in memory up to this many bytes a
# write, beyond it in the segment.
REDO_BYTES = 8 << 20
# Voxels that are worth a thread of their own on the way into a segment.
SHARE_BYTES = 2 << 20
# What was in memory is taken to be there still for so long; asking the kernel costs as much as
# decoding a plane.
RESIDENT_S = 1.0
# Rows that are kept so long at most; each takes about a kilobyte.
MOST_ROWS = 16384
# Cuboids that are looked up in the index on the event loop.
INLINE_VERSIONS = 64
# A segment with less of use than this share is copied and dropped.
WORTH_KEEPING = 0.5
# Segments that one step of housekeeping copies at most.
SEGMENTS_A_STEP = 8
# An empty file is that old before it counts as left over: a writer may be about to fill it.
LEFT_OVER_S = 3600.0
# How often a reader asks the index anew when a segment went away under its hands.
TRIES = 8

_COUNT = struct.Struct("<q")


class EmbeddedCuboids:
    """The `CuboidStore` of the embedded engine; one object a process, any number of processes."""

    def __init__(self, folder: Path, env: lmdb.Environment, *, segment_bytes: int) -> None:
        self._folder = folder
        self._env = env
        self._cuboids = env.open_db(b"cuboids")
        self._live = env.open_db(b"live bytes")
        self._marks = MarkTable(env)
        self.stale = EmbeddedStale(self, self._marks)
        self._segment_bytes = segment_bytes
        self._reader = SegmentReader(folder)
        self._clock = WriteClock()
        self._commits = GroupRunner(self._commit_group)
        self._lock = threading.Lock()
        self._active: SegmentWriter | None = None
        self._pins: Counter[SegmentWriter] = Counter()
        # Index value -> row, of the last moment. A value never stands for another payload, so a row
        # is right as long as the index has its value; and those whose payloads were in memory, as
        # `read_now` returns them.
        self._rows: dict[bytes, CuboidRow] = {}
        self._resident: dict[bytes, tuple[CuboidRow]] = {}
        self._rows_until_s = 0.0
        # Segment -> bytes that could not be copied out of it: looked at again when they change.
        self._unemptied: dict[int, int] = {}

    @classmethod
    def open(cls, folder: Path, *, segment_bytes: int = SEGMENT_BYTES) -> Self:
        """Open the cuboids in a store's folder, made if there are none. Blocks."""
        segments = folder / "segments"
        try:
            segments.mkdir(exist_ok=True)
            env = lmdb.open(
                str(folder / "index.lmdb"),
                subdir=False,
                map_size=INDEX_MAP_BYTES,
                max_dbs=8,
                max_readers=1024,
                mode=0o600,
            )
            env.reader_check()  # a reader that was killed would keep freed pages from being used
            sync_folder(folder)
        except lmdb.Error as error:
            raise StoreError(f"the index of the store cannot be opened: {error}") from error
        except OSError as error:
            raise store_error(error) from error
        return cls(segments, env, segment_bytes=segment_bytes)

    # -- reading

    def reread(self, addresses: Sequence[CuboidAddress]) -> AsyncIterator[Sequence[StoredCuboid]]:
        """As `CuboidStore.reread`; there is one copy of everything."""
        return self.read(addresses)

    def read_now(self, addresses: Sequence[CuboidAddress]) -> Sequence[StoredCuboid] | None:
        """As `CuboidStore.read_now`: what is in memory, without a change of thread."""
        known, resident = self._known_rows(), self._resident
        found: list[StoredCuboid] = []
        for address, value in self._values(addresses):
            rows = resident.get(value)
            if rows is None:
                try:
                    row = known.get(value) or self._checked_row(address, value)
                except SegmentGone:
                    return None
                if not is_resident(memoryview(row.payload)):
                    return None
                known[value] = row
                rows = resident[value] = (row,)
            found.append((address, rows))
        return found

    def _known_rows(self) -> dict[bytes, CuboidRow]:
        """Rows of the last moment, with checked headers; any thread may add to them."""
        now_s = time.monotonic()
        if now_s > self._rows_until_s or len(self._rows) > MOST_ROWS:
            self._rows_until_s = now_s + RESIDENT_S
            self._rows = {}
            self._resident = {}
        return self._rows

    def _checked_row(self, address: CuboidAddress, value: bytes) -> CuboidRow:
        """A row with its header, checked."""
        row = self._row(address, value)
        identity = base_identity(address, row.write_id, row.shape_zyx)
        try:
            return row._replace(header=codec.read_header(row.payload, identity=identity))
        except CorruptValue as error:
            raise CorruptValue(f"{address}: {error}") from error

    async def read(
        self, addresses: Sequence[CuboidAddress]
    ) -> AsyncIterator[Sequence[StoredCuboid]]:
        """As `CuboidStore.read`."""
        for first in range(0, len(addresses), PAGE):
            found = await run_cpu(self._found, addresses[first : first + PAGE])
            if found:
                yield found

    def _found(self, addresses: Sequence[CuboidAddress]) -> Sequence[StoredCuboid]:
        for _ in range(TRIES):
            with contextlib.suppress(SegmentGone):
                return self._lookup(addresses)
        raise StoreError("the store's segments change faster than they can be read")

    def _lookup(self, addresses: Sequence[CuboidAddress]) -> list[StoredCuboid]:
        known = self._known_rows()
        found: list[StoredCuboid] = []
        for address, value in self._values(addresses):
            row = known.get(value)
            if row is None:
                known[value] = row = self._checked_row(address, value)
            found.append((address, (row,)))
        return found

    def _values(self, addresses: Sequence[CuboidAddress]) -> list[tuple[CuboidAddress, bytes]]:
        """What the index says of those cuboids that are there."""
        pack = KEY.pack
        try:
            with self._env.begin(self._cuboids) as txn:
                get = txn.get
                return [
                    (address, value)
                    for address in addresses
                    if (value := get(pack(*address))) is not None
                ]
        except lmdb.Error as error:
            raise index_error(error) from error

    def _row(self, address: CuboidAddress, value: bytes) -> CuboidRow:
        write_id, payload = self._payload(address, value)
        header = _peek_shape(payload)
        return CuboidRow(write_id, WriteOp.BASE, ORIGIN, header, payload)

    def _payload(self, address: CuboidAddress, value: bytes) -> tuple[bytes, memoryview]:
        if value[0] == IN_INDEX:
            return value[1:17], memoryview(value)[INLINE.size :]
        if len(value) != AT.size:
            raise CorruptValue(f"{address}: the index entry has a wrong size")
        _, write_id, *where = AT.unpack(value)
        try:
            return write_id, self._reader.view(Location(*where))
        except CorruptValue as error:
            raise CorruptValue(f"{address}: {error}") from error
        except OSError as error:
            raise store_error(error) from error

    async def scan(
        self,
        channel_id: int,
        *,
        pyramid: int | None = None,
        level: int | None = None,
        after: CuboidAddress | None = None,
    ) -> AsyncIterator[Sequence[CuboidAddress]]:
        """As `CuboidStore.scan`."""
        page_after = KEY.pack(*after) if after else None
        while True:
            page = await run_cpu(self._page, channel_id, page_after)
            if not page:
                return
            page_after = KEY.pack(*page[-1])
            kept = [
                a
                for a in page
                if (pyramid is None or a.pyramid == pyramid) and (level is None or a.level == level)
            ]
            if kept:
                yield kept

    def _page(self, channel_id: int, after: bytes | None) -> list[CuboidAddress]:
        prefix = PREFIX.pack(channel_id)
        with index_errors(), self._env.begin(self._cuboids) as txn, txn.cursor() as cursor:
            page: list[CuboidAddress] = []
            more = cursor.set_range(after or prefix)
            if more and after and cursor.key() == after:
                more = cursor.next()
            while more and cursor.key().startswith(prefix) and len(page) < PAGE:
                page.append(CuboidAddress(*KEY.unpack(cursor.key())))
                more = cursor.next()
            return page

    async def channel_ids(self) -> list[int]:
        """Every channel that has a cuboid, ascending."""
        return await run_cpu(channels_in, self._env, self._cuboids)

    async def versions(self, addresses: Sequence[CuboidAddress]) -> bytes:
        """As `CuboidStore.versions`, from the index alone."""
        if len(addresses) <= INLINE_VERSIONS:  # a change of thread would take longer
            return self._versions(addresses)
        return await run_cpu(self._versions, addresses)

    def _versions(self, addresses: Sequence[CuboidAddress]) -> bytes:
        """A write id, for that stays when a payload is moved, and stands for one payload only."""
        return versions_digest(
            (address, value[1 : 1 + WRITE_ID_BYTES])
            for first in range(0, len(addresses), PAGE)
            for address, value in self._values(addresses[first : first + PAGE])
        )

    async def verify(
        self, addresses: Sequence[CuboidAddress]
    ) -> Sequence[tuple[CuboidAddress, str]]:
        """As `CuboidStore.verify`."""
        return await run_cpu(self._verify, addresses)

    def _verify(self, addresses: Sequence[CuboidAddress]) -> list[tuple[CuboidAddress, str]]:
        damaged = []
        for address in addresses:
            try:
                for found, rows in self._found([address]):
                    for row in rows:
                        _decode(found, row)
            except StoreError as error:
                damaged.append((address, str(error)))
        return damaged

    # -- writing

    def batch(self) -> "EmbeddedBatch":
        """A new write."""
        return EmbeddedBatch(self)

    def new_commit(self) -> Commit:
        """Nothing yet to commit, under a new write id."""
        return Commit(self._clock.next_id())

    def prepare(self, writes: Sequence[CuboidWrite], commit: Commit) -> list[Entry]:
        """Merge, encode and append some writes for a commit, which gets the entries; blocks.

        Threads may do it at the same time for one commit.
        """
        current = dict(self._current([write.address for write in writes]))
        records: list[Record] = []
        prepared = []
        for posted in writes:
            if changes_nothing(posted):
                continue
            is_whole = posted.voxels.shape == posted.cuboid_zyx
            write = posted.in_one_piece() if is_whole else posted
            expected = current[write.address]
            independent = is_independent(write)
            payload = self._merged_payload(write, expected, commit.write_id, independent)
            redo = RedoFrom.NEVER if independent else self._plan_redo(write, expected, commit)
            prepared.append(prepare_entry(write, expected, payload, redo, records, commit.write_id))
        locations = self._append(records, commit)
        return [item.entry(locations, commit.write_id) for item in prepared]

    def _plan_redo(self, write: CuboidWrite, expected: bytes | None, commit: Commit) -> "RedoFrom":
        """Where a commit that must merge again finds what was posted."""
        if expected is None and paints(write):
            return RedoFrom.PAYLOAD
        with self._lock:
            if commit.kept_bytes + write.voxels.nbytes <= REDO_BYTES:
                commit.kept_bytes += write.voxels.nbytes
                return RedoFrom.MEMORY
        return RedoFrom.SPOOL

    def _current(
        self, addresses: Sequence[CuboidAddress]
    ) -> Iterator[tuple[CuboidAddress, bytes | None]]:
        with index_errors(), self._env.begin(self._cuboids) as txn:
            for address in addresses:
                yield address, txn.get(KEY.pack(*address))

    def _merged_payload(
        self, write: CuboidWrite, value: bytes | None, write_id: bytes, independent: bool
    ) -> "list[codec.Buffer] | None":
        """The payload of a cuboid after a write, None for zeros; see `is_independent`."""
        voxels = write.voxels
        whole = voxels.shape == write.cuboid_zyx
        if independent or (whole and value is None and paints(write)):
            cuboid = Cuboid(without_negative_zeros(voxels, write.op), EMPTY)
        else:
            base = self._base(write, value)
            # What was decoded just now is nobody else's; stored as it is, it is the file's.
            merged = base.voxels if base.voxels.flags.owndata else np.array(base.voxels, order="C")
            exceptions = apply_in_place(merged, base.exceptions, write.op, write.corner_zyx, voxels)
            cuboid = Cuboid(merged, exceptions)
        if is_blank(cuboid.voxels) and not len(cuboid.exceptions.offsets):
            return None
        return codec.encode_parts(
            cuboid.voxels,
            cuboid.exceptions,
            identity=base_identity(write.address, write_id, write.cuboid_zyx),
        )

    def _base(self, write: CuboidWrite, value: bytes | None) -> Cuboid:
        if value is None:
            return Cuboid(np.zeros(write.cuboid_zyx, dtype=write.voxels.dtype), EMPTY)
        for _ in range(TRIES):
            try:
                row = self._row(write.address, value)
            except SegmentGone:
                # Copied elsewhere meanwhile: what is read now need not be what was expected, which
                # the commit finds out.
                value = dict(self._current([write.address]))[write.address]
                if value is None:
                    return Cuboid(np.zeros(write.cuboid_zyx, dtype=write.voxels.dtype), EMPTY)
                continue
            voxels, exceptions = _decode(write.address, row)
            if voxels.dtype != write.voxels.dtype or voxels.shape != write.cuboid_zyx:
                raise CorruptValue(f"{write.address}: stored as {voxels.dtype} {voxels.shape}")
            return Cuboid(voxels, exceptions)
        raise StoreError("the store's segments change faster than they can be read")

    def _append(self, records: list[Record], commit: Commit) -> list[Location]:
        if not records:
            return []
        try:
            writer = self._pinned_writer(commit)
            return writer.append(records)
        except OSError as error:
            raise store_error(error) from error

    def _pinned_writer(self, commit: Commit) -> SegmentWriter:
        """The open segment, which stays until the commit lets go of it."""
        with self._lock:
            writer = self._active
            if writer is None or writer.broken or writer.used_bytes >= self._segment_bytes:
                self._active = None
                if writer is not None and not self._pins[writer]:
                    self._close(writer)
                writer = self._active = SegmentWriter(self._folder, _new_segment())
            if writer not in commit.segments:
                commit.segments.add(writer)
                self._pins[writer] += 1
            return writer

    def release(self, commit: Commit) -> None:
        """Let go of the segments that a commit wrote to."""
        with self._lock:
            for writer in commit.segments:
                self._pins[writer] -= 1
                if not self._pins[writer]:
                    del self._pins[writer]
                    if writer is not self._active:
                        self._close(writer)
            commit.segments.clear()

    def _close(self, writer: SegmentWriter) -> None:
        with contextlib.suppress(OSError):  # only the unused tail of the file stays
            writer.close()

    async def commit(self, commit: Commit) -> None:
        """Make a batch durable and visible, together with others that wait.

        Whoever is cancelled meanwhile waits: until then the segments are in use.
        """
        if commit.entries or commit.stale or commit.cleared:
            await to_its_end(self._commits.run(commit))

    def _commit_group(self, commits: Sequence[Commit]) -> list[Exception | None]:
        """One sync and one transaction for several batches; runs in a thread."""
        outcomes: dict[int, Exception] = {}
        for writer in {writer for commit in commits for writer in commit.segments}:
            try:
                writer.sync()
            except (OSError, StoreError) as error:
                broken = _as_ours(error)
                outcomes |= {
                    index: broken
                    for index, commit in enumerate(commits)
                    if writer in commit.segments
                }
        good = [(i, commit) for i, commit in enumerate(commits) if i not in outcomes]
        try:
            self._transact([commit for _, commit in good])
        except Exception as error:  # noqa: BLE001 - one of them fails, whatever with
            if len(good) > 1:  # one bad write must not take the others with it
                return [outcomes.get(i) or self._commit_alone(c) for i, c in enumerate(commits)]
            outcomes |= {i: _as_ours(error) for i, _ in good}
        return [outcomes.get(index) for index in range(len(commits))]

    def _commit_alone(self, commit: Commit) -> Exception | None:
        return self._commit_group([commit])[0]

    def _transact(self, commits: Sequence[Commit]) -> None:
        redone = Commit(b"")
        try:
            with index_errors(), self._env.begin(self._cuboids, write=True) as txn:
                live: Counter[int] = Counter()
                for commit in commits:
                    gone = self._marks.clear(txn, commit.cleared)
                    for entry in commit.entries:
                        if entry.address not in gone:
                            self._put(txn, entry, commit.write_id, redone, live)
                    self._marks.set(txn, commit.stale)
                self._count(txn, live)
                for writer in redone.segments:
                    writer.sync()
        finally:
            self.release(redone)

    def _put(
        self, txn: Any, entry: Entry, write_id: bytes, redone: Commit, live: Counter[int]
    ) -> None:
        """Change one entry; `txn` is lmdb's, which has no types."""
        key = KEY.pack(*entry.address)
        found = txn.get(key)
        value = entry.value
        if found != entry.expected:
            if entry.optional:
                return
            if entry.redo is not None:
                value = self._merge_again(entry.redo, found, write_id, redone)
        if found is not None:
            count_location(live, found, -1)
        if value is None:
            txn.delete(key)
        else:
            count_location(live, value, +1)
            txn.put(key, value)

    def _merge_again(
        self, redo: Redo, found: bytes | None, write_id: bytes, redone: Commit
    ) -> bytes | None:
        write = redo.write
        if redo.stored is not None:
            row = self._row(write.address, redo.stored)
            voxels, _ = codec.decode(
                row.payload, identity=base_identity(write.address, write_id, redo.shape_zyx)
            )
            write = write.with_voxels(voxels)
        payload = self._merged_payload(write, found, write_id, independent=False)
        records: list[Record] = []
        prepared = prepare_entry(write, found, payload, RedoFrom.NEVER, records, write_id)
        return prepared.entry(self._append(records, redone), write_id).value

    def _count(self, txn: Any, live: Counter[int]) -> None:
        """Keep the bytes of use in every segment; `txn` is lmdb's, which has no types."""
        for segment, change in live.items():
            key = PREFIX.pack(segment)
            (before,) = _COUNT.unpack(txn.get(key, _COUNT.pack(0), db=self._live))
            txn.put(key, _COUNT.pack(before + change), db=self._live)

    # -- deleting, housekeeping

    async def delete_channel(self, channel_id: int) -> int:
        """As `CuboidStore.delete_channel`, a page a transaction so that writers get their turn."""
        deleted = 0
        while count := await run_cpu(self._delete_page, channel_id):
            deleted += count
        return deleted

    def _delete_page(self, channel_id: int) -> int:
        page = self._page(channel_id, None)
        live: Counter[int] = Counter()
        with index_errors(), self._env.begin(self._cuboids, write=True) as txn:
            for address in page:
                found = txn.pop(KEY.pack(*address))
                if found is not None:
                    count_location(live, found, -1)
            self._count(txn, live)
        return len(page)

    async def maintain(self) -> None:
        """Drop or copy one segment that holds little of use, if there is one."""
        await run_cpu(self._look_after)
        for _ in range(SEGMENTS_A_STEP):
            segment = await run_cpu(self._wasteful_segment)
            if segment is None:
                return
            await self._copy_segment(segment)
            self._unemptied[segment] = await run_cpu(self._live_bytes, segment)

    def _look_after(self) -> None:
        """Let go of what other processes dropped, and of readers that were killed."""
        with index_errors():
            self._env.reader_check()
        self._rows = {}  # views of dropped files would keep their space
        self._reader.forget_dropped()

    def _wasteful_segment(self) -> int | None:
        with self._lock:
            active = self._active
            if (
                active is not None
                and not self._pins[active]
                and active.used_bytes > self._segment_bytes // 8
                and self._waste(active.segment, active.used_bytes)
            ):
                self._active = None
                self._close(active)
        for path in sorted(self._folder.glob("*.seg")):
            segment = int(path.stem, 16)
            with contextlib.suppress(FileNotFoundError):
                if self._is_left_over(path):
                    path.unlink()
                elif (
                    self._waste(segment, path.stat().st_size)
                    and self._unemptied.get(segment) != self._live_bytes(segment)
                    and not _is_locked(path)
                ):
                    return segment
        return None

    def _is_left_over(self, path: Path) -> bool:
        """Whether a file is of a writer that could not even write its first bytes."""
        stat = path.stat()
        return stat.st_size == 0 and time.time() - stat.st_mtime > LEFT_OVER_S

    def _waste(self, segment: int, size: int) -> bool:
        return self._live_bytes(segment) < WORTH_KEEPING * size

    def _live_bytes(self, segment: int) -> int:
        """How many bytes of a segment the index points to."""
        with index_errors(), self._env.begin(self._live) as txn:
            (live,) = _COUNT.unpack(txn.get(PREFIX.pack(segment), _COUNT.pack(0)))
        return int(live)

    async def _copy_segment(self, segment: int) -> None:
        """Copy what is of use, then drop the file. Readers that had it mapped keep their view."""
        try:
            fd = os.open(segment_path(self._folder, segment), os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return  # another process was faster
        try:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return
            addresses = await run_cpu(self._useful, segment)
            for first in range(0, len(addresses), 64):
                commit = Commit(self._clock.next_id())
                try:
                    await run_cpu(self._copy, segment, addresses[first : first + 64], commit)
                    await self.commit(commit)
                finally:
                    self.release(commit)
            await run_cpu(self._drop, segment)
        finally:
            os.close(fd)

    def _useful(self, segment: int) -> list[CuboidAddress]:
        """Addresses whose index entry points into a segment."""
        file = self._whole(segment)
        if file is None:
            return []
        seen = {address for address, _, _, _ in records_in(file)}
        return [
            address
            for address, value in self._current(sorted(seen))
            if value is not None and segment_of(value) == segment
        ]

    def _whole(self, segment: int) -> memoryview | None:
        size = segment_path(self._folder, segment).stat().st_size
        return self._reader.view(Location(segment, 0, size)) if size else None

    def _copy(self, segment: int, addresses: Sequence[CuboidAddress], commit: Commit) -> None:
        """Append the payloads of some cuboids as they are, once they fit their checksum."""
        records, old = [], []
        for address, value in self._current(addresses):
            if value is None or segment_of(value) != segment:
                continue
            try:
                row = self._row(address, value)
                _decode(address, row)
            except CorruptValue as error:
                log.error("a damaged value stays where it is: %s", error)
                continue
            records.append(Record(address, row.write_id, [row.payload]))
            old.append(value)
        locations = self._append(records, commit)
        commit.entries += [
            Entry(r.address, value, AT.pack(IN_SEGMENT, r.write_id, *at), None, optional=True)
            for r, value, at in zip(records, old, locations, strict=True)
        ]

    def _drop(self, segment: int) -> None:
        """Remove a segment that nothing in the index points to."""
        with index_errors(), self._env.begin(self._live, write=True) as txn:
            (live,) = _COUNT.unpack(txn.get(PREFIX.pack(segment), _COUNT.pack(0)))
            if live:
                return  # a copy was not possible; the next round tries again
            txn.delete(PREFIX.pack(segment))
        self._reader.forget(segment)
        segment_path(self._folder, segment).unlink(missing_ok=True)

    # -- the end

    def health(self) -> str:
        """Why the store cannot serve, or nothing. Blocks for a read of the index."""
        with index_errors():
            self._env.stat()
        return ""

    async def close(self) -> None:
        """Let go of the files once the commits that have begun are done."""
        await self._commits.close()
        await run_cpu(self._close_files)

    def _close_files(self) -> None:
        with self._lock:
            for writer in {*self._pins, *([self._active] if self._active else [])}:
                self._close(writer)
            self._active = None
            self._pins.clear()
        self._env.close()


class EmbeddedBatch:
    """One write of many cuboids; see `CuboidBatch`."""

    def __init__(self, store: EmbeddedCuboids) -> None:
        self._store = store
        self._commit = store.new_commit()

    async def add(self, writes: Sequence[CuboidWrite]) -> None:
        """Merge, encode and append some cuboids, in as many threads as they are worth."""
        prepared = await run_shares(
            partial(self._store.prepare, commit=self._commit),
            writes,
            size_bytes=sum(write.voxels.nbytes for write in writes),
            share_bytes=SHARE_BYTES,
        )
        for entries in prepared:
            self._commit.entries += entries

    def mark_stale(self, addresses: Collection[CuboidAddress]) -> None:
        """As `CuboidBatch.mark_stale`."""
        self._commit.stale.update(addresses)

    def clear(self, marks: Sequence[StaleMark]) -> None:
        """With the commit clear marks that were read; see `StaleMarks.derivation`."""
        self._commit.cleared.update({mark.address: mark.mark for mark in marks})

    async def commit(self) -> None:
        """Sync and publish."""
        await self._store.commit(self._commit)
        for channel_id in {address.channel_id for address in self._commit.stale}:
            self._store.stale.bell.ring(channel_id)

    async def strand(self) -> None:
        """Nothing to do: the index has everything that was committed."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._store.release(self._commit)


def _as_ours(error: Exception) -> Exception:
    """An error as a caller may see it; what nobody foresaw is logged and stays what it is."""
    if isinstance(error, OSError):
        return store_error(error)
    if not isinstance(error, NdcassError):
        log.error("a commit failed", exc_info=error)
    return error


def _new_segment() -> int:
    """A segment number that no process had before: chance is enough, and needs no transaction."""
    return int.from_bytes(os.urandom(8), "big")


def _peek_shape(payload: memoryview) -> Zyx:
    """The shape a payload claims; the codec checks it against the checksum."""
    if len(payload) < 8:
        return ORIGIN
    z, y, x = struct.unpack_from("<HHH", payload, 2)
    return (z, y, x)


def _decode(address: CuboidAddress, row: CuboidRow) -> tuple[npt.NDArray[Any], Exceptions]:
    try:
        return codec.decode(
            row.payload, identity=base_identity(address, row.write_id, row.shape_zyx)
        )
    except CorruptValue as error:
        raise CorruptValue(f"{address}: {error}") from error


def _is_locked(path: Path) -> bool:
    """Whether a process still writes to a segment."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False
