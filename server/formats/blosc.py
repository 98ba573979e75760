"""Format ``blosc``: one Blosc frame around the pickle of an ndarray (data plane 3.4)."""

import struct
from typing import Any

import blosc
import numpy as np

from ndcass.errors import BadBody, TooLarge
from ndcass.server.formats.base import Dtype, Layout, Voxels
from ndcass.server.formats.pickled import dump_array, load_array, most_bytes

CONTENT_TYPE = "product/blosc"

# Three times as fast as the original's 9; noisy tissue, half of it two bytes a voxel as text,
# grows from 1.2 to 1.5 times its size, labels shrink alike.
LEVEL = 1
THREADS = 2

# Version, version of the compressor, flags, typesize, then three sizes: uncompressed, block, frame.
HEADER = struct.Struct("<BBBBIII")
FORMAT_VERSION = 2

# Without it compression holds the interpreter, and with it the event loop.
blosc.set_releasegil(True)
blosc.set_nthreads(THREADS)


def encode_blosc(array: np.ndarray[Any, Dtype]) -> bytes:
    """The body that holds `array`, which every reader of the original understands.

    Raises
    ------
    TooLarge
        If the pickle does not fit a frame; bytes from 0x80 on count twice in it.
    """
    _check_size(array.nbytes)
    content = dump_array(array)
    _check_size(len(content))
    frame: bytes = blosc.compress(
        content,
        typesize=array.dtype.itemsize,
        clevel=LEVEL,
        shuffle=blosc.SHUFFLE,
        cname="blosclz",
    )
    return frame


def _check_size(size: int) -> None:
    if size > blosc.MAX_BUFFERSIZE:
        raise TooLarge("blosc body", asked=size, limit=blosc.MAX_BUFFERSIZE)


def decode_blosc(body: Voxels, layout: Layout) -> np.ndarray[Any, Dtype]:
    """The array in a body, C-ordered and checked against `layout`.

    Raises
    ------
    BadBody
        If the frame is damaged or announces too much, or does not hold such an array.
    """
    _check_header(body, layout)
    try:
        content: bytes = blosc.decompress(body)
    except blosc.blosc_extension.error as error:
        raise BadBody("the Blosc frame of the body is damaged") from error
    return load_array(content, layout)


def _check_header(body: Voxels, layout: Layout) -> None:
    """Refuse a frame before anything is allocated for it."""
    if len(body) < HEADER.size:
        raise BadBody(f"the body has {len(body)} bytes, a Blosc frame at least {HEADER.size}")
    version, _, _, _, size, _, frame_size = HEADER.unpack_from(body)
    if version != FORMAT_VERSION:
        raise BadBody(f"the body is no Blosc-1 frame: version {version}, expected {FORMAT_VERSION}")
    if frame_size != len(body):
        raise BadBody(f"the Blosc frame announces {frame_size} bytes, the body has {len(body)}")
    limit = most_bytes(layout.nbytes)
    if size > limit:
        raise BadBody(
            f"the Blosc frame announces {size} bytes, the box needs {layout.nbytes} and its "
            f"pickle at most {limit}"
        )
    if not blosc.cbuffer_validate(body):
        raise BadBody("the Blosc frame of the body is damaged")
