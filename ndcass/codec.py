"""Voxels and exceptions of one cuboid <-> the bytes that a store keeps, with checksums.

A payload is a header, a table of blocks, the blocks, the exceptions; all little-endian.

::

    0   u8   format: 1 constant, 2 raw, 3 lz4, 4 zstd
    1   u8   dtype code
    2   3u16 shape z, y, x
    8   u8   planes in a block
    9   u8   reserved, 0
    10  u16  blocks
    12  u32  crc32c of the row's identity and of everything in front of the blocks but these 4 bytes
    16  u32  crc32c of all blocks
    20  u32  exceptions: number
    24  u32  exceptions: stored bytes
    28  u32  exceptions: crc32c of the stored bytes
    32  8 bytes a block: u32 stored size, u32 crc32c     (constant: the value in 8 bytes)
        zeros up to a multiple of 64                     (constant: none)
        blocks, exceptions

A block is one or a few z planes, compressed by itself and with its own checksum: a slice through a
cuboid reads and checks only its planes, a whole cuboid is checked by one call. Raw blocks follow
each other without a gap and start at a multiple of 64 bytes, so that they are an array as they lie.
"""

import struct
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import crc32c as _crc32c
import lz4.block
import numpy as np
import numpy.typing as npt
import zstandard

from ndcass.errors import CorruptValue, InvalidRequest
from ndcass.geometry import Zyx
from ndcass.merge import EMPTY, Exceptions

Buffer = bytes | memoryview
# The voxels of a cuboid; which type is only known at run time.
Voxels = npt.NDArray[Any]

CONSTANT, RAW, LZ4, ZSTD = 1, 2, 3, 4
CODECS = {"raw": RAW, "lz4": LZ4, "zstd": ZSTD}

ALIGNMENT = 64
# A plane of a flat uint8 cuboid. Smaller blocks cost more calls than the bytes they save
# (`make bench`, test_codec).
MIN_BLOCK_BYTES = 16 << 10
# Compressed blocks above this share of the raw size are not worth decoding.
WORTHWHILE = 0.9
ZSTD_LEVEL = 1

_HEADER = struct.Struct("<BBHHHBBHIIIII")
_CRC_AT = 12
_TABLE_AT = _HEADER.size
_CONSTANT_SIZE = _TABLE_AT + 8

_DTYPES = (
    "<u1 <u2 <u4 <u8 <i1 <i2 <i4 <i8 <f4 <f8".split()  # the place is the stored code: only append
)
_CODE_OF = {np.dtype(name): code for code, name in enumerate(_DTYPES)}
_DTYPE_OF = {code: np.dtype(name) for code, name in enumerate(_DTYPES)}
_BITS = {1: "<u1", 2: "<u2", 4: "<u4", 8: "<u8"}


class Header(NamedTuple):
    """The fixed part of a payload, checked.

    `voxels` are those of a raw payload as they lie, not checked: whoever keeps a header spares
    every read of it to find them again. None where they are packed.
    """

    format: int
    dtype: np.dtype[Any]  # only known at run time
    shape_zyx: Zyx
    planes: int  # in a block
    blocks: int
    body_at: int  # where the blocks begin
    body_crc: int
    plane_bytes: int
    voxels: Voxels | None
    exception_count: int
    exception_bytes: int
    exception_crc: int

    @property
    def kind(self) -> tuple[Zyx, np.dtype[Any]]:
        """Shape and type of the voxels."""
        return self.shape_zyx, self.dtype


_BLOCK = struct.Struct("<II")
_IDENTITY = struct.Struct("<QBBqQ16sB3H3H")


def row_identity(
    address: Sequence[int], write_id: bytes, op: int, corner_zyx: Zyx, shape_zyx: Zyx
) -> bytes:
    """What a row's checksum covers beside its payload.

    `address` is (channel id, pyramid, level, timestep, Morton code), as `store.base.CuboidAddress`:
    a value that a fault put under another key does not pass for that key's.
    """
    return _IDENTITY.pack(*address, write_id, op, *corner_zyx, *shape_zyx)


