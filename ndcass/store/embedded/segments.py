"""Append-only files that hold the payloads of cuboids, and views of what they hold.

A segment is written by one process, which holds a lock on it meanwhile; every process reads it
through a map. Bytes that were written are never changed: an overwritten cuboid is a new record
further on, and a segment whose records are mostly of no use is copied and dropped (``cuboids.py``).
Which record counts says the index alone; one that nobody committed is rubbish.

::

    file    64 bytes: magic, segment id      then records, each at a multiple of 64
    record  64 bytes: magic, payload size, address, write id, crc32c of these     then the payload
"""

import contextlib
import ctypes
import errno
import fcntl
import mmap
import os
import resource
import struct
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ndcass.codec import ALIGNMENT, Buffer, checksum
from ndcass.errors import CorruptValue, IncompatibleStore, StoreError, StoreFull
from ndcass.store.base import CuboidAddress

# A segment is closed behind this size: small enough to copy in seconds, large enough that a
# terabyte needs only a thousand files.
SEGMENT_BYTES = 1 << 30
# Files grow ahead by this much (sparsely), so that a reader need not map anew after every write.
GROW_BYTES = 64 << 20
# Maps kept by a process: address space, not memory. Each holds a file descriptor, of which other
# things need some too.
MAX_MAPS = 4096
MAPS_SHARE = 0.5

_FILE = struct.Struct("<8sQ")
_FILE_MAGIC = b"NDCSEG\x00\x01"
_RECORD = struct.Struct("<8sIQBBqQ16s")
_RECORD_MAGIC = b"NDCROW\x00\x01"
_CRC = struct.Struct("<I")
# The kernel takes this many pieces in one call.
_IOV_MAX = 1024
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_SYNC_FILE_RANGE_WRITE = 2

_libc = ctypes.CDLL(None, use_errno=True)
_PAGE = mmap.PAGESIZE


class Location(NamedTuple):
    """Where a payload is: the record's header stands 64 bytes in front of it."""

    segment: int
    offset: int
    size: int

    @property
    def stored_bytes(self) -> int:
        """What the record takes in the file."""
        return ALIGNMENT + _aligned(self.size)


class Record(NamedTuple):
    """A payload to append, in pieces, with whose it is."""

    address: CuboidAddress
    write_id: bytes
    parts: Sequence[Buffer]


class SegmentGone(Exception):
    """The file was dropped after its records had been copied: ask the index again."""


def segment_path(folder: Path, segment: int) -> Path:
    """The file of one segment."""
    return folder / f"{segment:016x}.seg"


def store_error(error: OSError) -> StoreError:
    """Our error for one of a file."""
    if error.errno in _FULL:
        return StoreFull("no space is left in the store; nothing of this write was kept")
    return StoreError(f"the store's files cannot be used: {os.strerror(error.errno or 0)}")


