"""Format ``jpeg``: one picture of all planes, one below the other (data plane 3.6). Sent only.

Pillow brings libjpeg-turbo, whose grey and colour pictures at quality 75 are the original's.
"""

import io
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from ndcass.errors import InvalidRequest, TooLarge

CONTENT_TYPE = "product/jpeg"

QUALITY = 75
# What libjpeg allows an edge of a picture; the format would end at 65535.
MAX_EDGE = 65500

Voxels = npt.NDArray[Any]  # which type is only known at run time


def check_jpeg(rows: int, columns: int, dtype: np.dtype[Any]) -> None:
    """Refuse what no JPEG can show.

    Raises
    ------
    InvalidRequest
        If voxels of this type have no picture.
    TooLarge
        If the picture would have too long an edge.
    """
    if dtype.name not in ("uint8", "int8", "uint16", "uint32"):
        raise InvalidRequest(f"jpeg shows no {dtype.name} voxels: give them a window, or read npz")
    for edge in (rows, columns):
        if edge > MAX_EDGE:
            raise TooLarge("edge of a jpeg", asked=edge, limit=MAX_EDGE, unit="pixels")


def encode_jpeg(voxels: Voxels) -> bytes:
    """The picture of some planes.

    Parameters
    ----------
    voxels : ndarray, shape ([t,] z, y, x)
        uint8 and int8 (as bit pattern) come out as they are, of uint16 the high byte; the bytes of
        uint32 are red, green, blue and one that is left out.
    """
    pixels = np.ascontiguousarray(voxels).reshape(-1, voxels.shape[-1])
    if pixels.dtype.itemsize == 1:
        pixels = pixels.view(np.uint8)
    elif pixels.dtype == np.uint16:
        pixels = (pixels >> 8).astype(np.uint8)
    else:
        bytes_of = pixels.astype("<u4", copy=False).view(np.uint8)
        pixels = np.ascontiguousarray(bytes_of.reshape(*pixels.shape, 4)[..., :3])
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=QUALITY)
    return stream.getvalue()
