"""What the index says of a cuboid, and how a write gets there.

A value of the index is a kind and a write id, then the place of the payload or, where that is
small, the payload itself. An `Entry` is one change of the index; it says which value was there when
it was prepared, and how to merge again if another one is found.
"""

import enum
import struct
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from ndcass import codec
from ndcass.geometry import Zyx
from ndcass.merge import WriteOp, is_blank, is_solid
from ndcass.store.base import CuboidAddress, CuboidWrite
from ndcass.store.embedded.segments import Location, Record, SegmentWriter

# Payloads up to this size live in the index.
INLINE_BYTES = 256

AT = struct.Struct("<B16sQQI")
INLINE = struct.Struct("<B16s")
IN_INDEX, IN_SEGMENT = 0, 1
ORIGIN: Zyx = (0, 0, 0)


class RedoFrom(enum.Enum):
    """Where the posted voxels are, should a commit have to merge again."""

    NEVER = enum.auto()  # the cuboid after the write is the same whatever was there
    PAYLOAD = enum.auto()  # the payload is what was posted, and zeros, which mean nothing
    MEMORY = enum.auto()
    SPOOL = enum.auto()  # a record of their own in the segment


class Redo(NamedTuple):
    """What was posted, for a commit that has to merge again."""

    write: CuboidWrite  # without voxels where `stored` holds them
    stored: bytes | None  # as the value of an index entry
    shape_zyx: Zyx  # that the checksum of `stored` covers


class Entry(NamedTuple):
    """One change of the index, with what the index said when it was prepared."""

    address: CuboidAddress
    expected: bytes | None
    value: bytes | None  # None: no entry, the cuboid is zeros
    redo: Redo | None  # None: the write does not depend on what was there
    optional: bool = False  # leave it, if another write was faster (copying of segments)


@dataclass(slots=True)
class Commit:
    """The entries of one batch, what they make stale, and what they make fresh."""

    write_id: bytes
    entries: list[Entry] = field(default_factory=list)
    segments: set[SegmentWriter] = field(default_factory=set)
    stale: set[CuboidAddress] = field(default_factory=set)
    cleared: dict[CuboidAddress, bytes] = field(default_factory=dict)  # marks, as they were read
    kept_bytes: int = 0  # posted voxels that are kept in memory for merging again


# Not a slice of what was posted: that would keep all of it in memory.
NO_VOXELS = np.empty((0, 0, 0), dtype=np.uint8)


class Prepared(NamedTuple):
    """A write whose records have no places yet."""

    write: CuboidWrite
    expected: bytes | None
    inline: bytes | None
    record: int | None
    redo: RedoFrom
    spool_record: int | None

    def entry(self, locations: Sequence[Location], write_id: bytes) -> Entry:
        """The change of the index, once the records are written."""
        value = self.inline
        if self.record is not None:
            value = AT.pack(IN_SEGMENT, write_id, *locations[self.record])
        return Entry(
            self.write.address, self.expected, value, self._redo(value, locations, write_id)
        )

    def _redo(
        self, value: bytes | None, locations: Sequence[Location], write_id: bytes
    ) -> Redo | None:
        write = self.write
        if self.redo is RedoFrom.NEVER:
            return None
        if self.redo is RedoFrom.PAYLOAD:
            whole = write.with_voxels(NO_VOXELS, ORIGIN)
            return Redo(whole, value, write.cuboid_zyx)
        if self.spool_record is not None:
            stored = AT.pack(IN_SEGMENT, write_id, *locations[self.spool_record])
            return Redo(write.with_voxels(NO_VOXELS), stored, ORIGIN)
        # A copy: the caller's buffer takes the next slab while this one waits for its commit.
        return Redo(write.with_voxels(write.voxels.copy()), None, ORIGIN)


def prepare_entry(
    write: CuboidWrite,
    expected: bytes | None,
    payload: list[codec.Buffer] | None,
    redo: RedoFrom,
    records: list[Record],
    write_id: bytes,
) -> Prepared:
    """Add to `records` what a write needs in the segment."""
    inline = record = spool_record = None
    if payload is not None and sum(map(len, payload)) <= INLINE_BYTES:
        inline = INLINE.pack(IN_INDEX, write_id) + b"".join(payload)
    elif payload is not None:
        record = len(records)
        records.append(Record(write.address, write_id, payload))
    if redo is RedoFrom.SPOOL:
        spool_record = len(records)
        parts = codec.encode_parts(
            write.voxels, identity=base_identity(write.address, write_id, ORIGIN)
        )
        records.append(Record(write.address, write_id, parts))
    return Prepared(write, expected, inline, record, redo, spool_record)


def changes_nothing(write: CuboidWrite) -> bool:
    """Whether a write leaves any cuboid as it is."""
    return write.op != WriteOp.REPLACE and is_blank(write.voxels)


def is_independent(write: CuboidWrite) -> bool:
    """Whether the cuboid after a write is the same whatever was there before."""
    if write.voxels.shape != write.cuboid_zyx:
        return False
    if write.op == WriteOp.REPLACE:
        return True
    # Exceptions outlive a merge, so labels need what was there; only images can do without.
    if write.op != WriteOp.MERGE or write.keeps_exceptions:
        return False
    return is_solid(write.voxels)


def paints(write: CuboidWrite) -> bool:
    """Whether a write onto zeros leaves just its own voxels."""
    return write.op in (WriteOp.MERGE, WriteOp.PRESERVE, WriteOp.EXCEPTION)


def base_identity(address: CuboidAddress, write_id: bytes, shape_zyx: Zyx) -> bytes:
    """What the checksum of a stored cuboid covers beside its payload: here all rows are bases."""
    return codec.row_identity(address, write_id, WriteOp.BASE, ORIGIN, shape_zyx)


def segment_of(value: bytes) -> int | None:
    """The segment that a value of the index points to; None if it holds the payload itself."""
    return int(AT.unpack(value)[2]) if value[0] == IN_SEGMENT else None


def count_location(live: Counter[int], value: bytes, sign: int) -> None:
    """Add (or with -1 take away) the bytes that a value makes use of in its segment."""
    if value[0] == IN_SEGMENT:
        _, _, segment, offset, size = AT.unpack(value)
        live[segment] += sign * Location(segment, offset, size).stored_bytes
