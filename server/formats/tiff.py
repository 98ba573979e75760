"""Format ``tiff``: a page a plane (data plane 3.7).

Written by hand because nothing of it needs more than the planes as they come: an answer streams,
and its length is known beforehand. Bodies are read by Pillow, whose libtiff knows every compression
and never writes more than a page has pixels.
"""

import io
import math
import struct
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image, TiffImagePlugin

from ndcass.errors import BadBody, InvalidRequest, TooLarge
from ndcass.geometry import Zyx
from ndcass.server.formats.base import Dtype, Layout, Voxels

Pages = npt.NDArray[Any]  # which type is only known at run time

CONTENT_TYPE = "image/tiff"

# Little-endian, version, where the first directory is.
HEADER = struct.Struct("<2sHI")
ENTRY = struct.Struct("<HHII")
SHORT, LONG = 3, 4
# Offsets have 32 bits; more would need BigTIFF, which readers of the original do not know.
MAX_BYTES = (1 << 32) - 1

WIDTH, LENGTH, BITS, COMPRESSION, PHOTOMETRIC = 256, 257, 258, 259, 262
STRIP_OFFSETS, SAMPLES, ROWS_PER_STRIP, STRIP_BYTES, SAMPLE_FORMAT = 273, 277, 278, 279, 339
UNCOMPRESSED, BLACK_IS_ZERO = 1, 1
FORMATS = {"u": 1, "i": 2, "f": 3}
TAGS = 10
DIRECTORY_BYTES = 2 + TAGS * ENTRY.size + 4
# BigTIFF, which can be posted.
BIG_VERSION, BIG_ENTRY_BYTES = 43, 20
UPLOADED = frozenset({"uint8", "uint16", "uint32"})


class TiffEncoder:
    """Planes into pages as they come; see `StreamEncoder`.

    Raises
    ------
    InvalidRequest
        If there is a time axis, which pages have not.
    TooLarge
        If the file would be more than 4 GiB.
    """

    content_type = CONTENT_TYPE
    suffix = "tif"
    content_encoding = None
    # A page and its directory become one piece, which is a copy.
    cpu = True

    def __init__(self, layout: Layout) -> None:
        if layout.has_time:
            raise InvalidRequest("tiff has no time axis: leave the time range out, or read npz")
        *counts, self._rows, self._columns = layout.shape
        self._dtype = layout.dtype
        self._pages = math.prod(counts)
        self._page_bytes = self._rows * self._columns * layout.dtype.itemsize
        # A directory begins at an even offset.
        self._padding = self._page_bytes % 2
        self.length = HEADER.size + self._pages * self._stride
        if self.length > MAX_BYTES:
            raise TooLarge("tiff", asked=self.length, limit=MAX_BYTES)
        self._page = 0
        self._sent = 0  # of the page

    @property
    def _stride(self) -> int:
        return DIRECTORY_BYTES + self._page_bytes + self._padding

    def head(self) -> bytes:
        return HEADER.pack(b"II", 42, HEADER.size)

    def piece(self, voxels: memoryview) -> bytes | memoryview:
        """The next voxels, with the directories of the pages that begin in them."""
        return b"".join(self._with_directories(voxels))

    def tail(self) -> bytes:
        return b""

    def _with_directories(self, voxels: memoryview) -> Iterator[bytes | memoryview]:
        while voxels:
            if self._sent == 0:
                yield self._directory()
            share = voxels[: self._page_bytes - self._sent]
            yield share
            voxels = voxels[len(share) :]
            self._sent += len(share)
            if self._sent == self._page_bytes:
                yield bytes(self._padding)
                self._page, self._sent = self._page + 1, 0

    def _directory(self) -> bytes:
        at = HEADER.size + self._page * self._stride
        last = self._page + 1 == self._pages
        tags = (
            (WIDTH, LONG, self._columns),
            (LENGTH, LONG, self._rows),
            (BITS, SHORT, 8 * self._dtype.itemsize),
            (COMPRESSION, SHORT, UNCOMPRESSED),
            (PHOTOMETRIC, SHORT, BLACK_IS_ZERO),
            (STRIP_OFFSETS, LONG, at + DIRECTORY_BYTES),
            (SAMPLES, SHORT, 1),
            (ROWS_PER_STRIP, LONG, self._rows),
            (STRIP_BYTES, LONG, self._page_bytes),
            (SAMPLE_FORMAT, SHORT, FORMATS[self._dtype.kind]),
        )
        entries = b"".join(ENTRY.pack(tag, kind, 1, value) for tag, kind, value in tags)
        return b"".join(
            (
                struct.pack("<H", TAGS),
                entries,
                struct.pack("<I", 0 if last else at + self._stride),
            )
        )


