"""Format ``npz``: one ``.npy`` file in a zlib stream; no ``.npz`` of numpy (data plane 3.2)."""

import ast
import math
import re
from collections.abc import Iterator
from typing import Any

import numpy as np

from ndcass.errors import BadBody
from ndcass.server.formats.base import (
    Layout,
    Voxels,
    as_voxels,
    check_dtype,
    check_shape,
)
from ndcass.server.formats.deflate import DeflateWriter, Inflater

MAGIC = b"\x93NUMPY"
# Readers map the voxels of a file, hence the alignment numpy promises.
HEADER_ALIGNMENT = 64
# numpy writes some 128 bytes; parsing a long one would take stack and time.
MAX_HEADER = 4096
# Width of the header's length field, by the major version.
LENGTH_BYTES = {1: 2, 2: 4, 3: 4}
# The array protocol's names of plain types, with or without byte order.
PLAIN_TYPE = re.compile(r"[<>=|]?[biufcmMOSUV?][0-9]{0,9}\Z")
# Python 2 wrote long integers with an L.
PYTHON2_LONG = re.compile(r"(?<=[0-9])L\b")


class NpzEncoder:
    """Compresses a version 1.0 ``.npy`` as its voxels come."""

    content_type = "product/npz"
    suffix = None
    length = None
    content_encoding = None
    cpu = True

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._stream = DeflateWriter()

    def head(self) -> bytes:
        return self._stream.head() + self._stream.piece(npy_header(self._layout))

    def piece(self, voxels: memoryview) -> bytes:
        return self._stream.piece(voxels)

    def tail(self) -> bytes:
        return self._stream.tail()


def npy_header(layout: Layout) -> bytes:
    """The header of a version 1.0 ``.npy`` file, up to the first voxel."""
    fields = f"{{'descr': '{layout.dtype.str}', 'fortran_order': False, 'shape': {layout.shape}, }}"
    lead = len(MAGIC) + 2 + LENGTH_BYTES[1]
    padding = -(lead + len(fields) + 1) % HEADER_ALIGNMENT
    text = fields.encode("latin1") + b" " * padding + b"\n"
    return MAGIC + b"\x01\x00" + len(text).to_bytes(2, "little") + text


class NpzDecoder:
    """Decompresses a ``.npy`` as its bytes come, and hands its voxels on in C order."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._stream = Inflater()
        self._header: _HeaderReader | None = _HeaderReader(layout)
        self._left = layout.nbytes
        # The voxels so far of a Fortran-ordered body, which can only be turned whole.
        self._columns: bytearray | None = None

    def feed(self, chunk: Voxels) -> Iterator[Voxels]:
        for content in self._stream.feed(chunk):
            voxels: Voxels = content
            if self._header is not None:
                rest = self._header.feed(content)
                if rest is None:
                    continue
                if self._header.fortran_order:
                    self._columns = bytearray()
                self._header, voxels = None, rest
            yield from self._take(voxels)

    def finish(self) -> Iterator[Voxels]:
        self._stream.finish()
        if self._header is not None:
            raise BadBody("the .npy in the body ends within its header")
        if self._left:
            raise BadBody(
                f"the .npy in the body ends after {self._layout.nbytes - self._left} of "
                f"{self._layout.nbytes} bytes of voxels"
            )
        if self._columns is not None:
            columns = np.frombuffer(self._columns, dtype=self._layout.dtype)
            # The copy that turns the order; nothing else holds the columns afterwards.
            array = np.ascontiguousarray(columns.reshape(self._layout.shape, order="F"))
            self._columns = None
            yield as_voxels(array)

    def _take(self, voxels: Voxels) -> Iterator[Voxels]:
        self._left -= len(voxels)
        if self._left < 0:
            raise BadBody(
                f"the .npy in the body is longer than the {self._layout.nbytes} bytes of the box"
            )
        if self._columns is not None:
            self._columns += voxels
        elif len(voxels):
            yield voxels


class _HeaderReader:
    """Collects and checks the header of a ``.npy``, versions 1 to 3."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._seen = bytearray()
        self.fortran_order = False

    def feed(self, content: bytes) -> memoryview | None:
        """The bytes after the header, or None while it is not complete."""
        self._seen += content
        end = self._end()
        if end is None or len(self._seen) < end:
            return None
        start = len(MAGIC) + 2 + LENGTH_BYTES[self._seen[6]]
        self._check(bytes(self._seen[start:end]))
        return memoryview(self._seen)[end:]

    def _end(self) -> int | None:
        seen = self._seen
        if seen[: len(MAGIC)] != MAGIC[: len(seen)]:
            raise BadBody("the zlib stream of the body does not hold a .npy file")
        if len(seen) < len(MAGIC) + 2:
            return None
        width = LENGTH_BYTES.get(seen[6])
        if width is None:
            raise BadBody(f".npy version {seen[6]} is not known; 1 to 3 are")
        start = len(MAGIC) + 2 + width
        if len(seen) < start:
            return None
        length = int.from_bytes(seen[start - width : start], "little")
        if length > MAX_HEADER:
            raise BadBody(f"a .npy header of {length} bytes; at most {MAX_HEADER} are read")
        return start + length

    def _check(self, text: bytes) -> None:
        fields = _parse(text.decode("latin1"))
        if set(fields) != {"descr", "fortran_order", "shape"}:
            raise BadBody("a .npy header needs descr, fortran_order and shape")
        shape, fortran = fields["shape"], fields["fortran_order"]
        if not isinstance(shape, tuple) or any(type(n) is not int or n < 0 for n in shape):
            raise BadBody("shape in the .npy header is no tuple of integers")
        if not isinstance(fortran, bool):
            raise BadBody("fortran_order in the .npy header is neither True nor False")
        check_shape(shape, self._layout)
        check_dtype(_plain_dtype(fields["descr"]), self._layout.dtype)
        # One axis longer than 1 is in both orders.
        self.fortran_order = fortran and math.prod(shape) != max(shape)


def _parse(text: str) -> dict[Any, Any]:
    """The literal in a header; `Any` because a client may write any literal."""
    try:
        fields = ast.literal_eval(PYTHON2_LONG.sub("", text).strip())
    # Deep nesting ends in the last two.
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError) as error:
        raise BadBody("the header of the .npy in the body does not parse") from error
    if not isinstance(fields, dict):
        raise BadBody("the header of the .npy in the body is no dictionary")
    return fields


def _plain_dtype(descr: object) -> np.dtype[Any]:
    """The type that `descr` names; `Any` because a client chose it."""
    if not isinstance(descr, str) or not PLAIN_TYPE.match(descr):
        raise BadBody("descr in the .npy header is no plain number type")
    try:
        return np.dtype(descr)
    except TypeError as error:
        raise BadBody(f"descr {descr} in the .npy header is not known") from error
