"""Columns of equal length -> JSON, CSV or an Arrow stream, some rows at a time."""

import csv
import io
import json
import math
from collections.abc import Iterator, Mapping
from typing import Any

import nanoarrow
import numpy as np
import numpy.typing as npt
from nanoarrow.ipc import StreamWriter

Columns = Mapping[str, npt.NDArray[Any]]  # a column may have any type

ROWS_AT_ONCE = 1 << 14
CONTENT_TYPES = {
    "json": "application/json",
    "csv": "text/csv; charset=utf-8",
    "arrow": "application/vnd.apache.arrow.stream",
}

_ARROW = {"u8": nanoarrow.uint64, "i8": nanoarrow.int64, "f8": nanoarrow.float64}


def table_pieces(columns: Columns, name: str) -> Iterator[bytes]:
    """The body of an answer in one of `CONTENT_TYPES`; none of the pieces is empty."""
    pieces = {"json": _json, "csv": _csv, "arrow": _arrow}
    return pieces[name](columns)


def _some(columns: Columns) -> Iterator[list[npt.NDArray[Any]]]:
    rows = len(next(iter(columns.values())))
    for first in range(0, rows, ROWS_AT_ONCE):
        yield [column[first : first + ROWS_AT_ONCE] for column in columns.values()]


def _json(columns: Columns) -> Iterator[bytes]:
    """``{"columns": [names], "rows": [[...], ...]}``; what is no number is null."""
    yield f'{{"columns": {json.dumps(list(columns))}, "rows": ['.encode()
    separator = ""
    for some in _some(columns):
        rows = zip(*(map(_or_null, column.tolist()) for column in some), strict=True)
        text = ", ".join(json.dumps(row) for row in rows)
        yield f"{separator}{text}".encode()
        separator = ", "
    yield b"]}"


def _or_null(number: float) -> float | None:
    return number if math.isfinite(number) else None


def _csv(columns: Columns) -> Iterator[bytes]:
    yield (",".join(columns) + "\r\n").encode()
    for some in _some(columns):
        text = io.StringIO()
        csv.writer(text).writerows(zip(*(column.tolist() for column in some), strict=True))
        yield text.getvalue().encode()


def _arrow(columns: Columns) -> Iterator[bytes]:
    types = [_ARROW[column.dtype.str[1:]](nullable=False) for column in columns.values()]
    schema = nanoarrow.struct(dict(zip(columns, types, strict=True)))
    body = _Taken()
    with StreamWriter.from_writable(body) as writer:
        # The first batch brings the schema; an empty one says it where there are no rows.
        for some in [[column[:0] for column in columns.values()], *_some(columns)]:
            rows = len(some[0])
            children = [
                nanoarrow.c_array_from_buffers(kind, rows, [None, np.ascontiguousarray(column)])
                for kind, column in zip(types, some, strict=True)
            ]
            writer.write_array(
                nanoarrow.c_array_from_buffers(schema, rows, [None], children=children)
            )
            yield body.take()
    end = body.take()
    if end:
        yield end


class _Taken(io.RawIOBase):
    """Keeps what is written to it until it is taken."""

    def __init__(self) -> None:
        self._kept = bytearray()

    def writable(self) -> bool:
        """It is."""
        return True

    def write(self, piece: Any) -> int:
        """Keep some bytes; `Any` is what has a buffer."""
        view = memoryview(piece)
        self._kept += view
        return view.nbytes

    def take(self) -> bytes:
        """What was written since the last call."""
        kept, self._kept = bytes(self._kept), bytearray()
        return kept
