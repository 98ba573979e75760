"""What a row of the table ``cuboids`` holds, as bytes; pure.

A row is one write (or base) of one cuboid: a header, which says everything about it but its voxels,
and a payload as ``codec.py`` made it, cut into parts. A pointer is a row too: it names the base of
its cuboid and the watermark, up to which that base holds all writes.
"""

import struct
from typing import NamedTuple

from ndcass import codec
from ndcass.errors import CorruptValue
from ndcass.merge import WriteOp
from ndcass.store.base import CuboidAddress
from ndcass.store.clock import WRITE_ID_BYTES, milliseconds_of

# The kinds of rows, in the order in which they sort.
WRITE, BASE, POINTER = 0, 1, 2
# A cuboid has one pointer, so that its row needs no name; an id of no write.
POINTER_ID = bytes(WRITE_ID_BYTES)

PART_BYTES = 1 << 20
# A header has room for so many parts; far above what a cuboid can have.
MOST_PARTS = 1 << 14

# op, corner z y x, shape z y x, shape of the whole cuboid, bytes of the payload, parts; a crc32c.
_HEADER = struct.Struct("<B3H3H3HIH")
_CRC = struct.Struct("<I")
_POINTER = struct.Struct("<16s16sq")
_COUNTER_STEPS = 999


class Bucket(NamedTuple):
    """A partition of the table ``cuboids``."""

    channel_id: int
    pyramid: int
    level: int
    t: int
    bucket: int

    @classmethod
    def of(cls, address: CuboidAddress, bucket_bits: int) -> "Bucket":
        """Where a cuboid is, in a channel of so many bucket bits."""
        channel_id, pyramid, level, t, morton = address
        return cls(channel_id, pyramid, level, t, morton >> bucket_bits)

    def address(self, morton: int) -> CuboidAddress:
        """One of its cuboids."""
        return CuboidAddress(self.channel_id, self.pyramid, self.level, self.t, morton)


class Head(NamedTuple):
    """A row without its payload.

    `cuboid_zyx` is the shape of the whole cuboid, so that whoever folds need not know the channel.
    """

    morton: int
    kind: int
    write_id: bytes
    op: WriteOp
    corner_zyx: tuple[int, int, int]
    shape_zyx: tuple[int, int, int]
    cuboid_zyx: tuple[int, int, int]
    size_bytes: int
    parts: int

    def identity(self, address: CuboidAddress) -> bytes:
        """What the payload's checksum covers beside the payload."""
        return codec.row_identity(address, self.write_id, self.op, self.corner_zyx, self.shape_zyx)


class Pointer(NamedTuple):
    """Which base a cuboid has, and up to which write id it holds everything.

    `moved_ms` is when it was set, by the clock of whoever folded, in milliseconds since 1970.
    """

    base_id: bytes
    watermark: bytes
    moved_ms: int

    def pack(self) -> bytes:
        """The header column of a pointer, always the same bytes for the same pointer."""
        fields = _POINTER.pack(*self)
        return fields + _CRC.pack(codec.checksum(fields))

    @classmethod
    def unpack(cls, packed: bytes) -> "Pointer":
        """The inverse of `pack`; CorruptValue if it does not fit its checksum.

        A watermark with a flipped bit would hide writes, or merge them twice.
        """
        size = _POINTER.size + _CRC.size
        if len(packed) != size:
            raise CorruptValue(f"a pointer of {len(packed)} bytes should have {size}")
        fields = packed[: _POINTER.size]
        if _CRC.unpack_from(packed, _POINTER.size)[0] != codec.checksum(fields):
            raise CorruptValue("a pointer does not fit its checksum")
        return cls(*_POINTER.unpack(fields))


def parts_of(size_bytes: int) -> int:
    """Into how many parts a payload is cut."""
    return max(1, -(-size_bytes // PART_BYTES))


def pack_header(head: Head, address: CuboidAddress) -> bytes:
    """The header column of a row."""
    boxes = (*head.corner_zyx, *head.shape_zyx, *head.cuboid_zyx)
    fields = _HEADER.pack(head.op, *boxes, head.size_bytes, head.parts)
    return fields + _CRC.pack(_header_crc(fields, head.kind, head.write_id, address))


def unpack_header(packed: bytes, *, kind: int, write_id: bytes, address: CuboidAddress) -> Head:
    """The inverse of `pack_header`; CorruptValue if it does not fit its checksum or its place."""
    fields = packed[: _HEADER.size]
    if len(packed) != _HEADER.size + _CRC.size or len(write_id) != WRITE_ID_BYTES:
        raise CorruptValue("the header of a row has the wrong size")
    if _CRC.unpack_from(packed, _HEADER.size)[0] != _header_crc(fields, kind, write_id, address):
        raise CorruptValue("the header of a row does not fit its checksum")
    code, *boxes, size_bytes, parts = _HEADER.unpack(fields)
    try:
        op = WriteOp(code)
    except ValueError as error:
        raise CorruptValue(f"a row has the unknown operation {code}") from error
    return Head(
        morton=address.morton,
        kind=kind,
        write_id=write_id,
        op=op,
        corner_zyx=(boxes[0], boxes[1], boxes[2]),
        shape_zyx=(boxes[3], boxes[4], boxes[5]),
        cuboid_zyx=(boxes[6], boxes[7], boxes[8]),
        size_bytes=size_bytes,
        parts=parts,
    )


def _header_crc(fields: bytes, kind: int, write_id: bytes, address: CuboidAddress) -> int:
    identity = codec.row_identity(address, write_id, kind, (0, 0, 0), (0, 0, 0))
    return codec.checksum(fields, codec.checksum(identity))


def timestamp_us(write_id: bytes) -> int:
    """The timestamp of a row in the table, which only matters against deletes: microseconds.

    Ids of one millisecond keep their order up to a thousand of them.
    """
    counter = int.from_bytes(write_id[6:8], "big")
    return milliseconds_of(write_id) * 1000 + min(counter, _COUNTER_STEPS)


def last_id_of(milliseconds: int) -> bytes:
    """The greatest write id of a millisecond: a watermark."""
    return milliseconds.to_bytes(6, "big") + b"\xff" * (WRITE_ID_BYTES - 6)