# crc32c (Castagnoli) of a buffer, continuing from a value: ``checksum(buffer, value=0)``. The
# library's own function, for a slice through many cuboids is little else than calls of it.
checksum: Callable[..., int] = _crc32c.crc32c


def encode(
    voxels: Voxels, exceptions: Exceptions = EMPTY, *, identity: bytes, codec: int = LZ4
) -> bytes:
    """The payload of a cuboid (or of a box in one) as one piece; see `encode_parts`."""
    return b"".join(encode_parts(voxels, exceptions, identity=identity, codec=codec))


def encode_parts(
    voxels: Voxels, exceptions: Exceptions = EMPTY, *, identity: bytes, codec: int = LZ4
) -> list[Buffer]:
    """The payload of a cuboid in pieces to be written one after another.

    Parameters
    ----------
    voxels : ndarray, order z, y, x
        Raw blocks are views of it where it is C-contiguous, so write them before you change it.
    exceptions : Exceptions
        Offsets count in `voxels`.
    identity : bytes
        What else the checksum covers: address, id, op and box of the row.
    codec : int
        What to try where the voxels compress: LZ4, ZSTD, or RAW for not at all.

    Raises
    ------
    InvalidRequest
        If the dtype is none that ndcass stores.
    """
    code = _CODE_OF.get(voxels.dtype)
    if code is None or voxels.ndim != 3:
        raise InvalidRequest(f"voxels of {voxels.dtype} with {voxels.ndim} axes cannot be stored")
    voxels = np.ascontiguousarray(voxels)
    z, y, x = voxels.shape
    tail = _encode_exceptions(exceptions)
    fields = (len(exceptions.offsets), len(tail), checksum(tail))
    bits = _constant_bits(voxels)
    if bits is not None:
        table = bits
        head = _HEADER.pack(CONSTANT, code, *voxels.shape, 1, 0, 0, 0, 0, *fields)
        return [_sealed(head, table, identity), tail] if tail else [_sealed(head, table, identity)]
    planes = block_planes((z, y, x), voxels.itemsize)
    fmt, blocks = _encode_blocks(voxels, planes, codec)
    body_crc = 0
    for block in blocks:
        body_crc = checksum(block, body_crc)
    raw = fmt == RAW
    pieces = _split(blocks[0], voxels, planes) if raw else blocks
    table = b"".join(_BLOCK.pack(len(piece), checksum(piece)) for piece in pieces)
    head = _HEADER.pack(fmt, code, *voxels.shape, planes, 0, len(pieces), 0, body_crc, *fields)
    parts: list[Buffer] = [_sealed(head, table, identity), *blocks]
    return [*parts, tail] if tail else parts


def seal(front: bytes, identity: bytes) -> bytes:
    """The first piece of `encode_parts` with the checksum that another identity makes.

    For a store that learns a row's id only when it sends it, long after the voxels were encoded.
    """
    crc = checksum(front[_CRC_AT + 4 :], checksum(identity + front[:_CRC_AT]))
    return front[:_CRC_AT] + struct.pack("<I", crc) + front[_CRC_AT + 4 :]


def read_header(payload: Buffer, *, identity: bytes) -> Header:
    """The header of a payload, checked against its checksum and the row's identity.

    Raises
    ------
    CorruptValue
        If anything does not fit.
    """
    if len(payload) < _CONSTANT_SIZE:
        raise CorruptValue(f"a payload of {len(payload)} bytes is too short")
    fmt, code, z, y, x, planes, _, blocks, crc, body_crc, *tail = _HEADER.unpack_from(payload)
    dtype = _DTYPE_OF.get(code)
    if fmt not in (CONSTANT, RAW, LZ4, ZSTD) or dtype is None or planes == 0:
        raise CorruptValue(f"unknown format {fmt} or voxel type {code}")
    end = _CONSTANT_SIZE if fmt == CONSTANT else _aligned(_TABLE_AT + 8 * blocks)
    if len(payload) < end:
        raise CorruptValue(f"a payload of {len(payload)} bytes ends in its header")
    front = bytes(payload[:end])
    if checksum(front[_CRC_AT + 4 :], checksum(identity + front[:_CRC_AT])) != crc:
        raise CorruptValue("the header does not fit its checksum")
    shape_zyx, plane_bytes = (z, y, x), y * x * dtype.itemsize
    voxels = None
    if fmt == RAW:
        if len(payload) < end + z * plane_bytes:
            raise CorruptValue(f"a payload of {len(payload)} bytes ends in its voxels")
        voxels = np.ndarray(shape_zyx, dtype, payload, end)
    return Header(fmt, dtype, shape_zyx, planes, blocks, end, body_crc, plane_bytes, voxels, *tail)


