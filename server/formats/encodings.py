"""Transport compression of whole bodies: ``gzip`` and ``lz4`` frames (additions 1)."""

from collections.abc import Iterator
from typing import Protocol

import lz4.frame

from ndcass.errors import BadBody, InvalidOption
from ndcass.server.formats.base import STEP_BYTES, StreamDecoder, StreamEncoder, Voxels
from ndcass.server.formats.deflate import INPUT_BYTES, DeflateWriter, Inflater

ENCODINGS = ("gzip", "lz4")


class _Writer(Protocol):
    def head(self) -> bytes: ...

    def piece(self, content: Voxels) -> bytes: ...

    def tail(self) -> bytes: ...


class _Reader(Protocol):
    def feed(self, chunk: Voxels) -> Iterator[bytes]: ...

    def finish(self) -> None: ...


def encoding(name: str | None, inner: StreamEncoder) -> StreamEncoder:
    """`inner`, its body compressed as `name` says; `inner` itself if there is nothing to do.

    Raises
    ------
    InvalidOption
        If there is no such encoding.
    """
    if name is None or name == "identity":
        return inner
    return _Encoded(
        name, inner, writer=DeflateWriter(gzip=True) if _is_gzip(name) else _Lz4Writer()
    )


def decoding(name: str | None, inner: StreamDecoder) -> StreamDecoder:
    """A decoder of bodies that are compressed as `name` says and hold what `inner` decodes.

    Raises
    ------
    InvalidOption
        If there is no such encoding.
    """
    if name is None or name == "identity":
        return inner
    return _Decoded(inner, reader=Inflater(gzip=True) if _is_gzip(name) else _Lz4Reader())


def _is_gzip(name: str) -> bool:
    if name not in ENCODINGS:
        raise InvalidOption(f"encoding {name[:40]!r} is not known; {', '.join(ENCODINGS)} are")
    return name == "gzip"


class _Encoded:
    """A body inside a compressed stream."""

    length = None
    cpu = True

    def __init__(self, name: str, inner: StreamEncoder, *, writer: _Writer) -> None:
        self.content_type = inner.content_type
        self.suffix = inner.suffix
        self.content_encoding = name
        self._inner = inner
        self._writer = writer

    def head(self) -> bytes:
        return self._writer.head() + self._writer.piece(self._inner.head())

    def piece(self, voxels: memoryview) -> bytes:
        return self._writer.piece(self._inner.piece(voxels))

    def tail(self) -> bytes:
        return self._writer.piece(self._inner.tail()) + self._writer.tail()


class _Decoded:
    """A decoder behind a decompressor."""

    def __init__(self, inner: StreamDecoder, *, reader: _Reader) -> None:
        self._inner = inner
        self._reader = reader

    def feed(self, chunk: Voxels) -> Iterator[Voxels]:
        for content in self._reader.feed(chunk):
            yield from self._inner.feed(content)

    def finish(self) -> Iterator[Voxels]:
        self._reader.finish()
        yield from self._inner.finish()


class _Lz4Writer:
    """One LZ4 frame, made piece by piece."""

    def __init__(self) -> None:
        self._frame = lz4.frame.LZ4FrameCompressor(
            block_size=lz4.frame.BLOCKSIZE_MAX1MB, content_checksum=True
        )

    def head(self) -> bytes:
        return bytes(self._frame.begin())

    def piece(self, content: Voxels) -> bytes:
        return bytes(self._frame.compress(content)) if len(content) else b""

    def tail(self) -> bytes:
        return bytes(self._frame.flush())


class _Lz4Reader:
    """Decompresses one LZ4 frame in pieces of at most `STEP_BYTES`."""

    def __init__(self) -> None:
        self._frame = lz4.frame.LZ4FrameDecompressor()

    def feed(self, chunk: Voxels) -> Iterator[bytes]:
        view = memoryview(chunk)
        for start in range(0, len(view), INPUT_BYTES):
            yield from self._feed(view[start : start + INPUT_BYTES])

    def finish(self) -> None:
        if not self._frame.eof:
            raise BadBody("the lz4 frame of the body is truncated")

    def _feed(self, data: Voxels) -> Iterator[bytes]:
        frame = self._frame
        while True:
            if frame.eof:
                raise BadBody("bytes follow the end of the lz4 frame of the body")
            try:
                out = frame.decompress(data, max_length=STEP_BYTES)
            except RuntimeError as error:
                raise BadBody(f"the body is no lz4 frame: {error}") from error
            if out:
                yield out
            if frame.eof and frame.unused_data:
                raise BadBody("bytes follow the end of the lz4 frame of the body")
            if frame.eof or frame.needs_input:
                return
            # What is left of the input waits inside the frame.
            data = b""
