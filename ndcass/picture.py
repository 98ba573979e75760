"""Voxels to pixels: windows, slices, false colour, stretched rows (data plane 4.2 to 4.4).

What lives here: the arithmetic of a picture, on planes of voxels. What does not: which voxels
(``drawing.py``), pictures made of pictures (``composite.py``) and the bytes of an image file
(``server/formats/png.py``).
"""

import colorsys
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ndcass.errors import InvalidRequest
from ndcass.model import ANNOTATION

# A window in voxel values, both ends included.
Range = tuple[float, float]
Picture = npt.NDArray[np.uint8]
# Voxels of a type that is only known at run time.
Voxels = np.ndarray[Any, np.dtype[Any]]

PLAIN_CAST: Range = (0, 0)

PALETTE_SIZE = 217
# Successive multiples of the golden ratio lie far apart on the circle of hues.
GOLDEN_RATIO = 0.618033988749895
FIRST_HUE = 0.32497
SATURATION = 0.5
VALUE = 0.95
OPAQUE = 255

# Beyond all integers, and far from where a float32 overflows.
MAX_END = 2.0**64

# A picture as high as this fits no memory: what is stretched beyond it counts as just that high.
MAX_HEIGHT = 1 << 40

# Voxels windowed at a time: the eight bytes that each takes meanwhile stay in the cache.
BLOCK_VOXELS = 1 << 15


def window(voxels: Voxels, low: float, high: float) -> Picture:
    """Voxels as bytes: 0 up to `low`, 255 from `high` on, linear and cut off in between.

    Parameters
    ----------
    voxels : ndarray of any shape and number type
    low, high : float
        Both zero means no window but a cast: integers keep their low byte, floats are clipped to
        0..255 and cut off. Whole numbers where the voxels are.

    Returns
    -------
    ndarray of uint8, same shape
        ``trunc((clip(v, low, high) - low) * (255 / (high - low)))``, for float32 in single
        precision, else in double. Ends beyond the type's range do not wrap. NaN becomes 0.

    Raises
    ------
    InvalidRequest
        If the window is empty, or not made of numbers that the type can have.
    """
    is_float = voxels.dtype.kind == "f"
    check_window(low, high, dtype=voxels.dtype)
    if (low, high) == PLAIN_CAST and not is_float:
        return voxels.astype(np.uint8)
    flat = np.ascontiguousarray(voxels).reshape(-1)
    out = np.empty(flat.shape, dtype=np.uint8)
    for start in range(0, len(flat), BLOCK_VOXELS):
        block = flat[start : start + BLOCK_VOXELS]
        scaled = _scaled_float(block, low, high) if is_float else _scaled_int(block, low, high)
        # The cast cuts off the fraction.
        out[start : start + BLOCK_VOXELS] = scaled
    return out.reshape(voxels.shape)


def slice_picture(
    plane: Voxels,
    channel_type: str,
    *,
    channel_window: Range,
    explicit_window: Range | None = None,
) -> Picture:
    """The pixels of one plane of a channel.

    Parameters
    ----------
    plane : ndarray, shape (h, w)
        Voxels of the channel's own type.
    channel_type : str
        Annotations are drawn in false colour, everything else in grey or as RGBA (uint32).
    channel_window : pair of float
        The channel's own window. Bytes go out untouched by it.
    explicit_window : pair of float, optional
        The window that was asked for; it makes a grey picture of any type.

    Returns
    -------
    ndarray of uint8, shape (h, w) or (h, w, 4)

    Raises
    ------
    InvalidRequest
        If the window that applies is empty.
    """
    if explicit_window is not None:
        return window(plane, *explicit_window)
    if channel_type == ANNOTATION:
        return false_colour(plane)
    if plane.dtype == np.uint32:
        return _as_rgba(plane.astype("<u4", copy=False))
    return grey(plane, channel_window=channel_window, bytes_too=False)


def projection_picture(
    plane: Voxels, channel_type: str, *, channel_window: Range, is_windowed: bool
) -> Picture:
    """The pixels of a projection: the channel's window applies to every type.

    Parameters
    ----------
    plane : ndarray, shape (h, w)
        Of the channel's own type, or bytes if `is_windowed`.
    channel_type : str
        Annotations are drawn in false colour.
    channel_window : pair of float
    is_windowed : bool
        Whether the voxels went through the window that was asked for: then they are pixels.

    Returns
    -------
    ndarray of uint8, shape (h, w) or (h, w, 4)
    """
    if is_windowed:
        return plane
    if channel_type == ANNOTATION:
        return false_colour(plane)
    return grey(plane, channel_window=channel_window, bytes_too=True)


def grey(
    plane: Voxels,
    *,
    channel_window: Range,
    explicit_window: Range | None = None,
    bytes_too: bool,
) -> Picture:
    """Intensities of any type as bytes: through the window that was asked for, else the channel's.

    `bytes_too` says whether the channel's own window also applies to types of one byte, which
    otherwise stay as they are (int8 shows its bit pattern). InvalidRequest if the window is empty.
    """
    if explicit_window is not None:
        return window(plane, *explicit_window)
    if plane.dtype.itemsize == 1 and not bytes_too:
        return plane.view(np.uint8)
    low, high = channel_window
    # Channels without an end of the window have none (data plane 4.2).
    return window(plane, low if high else 0, high)


def keep_only(labels: Voxels, ids: Sequence[int]) -> Voxels:
    """The labels with those that are not among `ids` made background."""
    most = np.iinfo(labels.dtype).max
    wanted = np.array([label for label in ids if label <= most], dtype=labels.dtype)
    return np.where(np.isin(labels, wanted), labels, labels.dtype.type(0))


def false_colour(labels: Voxels) -> Picture:
    """RGBA of each label, alike in every picture and run; background is transparent."""
    colours = _PALETTE_RGBA[labels % labels.dtype.type(PALETTE_SIZE)]
    colours[labels == 0] = 0
    return _as_rgba(colours)


def palette() -> npt.NDArray[np.uint8]:
    """Red, green and blue of each of the colours; label n has colour n mod `PALETTE_SIZE`.

    Notes
    -----
    The components come out reversed: the original took them for blue, green, red.
    """
    hues = ((FIRST_HUE + i * GOLDEN_RATIO) % 1 for i in range(PALETTE_SIZE))
    components = [colorsys.hsv_to_rgb(hue, SATURATION, VALUE)[::-1] for hue in hues]
    return np.floor(256 * np.array(components, dtype=np.float64)).astype(np.uint8)


def stretched_height(rows: int, aspect: float) -> int:
    """Height of a picture of so many z slices, each `aspect` pixels high; at least one row."""
    return max(1, math.floor(min(rows * aspect, MAX_HEIGHT)))


def stretch(plane: Voxels, height: int) -> Voxels:
    """`plane`, shape (h, w, ...), with its rows repeated or left out to make `height` of them.

    Notes
    -----
    Row i is source row ``floor((i + 0.5) * h / height)``. The position is summed up row by row, as
    Pillow's NEAREST does, for its rounding decides where a position falls on the edge of a row.
    """
    rows = plane.shape[0]
    step = rows / height
    positions = np.full(height, step, dtype=np.float64)
    positions[0] = step * 0.5
    sources = np.add.accumulate(positions, dtype=np.float64).astype(np.intp)
    # The sum may reach the end by rounding.
    stretched: Voxels = plane[np.minimum(sources, rows - 1)]
    return stretched


def check_window(low: float, high: float, *, dtype: np.dtype[Any]) -> None:
    """InvalidRequest if a window is empty, or made of numbers that voxels of a type cannot have."""
    # Also refuses infinity and NaN.
    if not max(abs(low), abs(high)) <= MAX_END:
        raise InvalidRequest(f"a window ends beyond {MAX_END:.0f} or at no number")
    if (low, high) == PLAIN_CAST:
        return
    text = f"window {low},{high}"
    if low >= high:
        raise InvalidRequest(f"{text} is empty: the first number must be the smaller one")
    if dtype.kind != "f" and (low != int(low) or high != int(high)):
        raise InvalidRequest(f"{text} is not made of whole numbers, as the voxels are")
    if dtype.kind == "f" and 255.0 / (high - low) > float(np.finfo(dtype).max):
        raise InvalidRequest(f"{text} is too narrow for {dtype.name}")


def _scaled_int(block: Voxels, low: float, high: float) -> npt.NDArray[np.float64]:
    """The formula of `window` for integers; exact up to the product."""
    low, high = int(low), int(high)
    limits = np.iinfo(block.dtype)
    first, last = (min(max(end, limits.min), limits.max) for end in (low, high))
    clipped = np.clip(block, first, last)
    # Differences of a signed type may not fit it, but always fit the unsigned one.
    unsigned = np.dtype(f"u{block.dtype.itemsize}")
    base = np.array(first, dtype=block.dtype).view(unsigned)
    steps: npt.NDArray[np.float64] = (clipped.view(unsigned) - base).astype(np.float64)
    if first != low or last != high:
        np.clip(steps + float(first - low), 0, float(high - low), out=steps)
    steps *= 255.0 / (high - low)
    return steps


def _scaled_float(block: Voxels, low: float, high: float) -> Voxels:
    """The formula of `window` for floats, in their own precision."""
    if (low, high) == PLAIN_CAST:
        clipped = np.clip(block, 0, 255)
        clipped[np.isnan(clipped)] = 0
        return clipped
    clipped = np.clip(block, low, high)
    clipped[np.isnan(clipped)] = low
    clipped -= block.dtype.type(low)
    clipped *= block.dtype.type(255.0 / (high - low))
    # Rounding may end a hair above 255, which a byte cannot hold only from 256 on.
    return clipped


def _as_rgba(packed: npt.NDArray[np.uint32]) -> Picture:
    """Numbers of four bytes as pixels of four components, in the order of memory."""
    return np.ascontiguousarray(packed).view(np.uint8).reshape(*packed.shape, 4)


_PALETTE_RGBA: npt.NDArray[np.uint32] = (
    np.insert(palette(), 3, OPAQUE, axis=1).view(np.uint32).reshape(PALETTE_SIZE)
)