def decode(
    payload: Buffer,
    *,
    identity: bytes,
    header: Header | None = None,
    scratch: Voxels | None = None,
) -> tuple[Voxels, Exceptions]:
    """Voxels and exceptions of a payload, all of it checked.

    `scratch` is an array that the voxels may be put into, where it is as they are: a C-contiguous
    one that was touched before takes half the time of a new one.

    Returns
    -------
    voxels : ndarray, order z, y, x
        Read-only where it is a view of the payload.
    exceptions : Exceptions

    Raises
    ------
    CorruptValue
        If any byte does not fit its checksum.
    """
    if header is None:
        header = read_header(payload, identity=identity)
    view = memoryview(payload)
    size = header.body_at + _body_bytes(view, header) + header.exception_bytes
    if len(payload) != size:
        raise CorruptValue(f"a payload of {len(payload)} bytes should have {size}")
    if header.voxels is not None:
        _check_raw(view, header, 0, header.shape_zyx[0])
        voxels = header.voxels
    else:
        if scratch is not None and (scratch.shape, scratch.dtype) == header.kind:
            voxels = scratch
        else:
            voxels = np.empty(header.shape_zyx, dtype=header.dtype)
        _decode_planes(view, header, 0, header.shape_zyx[0], voxels)
    return voxels, _decode_exceptions(view, header)


def decode_into(
    payload: Buffer,
    source: tuple[slice, slice, slice],
    target: Voxels,
    *,
    identity: bytes,
    header: Header | None = None,
) -> None:
    """Copy a box of a payload's voxels into `target`; only the planes of the box are checked.

    Parameters
    ----------
    payload : bytes or memoryview
    source : tuple of slice, order z, y, x
        The box in the cuboid, with plain start and stop; with steps it takes only some voxels.
    target : ndarray, order z, y, x
        Writable, of the box's shape and the payload's dtype.
    identity : bytes
    header : Header, optional
        The payload's, if it was read and checked before; `identity` is then not looked at.

    Raises
    ------
    CorruptValue
        If what was read does not fit its checksum, or is not of the target's type.
    """
    if header is None:
        header = read_header(payload, identity=identity)
    z, y, x = source
    depth, height, width = header.shape_zyx
    first, last = z.start, z.stop
    if z.step is not None and z.step >= header.planes and last - first > 1:
        # No block is wanted twice: the ones between are left alone.
        for index, plane in enumerate(range(first, last, z.step)):
            only = (slice(plane, plane + 1), y, x)
            decode_into(payload, only, target[index : index + 1], identity=identity, header=header)
        return
    _check_fits(header, target.dtype, last)
    if y.stop > height or x.stop > width:
        raise CorruptValue(f"the stored cuboid is only {header.shape_zyx} voxels")
    view = memoryview(payload)
    if header.voxels is not None:
        _check_raw(view, header, first, last)
        target[...] = header.voxels[source]
        return
    if header.format == CONSTANT:
        target[...] = _constant(view, header)
        return
    block_first = first - first % header.planes
    block_last = min(depth, -(-last // header.planes) * header.planes)
    planes = np.empty((block_last - block_first, height, width), dtype=header.dtype)
    _decode_planes(view, header, block_first, block_last, planes)
    target[...] = planes[first - block_first : last - block_first : z.step, y, x]


def raw_planes(
    payload: Buffer,
    start: int,
    stop: int,
    *,
    dtype: np.dtype[Any],
    identity: bytes,
    header: Header | None = None,
) -> memoryview | None:
    """The bytes of planes [start, stop) of a raw payload as they lie; None if it is not raw.

    Raises
    ------
    CorruptValue
        If they do not fit their checksums, or are not of the type.
    """
    if header is None:
        header = read_header(payload, identity=identity)
    if header.voxels is None:
        return None
    _check_fits(header, dtype, stop)
    view = memoryview(payload)
    _check_raw(view, header, start, stop)
    plane_bytes = header.plane_bytes
    return view[header.body_at + start * plane_bytes : header.body_at + stop * plane_bytes]


def _check_fits(header: Header, dtype: np.dtype[Any], planes: int) -> None:
    if header.dtype is not dtype and header.dtype != dtype:
        raise CorruptValue(f"the stored voxels are {header.dtype}, not {dtype}")
    if planes > header.shape_zyx[0]:
        raise CorruptValue(f"the stored cuboid is only {header.shape_zyx} voxels")


def verify(payload: Buffer, *, identity: bytes) -> None:
    """Check every byte of a payload; CorruptValue says what is wrong."""
    decode(payload, identity=identity)


# -- blocks


def block_planes(shape_zyx: Zyx, itemsize: int) -> int:
    """How many z planes a cuboid of this shape stores as one block."""
    z, y, x = shape_zyx
    return max(1, min(z, -(-MIN_BLOCK_BYTES // max(1, y * x * itemsize)), 255))


def _split(body: Buffer, voxels: Voxels, planes: int) -> list[Buffer]:
    """The body cut into blocks of so many planes, without a copy."""
    step = planes * voxels[0].nbytes
    return [body[at : at + step] for at in range(0, len(body), step)]


def _encode_blocks(voxels: Voxels, planes: int, codec: int) -> tuple[int, Sequence[Buffer]]:
    body = voxels.data.cast("B")
    if codec == RAW:
        return RAW, [body]
    pieces = _split(body, voxels, planes)
    # One block in the middle decides whether the others are tried: noise is the common case.
    probe = pieces[len(pieces) // 2]
    if len(lz4.block.compress(probe, store_size=False)) > WORTHWHILE * len(probe):
        return RAW, [body]
    if codec == ZSTD:
        zstd = zstandard.ZstdCompressor(level=ZSTD_LEVEL, write_content_size=False)
        blocks = [zstd.compress(piece) for piece in pieces]
    else:
        blocks = [lz4.block.compress(piece, store_size=False) for piece in pieces]
    if sum(map(len, blocks)) > WORTHWHILE * len(body):
        return RAW, [body]
    return codec, blocks


def _decode_planes(view: memoryview, header: Header, first: int, last: int, out: Voxels) -> None:
    """Planes [first, last), which are whole blocks, into a contiguous array."""
    if header.format == CONSTANT:
        out[...] = _constant(view, header)
        return
    sizes_and_crcs = _table(view, header)
    at = header.body_at
    plane_bytes = header.plane_bytes
    into = out.data.cast("B")
    for index, (size, crc) in enumerate(sizes_and_crcs):
        plane = index * header.planes
        if first <= plane < last:
            block = _checked_block(view, at, size, crc, index)
            planes = min(header.planes, header.shape_zyx[0] - plane)
            start, length = (plane - first) * plane_bytes, planes * plane_bytes
            if block == _zero_block(header.format, length):
                out[plane - first : plane - first + planes] = 0
            else:
                into[start : start + length] = _decompress(block, header.format, length)
        at += size


@lru_cache(maxsize=16)
def _zero_block(fmt: int, size: int) -> bytes:
    """What a block of zeros is stored as: in cuboids with a few voxels, most are.

    Clearing memory takes a fifth of the time of decompressing into it (`make bench`, labels).
    """
    zeros = bytes(size)
    if fmt == LZ4:
        return bytes(lz4.block.compress(zeros, store_size=False))
    return zstandard.ZstdCompressor(level=ZSTD_LEVEL, write_content_size=False).compress(zeros)


def _decompress(block: memoryview, fmt: int, size: int) -> bytes:
    try:
        if fmt == LZ4:
            voxels = lz4.block.decompress(block, uncompressed_size=size)
        else:
            voxels = zstandard.ZstdDecompressor().decompress(block, max_output_size=size)
    except (lz4.block.LZ4BlockError, zstandard.ZstdError, ValueError) as error:
        raise CorruptValue("a block does not decompress") from error
    if len(voxels) != size:
        raise CorruptValue(f"a block holds {len(voxels)} bytes, not {size}")
    return bytes(voxels)


def _body_bytes(view: memoryview, header: Header) -> int:
    """How many bytes all blocks have."""
    if header.voxels is not None:  # raw: they follow each other without a gap
        return header.voxels.nbytes
    return 0 if header.format == CONSTANT else sum(size for size, _ in _table(view, header))


def _table(view: memoryview, header: Header) -> Sequence[tuple[int, int]]:
    return list(_BLOCK.iter_unpack(view[_TABLE_AT : _TABLE_AT + 8 * header.blocks]))


def _checked_block(view: memoryview, at: int, size: int, crc: int, index: int) -> memoryview:
    block = view[at : at + size]
    if len(block) != size or checksum(block) != crc:
        raise CorruptValue(_damaged(index))
    return block


def _damaged(block: int) -> str:
    return f"block {block} does not fit its checksum"


def _check_raw(view: memoryview, header: Header, start: int, stop: int) -> None:
    """Check the blocks of a raw payload that hold planes [start, stop)."""
    body_at, planes, plane_bytes = header.body_at, header.planes, header.plane_bytes
    if stop - start == header.shape_zyx[0]:
        size = stop * plane_bytes
        body = view[body_at : body_at + size]
        if len(body) != size or checksum(body) != header.body_crc:
            raise CorruptValue("the voxels do not fit their checksum")
        return
    step = planes * plane_bytes
    for index in range(start // planes, -(-stop // planes)):
        size, crc = _BLOCK.unpack_from(view, _TABLE_AT + 8 * index)
        at = body_at + index * step
        block = view[at : at + size]
        if len(block) != size or checksum(block) != crc:
            raise CorruptValue(_damaged(index))


# -- constants, exceptions, the seal


def _constant_bits(voxels: Voxels) -> bytes | None:
    """The value that every voxel has, as 8 bytes, or None. Bits count: NaN equals itself."""
    if voxels.size == 0:
        return None
    bits = voxels.view(_BITS[voxels.itemsize]).reshape(-1)
    first = bits[0]
    # Most cuboids differ at one of these places, and need no look at all of them.
    if bits[-1] != first or bits[bits.size // 2] != first or (bits != first).any():
        return None
    return bytes(first.tobytes()).ljust(8, b"\0")


def _constant(view: memoryview, header: Header) -> Any:
    """The one value, as a numpy scalar."""
    return np.frombuffer(view[_TABLE_AT : _TABLE_AT + header.dtype.itemsize], dtype=header.dtype)[0]


def _encode_exceptions(exceptions: Exceptions) -> bytes:
    if not len(exceptions.offsets):
        return b""
    plain = exceptions.offsets.astype("<u4", copy=False).tobytes()
    plain += exceptions.labels.astype("<u8", copy=False).tobytes()
    return bytes(lz4.block.compress(plain, store_size=False))


def _decode_exceptions(view: memoryview, header: Header) -> Exceptions:
    stored = view[len(view) - header.exception_bytes :] if header.exception_bytes else view[:0]
    if checksum(stored) != header.exception_crc:
        raise CorruptValue("the exceptions do not fit their checksum")
    if not header.exception_count:
        return EMPTY
    count = header.exception_count
    plain = _decompress(stored, LZ4, 12 * count)
    return Exceptions(
        offsets=np.frombuffer(plain, dtype="<u4", count=count),
        labels=np.frombuffer(plain, dtype="<u8", count=count, offset=4 * count),
    )


def _sealed(head: bytes, table: bytes, identity: bytes) -> bytes:
    """Header and table with padding and their checksum in place."""
    front = head + table
    if len(front) > _CONSTANT_SIZE or head[0] != CONSTANT:
        front = front.ljust(_aligned(len(front)), b"\0")
    return seal(front, identity)


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT
