"""Format ``raw``: the voxels and nothing else (data plane 3.3, additions 1)."""

from collections.abc import Iterator

from ndcass.errors import BadBody
from ndcass.server.formats.base import Layout, Voxels


class RawEncoder:
    """Passes voxels on as they are."""

    content_type = "product/raw"
    suffix = "raw"
    content_encoding = None
    cpu = False

    def __init__(self, layout: Layout) -> None:
        self.length = layout.nbytes

    def head(self) -> bytes:
        return b""

    def piece(self, voxels: memoryview) -> memoryview:
        return voxels

    def tail(self) -> bytes:
        return b""


class RawDecoder:
    """Counts the voxels and passes them on."""

    def __init__(self, layout: Layout) -> None:
        self._left = self._expected = layout.nbytes

    def feed(self, chunk: Voxels) -> Iterator[Voxels]:
        self._left -= len(chunk)
        if self._left < 0:
            raise BadBody(f"the body is longer than the {self._expected} bytes of the box")
        if len(chunk):
            yield chunk

    def finish(self) -> Iterator[Voxels]:
        if self._left:
            raise BadBody(
                f"the body ends after {self._expected - self._left} of {self._expected} bytes"
            )
        yield from ()
