"""Deflate streams: fast adaptive compression, and decompression in bounded steps.

What lives here: zlib and gzip streams, piece by piece. What does not: what is inside them.
"""

from collections.abc import Iterator
from typing import Protocol

from isal import isal_zlib

from ndcass.errors import BadBody
from ndcass.server.formats.base import STEP_BYTES, Voxels

# Raw deflate (no header, no checksum), the full window.
RAW_DEFLATE = -15
ZLIB = 15
GZIP = 31

# ISA-L's level 1 takes some 0.3 GB/s of noisy tissue, zlib's 0.05.
FAST_LEVEL = 1
# Compress or store is decided anew for each block of this size.
BLOCK_BYTES = 1 << 20
# The probe: strips from all over the block, as a block may begin with the black of its border.
PROBE_STRIPS = 16
STRIP_BYTES = 1 << 12
# A block that keeps more than this share of its size is stored: 30 times faster for both sides.
WORTH = 0.9

# A stored block holds at most 65535 bytes after 5 of header (RFC 1951, 3.2.4).
STORED_MAX = 65535
LAST_BLOCK = b"\x01\x00\x00\xff\xff"

# The header the original sent; level bits are advice (RFC 1950, 2.2).
ZLIB_HEAD = b"\x78\x9c"
# No name, no time, unknown system (RFC 1952, 2.3).
GZIP_HEAD = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff"

# So much input at a time: what is left of it is copied at every step.
INPUT_BYTES = 1 << 16

DAMAGED: type[Exception] = isal_zlib.error  # type: ignore[assignment]  # its stub has an instance


class _Compress(Protocol):
    def compress(self, data: Voxels, /) -> bytes: ...

    def flush(self, mode: int, /) -> bytes: ...


class DeflateWriter:
    """One zlib or gzip stream, made piece by piece.

    Notes
    -----
    Blocks that do not compress go out as stored blocks, made here, because ISA-L cannot switch in
    the middle of a stream. After one the compressor starts afresh: its window does not know the
    stored bytes, so that a reference across them would hit the wrong ones.
    """

    def __init__(self, *, gzip: bool = False) -> None:
        self._gzip = gzip
        self._check = 0 if gzip else 1
        self._size = 0
        self._compressor: _Compress | None = None

    def head(self) -> bytes:
        return GZIP_HEAD if self._gzip else ZLIB_HEAD

    def piece(self, content: Voxels) -> bytes:
        """The stream's bytes for `content`; the rest may come with a later piece or the tail."""
        view = memoryview(content)
        checksum = isal_zlib.crc32 if self._gzip else isal_zlib.adler32
        self._check = checksum(view, self._check)
        self._size += len(view)
        out: list[Voxels] = []
        for start in range(0, len(view), BLOCK_BYTES):
            block = view[start : start + BLOCK_BYTES]
            if is_worth_compressing(block):
                out.append(self._deflate(block))
            else:
                out.append(self._end_deflated())
                out.extend(_stored(block))
        return b"".join(out)

    def tail(self) -> bytes:
        end = self._end_deflated() + LAST_BLOCK
        if self._gzip:
            size = self._size & 0xFFFFFFFF
            return end + self._check.to_bytes(4, "little") + size.to_bytes(4, "little")
        return end + self._check.to_bytes(4, "big")

    def _deflate(self, block: memoryview) -> bytes:
        if self._compressor is None:
            self._compressor = isal_zlib.compressobj(FAST_LEVEL, wbits=RAW_DEFLATE)
        return self._compressor.compress(block)

    def _end_deflated(self) -> bytes:
        """End the run of compressed blocks, if there is one, at a whole byte."""
        if self._compressor is None:
            return b""
        compressor, self._compressor = self._compressor, None
        return compressor.flush(isal_zlib.Z_SYNC_FLUSH)


def is_worth_compressing(block: memoryview) -> bool:
    """Whether a sample of `block` shrinks enough to spend the time."""
    sample: Voxels = block
    if len(block) > PROBE_STRIPS * STRIP_BYTES:
        stride = (len(block) - STRIP_BYTES) // (PROBE_STRIPS - 1)
        starts = range(0, PROBE_STRIPS * stride, stride)
        sample = b"".join(block[start : start + STRIP_BYTES] for start in starts)
    return len(isal_zlib.compress(sample, FAST_LEVEL)) < WORTH * len(sample)


class Inflater:
    """Decompresses one zlib or gzip stream in pieces of at most `STEP_BYTES`."""

    def __init__(self, *, gzip: bool = False) -> None:
        self._name = "gzip" if gzip else "zlib"
        self._stream = isal_zlib.decompressobj(GZIP if gzip else ZLIB)

    def feed(self, chunk: Voxels) -> Iterator[bytes]:
        """What `chunk` decompresses to.

        Raises
        ------
        BadBody
            If the stream is damaged, or bytes follow its end.
        """
        view = memoryview(chunk)
        for start in range(0, len(view), INPUT_BYTES):
            yield from self._feed(view[start : start + INPUT_BYTES])

    def finish(self) -> None:
        """Demand that the stream is whole.

        Raises
        ------
        BadBody
            If it is not.
        """
        if not self._has_ended():
            raise BadBody(f"the {self._name} stream of the body is truncated")

    def _feed(self, data: memoryview) -> Iterator[bytes]:
        if self._has_ended():
            raise BadBody(self._trailing())
        rest: Voxels = data
        is_full = False
        # A full step may have left more behind, even without input.
        while len(rest) or is_full:
            out = self._step(rest)
            if out:
                yield out
            if self._has_ended():
                if self._stream.unused_data:
                    raise BadBody(self._trailing())
                return
            rest, is_full = self._stream.unconsumed_tail, len(out) == STEP_BYTES

    def _step(self, data: Voxels) -> bytes:
        try:
            return self._stream.decompress(data, max_length=STEP_BYTES)
        except DAMAGED as error:
            raise BadBody(f"the body is no {self._name} stream: {error}") from error

    def _has_ended(self) -> bool:
        return self._stream.eof

    def _trailing(self) -> str:
        return f"bytes follow the end of the {self._name} stream of the body"


def _stored(block: memoryview) -> Iterator[Voxels]:
    for start in range(0, len(block), STORED_MAX):
        part = block[start : start + STORED_MAX]
        size = len(part)
        yield b"\x00" + size.to_bytes(2, "little") + (size ^ 0xFFFF).to_bytes(2, "little")
        yield part