class SegmentWriter:
    """One open segment of this process. Threads may append at the same time."""

    def __init__(self, folder: Path, segment: int) -> None:
        """Make the file of `segment`, which nobody had before."""
        self.segment = segment
        self.broken = False  # a sync failed: what the kernel kept of the file is unknown
        self._lock = threading.Lock()
        self._end = ALIGNMENT
        self._size = 0
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        self._fd = os.open(segment_path(folder, segment), flags, 0o600)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.pwrite(self._fd, _FILE.pack(_FILE_MAGIC, segment).ljust(ALIGNMENT, b"\0"), 0)
            sync_folder(folder)
        except OSError:
            with contextlib.suppress(OSError):
                segment_path(folder, segment).unlink()
            os.close(self._fd)
            raise

    @property
    def used_bytes(self) -> int:
        return self._end

    def append(self, records: Sequence[Record]) -> list[Location]:
        """Write some records behind each other; durable only after `sync`."""
        pieces: list[Buffer] = []
        relative: list[tuple[int, int]] = []
        at = 0
        for record in records:
            size = sum(map(len, record.parts))
            pieces += [_record_header(record, size), *record.parts, bytes(-size % ALIGNMENT)]
            relative.append((at + ALIGNMENT, size))
            at += ALIGNMENT + _aligned(size)
        start = self._reserve(at)
        self._write(pieces, start)
        _start_writeback(self._fd, start, at)
        return [Location(self.segment, start + offset, size) for offset, size in relative]

    def sync(self) -> None:
        """Make every append that has returned durable."""
        if self.broken:
            raise StoreError("a disk error made a part of the store unusable")
        try:
            os.fdatasync(self._fd)
        except OSError:
            # The kernel may have dropped what it could not write and call the next sync a success.
            self.broken = True
            raise

    def close(self) -> None:
        """Let go of the file; nothing may be appended or waiting for a commit any more."""
        if self._fd < 0:
            return
        try:
            os.ftruncate(self._fd, self._end)
        finally:
            os.close(self._fd)
            self._fd = -1

    def _reserve(self, size: int) -> int:
        with self._lock:
            start = self._end
            if start + size > self._size:
                grown = -(-(start + size) // GROW_BYTES) * GROW_BYTES
                os.ftruncate(self._fd, grown)
                self._size = grown
            self._end = start + size
            return start

    def _write(self, pieces: list[Buffer], at: int) -> None:
        for first in range(0, len(pieces), _IOV_MAX):
            some = pieces[first : first + _IOV_MAX]
            wanted = sum(map(len, some))
            done = os.pwritev(self._fd, some, at)
            if done < wanted:
                _write_all(self._fd, b"".join(some)[done:], at + done)
            at += wanted


class SegmentReader:
    """Views of records, through maps that are kept. Threads may ask at the same time."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._most = max(16, min(MAX_MAPS, int(files * MAPS_SHARE)))
        self._maps: OrderedDict[int, memoryview] = OrderedDict()
        self._lock = threading.Lock()

    def view(self, location: Location) -> memoryview:
        """The payload at a location; valid as long as somebody holds it.

        Raises
        ------
        SegmentGone
            If the segment is no more.
        CorruptValue
            If the file ends before the payload does.
        """
        segment, offset, size = location
        mapped = self._maps.get(segment)
        if mapped is None or offset + size > len(mapped):
            mapped = self._map(segment, offset + size)
        return mapped[offset : offset + size]

    def forget(self, segment: int) -> None:
        """Drop the map of a segment."""
        with self._lock:
            self._maps.pop(segment, None)

    def forget_dropped(self) -> None:
        """Drop the maps of files that another process removed, so that their space comes free."""
        for segment in list(self._maps):
            if not segment_path(self._folder, segment).exists():
                self.forget(segment)

    def _map(self, segment: int, needed: int) -> memoryview:
        try:
            fd = os.open(segment_path(self._folder, segment), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError as error:
            raise SegmentGone from error
        try:
            mapped = memoryview(_mapped(fd, needed))
        finally:
            os.close(fd)
        if _FILE.unpack_from(mapped) != (_FILE_MAGIC, segment):
            raise IncompatibleStore("a segment file is not what its name says")
        with self._lock:
            self._maps[segment] = mapped
            self._maps.move_to_end(segment)
            if len(self._maps) > self._most:
                self._maps.popitem(last=False)
        return mapped


def _mapped(fd: int, needed: int) -> mmap.mmap:
    """All of a file, which its writer may cut to what it used at this very moment."""
    while True:
        size = os.fstat(fd).st_size
        if size < needed:
            raise CorruptValue(f"a segment of {size} bytes ends before a record it should hold")
        try:
            return mmap.mmap(fd, size, access=mmap.ACCESS_READ)
        except ValueError:  # shorter than a moment ago; it is cut once, when it is closed
            if os.fstat(fd).st_size >= size:
                raise


def is_resident(payload: memoryview) -> bool:
    """Whether all pages of a mapped payload are in memory, so that reading it blocks on no disk."""
    array = np.frombuffer(payload, dtype=np.uint8)
    address = array.ctypes.data
    start = address - address % _PAGE
    length = address + len(payload) - start
    pages = -(-length // _PAGE)
    states = ctypes.create_string_buffer(pages)
    if _libc.mincore(ctypes.c_void_p(start), ctypes.c_size_t(length), states) != 0:
        return False
    return b"\0" not in states.raw[:pages]


def records_in(payload_file: memoryview) -> Iterator[tuple[CuboidAddress, bytes, int, int]]:
    """Every whole record of a segment: address, write id, offset and size of its payload.

    What lies between (given up, torn by a crash) is stepped over.
    """
    at = ALIGNMENT
    while at + ALIGNMENT <= len(payload_file):
        found = _read_record(payload_file, at)
        if found is None:
            at += ALIGNMENT
            continue
        yield found
        at = found[2] + _aligned(found[3])


def sync_folder(folder: Path) -> None:
    """Make names in a folder durable."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _record_header(record: Record, size: int) -> bytes:
    head = _RECORD.pack(_RECORD_MAGIC, size, *record.address, record.write_id)
    return (head + _CRC.pack(checksum(head))).ljust(ALIGNMENT, b"\0")


def _read_record(file: memoryview, at: int) -> tuple[CuboidAddress, bytes, int, int] | None:
    magic, size, channel, pyramid, level, t, morton, write_id = _RECORD.unpack_from(file, at)
    if magic != _RECORD_MAGIC:
        return None
    (crc,) = _CRC.unpack_from(file, at + _RECORD.size)
    if checksum(file[at : at + _RECORD.size]) != crc or at + ALIGNMENT + size > len(file):
        return None
    return CuboidAddress(channel, pyramid, level, t, morton), write_id, at + ALIGNMENT, size


def _write_all(fd: int, rest: bytes, at: int) -> None:
    """Write what a short write left; the kernel gives the reason on the next call."""
    while rest:
        done = os.pwrite(fd, rest, at)
        if done == 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        rest, at = rest[done:], at + done


def _start_writeback(fd: int, start: int, size: int) -> None:
    """Let the disk begin while more voxels arrive; the sync at the end then waits for less."""
    if size >= GROW_BYTES >> 6:
        _libc.sync_file_range(
            fd, ctypes.c_int64(start), ctypes.c_int64(size), _SYNC_FILE_RANGE_WRITE
        )


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT
