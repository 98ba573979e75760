"""Format ``zip``: one zlib stream of the voxels; no ZIP archive (data plane 3.3). Sent only."""

from ndcass.server.formats.deflate import DeflateWriter


class ZipEncoder:
    """Compresses voxels as they come."""

    content_type = "product/zip"
    suffix = None
    length = None
    content_encoding = None
    cpu = True

    def __init__(self) -> None:
        self._stream = DeflateWriter()

    def head(self) -> bytes:
        return self._stream.head()

    def piece(self, voxels: memoryview) -> bytes:
        return self._stream.piece(voxels)

    def tail(self) -> bytes:
        return self._stream.tail()