class Stack(NamedTuple):
    """A TIFF that was sent: how many pages of which shape, and the file."""

    pages: int
    rows: int
    columns: int
    dtype: Dtype
    file: TiffImagePlugin.TiffImageFile

    @property
    def shape_zyx(self) -> Zyx:
        return (self.pages, self.rows, self.columns)


def open_tiff(body: Voxels, *, most_pages: int) -> Stack:
    """Read the first page's directory and count the pages.

    Raises
    ------
    BadBody
        If it is no TIFF of whole numbers, one a pixel.
    InvalidRequest
        If it has more pages than `most_pages`.
    """
    # Its own limit warns of large pictures; how large a page may be is checked by who asked for it.
    Image.MAX_IMAGE_PIXELS = None
    try:
        file = TiffImagePlugin.TiffImageFile(io.BytesIO(body))
        pages = _count_pages(body, most_pages)
        dtype = _dtype_of(file)
    except InvalidRequest:
        raise
    except Exception as error:  # whatever a damaged file makes of a parser
        raise BadBody("the body is no TIFF that can be read") from error
    columns, rows = file.size
    return Stack(pages, rows, columns, dtype, file)


def _count_pages(body: Voxels, most: int) -> int:
    """Follow the directories, without what is in them: Pillow takes half a millisecond for each."""
    order = ">" if bytes(body[:2]) == b"MM" else "<"
    is_big = body[2] == BIG_VERSION
    count = struct.Struct(order + ("Q" if is_big else "H"))
    offset = struct.Struct(order + ("Q" if is_big else "I"))
    entry_bytes = BIG_ENTRY_BYTES if is_big else ENTRY.size
    seen: set[int] = set()
    (at,) = offset.unpack_from(body, offset.size)  # behind the mark and the version
    while at:
        if at in seen:
            raise BadBody("the pages of the TIFF go round in a circle")
        if len(seen) == most:
            raise InvalidRequest(f"the TIFF has more pages than the {most} that fit")
        seen.add(at)
        (entries,) = count.unpack_from(body, at)
        (at,) = offset.unpack_from(body, at + count.size + entries * entry_bytes)
    return len(seen)


def read_page(stack: Stack, number: int, out: Pages) -> None:
    """Read one page into an array of its shape.

    Raises
    ------
    BadBody
        If the page is damaged or not like the first one.
    """
    file = stack.file
    try:
        file.seek(number)
        dtype = _dtype_of(file)
        alike = file.size == (stack.columns, stack.rows) and dtype == stack.dtype
        # Pillow's 32 bits are signed; the bits are right.
        pixels = np.asarray(file) if alike else None
    except BadBody:
        raise
    except Exception as error:  # whatever a damaged file makes of a decoder
        raise BadBody(f"page {number} of the TIFF cannot be read") from error
    if pixels is None:
        raise BadBody(f"page {number} of the TIFF is not like the first one")
    if pixels.dtype.itemsize != dtype.itemsize or pixels.shape != out.shape:
        raise BadBody(f"page {number} of the TIFF has pixels that are not supported")
    out[...] = pixels.astype(pixels.dtype.newbyteorder("<"), copy=False).view(dtype)


def _dtype_of(file: TiffImagePlugin.TiffImageFile) -> Dtype:
    """The type of a page's pixels, as they will be stored."""
    tags = file.tag_v2
    if tags.get(SAMPLES, 1) != 1 or tags.get(PHOTOMETRIC, BLACK_IS_ZERO) != BLACK_IS_ZERO:
        raise BadBody("pages of the TIFF must have one number a pixel, 0 for black")
    bits, sample = (_first(tags.get(tag, (1,))) for tag in (BITS, SAMPLE_FORMAT))
    name = f"{ {1: 'uint', 2: 'int', 3: 'float'}.get(sample, 'unknown') }{bits}"
    if name not in UPLOADED:
        raise BadBody(f"pages of the TIFF are {name}; uint8, uint16 and uint32 can be posted")
    return np.dtype(name).newbyteorder("<")


def _first(value: Any) -> int:  # what Pillow makes of a tag: a number or some of them
    return int(value[0] if isinstance(value, tuple) else value)
